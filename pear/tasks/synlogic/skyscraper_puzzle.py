"""Skyscrapers: a square of heights of which each row and column shows so many from its two ends."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, permutations
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import (
    game_integers,
    game_metadata,
    game_size,
    integer_grid,
    read_integer_grid,
    turned_and_mirrored,
)
from pear.tasks.synlogic.latin import Rules, Square, broken_line, draw_square, fillings

Clues = dict[str, list[int]]
_SIDES = ("top", "bottom", "left", "right")
# The search goes through the orders of a line's numbers; above, there are too many.
_LARGEST = 6


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    size: int

    def __post_init__(self) -> None:
        if not 3 <= self.size <= _LARGEST:
            raise ValueError(f"size is from 3 to {_LARGEST}, not {self.size}")


# The first one is taken where none is named: up to symmetries there are only some seventy squares of 4x4.
_LEVELS = {"medium": _Knobs(size=5), "easy": _Knobs(size=4), "hard": _Knobs(size=6)}


class SkyscraperPuzzle(GeneratedTask):
    """A square with a number at both ends of each row and column, and no height given. There is one solution; published
    rows may have several.

    Levels differ in size: easy 4x4, medium 5x5, hard 6x6. Up to symmetries there are only some seventy 4x4 ones, too
    few to train on.

    The answer is the whole square as a 2-D list.
    """

    name = "synlogic/skyscraper_puzzle"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = (
        "the rules of SynLogic's task `skyscraper_puzzle` (arXiv 2505.19641); generator and verifier are this package's"
    )
    many_solutions = True

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        while True:
            solution = draw_square(Rules(knobs.size), draw)
            clues = _clues(solution)
            if len(list(islice(fillings(_rules(clues), _blank(knobs.size)), 2))) == 1:
                break
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(clues)},),
            state={**clues},
            answer=json.dumps(solution),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        size = len(problem.state["top"])
        square = read_integer_grid(answer, size, size)
        return json.dumps(square), _broken_rule(problem.state, square)

    def canonical(self, problem: Problem) -> str:
        """What turning and mirroring leave alone: the clues around a square."""
        top, bottom, left, right = (problem.state[side] for side in _SIDES)
        inner = [0] * len(top)
        ring = [[0, *top, 0], *([one, *inner, other] for one, other in zip(left, right, strict=True)), [0, *bottom, 0]]
        return f"{self.name}:{min(json.dumps(view) for view in turned_and_mirrored(ring))}"

    def solve(self, problem: Problem) -> str | None:
        size = len(problem.state["top"])
        if size > _LARGEST:
            return None
        steps: list[str] = []
        solution = next(fillings(_rules(problem.state), _blank(size), steps=steps), None)
        if solution is None:
            return None
        return f"<think> Cells are (row,column). {' '.join(steps)} </think> <answer> {json.dumps(solution)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: n, top, bottom, left, right, solved_grid). Raises
    `ValueError` where a field is missing or has another shape."""
    metadata = game_metadata(game)
    size = game_size(metadata, "n", least=1, most=20)
    state: Clues = {side: game_integers(metadata, side, size) for side in _SIDES}
    try:
        solution = integer_grid(metadata.get("solved_grid"), size, size)
    except ValueError:
        return {**state}, ""
    return {**state}, "" if _broken_rule(state, solution) else json.dumps(solution)


def _question(clues: Clues) -> str:
    size = len(clues["top"])
    told = "\n".join(
        f"{name}: {' '.join(map(str, clues[side]))}"
        for side, name in (
            ("top", "From the top, looking down, columns from left to right"),
            ("bottom", "From the bottom, looking up, columns from left to right"),
            ("left", "From the left, looking right, rows from top to bottom"),
            ("right", "From the right, looking left, rows from top to bottom"),
        )
    )
    return (
        f"{INSTRUCTION}\n\n"
        f"This is a skyscraper puzzle on a {size} x {size} grid. Each cell holds a building whose height is a number "
        f"from 1 to {size}, and each row and each column holds every height exactly once. The numbers below count the "
        "buildings that can be seen along a column or a row from its end: a building is seen if every building before "
        "it is lower, so that 1 3 2 4 shows three buildings from the left and one from the right. There is one "
        "solution.\n\n"
        f"{told}\n\n"
        "The answer is the whole grid, row by row from the top, as a 2-D list. A 2 x 2 grid, for instance, is written "
        "[[1, 2], [2, 1]]."
    )


def _blank(size: int) -> list[list[int | None]]:
    return [[None] * size for _ in range(size)]


def _seen(heights: Sequence[int]) -> int:
    """How many buildings are seen from the front."""
    count = tallest = 0
    for height in heights:
        if height > tallest:
            count, tallest = count + 1, height
    return count


def _clues(square: Square) -> Clues:
    columns = list(zip(*square, strict=True))
    return {
        "top": [_seen(column) for column in columns],
        "bottom": [_seen(column[::-1]) for column in columns],
        "left": [_seen(row) for row in square],
        "right": [_seen(row[::-1]) for row in square],
    }


def _broken_rule(clues: Mapping[str, list[int]], square: Square) -> str:
    if reason := broken_line(square):
        return reason
    for side, counts in _clues(square).items():
        for number, (count, clue) in enumerate(zip(counts, clues[side], strict=True), 1):
            if count != clue:
                line = "column" if side in ("top", "bottom") else "row"
                return f"{line} {number} shows {count} buildings from the {side}, not {clue}"
    return ""


@cache
def _orders(size: int) -> dict[tuple[int, int], list[tuple[int, ...]]]:
    """The orders of the numbers from 1 to `size` by what they show from the front and from the back."""
    orders: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for order in permutations(range(1, size + 1)):
        orders.setdefault((_seen(order), _seen(order[::-1])), []).append(order)
    return orders


class _Line:
    """What the domains of a line leave possible, given what it shows from its two ends. Sets of orders are bits."""

    def __init__(self, size: int, front: int, back: int) -> None:
        orders = _orders(size).get((front, back), [])
        # Of each place and each number: which orders have it there.
        self._with = [[0] * size for _ in range(size)]
        for number, order in enumerate(orders):
            for place, height in enumerate(order):
                self._with[place][height - 1] |= 1 << number
        self._all = (1 << len(orders)) - 1

    def possible(self, domains: tuple[int, ...]) -> list[int]:
        """The domains without the numbers that no order has there; empty where no order is left."""
        left = self._all
        for domain, orders_with in zip(domains, self._with, strict=True):
            for height, orders in enumerate(orders_with):
                if not domain >> height & 1:
                    left &= ~orders
        if not left:
            return []
        return [sum(1 << height for height, orders in enumerate(line) if orders & left) for line in self._with]


@cache
def _line(size: int, front: int, back: int) -> _Line:
    return _Line(size, front, back)


def _rules(clues: Mapping[str, list[int]]) -> Rules:
    """Rows and columns that hold each number once, in orders that show what the clues say."""
    size = len(clues["top"])
    lines = []
    for number in range(size):
        row = range(number * size, (number + 1) * size)
        lines.append((row, _line(size, clues["left"][number], clues["right"][number])))
        column = range(number, size * size, size)
        lines.append((column, _line(size, clues["top"][number], clues["bottom"][number])))

    known: dict[tuple[_Line, tuple[int, ...]], list[int]] = {}

    def narrow(domains: list[int]) -> list[int] | None:
        changed = []
        for cells, line in lines:
            before = tuple([domains[cell] for cell in cells])
            after = known.get((line, before))
            if after is None:
                after = known[line, before] = line.possible(before)
            if not after:
                return None
            for cell, domain, left in zip(cells, before, after, strict=True):
                if left != domain:
                    domains[cell] = left
                    changed.append(cell)
        return changed

    return Rules(size, narrow)
