"""Calcudoko: a square of numbers, in regions of which each tells what its numbers amount to."""

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import Place, game_metadata, game_size, neighbors, read_bare_grid, turned_and_mirrored
from pear.tasks.synlogic.latin import Rules, Square, broken_line, draw_square, fillings, write_square

# Cells, target and operator.
Region = tuple[tuple[Place, ...], int, str]
_OPERATORS = "+-*÷"
_CELL = re.compile(r"\(\s*(?P<row>[0-9]{1,2})\s*,\s*(?P<column>[0-9]{1,2})\s*\)")
_LARGEST = 4


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    size: int

    def __post_init__(self) -> None:
        if not 3 <= self.size <= 7:
            raise ValueError("size is from 3 to 7")


_LEVELS = {"easy": _Knobs(size=4), "medium": _Knobs(size=5), "hard": _Knobs(size=6)}


class Calcudoko(GeneratedTask):
    """A square whose rows and columns hold each number once, as in KenKen, but without repeats in a region. There is
    one solution; published rows may have several.

    Levels differ in size: easy 4x4, medium 5x5, hard 6x6. Regions have up to four cells.

    The answer is the whole square, rows apart by commas and numbers by spaces.
    """

    name = "synlogic/calcudoko"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `calcudoko` (arXiv 2505.19641); generator and verifier are this package's"
    many_solutions = True

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        solution = draw_square(Rules(knobs.size), draw)
        groups = _draw_groups(draw, solution)
        regions = [_draw_region(draw, solution, cells) for cells in groups]
        while other := _another(solution, regions):
            places = [(row, column) for row in range(knobs.size) for column in range(knobs.size)]
            place = draw.choice(
                [(row, column) for row, column in places if other[row][column] != solution[row][column]]
            )
            regions = _split(draw, solution, regions, place)
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(knobs.size, regions)},),
            state={"size": knobs.size, "regions": [_to_json(region) for region in sorted(regions)]},
            answer=write_square(solution),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        size = problem.state["size"]
        filled = read_bare_grid(answer, size, size)
        return json.dumps(filled), broken_line(filled) or _broken_region(_regions(problem), filled)

    def canonical(self, problem: Problem) -> str:
        """What turning and mirroring the square and the order of the regions leave alone."""
        size, regions = problem.state["size"], _regions(problem)
        forms = []
        for view in turned_and_mirrored([[(row, column) for column in range(size)] for row in range(size)]):
            at = {place: (row, column) for row, line in enumerate(view) for column, place in enumerate(line)}
            moved = [(sorted(at[place] for place in cells), target, kind) for cells, target, kind in regions]
            forms.append(json.dumps(sorted(moved)))
        return f"{self.name}:{size}:{min(forms)}"

    def solve(self, problem: Problem) -> str | None:
        size = problem.state["size"]
        steps: list[str] = []
        solution = next(fillings(_rules(size, _regions(problem)), _empty(size), steps=steps), None)
        if solution is None:
            return None
        return f"<think> Cells are (row,column). {' '.join(steps)} </think> <answer> {write_square(solution)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: grid_size and regions, each with cells like "(1,2)",
    target and operator; `answer` like `[[1 2,2 1]]`), "" where the stored one is none. Raises `ValueError` where a
    field is missing or has another shape."""
    metadata = game_metadata(game)
    size = game_size(metadata, "grid_size", least=2, most=20)
    given = metadata.get("regions")
    if not isinstance(given, list) or not given:
        raise ValueError("metadata: regions is not a list")
    regions = sorted(_published_region(region, size) for region in given)
    cells = [place for places, _, _ in regions for place in places]
    if len(set(cells)) != size * size or len(cells) != size * size:
        raise ValueError("metadata: regions do not have every cell once")
    state = {"size": size, "regions": [_to_json(region) for region in regions]}
    answer = game.get("answer")
    try:
        filled = read_bare_grid(answer if isinstance(answer, str) else json.dumps(answer), size, size)
    except (ValueError, TypeError):
        return state, ""
    wrong = broken_line(filled) or _broken_region(regions, filled)
    return state, "" if wrong else write_square(filled)


def _question(size: int, regions: Sequence[Region]) -> str:
    listed = "\n".join(
        f"- {', '.join(f'({row + 1},{column + 1})' for row, column in cells)}: {target}{kind if len(cells) > 1 else ''}"
        for cells, target, kind in sorted(regions)
    )
    return (
        f"{INSTRUCTION}\n\n"
        f"Fill a square of {size} x {size} cells with the numbers from 1 to {size}, so that every row and every column "
        "has each number exactly once. The square is divided into regions. Each has a target and an operator: with + "
        "the numbers of the region add up to the target, with * their product is the target; with - and ÷ a region "
        "has two cells, and the greater number minus the smaller one, or divided by it, is the target. A region of one "
        "cell has its number as target. No number is there twice in one region.\n\n"
        f"The regions, with their cells (row,column) counted from 1 at the top left:\n{listed}\n\n"
        "The answer is the whole square, rows apart by commas and numbers by spaces, like [[1 2,2 1]]."
    )


def _to_json(region: Region) -> list[Any]:
    cells, target, kind = region
    return [[list(place) for place in cells], target, kind]


def _regions(problem: Problem) -> list[Region]:
    return [
        (tuple((row, column) for row, column in cells), target, kind)
        for cells, target, kind in problem.state["regions"]
    ]


def _published_region(value: Any, size: int) -> Region:
    if not isinstance(value, Mapping):
        raise ValueError("metadata: a region is not an object")
    cells, target, kind = value.get("cells"), value.get("target"), value.get("operator")
    kind = "÷" if kind == "/" else kind
    if type(target) is not int or not isinstance(kind, str) or kind not in tuple(_OPERATORS):
        raise ValueError("metadata: a region has no target or operator")
    if not isinstance(cells, list) or not cells:
        raise ValueError("metadata: a region has no cells")
    places = []
    for cell in cells:
        match = _CELL.fullmatch(cell) if isinstance(cell, str) else None
        if match is None or not (1 <= int(match["row"]) <= size and 1 <= int(match["column"]) <= size):
            raise ValueError('metadata: a cell is not like "(1,2)"')
        places.append((int(match["row"]) - 1, int(match["column"]) - 1))
    return tuple(sorted(places)), target, kind


def _amounts_to(values: Sequence[int], target: int, kind: str) -> bool:
    """Whether a region with these numbers is right."""
    if len(set(values)) < len(values):
        return False
    if kind in "-÷" and len(values) != 2:
        # One cell has its number as target, whatever the operator; more cannot be right.
        return len(values) == 1 and values[0] == target
    least, most = min(values), max(values)
    return {
        "+": sum(values) == target,
        "*": math.prod(values) == target,
        "-": most - least == target,
        "÷": least * target == most,
    }[kind]


def _broken_region(regions: Sequence[Region], filled: Square) -> str:
    for cells, target, kind in regions:
        if not _amounts_to([filled[row][column] for row, column in cells], target, kind):
            row, column = cells[0]
            return f"the region of ({row + 1},{column + 1}) does not amount to {target}{kind}"
    return ""


def _empty(size: int) -> list[list[int | None]]:
    return [[None] * size for _ in range(size)]


def _rules(size: int, regions: Sequence[Region]) -> Rules:
    numbered = [([row * size + column for row, column in cells], target, kind) for cells, target, kind in regions]

    def narrow(domains: list[int]) -> list[int] | None:
        changed = []
        for cells, target, kind in numbered:
            left = _possible(tuple(domains[cell] for cell in cells), target, kind)
            for cell, domain in zip(cells, left, strict=True):
                if not domain:
                    return None
                if domain != domains[cell]:
                    domains[cell] = domain
                    changed.append(cell)
        return changed

    return Rules(size, narrow)


@lru_cache(maxsize=1 << 16)
def _possible(domains: tuple[int, ...], target: int, kind: str) -> tuple[int, ...]:
    """What is left of the domains of a region's cells, by the numbers that amount to the target."""
    left = [0] * len(domains)

    def choose(values: list[int]) -> None:
        if len(values) == len(domains):
            if _amounts_to(values, target, kind):
                for place, value in enumerate(values):
                    left[place] |= 1 << value - 1
            return
        domain = domains[len(values)]
        for value in range(1, domain.bit_length() + 1):
            if domain >> value - 1 & 1 and value not in values:
                choose([*values, value])

    choose([])
    return tuple(left)


def _another(solution: Square, regions: Sequence[Region]) -> Square | None:
    """A right filling that is not the solution, or None."""
    size = len(solution)
    for filled in fillings(_rules(size, regions), _empty(size)):
        if filled != solution:
            return filled
    return None


def _draw_groups(draw: random.Random, solution: Square) -> list[list[Place]]:
    """The cells in connected groups without repeats."""
    size = len(solution)
    free = {(row, column) for row in range(size) for column in range(size)}
    groups = []
    while free:
        group = [min(free)]
        free.remove(group[0])
        wanted = draw.choice((2, 2, 3, 3, _LARGEST))
        while len(group) < wanted:
            used = {solution[row][column] for row, column in group}
            options = sorted({near for place in group for near in neighbors(place, size, size)}.intersection(free))
            options = [place for place in options if solution[place[0]][place[1]] not in used]
            if not options:
                break
            group.append(draw.choice(options))
            free.remove(group[-1])
        groups.append(group)
    return groups


def _draw_region(draw: random.Random, solution: Square, cells: Sequence[Place]) -> Region:
    values = [solution[row][column] for row, column in cells]
    least, most = min(values), max(values)
    kinds = ["+", "*"] if len(values) > 1 else ["+"]
    if len(values) == 2:
        kinds += ["-", "-"] + (["÷", "÷"] if most % least == 0 else [])
    kind = draw.choice(kinds)
    target = {"+": sum(values), "*": math.prod(values), "-": most - least, "÷": most // least}[kind]
    return tuple(sorted(cells)), target, kind


def _split(draw: random.Random, solution: Square, regions: Sequence[Region], place: Place) -> list[Region]:
    """The regions with this cell as one of its own, and what is left of the one that it was in, in connected parts."""
    size = len(solution)
    kept = [region for region in regions if place not in region[0]]
    rest = {cell for cells, _, _ in regions if place in cells for cell in cells} - {place}
    parts = [[place]]
    while rest:
        part, border = [], [min(rest)]
        while border:
            cell = border.pop()
            if cell in rest:
                rest.remove(cell)
                part.append(cell)
                border += neighbors(cell, size, size)
        parts.append(part)
    return [*kept, *(_draw_region(draw, solution, part) for part in parts)]
