"""Squares whose rows and columns hold each number once: drawing them, and finding the fillings that keep more rules.

The numbers that a cell may still have are the bits of an int, its domain: bit 0 for 1, bit 1 for 2 and so on.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

Given = Sequence[Sequence[int | None]]
Square = list[list[int]]
Narrowing = Callable[[list[int]], list[int] | None]


def _no_more_rules(domains: list[int]) -> list[int] | None:
    return []


class Rules:
    """Which fillings of a square are right.

    Args:
        size: rows and columns; the numbers are 1 to `size`.
        narrow: a puzzle's own rules: takes numbers that they exclude out of the domains of the cells, row by row, and
            returns the cells that lost some, or None where a domain is empty. On domains of one number each it finds
            every broken rule.
        box: the side of the boxes that hold each number once too; 0 for none.
    """

    def __init__(self, size: int, narrow: Narrowing = _no_more_rules, *, box: int = 0) -> None:
        self.size, self.narrow = size, narrow
        lines, starts = range(size), range(0, size, box) if box else range(0)
        units = [[row * size + column for column in lines] for row in lines]
        units += [[row * size + column for row in lines] for column in lines]
        for corner in [row * size + column for row in starts for column in starts]:
            units.append([corner + row * size + column for row in range(box) for column in range(box)])
        self.units = units
        self.units_of = [[number for number, unit in enumerate(units) if cell in unit] for cell in range(size * size)]


@dataclass(frozen=True)
class _Search:
    rules: Rules
    draw: random.Random | None
    steps: list[str] | None


def fillings(
    rules: Rules, given: Given, *, draw: random.Random | None = None, steps: list[str] | None = None
) -> Iterator[Square]:
    """The right fillings of a square that keep the given numbers, one after the other, each once.

    `draw` makes their order random. `steps` takes the steps of the search in words.

    >>> list(fillings(Rules(2), [[1, None], [None, None]]))
    [[[1, 2], [2, 1]]]
    """
    full = (1 << rules.size) - 1
    domains = [full if value is None else 1 << (value - 1) for row in given for value in row]
    dirty = dict.fromkeys(range(len(rules.units)))
    for domain in _branches(_Search(rules, draw, steps), domains, dirty):
        values = [one.bit_length() for one in domain]
        yield [values[start : start + rules.size] for start in range(0, len(values), rules.size)]


def draw_square(rules: Rules, draw: random.Random) -> Square:
    """A random right filling of the empty square."""
    return next(fillings(rules, [[None] * rules.size] * rules.size, draw=draw))


def give_until_unique(rules: Rules, given: Given, solution: Square, draw: random.Random) -> list[list[int | None]]:
    """The given numbers of a solution, and as many more of it as it takes until it is the only one: each in a cell that
    another solution fills otherwise."""
    grid = [list(row) for row in given]
    while others := [other for other in islice(fillings(rules, grid), 2) if other != solution]:
        cells = [(row, column) for row in range(rules.size) for column in range(rules.size)]
        row, column = draw.choice([(i, j) for i, j in cells if others[0][i][j] != solution[i][j]])
        grid[row][column] = solution[row][column]
    return grid


def broken_line(square: Square) -> str:
    """Which row or column does not hold each number from 1 to the square's size once; "" where all do.

    >>> broken_line([[1, 2], [2, 1]]), broken_line([[1, 2], [1, 2]])
    ('', 'column 1 does not hold each number from 1 to 2 once')
    """
    numbers = list(range(1, len(square) + 1))
    for name, lines in (("row", square), ("column", zip(*square, strict=True))):
        for number, line in enumerate(lines, 1):
            if sorted(line) != numbers:
                return f"{name} {number} does not hold each number from 1 to {len(square)} once"
    return ""


def changed_given(given: Given, square: Square) -> str:
    """Which given number a filling changes; "" where it changes none.

    >>> changed_given([[1, None]], [[2, 1]])
    'a given number was changed from 1'
    """
    for given_row, row in zip(given, square, strict=True):
        for expected, value in zip(given_row, row, strict=True):
            if expected not in (None, value):
                return f"a given number was changed from {expected}"
    return ""


def write_square(square: Square) -> str:
    """A square in SynLogic's notation: rows apart by commas, numbers by spaces.

    >>> write_square([[1, 2], [2, 1]])
    '[[1 2,2 1]]'
    """
    return "[[" + ",".join(" ".join(map(str, row)) for row in square) + "]]"


def _branches(search: _Search, domains: list[int], dirty: dict[int, None]) -> Iterator[list[int]]:
    rules, steps = search.rules, search.steps
    if not _settle(search, domains, dirty):
        if steps is not None:
            steps.append("That leads to a contradiction.")
        return
    unsettled = [(domain.bit_count(), cell) for cell, domain in enumerate(domains) if domain & (domain - 1)]
    if not unsettled:
        yield domains
        return
    cell = min(unsettled)[1]
    bits = [1 << number for number in range(rules.size) if domains[cell] >> number & 1]
    if search.draw is not None:
        search.draw.shuffle(bits)
    for bit in bits:
        if steps is not None:
            steps.append(f"Try {bit.bit_length()} in {_place(rules, cell)}.")
        copy = domains.copy()
        copy[cell] = bit
        yield from _branches(search, copy, dict.fromkeys(rules.units_of[cell]))


def _settle(search: _Search, domains: list[int], dirty: dict[int, None]) -> bool:
    """Narrows the domains in place as far as single cells, single places and the puzzle's own rules go; False where a
    rule cannot be kept. `dirty` are the units to look at."""
    rules = search.rules
    while True:
        while dirty:
            if not _settle_unit(search, domains, dirty, rules.units[dirty.popitem()[0]]):
                return False
        changed = rules.narrow(domains)
        if changed is None:
            return False
        for cell in dict.fromkeys(changed):
            _note(search, domains, cell)
            dirty.update(dict.fromkeys(rules.units_of[cell]))
        if not changed:
            return True


def _settle_unit(search: _Search, domains: list[int], dirty: dict[int, None], unit: list[int]) -> bool:
    once = twice = settled = 0
    for cell in unit:
        domain = domains[cell]
        twice |= once & domain
        once |= domain
        if not domain & (domain - 1):
            if settled & domain:
                return False
            settled |= domain
    full = (1 << search.rules.size) - 1
    if settled == full or once != full:
        return settled == full
    single_place = once & ~twice & ~settled
    for cell in unit:
        domain = domains[cell]
        if not domain & (domain - 1):
            continue
        left = domain & ~settled
        if only := left & single_place:
            left = only
            if only & (only - 1):
                return False
        if left != domain:
            if not left:
                return False
            domains[cell] = left
            _note(search, domains, cell)
            dirty.update(dict.fromkeys(search.rules.units_of[cell]))
    return True


def _note(search: _Search, domains: list[int], cell: int) -> None:
    domain = domains[cell]
    if search.steps is not None and not domain & (domain - 1):
        search.steps.append(f"{_place(search.rules, cell)} can only be {domain.bit_length()}.")


def _place(rules: Rules, cell: int) -> str:
    return f"({cell // rules.size + 1},{cell % rules.size + 1})"
