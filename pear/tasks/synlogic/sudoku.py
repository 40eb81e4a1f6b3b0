"""Sudoku: each row, column and box of a 9x9 grid holds the numbers 1 to 9 once."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import game_metadata, integer_grid, mixed_grid, read_integer_grid, turned_and_mirrored
from pear.tasks.synlogic.latin import Rules, Square, broken_line, changed_given, fillings

Given = list[list[int | None]]
_SIDE = 9
_BOX = 3
_RULES = Rules(_SIDE, box=_BOX)
_FIRST_BATCH = 24
_FEWEST_OF_UNIQUE = 25
_BLANKS = (0, "0", "X", "x")
_NUMBERS = [str(number) for number in range(1, _SIDE + 1)]


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    clues: int
    unique: bool = True

    def __post_init__(self) -> None:
        fewest = _FEWEST_OF_UNIQUE if self.unique else 0
        if not fewest <= self.clues < _SIDE * _SIDE:
            which = "a grid with one solution" if self.unique else "a grid"
            raise ValueError(f"{which} has {fewest} to {_SIDE * _SIDE - 1} clues, not {self.clues}")


_LEVELS = {"easy": _Knobs(clues=50), "medium": _Knobs(clues=36), "hard": _Knobs(clues=28)}


class Sudoku(GeneratedTask):
    """A 9x9 grid of which some numbers are given: the clues.

    Levels differ in the number of clues: easy 50, medium 36, hard 28. They have one solution each; with the knob
    `unique=False` there may be more, and each of them is right.
    """

    name = "synlogic/sudoku"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `sudoku` (arXiv 2505.19641); generator and verifier are this package's"
    many_solutions = True

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        grid: Given | None = None
        while grid is None:
            solution = _draw_solution(draw)
            grid = _clear(solution, knobs, draw)
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(grid, knobs.unique)},),
            state={"grid": grid},
            answer=_write(solution),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        filled = read_integer_grid(answer, _SIDE, _SIDE)
        return json.dumps(filled), _broken_rule(problem.state["grid"], filled)

    def canonical(self, problem: Problem) -> str:
        """The least of the grids that turning, mirroring and renaming the numbers make of it."""
        return f"{self.name}:{min(_renamed(grid) for grid in turned_and_mirrored(problem.state['grid']))}"

    def solve(self, problem: Problem) -> str | None:
        steps: list[str] = []
        solution = next(fillings(_RULES, problem.state["grid"], steps=steps), None)
        if solution is None:
            return None
        return f"<think> Cells are (row,column). {' '.join(steps)} </think> <answer> {_write(solution)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: original_sudoku with X for blanks, complete_sudoku).
    Raises `ValueError` where a field is missing or has another shape."""
    metadata = game_metadata(game)
    try:
        cells = mixed_grid(metadata.get("original_sudoku"), _SIDE, _SIDE)
    except ValueError:
        raise ValueError("metadata: original_sudoku is not a 9x9 grid") from None
    if any(cell not in _BLANKS and str(cell) not in _NUMBERS for row in cells for cell in row):
        raise ValueError("metadata: original_sudoku has other entries than 1 to 9 and X")
    grid = [[None if cell in _BLANKS else int(cell) for cell in row] for row in cells]
    try:
        solution = integer_grid(metadata.get("complete_sudoku"), _SIDE, _SIDE)
    except ValueError:
        return {"grid": grid}, ""
    return {"grid": grid}, "" if _broken_rule(grid, solution) else _write(solution)


def _draw_solution(draw: random.Random) -> Square:
    # The boxes on the diagonal do not touch each other's lines, so any numbers go there.
    grid: Given = [[None] * _SIDE for _ in range(_SIDE)]
    for corner in range(0, _SIDE, _BOX):
        for number, value in enumerate(draw.sample(range(1, _SIDE + 1), _SIDE)):
            grid[corner + number // _BOX][corner + number % _BOX] = value
    return next(fillings(_RULES, grid, draw=draw))


def _clear(solution: Square, knobs: _Knobs, draw: random.Random) -> Given | None:
    """The solution with all but so many clues cleared, in batches that shrink where a batch lets in a second solution;
    None where no more can go."""
    grid: Given = [list(row) for row in solution]
    cells = draw.sample([(row, column) for row in range(_SIDE) for column in range(_SIDE)], _SIDE * _SIDE)
    left, size = len(cells), _FIRST_BATCH
    while left > knobs.clues and cells:
        batch = cells[: min(size, left - knobs.clues)]
        for row, column in batch:
            grid[row][column] = None
        if not knobs.unique or len(list(islice(fillings(_RULES, grid), 2))) == 1:
            left -= len(batch)
            cells = cells[len(batch) :]
            continue
        for row, column in batch:
            grid[row][column] = solution[row][column]
        if len(batch) == 1:
            cells = cells[1:]
        size = max(1, len(batch) // 2)
    return grid if left == knobs.clues else None


def _broken_rule(grid: Given, filled: Square) -> str:
    corners = [(row, column) for row in range(0, _SIDE, _BOX) for column in range(0, _SIDE, _BOX)]
    boxes = [[value for row in filled[i : i + _BOX] for value in row[j : j + _BOX]] for i, j in corners]
    if reason := changed_given(grid, filled) or broken_line(filled):
        return reason
    if any(len(set(box)) < _SIDE for box in boxes):
        return "a box does not hold each number from 1 to 9 once"
    return ""


def _renamed(grid: Given) -> str:
    """The grid with its numbers named in the order in which they first occur."""
    names: dict[int, int] = {}
    return "".join(
        "." if value is None else str(names.setdefault(value, len(names) + 1)) for row in grid for value in row
    )


def _write(solution: Square) -> str:
    return str(tuple(tuple(row) for row in solution))


def _question(grid: Given, unique: bool) -> str:
    rows = "\n".join(" ".join("X" if value is None else str(value) for value in row) for row in grid)
    return (
        f"{INSTRUCTION}\n\n"
        "Fill in this Sudoku: replace every X by a number from 1 to 9, so that each row, each column and each of the "
        "nine 3x3 boxes that make up the grid holds every number from 1 to 9 exactly once. The numbers that are there "
        f"stay as they are. {'There is one solution.' if unique else 'Any solution will do.'}\n\n"
        f"{rows}\n\n"
        "The answer is the whole grid as a Python tuple of nine rows, each a tuple of nine numbers, like "
        "((1, 2, 3, ...), (4, 5, 6, ...), ...)."
    )
