"""Norinori: put dominoes, none beside another, on a grid so that each region has two covered cells."""

import json
import random
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_literal, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import Place, neighbors, text_grid, turned_and_mirrored, write_rows

Grid = list[list[str]]
Domino = tuple[Place, Place]
_SHADOW = "X"
_LABELS = [letter for letter in string.ascii_uppercase if letter != _SHADOW]


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    size: int
    regions: int
    shadow_ratio: float

    def __post_init__(self) -> None:
        if not 4 <= self.size <= 10:
            raise ValueError("size is from 4 to 10")
        if not 0 <= self.shadow_ratio <= 0.1:
            raise ValueError("shadow_ratio is from 0 to 0.1")
        most = int(0.18 * self.size**2) - self.shadows // 2
        if not 2 <= self.regions <= most:
            raise ValueError(f"regions are from 2 to {most} for this size and shadow_ratio")

    @property
    def shadows(self) -> int:
        """An even number, as dominoes cover two cells and regions have two covered ones."""
        return int(self.size**2 * self.shadow_ratio) // 2 * 2


_LEVELS = {
    "easy": _Knobs(size=5, regions=3, shadow_ratio=0.08),
    "medium": _Knobs(size=7, regions=7, shadow_ratio=0.05),
    "hard": _Knobs(size=9, regions=12, shadow_ratio=0.05),
}


class Norinori(GeneratedTask):
    """A square grid in regions, and shadow cells (X) outside all regions. There may be several
    solutions, as in SynLogic.

    Levels differ in size, in the number of regions, and in the share of shadow cells (made even):
    easy 5x5, 3, 0.08; medium 7x7, 7, 0.05; hard 9x9, 12, 0.05.

    The answer is a list of dominoes, each a pair of cells (row, column) counted from 1, in any order.
    """

    name = "synlogic/norinori"
    knobs = _LEVELS
    levels = tuple(knobs)
    many_solutions = True
    source = "the rules of SynLogic's task `norinori` (arXiv 2505.19641); generator and verifier are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        while True:
            dominoes = _draw_dominoes(draw, knobs.size, knobs.regions + knobs.shadows // 2)
            regions = None if dominoes is None else _draw_regions(draw, knobs, dominoes)
            if dominoes is not None and regions is not None:
                break
        regions = _relabeled(regions)
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(regions)},),
            state={"regions": regions},
            answer=_write(dominoes),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        regions: Grid = problem.state["regions"]
        dominoes = _read_dominoes(answer, len(regions), len(regions[0]))
        return _write(dominoes), _broken_rule(regions, dominoes)

    def canonical(self, problem: Problem) -> str:
        """What turning and mirroring the grid and renaming the regions leave alone."""
        views = turned_and_mirrored(problem.state["regions"])
        return f"{self.name}:{min(json.dumps(_relabeled(view)) for view in views)}"

    def solve(self, problem: Problem) -> str:
        regions: Grid = problem.state["regions"]
        dominoes = sorted(next(_solutions(regions)))
        steps = []
        for one, other in dominoes:
            labels = sorted({regions[row][column] for row, column in (one, other)})
            names = ["a shadow cell" if label == _SHADOW else f"region {label}" for label in labels]
            steps.append(f"{_cell(one)} and {_cell(other)} cover {' and '.join(names)}.")
        for label in sorted({label for row in regions for label in row} - {_SHADOW}):
            cells = [_cell(place) for pair in dominoes for place in pair if regions[place[0]][place[1]] == label]
            steps.append(f"Region {label} has {' and '.join(cells)}.")
        return f"<think> {' '.join(steps)} </think> <answer> {_write(dominoes)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: region_grid, solution). Raises `ValueError` where a
    field is missing or has another shape."""
    metadata = game.get("metadata")
    grid = metadata.get("region_grid") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(grid, list) or not grid or not isinstance(grid[0], list):
        raise ValueError("metadata: region_grid is not a grid")
    regions = text_grid(grid, len(grid), len(grid[0]))
    try:
        dominoes = _read_dominoes(json.dumps(metadata.get("solution")), len(regions), len(regions[0]))
    except ValueError:
        return {"regions": regions}, ""
    return {"regions": regions}, "" if _broken_rule(regions, dominoes) else _write(dominoes)


def _question(regions: Grid) -> str:
    shadows = any(_SHADOW in row for row in regions)
    rule = "- every shadow cell (X) is covered; shadow cells belong to no region;\n" if shadows else ""
    return (
        f"{INSTRUCTION}\n\n"
        "This is a Norinori puzzle. In the grid below, the cells with the same letter are a region"
        f"{', and X is a shadow cell' if shadows else ''}. Cover cells with dominoes, each over two cells next to each "
        "other horizontally or vertically, so that\n"
        "- exactly two cells of every region are covered, by one domino or by two; a domino may lie across the border "
        "of two regions;\n"
        f"{rule}"
        "- no two dominoes overlap or share a side; they may touch at a corner.\n\n"
        f"{write_rows(regions)}\n\n"
        "The answer is the list of all dominoes, each as its two cells (row, column), counted from 1 at the top left, "
        "like [[(1, 2), (1, 3)], [(4, 1), (5, 1)]]."
    )


def _cell(place: Place) -> str:
    return f"({place[0] + 1}, {place[1] + 1})"


def _write(dominoes: Sequence[Domino]) -> str:
    pairs = sorted(tuple(sorted(domino)) for domino in dominoes)
    return f"[{', '.join(f'[{_cell(one)}, {_cell(other)}]' for one, other in pairs)}]"


def _read_dominoes(answer: str, rows: int, columns: int) -> list[Domino]:
    value = parse_literal(unwrap(answer))
    if not isinstance(value, list | tuple) or len(value) > rows * columns:
        raise ValueError("the answer is not a list of dominoes")
    dominoes = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("a domino is not a pair of cells")
        for cell in pair:
            if not isinstance(cell, list | tuple) or [type(number) for number in cell] != [int, int]:
                raise ValueError("a cell is not a pair of integers")
            if not (1 <= cell[0] <= rows and 1 <= cell[1] <= columns):
                raise ValueError("a cell is outside the grid")
        (row, column), (other_row, other_column) = pair
        dominoes.append(((row - 1, column - 1), (other_row - 1, other_column - 1)))
    return dominoes


def _broken_rule(regions: Grid, dominoes: Sequence[Domino]) -> str:
    rows, columns = len(regions), len(regions[0])
    covered: dict[Place, int] = {}
    for number, (one, other) in enumerate(dominoes):
        if one not in neighbors(other, rows, columns):
            return "the two cells of a domino are not next to each other"
        if one in covered or other in covered:
            return "two dominoes overlap"
        covered[one] = covered[other] = number
    for place, number in covered.items():
        if any(covered.get(near, number) != number for near in neighbors(place, rows, columns)):
            return "two dominoes share a side"
    counts = dict.fromkeys((label for row in regions for label in row), 0)
    for row, column in covered:
        counts[regions[row][column]] += 1
    shadows = sum(row.count(_SHADOW) for row in regions)
    if counts.pop(_SHADOW, 0) != shadows:
        return "a shadow cell is not covered"
    if any(count != 2 for count in counts.values()):
        return "a region has not exactly two covered cells"
    return ""


def _relabeled(regions: Grid) -> Grid:
    """The regions named in reading order."""
    names: dict[str, str] = {_SHADOW: _SHADOW}
    for row in regions:
        for label in row:
            names.setdefault(label, _LABELS[len(names) - 1] if len(names) <= len(_LABELS) else f"R{len(names)}")
    return [[names[label] for label in row] for row in regions]


def _draw_dominoes(draw: random.Random, size: int, count: int) -> list[Domino] | None:
    """Dominoes that share no side; None where there was no room for all."""
    places = _all_dominoes(size, size)
    draw.shuffle(places)
    closed: set[Place] = set()
    dominoes: list[Domino] = []
    for one, other in places:
        if one in closed or other in closed:
            continue
        dominoes.append((one, other))
        if len(dominoes) == count:
            return dominoes
        closed.update((one, other), neighbors(one, size, size), neighbors(other, size, size))
    return None


def _all_dominoes(rows: int, columns: int) -> list[Domino]:
    places = [(row, column) for row in range(rows) for column in range(columns)]
    return [(place, near) for place in places for near in neighbors(place, rows, columns) if near > place]


def _draw_regions(draw: random.Random, knobs: _Knobs, dominoes: Sequence[Domino]) -> Grid | None:
    """Connected regions with two covered cells each: a patch grows around each covered cell that is no shadow, and
    neighboring patches are joined in pairs. None where this did not work out."""
    size = knobs.size
    covered = [place for domino in dominoes for place in domino]
    draw.shuffle(covered)
    shadows, starts = covered[: knobs.shadows], covered[knobs.shadows :]
    patch_of = dict.fromkeys(shadows, -1) | {place: number for number, place in enumerate(starts)}
    border = list(starts)
    while border:
        at = draw.randrange(len(border))
        free = [place for place in neighbors(border[at], size, size) if place not in patch_of]
        if free:
            place = draw.choice(free)
            patch_of[place] = patch_of[border[at]]
            border.append(place)
        else:
            border[at] = border[-1]
            border.pop()
    if len(patch_of) < size * size:
        return None
    near: list[set[int]] = [set() for _ in starts]
    for place, patch in patch_of.items():
        for other in neighbors(place, size, size):
            if patch_of[other] not in (-1, patch) and patch != -1:
                near[patch].add(patch_of[other])
    region_of = {-1: _SHADOW}
    left = list(range(len(starts)))
    while left:
        patch = min(left, key=lambda item: len(near[item].intersection(left)))
        options = sorted(near[patch].intersection(left))
        if not options:
            return None
        partner = draw.choice(options)
        region_of[patch] = region_of[partner] = f"{len(left)}"
        left = [item for item in left if item not in (patch, partner)]
    return [[region_of[patch_of[row, column]] for column in range(size)] for row in range(size)]


def _solutions(regions: Grid) -> Iterator[list[Domino]]:
    """All solutions: what the fewest dominoes can still serve comes first. Sets of dominoes are bits."""
    rows, columns = len(regions), len(regions[0])
    dominoes = _all_dominoes(rows, columns)
    on: dict[Place, int] = {}
    for bit, domino in enumerate(dominoes):
        for place in domino:
            on[place] = on.get(place, 0) | 1 << bit
    # Of each need (a region, or a shadow cell by its place): how many cells, which dominoes serve it, which twice.
    needs: dict[Place | str, int] = {}
    serves: dict[Place | str, int] = {}
    twice: dict[Place | str, int] = {}
    need_of: list[list[Place | str]] = [
        [(row, column) if label == _SHADOW else label for column, label in enumerate(line)]
        for row, line in enumerate(regions)
    ]
    for place, bits in on.items():
        need = need_of[place[0]][place[1]]
        needs[need] = 1 if isinstance(need, tuple) else 2
        twice[need] = twice.get(need, 0) | serves.get(need, 0) & bits
        serves[need] = serves.get(need, 0) | bits
    against = [0] * len(dominoes)
    for bit, domino in enumerate(dominoes):
        for place in domino:
            for near in (place, *neighbors(place, rows, columns)):
                against[bit] |= on[near]
    used_by = [[need_of[row][column] for row, column in domino] for domino in dominoes]

    def place_next(chosen: list[int], open_bits: int, left: dict[Place | str, int]) -> Iterator[list[Domino]]:
        unmet = [need for need, count in left.items() if count]
        if not unmet:
            yield [dominoes[bit] for bit in chosen]
            return
        need = min(unmet, key=lambda need: (serves[need] & open_bits).bit_count())
        for bit in _bits(serves[need] & open_bits):
            open_bits &= ~(1 << bit)
            rest, still_open = dict(left), open_bits & ~against[bit]
            for served in used_by[bit]:
                rest[served] -= 1
                if rest[served] == 0:
                    still_open &= ~serves[served]
                elif rest[served] == 1:
                    still_open &= ~twice[served]
            yield from place_next([*chosen, bit], still_open, rest)

    return place_next([], (1 << len(dominoes)) - 1, needs)


def _bits(bits: int) -> list[int]:
    found = []
    while bits:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return found
