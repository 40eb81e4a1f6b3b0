"""Survo: put the missing numbers into a grid so that every row and column has its sum."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_json, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import game_integers, game_metadata, integer_grid

Grid = list[list[int | None]]


@dataclass(frozen=True, kw_only=True)
class _Level:
    rows: int
    columns: int
    missing: int
    largest: int

    def __post_init__(self) -> None:
        if not (2 <= self.rows <= 8 and 2 <= self.columns <= 8):
            raise ValueError("rows and columns are from 2 to 8")
        if not 1 <= self.missing <= min(15, self.rows * self.columns):
            raise ValueError("missing is from 1 to 15, and to the number of cells")
        if not self.rows * self.columns <= self.largest <= 1000:
            raise ValueError("largest is from the number of cells, which are all different, to 1000")


_LEVELS = {
    "easy": _Level(rows=3, columns=3, missing=4, largest=20),
    "medium": _Level(rows=4, columns=4, missing=9, largest=40),
    "hard": _Level(rows=5, columns=5, missing=15, largest=60),
}


class Survo(GeneratedTask):
    """A matrix whose last row and last column are sums; some of the other numbers, all distinct, are missing.

    Levels differ in size, in how many numbers are missing, and in the largest number:
    easy 3x3, 4, 20; medium 4x4, 9, 40; hard 5x5, 15, 60 (size without the sums).
    """

    name = "synlogic/survo"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `survo` (arXiv 2505.19641); generator and verifier are this package's"
    many_solutions = True

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        values = draw.sample(range(1, knobs.largest + 1), knobs.rows * knobs.columns)
        solution = [values[row * knobs.columns :][: knobs.columns] for row in range(knobs.rows)]
        solution = [[*row, sum(row)] for row in solution]
        solution.append([sum(column) for column in zip(*solution, strict=True)])
        cells = [(row, column) for row in range(knobs.rows) for column in range(knobs.columns)]
        missing = sorted(draw.sample(cells, knobs.missing))
        matrix: Grid = [list(row) for row in solution]
        for row, column in missing:
            matrix[row][column] = None
        numbers = sorted(solution[row][column] for row, column in missing)
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(matrix, numbers)},),
            state={"matrix": matrix, "numbers": numbers},
            answer=json.dumps(solution),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        matrix: Grid = problem.state["matrix"]
        filled = _integer_matrix(answer, rows=len(matrix), columns=len(matrix[0]))
        return json.dumps(filled), _broken_rule(matrix, problem.state["numbers"], filled)

    def canonical(self, problem: Problem) -> str:
        """What swapping rows, swapping columns and transposing leave alone: each line's numbers, blanks and sum."""
        *rows, sums = problem.state["matrix"]
        columns = [list(column) for column in zip(*rows, sums, strict=True)][:-1]
        lines = sorted([_profile(rows), _profile(columns)])
        return f"{self.name}:{json.dumps([lines, problem.state['numbers']])}"

    def solve(self, problem: Problem) -> str:
        matrix: Grid = [list(row) for row in problem.state["matrix"]]
        steps: list[str] = []
        solved = _fill(matrix, problem.state["numbers"], steps)
        assert solved
        return f"<think> {' '.join(steps)} </think> <answer> {json.dumps(matrix)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: original_matrix with 0 for a missing number, and
    candidate_numbers). Raises `ValueError` where a field is missing or has another shape."""
    metadata = game_metadata(game)
    given = metadata.get("original_matrix")
    if not isinstance(given, list) or len(given) < 2 or not isinstance(given[0], list) or len(given[0]) < 2:
        raise ValueError("metadata: original_matrix is not a list of rows")
    rows = integer_grid(given, len(given), len(given[0]))
    if 0 in rows[-1] or any(row[-1] == 0 for row in rows):
        raise ValueError("metadata: original_matrix lacks a sum")
    matrix: Grid = [[value or None for value in row] for row in rows]
    numbers = sorted(game_integers(metadata, "candidate_numbers"))
    if len(numbers) != sum(row.count(None) for row in matrix):
        raise ValueError("metadata: candidate_numbers are not as many as the missing numbers")
    answer = game.get("answer")
    try:
        filled = _integer_matrix(str(answer), rows=len(matrix), columns=len(matrix[0]))
    except ValueError:
        filled = None
    right = filled is not None and not _broken_rule(matrix, numbers, filled)
    return {"matrix": matrix, "numbers": numbers}, json.dumps(filled) if right else ""


def _question(matrix: Grid, numbers: list[int]) -> str:
    rows = ",\n ".join("[" + ", ".join("X" if value is None else str(value) for value in row) + "]" for row in matrix)
    return (
        f"{INSTRUCTION}\n\n"
        "In the matrix below, the last number of each row is the sum of the other numbers of that row, and the last "
        "number of each column is the sum of the other numbers of that column. Some numbers are missing, marked X.\n\n"
        f"[{rows}]\n\n"
        f"Replace every X by one of these numbers, using each exactly once: {', '.join(map(str, numbers))}.\n"
        "The answer is the whole matrix with its sums, as a 2-D list in JSON, like [[1, 2, 3], [4, 5, 9], [5, 7, 12]]."
    )


def _integer_matrix(answer: str, *, rows: int, columns: int) -> list[list[int]]:
    """The answer as lists of ints. Raises `ValueError` on any other shape or type; bools and floats are no ints."""
    value: Any = parse_json(unwrap(answer))
    if not isinstance(value, list) or len(value) != rows:
        raise ValueError(f"the answer is not a list of {rows} rows")
    for row in value:
        if not isinstance(row, list) or len(row) != columns:
            raise ValueError(f"a row is not a list of {columns} numbers")
        if any(type(item) is not int for item in row):
            raise ValueError("an entry is not an integer")
    return value


def _broken_rule(matrix: Grid, numbers: list[int], filled: list[list[int]]) -> str:
    placed = []
    for given_row, row in zip(matrix, filled, strict=True):
        for given, value in zip(given_row, row, strict=True):
            if given is None:
                placed.append(value)
            elif given != value:
                return f"a given number was changed from {given}"
    if sorted(placed) != numbers:
        return "the numbers filled in are not those to be used"
    if any(sum(line[:-1]) != line[-1] for line in [*filled, *zip(*filled, strict=True)]):
        return "a sum does not hold"
    return ""


def _profile(lines: list[list[int | None]]) -> list[list[int]]:
    """Each line as its sum, its number of blanks and its given numbers in order; the lines in order."""
    profile = []
    for *numbers, total in lines:
        assert total is not None
        profile.append([total, numbers.count(None), *sorted(value for value in numbers if value is not None)])
    return sorted(profile)


def _lines(matrix: Grid) -> list[tuple[str, list[tuple[int, int]]]]:
    """Each row and column by name, as cells of which the last holds the sum."""
    height, width = len(matrix), len(matrix[0])
    rows = [(f"row {row + 1}", [(row, column) for column in range(width)]) for row in range(height - 1)]
    columns = [(f"column {column + 1}", [(row, column) for row in range(height)]) for column in range(width - 1)]
    return rows + columns


def _fill(matrix: Grid, left: list[int], steps: list[str]) -> bool:
    """Fills the matrix in place from the numbers left, always in the line with the fewest blanks, and takes back what
    turns out wrong. Notes each step in words."""
    blanks_of = {}
    for name, cells in _lines(matrix):
        if blanks := [(row, column) for row, column in cells if matrix[row][column] is None]:
            blanks_of[name] = (blanks, cells)
    if not blanks_of:
        return True
    name, (blanks, cells) = min(blanks_of.items(), key=lambda item: len(item[1][0]))
    *numbers, total = (matrix[row][column] or 0 for row, column in cells)
    for choice in permutations(left, len(blanks)):
        if sum(choice) != total - sum(numbers):
            continue
        steps.append(f"{name} lacks {total - sum(numbers)}: {' + '.join(map(str, choice))}.")
        for (row, column), value in zip(blanks, choice, strict=True):
            matrix[row][column] = value
        if _fill(matrix, [value for value in left if value not in choice], steps):
            return True
        for row, column in blanks:
            matrix[row][column] = None
    steps.append(f"{name} cannot have {total - sum(numbers)}, so back.")
    return False
