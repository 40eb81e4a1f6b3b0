"""Number wall: build walls so that every number has an island of its size."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_literal, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import (
    Place,
    game_metadata,
    game_size,
    mixed_grid,
    neighbors,
    turned_and_mirrored,
    write_rows,
)

Grid = list[list[Any]]
_WALL, _LAND = "A", "X"


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    size: int
    largest: int

    def __post_init__(self) -> None:
        if not 3 <= self.size <= 15:
            raise ValueError("size is from 3 to 15")
        if not 1 <= self.largest <= 9:
            raise ValueError("largest is from 1 to 9")


_LEVELS = {
    "easy": _Knobs(size=5, largest=4),
    "medium": _Knobs(size=7, largest=6),
    "hard": _Knobs(size=10, largest=8),
}


class NumberWall(GeneratedTask):
    """A square grid with numbers; as in Nurikabe, but walls need not hang together, and islands may not even touch at a
    corner. There may be several solutions, as in SynLogic.

    Levels differ in the side of the grid and in the size of the largest island: easy 5, 4; medium 7, 6; hard 10, 8.

    The answer is the grid with the given numbers, "A" for walls and "X" for the other cells of islands.
    """

    name = "synlogic/number_wall"
    knobs = _LEVELS
    levels = tuple(knobs)
    many_solutions = True
    source = "the rules of SynLogic's task `number_wall` (arXiv 2505.19641); generator and verifier are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        islands = None
        while islands is None:
            islands = _draw_islands(draw, knobs)
        grid: Grid = [[_LAND] * knobs.size for _ in range(knobs.size)]
        solution: Grid = [[_WALL] * knobs.size for _ in range(knobs.size)]
        for island in islands:
            for row, column in island:
                solution[row][column] = _LAND
            row, column = draw.choice(island)
            grid[row][column] = solution[row][column] = len(island)
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
        filled = mixed_grid(parse_literal(unwrap(answer)), len(grid), len(grid[0]))
        if any(isinstance(cell, str) and cell not in (_WALL, _LAND) for row in filled for cell in row):
            raise ValueError("a cell is neither a number nor A nor X")
        return json.dumps(filled), _broken_rule(grid, filled)

    def canonical(self, problem: Problem) -> str:
        """What turning and mirroring the grid leave alone."""
        return f"{self.name}:{min(map(json.dumps, turned_and_mirrored(problem.state['grid'])))}"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: grid, solution, n). Raises `ValueError` where a
    field is missing or has another shape."""
    metadata = game_metadata(game)
    size = game_size(metadata, "n")
    grid = mixed_grid(metadata.get("grid"), size, size)
    if any(cell != _LAND if isinstance(cell, str) else cell < 1 for row in grid for cell in row):
        raise ValueError("metadata: a cell of the grid is neither X nor a number from 1")
    try:
        solution = mixed_grid(metadata.get("solution"), size, size)
    except ValueError:
        return {"grid": grid}, ""
    return {"grid": grid}, "" if _broken_rule(grid, solution) else json.dumps(solution)


def _question(grid: Grid) -> str:
    return (
        f"{INSTRUCTION}\n\n"
        "This is a number wall puzzle. In the grid below, X is an open cell. Turn open cells into walls, so that\n"
        "- the cells without a wall form islands: groups of cells that hang together by their sides;\n"
        "- every island has exactly one number, and as many cells as the number says, its own cell included;\n"
        "- islands do not touch each other, not even at a corner;\n"
        "- nowhere do walls fill a square of 2x2 cells.\n"
        "Cells with numbers are never walls. Walls need not hang together.\n\n"
        f"{write_rows(grid)}\n\n"
        'The answer is the grid as a list of rows, with the numbers as they are, "A" for walls and "X" for the other '
        'cells of islands, like [["A", 2, "X"], ["A", "A", "A"], [1, "A", 1]].'
    )


def _broken_rule(grid: Grid, filled: Grid) -> str:
    for row, line in enumerate(grid):
        for column, given in enumerate(line):
            if isinstance(given, int) != isinstance(filled[row][column], int) or (
                isinstance(given, int) and filled[row][column] != given
            ):
                return "the numbers are not those of the puzzle"
    rows, columns = len(grid), len(grid[0])
    island_of: dict[Place, int] = {}
    for start in [(row, column) for row in range(rows) for column in range(columns)]:
        if filled[start[0]][start[1]] == _WALL or start in island_of:
            continue
        island = _island(filled, start)
        numbers = [filled[row][column] for row, column in island if isinstance(filled[row][column], int)]
        if len(numbers) != 1:
            return "an island has not exactly one number"
        if numbers[0] != len(island):
            return "an island has another size than its number"
        for place in island:
            island_of[place] = start[0] * columns + start[1]
    for place, name in island_of.items():
        if any(island_of.get(near, name) != name for near in neighbors(place, rows, columns, diagonal=True)):
            return "two islands touch at a corner"
    for row in range(rows - 1):
        for column in range(columns - 1):
            if all(place not in island_of for place in _square(row, column)):
                return "walls fill a square of 2x2 cells"
    return ""


def _island(filled: Grid, start: Place) -> list[Place]:
    found, border = {start}, [start]
    while border:
        for near in neighbors(border.pop(), len(filled), len(filled[0])):
            if near not in found and filled[near[0]][near[1]] != _WALL:
                found.add(near)
                border.append(near)
    return sorted(found)


def _square(row: int, column: int) -> list[Place]:
    return [(row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)]


def _draw_islands(draw: random.Random, knobs: _Knobs) -> list[list[Place]] | None:
    """Islands that keep the rules: a cell of each square of walls becomes land, as part of an island that it touches or
    as a new one. None where this did not work out."""
    size = knobs.size
    island_of: dict[Place, int] = {}
    islands: list[list[Place]] = []

    def settle(place: Place) -> bool:
        touched = {island_of[near] for near in neighbors(place, size, size, diagonal=True) if near in island_of}
        if place in island_of or len(touched) > 1:
            return False
        if not touched:
            island_of[place] = len(islands)
            islands.append([place])
            return True
        (island,) = touched
        beside = any(island_of.get(near) == island for near in neighbors(place, size, size))
        if not beside or len(islands[island]) >= knobs.largest:
            return False
        island_of[place] = island
        islands[island].append(place)
        return True

    squares = [(row, column) for row in range(size - 1) for column in range(size - 1)]
    draw.shuffle(squares)
    for row, column in squares:
        places = _square(row, column)
        if any(place in island_of for place in places):
            continue
        draw.shuffle(places)
        if not any(settle(place) for place in places):
            return None
    for _ in range(size):
        settle((draw.randrange(size), draw.randrange(size)))
    return [sorted(island) for island in islands]
