"""Star placement (star battle): so many stars in every row, column and region, none beside another."""

import json
import random
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_literal, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import (
    Place,
    game_metadata,
    game_size,
    neighbors,
    text_grid,
    turned_and_mirrored,
    write_rows,
)

Grid = list[list[str]]
_LABELS = string.ascii_uppercase
_MOST_ENTRIES = 200


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    n: int
    k: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= 2:
            raise ValueError("k is 1 or 2, from 1 star to 2 for each row")
        least = 5 if self.k == 1 else 9
        if not least <= self.n <= 14:
            raise ValueError(f"n is from {least} to 14 for this k")


_LEVELS = {"easy": _Knobs(n=5, k=1), "medium": _Knobs(n=8, k=1), "hard": _Knobs(n=10, k=2)}


class StarPlacementPuzzle(GeneratedTask):
    """A square grid in regions, with k stars in each row, column and region, no two of which touch, not even at a
    corner. There may be several solutions, as in SynLogic.

    Levels differ in the side n of the grid and in k: easy 5, 1; medium 8, 1; hard 10, 2.

    The answer is a Python dict of the regions' letters to lists of stars (row, column), counted from 1.
    """

    name = "synlogic/star_placement_puzzle"
    knobs = _LEVELS
    levels = tuple(knobs)
    many_solutions = True
    source = "the rules of SynLogic's task `star_placement_puzzle` (arXiv 2505.19641); generator and verifier are ours"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        regions = None
        while regions is None:
            stars = _draw_stars(draw, knobs)
            regions = _draw_regions(draw, knobs, stars)
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(regions, knobs.k)},),
            state={"regions": regions, "k": knobs.k},
            answer=_write(regions, stars),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        regions: Grid = problem.state["regions"]
        stars = _read(answer, regions)
        places = [place for own in stars.values() for place in own]
        for label, own in stars.items():
            if any(regions[row][column] != label for row, column in own):
                return _write(regions, places), "a star lies outside of its region"
        return _write(regions, places), _broken_rule(regions, problem.state["k"], places)

    def canonical(self, problem: Problem) -> str:
        """What turning and mirroring the grid and renaming the regions leave alone."""
        views = turned_and_mirrored(problem.state["regions"])
        return f"{self.name}:{problem.state['k']}:{min(json.dumps(_relabeled(view)) for view in views)}"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state of a published row (`metadata`: n, k, region_grid), which stores no solution. Raises `ValueError` where
    a field is missing or has another shape."""
    metadata = game_metadata(game)
    size = game_size(metadata, "n")
    regions = text_grid(metadata.get("region_grid"), size, size)
    return {"regions": regions, "k": game_size(metadata, "k")}, ""


def _question(regions: Grid, k: int) -> str:
    stars = "exactly one star" if k == 1 else f"exactly {k} stars"
    example = {"A": [(2, 5)][:k] + [(4, 1)][: k - 1], "B": [(3, 2)][:k] + [(5, 4)][: k - 1]}
    return (
        f"{INSTRUCTION}\n\n"
        "Place stars in the grid below, at most one in a cell, so that\n"
        f"- every row has {stars};\n"
        f"- every column has {stars};\n"
        f"- every region, that is all cells with the same letter, has {stars};\n"
        "- no two stars touch each other, neither by a side nor at a corner.\n\n"
        f"{write_rows(regions)}\n\n"
        "The answer is a Python dict from each region's letter to the list of its stars, each as (row, column), "
        f"counted from 1 at the top left, like {str(example)[:-1]}, ...}}."
    )


def _write(regions: Grid, stars: Sequence[Place]) -> str:
    own: dict[str, list[Place]] = {}
    for row, column in sorted(stars):
        own.setdefault(regions[row][column], []).append((row + 1, column + 1))
    return repr(dict(sorted(own.items())))


def _read(answer: str, regions: Grid) -> dict[str, list[Place]]:
    value = parse_literal(unwrap(answer))
    if not isinstance(value, dict) or not all(isinstance(label, str) for label in value):
        raise ValueError("the answer is not a dict of regions")
    stars: dict[str, list[Place]] = {}
    for label, places in value.items():
        if not isinstance(places, list | tuple) or len(places) > _MOST_ENTRIES:
            raise ValueError("the stars of a region are not a list")
        stars[label] = []
        for place in places:
            if not isinstance(place, list | tuple) or [type(number) for number in place] != [int, int]:
                raise ValueError("a star is not a pair of integers")
            row, column = place
            if not (1 <= row <= len(regions) and 1 <= column <= len(regions[0])):
                raise ValueError("a star is outside the grid")
            stars[label].append((row - 1, column - 1))
    return stars


def _broken_rule(regions: Grid, k: int, stars: Sequence[Place]) -> str:
    size = len(regions)
    if len(set(stars)) < len(stars):
        return "a star is there twice"
    labels = {label for line in regions for label in line}
    groups: list[tuple[str, set[Any], Counter[Any]]] = [
        ("row", set(range(size)), Counter(row for row, _ in stars)),
        ("column", set(range(size)), Counter(column for _, column in stars)),
        ("region", labels, Counter(regions[row][column] for row, column in stars)),
    ]
    for name, lines, found in groups:
        if any(found[line] != k for line in lines):
            return f"a {name} has another number of stars"
    taken = set(stars)
    if any(near in taken for star in stars for near in neighbors(star, size, size, diagonal=True)):
        return "two stars touch each other"
    return ""


def _relabeled(regions: Grid) -> Grid:
    """The regions named in reading order."""
    names: dict[str, str] = {}
    for row in regions:
        for label in row:
            names.setdefault(label, f"R{len(names)}")
    return [[names[label] for label in row] for row in regions]


def _draw_stars(draw: random.Random, knobs: _Knobs) -> list[Place]:
    """Stars that keep the rules about rows, columns and touching, row by row with going back."""
    size, k = knobs.n, knobs.k

    def options(above: tuple[int, ...], left: Sequence[int]) -> list[tuple[int, ...]]:
        free = [
            column for column in range(size) if left[column] and not any(abs(column - other) <= 1 for other in above)
        ]
        if k == 1:
            return [(column,) for column in free]
        return [(one, other) for one in free for other in free if other - one > 1]

    def extend(rows: list[tuple[int, ...]], left: list[int]) -> list[tuple[int, ...]] | None:
        to_come = size - len(rows)
        if not to_come:
            return rows
        # A column that needs more stars than its rows to come can hold, none of them beside another.
        if any(need > (to_come + 1) // 2 for need in left):
            return None
        found = options(rows[-1] if rows else (), left)
        draw.shuffle(found)
        for columns in found:
            rest = [need - (column in columns) for column, need in enumerate(left)]
            if (done := extend([*rows, columns], rest)) is not None:
                return done
        return None

    rows = extend([], [k] * size)
    assert rows is not None, "every size that the knobs allow has an arrangement"
    return [(row, column) for row, columns in enumerate(rows) for column in columns]


def _draw_regions(draw: random.Random, knobs: _Knobs, stars: Sequence[Place]) -> Grid | None:
    """Connected regions of k stars each: a patch grows around each star, and for two stars neighboring patches are
    joined in pairs. None where this did not work out."""
    size = knobs.n
    patch_of = {star: number for number, star in enumerate(stars)}
    border = list(stars)
    while border:
        at = draw.randrange(len(border))
        free = [near for near in neighbors(border[at], size, size) if near not in patch_of]
        if free:
            near = draw.choice(free)
            patch_of[near] = patch_of[border[at]]
            border.append(near)
        else:
            border[at] = border[-1]
            border.pop()
    region_of = {number: number for number in range(len(stars))}
    if knobs.k == 2:
        beside: list[set[int]] = [set() for _ in stars]
        for place, patch in patch_of.items():
            beside[patch].update(patch_of[near] for near in neighbors(place, size, size) if patch_of[near] != patch)
        left = list(region_of)
        while left:
            patch = min(left, key=lambda item: len(beside[item].intersection(left)))
            partners = sorted(beside[patch].intersection(left))
            if not partners:
                return None
            partner = draw.choice(partners)
            region_of[partner] = patch
            left = [item for item in left if item not in (patch, partner)]
    names: dict[int, str] = {}
    cells = [[region_of[patch_of[row, column]] for column in range(size)] for row in range(size)]
    for line in cells:
        for region in line:
            names.setdefault(region, _LABELS[len(names)])
    return [[names[region] for region in line] for line in cells]
