"""Campsite (also known as Tents): pitch one tent beside every tree, so that no two tents touch."""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import Place, neighbors, read_text_grid, text_grid, transposed, write_rows

Grid = list[list[str]]


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    rows: int
    columns: int
    tree_density: float

    def __post_init__(self) -> None:
        if not (3 <= self.rows <= 10 and 3 <= self.columns <= 10):
            raise ValueError("rows and columns are from 3 to 10")
        if not 0.05 <= self.tree_density <= 0.18:
            raise ValueError("tree_density is from 0.05 to 0.18")

    @property
    def trees(self) -> int:
        return max(1, int(self.rows * self.columns * self.tree_density))


_LEVELS = {
    "easy": _Knobs(rows=5, columns=5, tree_density=0.16),
    "medium": _Knobs(rows=7, columns=7, tree_density=0.17),
    "hard": _Knobs(rows=9, columns=9, tree_density=0.18),
}


class Campsite(GeneratedTask):
    """A grid of trees; the tents in each row and column are counted. Each problem has exactly one solution.

    Levels differ in size and in the share of cells that are trees: easy 5x5, 0.16; medium 7x7, 0.17; hard 9x9, 0.18.

    The answer is the grid as a 2-D list of "T" (tree), "C" (tent) and "X" (empty).
    """

    name = "synlogic/campsite"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `campsite` (arXiv 2505.19641); generator and verifier are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        while True:
            solution = _draw(draw, knobs)
            if solution is None:
                continue
            state = _state(solution)
            found = _solutions(state)
            if next(found) == solution and next(found, None) is None:
                break
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=json.dumps(solution),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        grid: Grid = problem.state["grid"]
        filled = read_text_grid(answer, len(grid), len(grid[0]))
        if any(cell not in ("T", "C", "X") for row in filled for cell in row):
            raise ValueError('an entry of the grid is not "T", "C" or "X"')
        return json.dumps(filled), _broken_rule(problem.state, filled)

    def canonical(self, problem: Problem) -> str:
        """What turning and mirroring the grid leave alone."""
        state = problem.state
        views = []
        turned = (transposed(state["grid"]), state["columns"], state["rows"])
        for grid, rows, columns in ((state["grid"], state["rows"], state["columns"]), turned):
            for lines, counts in ((grid, rows), (grid[::-1], rows[::-1])):
                views += [(lines, counts, columns), ([line[::-1] for line in lines], counts, columns[::-1])]
        return f"{self.name}:{min(map(json.dumps, views))}"

    def solve(self, problem: Problem) -> str:
        solution = next(_solutions(problem.state))
        counts = problem.state["rows"]
        steps = []
        for number, (line, count) in enumerate(zip(solution, counts, strict=True), 1):
            places = [str(column) for column, cell in enumerate(line, 1) if cell == "C"]
            where = f"column{'s' * (count > 1)} {', '.join(places)}" if places else "none"
            steps.append(f"Row {number} has {count} tent{'s' * (count != 1)}: {where}.")
        for (row, column), (tent_row, tent_column) in sorted(_pairs(solution).items()):
            steps.append(f"The tree at ({row + 1}, {column + 1}) has its tent at ({tent_row + 1}, {tent_column + 1}).")
        steps.append(f"The columns have {', '.join(map(str, problem.state['columns']))} tents, and no two tents touch.")
        return f"<think> {' '.join(steps)} </think> <answer> {json.dumps(solution)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: grid, row_constraints, col_constraints, solution).
    Raises `ValueError` where a field is missing or has another shape."""
    metadata = game.get("metadata")
    if not isinstance(metadata, Mapping):
        raise ValueError("metadata is missing")
    rows, columns = metadata.get("row_constraints"), metadata.get("col_constraints")
    for key, counts in (("row_constraints", rows), ("col_constraints", columns)):
        if not isinstance(counts, list) or not counts or any(type(count) is not int for count in counts):
            raise ValueError(f"metadata: {key} is not a list of integers")
    assert rows
    assert columns
    grid = text_grid(metadata.get("grid"), len(rows), len(columns))
    if any(cell not in ("T", "X") for row in grid for cell in row):
        raise ValueError("metadata: grid has other entries than T and X")
    state = {"grid": grid, "rows": rows, "columns": columns}
    try:
        solution = text_grid(metadata.get("solution"), len(rows), len(columns))
    except ValueError:
        return state, ""
    return state, json.dumps(solution) if not _broken_rule(state, solution) else ""


def _draw(draw: random.Random, knobs: _Knobs) -> Grid | None:
    """Tents that do not touch, each with a tree beside it; None where there was no room for all."""
    rows, columns = knobs.rows, knobs.columns
    grid = [["X"] * columns for _ in range(rows)]
    places = [(row, column) for row in range(rows) for column in range(columns)]
    draw.shuffle(places)
    left = knobs.trees
    for row, column in places:
        around = neighbors((row, column), rows, columns, diagonal=True)
        if grid[row][column] != "X" or any(grid[down][right] == "C" for down, right in around):
            continue
        free = [place for place in neighbors((row, column), rows, columns) if grid[place[0]][place[1]] == "X"]
        if free:
            tree_row, tree_column = draw.choice(free)
            grid[row][column], grid[tree_row][tree_column] = "C", "T"
            left -= 1
            if not left:
                return grid
    return None


def _state(solution: Grid) -> dict[str, Any]:
    grid = [["T" if cell == "T" else "X" for cell in row] for row in solution]
    columns = [column.count("C") for column in transposed(solution)]
    return {"grid": grid, "rows": [row.count("C") for row in solution], "columns": columns}


def _question(state: dict[str, Any]) -> str:
    return (
        f"{INSTRUCTION}\n\n"
        "The grid below shows a campsite. T is a tree, X is an empty cell. Put tents (C) on empty cells so that\n"
        "- every tree has a tent of its own and every tent a tree of its own: trees and tents can be paired one to one "
        "so that the two of each pair are next to each other, horizontally or vertically;\n"
        "- no two tents touch each other, not even diagonally;\n"
        "- every row and every column has the number of tents given for it.\n\n"
        f"{write_rows(state['grid'])}\n\n"
        f"Tents in each row, from top to bottom: {', '.join(map(str, state['rows']))}\n"
        f"Tents in each column, from left to right: {', '.join(map(str, state['columns']))}\n\n"
        'The answer is the whole grid as a 2-D list of "T", "C" and "X", row by row, like '
        '[["X", "T"], ["X", "C"]].'
    )


def _broken_rule(state: Mapping[str, Any], filled: Grid) -> str:
    trees = [[cell == "T" for cell in row] for row in state["grid"]]
    if [[cell == "T" for cell in row] for row in filled] != trees:
        return "a tree was added, moved or removed"
    if [row.count("C") for row in filled] != state["rows"]:
        return "a row has another number of tents"
    if [column.count("C") for column in transposed(filled)] != state["columns"]:
        return "a column has another number of tents"
    rows, columns = len(filled), len(filled[0])
    tents = [(row, column) for row in range(rows) for column in range(columns) if filled[row][column] == "C"]
    if any(
        filled[row][column] == "C" for tent in tents for row, column in neighbors(tent, rows, columns, diagonal=True)
    ):
        return "two tents touch"
    if len(_pairs(filled)) != len(tents) or len(tents) != sum(map(sum, trees)):
        return "trees and tents cannot be paired one to one"
    return ""


def _pairs(filled: Grid) -> dict[Place, Place]:
    """A largest pairing of trees with tents beside them (augmenting paths), each tree with its tent."""
    rows, columns = len(filled), len(filled[0])
    tent_of: dict[Place, Place] = {}
    for start in ((row, column) for row in range(rows) for column in range(columns) if filled[row][column] == "C"):
        # Breadth first over tents; `origin` is the tent from which a tree was reached.
        origin: dict[Place, Place] = {}
        queue = [start]
        for tent in queue:
            trees = [tree for tree in neighbors(tent, rows, columns) if filled[tree[0]][tree[1]] == "T"]
            for tree in trees:
                if tree in origin:
                    continue
                origin[tree] = tent
                if tree in tent_of:
                    queue.append(tent_of[tree])
                    continue
                while True:
                    giver = origin[tree]
                    former = next((other for other, held in tent_of.items() if held == giver), None)
                    tent_of[tree] = giver
                    if former is None:
                        break
                    del tent_of[former]
                    tree = former
                queue.clear()
                break
    return tent_of


def _solutions(state: Mapping[str, Any]) -> Iterator[Grid]:
    """All solutions, row by row; a cell away from every tree is never a tent."""
    grid, counts = state["grid"], state["rows"]
    rows, columns = len(grid), len(grid[0])
    choices = []
    for row in range(rows):
        free = [
            column
            for column in range(columns)
            if grid[row][column] == "X"
            and any(grid[down][right] == "T" for down, right in neighbors((row, column), rows, columns))
        ]
        choices.append(
            [
                chosen
                for chosen in combinations(free, counts[row])
                if all(right - left > 1 for left, right in pairwise(chosen))
            ]
        )
    # possible[row][column]: rows from there on that can have a tent in the column.
    possible = [[0] * columns for _ in range(rows + 1)]
    for row in reversed(range(rows)):
        reached = {column for chosen in choices[row] for column in chosen}
        possible[row] = [possible[row + 1][column] + (column in reached) for column in range(columns)]

    def place(row: int, chosen_rows: list[tuple[int, ...]], left: list[int]) -> Iterator[Grid]:
        if row == rows:
            filled = [list(line) for line in grid]
            for at, chosen in enumerate(chosen_rows):
                for column in chosen:
                    filled[at][column] = "C"
            if not _broken_rule(state, filled):
                yield filled
            return
        above = chosen_rows[-1] if chosen_rows else ()
        for chosen in choices[row]:
            if any(abs(column - other) <= 1 for column in chosen for other in above):
                continue
            rest = [count - (column in chosen) for column, count in enumerate(left)]
            if all(0 <= count <= most for count, most in zip(rest, possible[row + 1], strict=True)):
                yield from place(row + 1, [*chosen_rows, chosen], rest)

    return place(0, [], list(state["columns"]))
