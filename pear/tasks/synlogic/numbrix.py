"""Numbrix: complete a grid so that the numbers from 1 on make a path from cell to neighboring cell."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import (
    Place,
    integer_grid,
    mixed_grid,
    neighbors,
    read_integer_grid,
    turned_and_mirrored,
    write_rows,
)

Grid = list[list[Any]]
_BLANK = "X"


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    size: int
    fill_rate: float

    def __post_init__(self) -> None:
        if not 3 <= self.size <= 10:
            raise ValueError("size is from 3 to 10")
        if not 0.1 <= self.fill_rate <= 0.8:
            raise ValueError("fill_rate is from 0.1 to 0.8")


_LEVELS = {
    "easy": _Knobs(size=4, fill_rate=0.5),
    "medium": _Knobs(size=6, fill_rate=0.4),
    "hard": _Knobs(size=8, fill_rate=0.3),
}


class Numbrix(GeneratedTask):
    """A square grid with some numbers of a path through all its cells; the first and the last are always given. There
    may be several solutions, as in SynLogic.

    Levels differ in size and in the share of cells that are given: easy 4x4, 0.5; medium 6x6, 0.4; hard 8x8, 0.3.

    The answer is the whole grid as a 2-D list of integers.
    """

    name = "synlogic/numbrix"
    knobs = _LEVELS
    levels = tuple(knobs)
    many_solutions = True
    source = "the rules of SynLogic's task `numbrix` (arXiv 2505.19641); generator and verifier are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        path = _draw_path(draw, knobs.size)
        solution = [[0] * knobs.size for _ in range(knobs.size)]
        for number, (row, column) in enumerate(path, 1):
            solution[row][column] = number
        grid: Grid = [list(row) for row in solution]
        blanks = min(len(path) - 2, len(path) - int(len(path) * knobs.fill_rate))
        for row, column in draw.sample(path[1:-1], blanks):
            grid[row][column] = _BLANK
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(grid)},),
            state={"grid": grid},
            answer=json.dumps(solution),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        grid: Grid = problem.state["grid"]
        filled = read_integer_grid(answer, len(grid), len(grid[0]))
        return json.dumps(filled), _broken_rule(grid, filled)

    def canonical(self, problem: Problem) -> str:
        """What turning and mirroring the grid and counting backwards leave alone."""
        grid: Grid = problem.state["grid"]
        most = len(grid) * len(grid[0]) + 1
        backwards = [[cell if cell == _BLANK else most - cell for cell in row] for row in grid]
        views = turned_and_mirrored(grid) + turned_and_mirrored(backwards)
        return f"{self.name}:{min(map(json.dumps, views))}"

    def solve(self, problem: Problem) -> str:
        grid, solution = problem.state["grid"], json.loads(problem.answer)
        place_of = _places(solution)
        steps = []
        for number in sorted(place_of):
            row, column = place_of[number]
            how = "goes to" if grid[row][column] == _BLANK else "is given at"
            steps.append(f"{number} {how} row {row + 1}, column {column + 1}.")
        return f"<think> {' '.join(steps)} </think> <answer> {problem.answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: grid, solution). Raises `ValueError` where a field
    is missing or has another shape."""
    metadata = game.get("metadata")
    value = metadata.get("grid") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(value, list) or not value or not isinstance(value[0], list):
        raise ValueError("metadata: grid is not a grid")
    grid = mixed_grid(value, len(value), len(value[0]))
    if any(isinstance(cell, str) and cell != _BLANK for row in grid for cell in row):
        raise ValueError("metadata: grid has other entries than integers and X")
    try:
        solution = integer_grid(metadata.get("solution"), len(grid), len(grid[0]))
    except ValueError:
        return {"grid": grid}, ""
    return {"grid": grid}, "" if _broken_rule(grid, solution) else json.dumps(solution)


def _question(grid: Grid) -> str:
    size = len(grid)
    return (
        f"{INSTRUCTION}\n\n"
        f"This is a Numbrix puzzle. Fill the {size} x {size} grid below with the numbers from 1 to {size * size}, each "
        "exactly once, so that every two consecutive numbers are in cells next to each other, horizontally or "
        "vertically (not diagonally). The numbers given stay where they are; X is an empty cell.\n\n"
        f"{write_rows(grid)}\n\n"
        "The answer is the whole grid as a 2-D list of integers, row by row, like [[1, 2], [4, 3]]."
    )


def _places(filled: Grid) -> dict[int, Place]:
    return {number: (row, column) for row, line in enumerate(filled) for column, number in enumerate(line)}


def _broken_rule(grid: Grid, filled: list[list[int]]) -> str:
    for given_row, row in zip(grid, filled, strict=True):
        for given, number in zip(given_row, row, strict=True):
            if given not in (_BLANK, number):
                return f"the given number {given} was changed"
    rows, columns = len(grid), len(grid[0])
    place_of = _places(filled)
    if sorted(place_of) != list(range(1, rows * columns + 1)):
        return "the numbers are not each exactly once"
    for number in range(1, rows * columns):
        if place_of[number + 1] not in neighbors(place_of[number], rows, columns):
            return f"{number} and {number + 1} are not next to each other"
    return ""


def _draw_path(draw: random.Random, size: int) -> list[Place]:
    """A path through all cells: one in serpentines, changed by backbites. (An end takes a step to a neighbor on the
    path, which loses its link towards that end; what lay between is walked the other way round.)"""
    path = [(row, column if row % 2 == 0 else size - 1 - column) for row in range(size) for column in range(size)]
    for _ in range(10 * size * size):
        if draw.random() < 0.5:
            path.reverse()
        at = path.index(draw.choice([place for place in neighbors(path[-1], size, size) if place != path[-2]]))
        path[at + 1 :] = path[:at:-1]
    return path
