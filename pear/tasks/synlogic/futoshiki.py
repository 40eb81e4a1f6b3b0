"""Futoshiki: a square whose rows and columns hold each number once, with signs that say which of two cells is less."""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import (
    Place,
    game_metadata,
    game_size,
    neighbors,
    read_bare_grid,
    turned_and_mirrored,
    write_rows,
)
from pear.tasks.synlogic.latin import (
    Rules,
    Square,
    broken_line,
    changed_given,
    draw_square,
    fillings,
    give_until_unique,
    write_square,
)

Given = list[list[int | None]]
# Two cells, (row, column) from 0 on, and "<" or ">" between them.
Sign = tuple[Place, Place, str]
_BLANK = "X"
_CELL = re.compile(r"[Xx]|[0-9]{1,2}")


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    size: int
    signs: int
    prefilled: int

    def __post_init__(self) -> None:
        if not 3 <= self.size <= 8:
            raise ValueError(f"size is from 3 to 8, not {self.size}")
        pairs = 2 * self.size * (self.size - 1)
        if not 1 <= self.signs <= pairs:
            raise ValueError(f"signs are from 1 to {pairs} at size {self.size}, not {self.signs}")
        most = self.size * self.size // 2
        if not 0 <= self.prefilled <= most:
            raise ValueError(f"prefilled is from 0 to {most} at size {self.size}, not {self.prefilled}")


_LEVELS = {
    "easy": _Knobs(size=4, signs=5, prefilled=2),
    "medium": _Knobs(size=5, signs=9, prefilled=3),
    "hard": _Knobs(size=6, signs=14, prefilled=4),
}


class Futoshiki(GeneratedTask):
    """A square with some numbers and with signs between cells next to each other. There is one solution; published rows
    may have several.

    Levels differ in size, in the number of signs, and in the least number of cells that are given: easy 4x4, 5, 2;
    medium 5x5, 9, 3; hard 6x6, 14, 4. As many more cells are given as it takes until there is one solution.

    The answer is the whole square, rows apart by commas and numbers by spaces.
    """

    name = "synlogic/futoshiki"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `futoshiki` (arXiv 2505.19641); generator and verifier are this package's"
    many_solutions = True

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        solution = draw_square(Rules(knobs.size), draw)
        signs = _draw_signs(solution, knobs.signs, draw)
        places = [(row, column) for row in range(knobs.size) for column in range(knobs.size)]
        shown = draw.sample(places, knobs.prefilled)
        some: Given = [
            [value if (row, column) in shown else None for column, value in enumerate(line)]
            for row, line in enumerate(solution)
        ]
        grid = give_until_unique(_rules(knobs.size, signs), some, solution, draw)
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(grid, signs)},),
            state={"grid": grid, "signs": [[list(one), list(other), sign] for one, other, sign in signs]},
            answer=write_square(solution),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        grid = problem.state["grid"]
        filled = read_bare_grid(answer, len(grid), len(grid))
        return json.dumps(filled), _broken_rule(grid, _signs(problem), filled)

    def canonical(self, problem: Problem) -> str:
        """What turning and mirroring, counting backwards and the order of the signs leave alone."""
        grid, signs = problem.state["grid"], _signs(problem)
        size = len(grid)
        # Each cell with its number; the cells move with the square, and the signs go by them.
        backwards = [[value and size + 1 - value for value in row] for row in grid]
        forms = []
        for numbers, swap in ((grid, False), (backwards, True)):
            pairs = [(other, one) if (sign == ">") != swap else (one, other) for one, other, sign in signs]
            places = turned_and_mirrored([[(row, column) for column in range(size)] for row in range(size)])
            for turned, moved in zip(turned_and_mirrored(numbers), places, strict=True):
                at = {place: (row, column) for row, line in enumerate(moved) for column, place in enumerate(line)}
                forms.append(json.dumps([turned, sorted({(at[less], at[more]) for less, more in pairs})]))
        return f"{self.name}:{min(forms)}"

    def solve(self, problem: Problem) -> str | None:
        grid = problem.state["grid"]
        steps: list[str] = []
        solution = next(fillings(_rules(len(grid), _signs(problem)), grid, steps=steps), None)
        if solution is None:
            return None
        return f"<think> Cells are (row,column). {' '.join(steps)} </think> <answer> {write_square(solution)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: grid_size, prefilled_coords and constraints like
    `[[0, 0], [0, 1], "<"]`; the given numbers stand in the grid of `question`). Raises `ValueError` where a field is
    missing or has another shape."""
    metadata = game_metadata(game)
    size = game_size(metadata, "grid_size", least=2, most=20)
    shown = metadata.get("prefilled_coords")
    if not isinstance(shown, list):
        raise ValueError("metadata: prefilled_coords is not a list")
    grid = _given_grid(game.get("question"), size, {_place(place, size) for place in shown})
    constraints = metadata.get("constraints")
    if not isinstance(constraints, list):
        raise ValueError("metadata: constraints is not a list")
    signs: list[Sign] = []
    for item in constraints:
        if not isinstance(item, list) or len(item) != 3 or item[2] not in ("<", ">"):
            raise ValueError("metadata: a constraint is not two cells and one of < and >")
        signs.append((_place(item[0], size), _place(item[1], size), item[2]))
    state = {"grid": grid, "signs": [[list(one), list(other), sign] for one, other, sign in signs]}
    answer = game.get("answer")
    try:
        filled = read_bare_grid(answer if isinstance(answer, str) else "", size, size)
    except ValueError:
        return state, ""
    return state, "" if _broken_rule(grid, signs, filled) else write_square(filled)


def _place(value: Any, size: int) -> Place:
    if not isinstance(value, list) or [type(number) for number in value] != [int, int]:
        raise ValueError("metadata: a cell is not a pair of integers")
    if not all(0 <= number < size for number in value):
        raise ValueError("metadata: a cell is outside the grid")
    return value[0], value[1]


def _given_grid(question: Any, size: int, shown: set[Place]) -> Given:
    """The last lines of a question that are a square of numbers and X, the numbers in the cells that are shown."""
    if not isinstance(question, str):
        raise ValueError("question is missing")
    lines = [line.split() for line in question.splitlines()]
    for start in range(len(lines) - size, -1, -1):
        rows = lines[start : start + size]
        if any(len(row) != size or not all(_CELL.fullmatch(cell) for cell in row) for row in rows):
            continue
        grid = [[int(cell) if cell.isdigit() else None for cell in row] for row in rows]
        given = {(i, j): value for i, line in enumerate(grid) for j, value in enumerate(line) if value is not None}
        if given.keys() == shown and all(1 <= value <= size for value in given.values()):
            return grid
    raise ValueError("question has no grid of that size with numbers in the cells of prefilled_coords")


def _signs(problem: Problem) -> list[Sign]:
    return [((one[0], one[1]), (other[0], other[1]), sign) for one, other, sign in problem.state["signs"]]


def _draw_signs(solution: Square, count: int, draw: random.Random) -> list[Sign]:
    size = len(solution)
    places = [(row, column) for row in range(size) for column in range(size)]
    pairs = [(place, near) for place in places for near in neighbors(place, size, size) if near > place]
    return [
        (one, other, "<" if solution[one[0]][one[1]] < solution[other[0]][other[1]] else ">")
        for one, other in draw.sample(pairs, count)
    ]


def _rules(size: int, signs: list[Sign]) -> Rules:
    """Rows and columns that hold each number once, and the signs."""
    pairs = [(other, one) if sign == ">" else (one, other) for one, other, sign in signs]
    numbered = [(one[0] * size + one[1], other[0] * size + other[1]) for one, other in pairs]

    def narrow(domains: list[int]) -> list[int] | None:
        changed = []
        for less, more in numbered:
            # The greater cell has no number up to the least of the other's, and the lesser none from its greatest on.
            above = domains[more] & -((domains[less] & -domains[less]) << 1)
            below = domains[less] & ((1 << above.bit_length() >> 1) - 1)
            if not above or not below:
                return None
            for cell, left in ((more, above), (less, below)):
                if left != domains[cell]:
                    domains[cell] = left
                    changed.append(cell)
        return changed

    return Rules(size, narrow)


def _broken_rule(grid: Given, signs: list[Sign], filled: Square) -> str:
    if reason := changed_given(grid, filled) or broken_line(filled):
        return reason
    for (row, column), (other_row, other_column), sign in signs:
        one, other = filled[row][column], filled[other_row][other_column]
        if one >= other if sign == "<" else one <= other:
            return f"{_name((row, column))} {sign} {_name((other_row, other_column))} does not hold"
    return ""


def _name(place: Place) -> str:
    return f"({place[0] + 1},{place[1] + 1})"


def _question(grid: Given, signs: list[Sign]) -> str:
    size = len(grid)
    rows = [[_BLANK if value is None else value for value in row] for row in grid]
    relations = "\n".join(f"{_name(one)} {sign} {_name(other)}" for one, other, sign in signs)
    return (
        f"{INSTRUCTION}\n\n"
        f"This is a Futoshiki puzzle on a {size} x {size} grid. Replace every X by a number from 1 to {size}, so that "
        f"each row and each column holds every number from 1 to {size} exactly once and all the inequalities below the "
        "grid hold. The numbers given stay where they are. There is one solution.\n\n"
        f"{write_rows(rows)}\n\n"
        "Inequalities between cells, a cell being (row,column), both counted from 1 at the top left:\n"
        f"{relations}\n\n"
        "The answer is the whole grid in double brackets, numbers apart by spaces and rows apart by commas. A 2 x 2 "
        "grid, for instance, is written [[1 2,2 1]]."
    )
