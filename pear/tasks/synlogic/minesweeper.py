"""Minesweeper: which hidden cells are certainly mines, given the numbers shown."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_literal, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import Place, digits, neighbors, text_grid, turned_and_mirrored, write_rows

Grid = list[list[str]]
Known = dict[Place, bool]
_HIDDEN = "X"


@dataclass(frozen=True, kw_only=True)
class _Clue:
    """A number shown, and the hidden cells around it."""

    place: Place
    mines: int
    hidden: tuple[Place, ...]


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    size: int
    mine_density: float
    revealed: float

    def __post_init__(self) -> None:
        if not 3 <= self.size <= 10:
            raise ValueError("size is from 3 to 10")
        if not 0.12 <= self.mine_density <= 0.25:
            raise ValueError("mine_density is from 0.12 to 0.25")
        if not 0.4 <= self.revealed <= 0.9:
            raise ValueError("revealed is from 0.4 to 0.9")


_LEVELS = {
    "easy": _Knobs(size=5, mine_density=0.16, revealed=0.6),
    "medium": _Knobs(size=7, mine_density=0.2, revealed=0.5),
    "hard": _Knobs(size=9, mine_density=0.22, revealed=0.45),
}


class Minesweeper(GeneratedTask):
    """A square grid with some of its numbers shown. The right answer is all cells that are mines in every way to put
    mines on hidden cells (any number of them) that fits the numbers; there is at least one.

    Levels differ in size, in the share of cells that are mines, and in the share of the others that are shown:
    easy 5x5, 0.16, 0.6; medium 7x7, 0.2, 0.5; hard 9x9, 0.22, 0.45.

    The answer is a list of cells (row, column) counted from 0, in any order.
    """

    name = "synlogic/minesweeper"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `minesweeper` (arXiv 2505.19641); generator and verifier are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        mines: list[Place] = []
        while not mines:
            grid = _draw(draw, knobs)
            mines = _certain_mines(grid)
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(grid)},),
            state={"grid": grid, "mines": [list(place) for place in mines]},
            answer=_write(mines),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        grid, mines = problem.state["grid"], [tuple(place) for place in problem.state["mines"]]
        cells = _read_cells(answer, len(grid), len(grid[0]))
        reason = ""
        if any(grid[row][column] != _HIDDEN for row, column in cells):
            reason = "a cell that is shown is no mine"
        elif any(cell not in mines for cell in cells):
            reason = "a cell is not certainly a mine"
        elif len(cells) < len(mines):
            reason = "a certain mine is missing"
        return _write(cells), reason

    def canonical(self, problem: Problem) -> str:
        """What turning and mirroring the grid leave alone."""
        return f"{self.name}:{min(map(json.dumps, turned_and_mirrored(problem.state['grid'])))}"

    def solve(self, problem: Problem) -> str:
        steps: list[str] = []
        mines = _certain_mines(problem.state["grid"], steps)
        return f"<think> {' '.join(steps)} </think> <answer> {_write(mines)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: revealed_grid, current_mines). The mines are worked
    out from the grid, as the stored ones may lack some that only follow from several numbers at once; the answer is ""
    where they do. Raises `ValueError` where a field is missing or has another shape, or no mines fit the numbers."""
    metadata = game.get("metadata")
    value = metadata.get("revealed_grid") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(value, list) or not value or not isinstance(value[0], list):
        raise ValueError("metadata: revealed_grid is not a grid")
    grid = text_grid(value, len(value), len(value[0]))
    if any(cell != _HIDDEN and digits(cell) > 8 for row in grid for cell in row):
        raise ValueError("metadata: revealed_grid has other entries than X and 0 to 8")
    mines = _certain_mines(grid)
    state = {"grid": grid, "mines": [list(place) for place in mines]}
    try:
        stored = _read_cells(json.dumps(metadata.get("current_mines")), len(grid), len(grid[0]))
    except ValueError:
        return state, ""
    return state, _write(mines) if sorted(stored) == mines else ""


def _draw(draw: random.Random, knobs: _Knobs) -> Grid:
    size = knobs.size
    places = [(row, column) for row in range(size) for column in range(size)]
    draw.shuffle(places)
    count = int(size * size * knobs.mine_density)
    mines, others = set(places[:count]), places[count:]
    grid = [[_HIDDEN] * size for _ in range(size)]
    for row, column in others[: max(1, int(len(others) * knobs.revealed))]:
        grid[row][column] = str(len(mines.intersection(neighbors((row, column), size, size, diagonal=True))))
    return grid


def _question(grid: Grid) -> str:
    return (
        f"{INSTRUCTION}\n\n"
        "This is a Minesweeper grid. X is a hidden cell, which may hold a mine. A number is a cell without a mine; it "
        "says how many of the up to 8 cells around it (horizontally, vertically and diagonally) hold a mine. How many "
        "mines there are in all is not known.\n\n"
        f"{write_rows(grid)}\n\n"
        "Find all hidden cells that certainly hold a mine: those that hold one in every arrangement of mines that fits "
        "the numbers.\n"
        "The answer is the list of these cells as (row, column), both counted from 0 at the top left, like "
        "[(0, 2), (1, 0)]."
    )


def _write(cells: Sequence[Place]) -> str:
    return f"[{', '.join(f'({row}, {column})' for row, column in sorted(cells))}]"


def _read_cells(answer: str, rows: int, columns: int) -> list[Place]:
    value = parse_literal(unwrap(answer))
    if not isinstance(value, list | tuple) or not value or len(value) > rows * columns:
        raise ValueError("the answer is not a list of cells")
    cells = []
    for cell in value:
        if not isinstance(cell, list | tuple) or [type(number) for number in cell] != [int, int]:
            raise ValueError("a cell is not a pair of integers")
        row, column = cell
        if not (0 <= row < rows and 0 <= column < columns):
            raise ValueError("a cell is outside the grid")
        cells.append((row, column))
    if len(set(cells)) < len(cells):
        raise ValueError("a cell is named twice")
    return cells


def _clues(grid: Grid) -> list[_Clue]:
    rows, columns = len(grid), len(grid[0])
    return [
        _Clue(
            place=(row, column),
            mines=int(cell),
            hidden=tuple(
                near for near in neighbors((row, column), rows, columns, diagonal=True) if grid[near[0]][near[1]] == "X"
            ),
        )
        for row, line in enumerate(grid)
        for column, cell in enumerate(line)
        if cell != _HIDDEN
    ]


def _certain_mines(grid: Grid, steps: list[str] | None = None) -> list[Place]:
    """The cells that are mines in every arrangement, in reading order. Notes the reasons in words. Raises `ValueError`
    where no arrangement fits the numbers."""
    clues, known = _clues(grid), dict[Place, bool]()
    fits = _follow(clues, known, steps)
    for part in _parts(clues, known) if fits else []:
        example = _arrangement(part, known)
        fits = fits and example is not None
        # A cell that is free in some arrangement is no certain mine.
        open_cells = [place for place, mine in (example or {}).items() if mine and place not in known]
        while open_cells:
            place = open_cells.pop(0)
            other = _arrangement(part, {**known, place: False})
            if other is not None:
                open_cells = [cell for cell in open_cells if other[cell]]
                continue
            if steps is not None:
                steps.append(f"If {place} were free, no arrangement would fit the numbers, so it is a mine.")
            known[place] = True
            _follow(part, known, steps)
            open_cells = [cell for cell in open_cells if cell not in known]
    if not fits:
        raise ValueError("no arrangement of mines fits the numbers")
    return sorted(place for place, mine in known.items() if mine)


def _parts(clues: Sequence[_Clue], known: Known) -> list[list[_Clue]]:
    """The numbers that still say something, in parts that share no undecided cell."""
    parts: list[tuple[set[Place], list[_Clue]]] = []
    for clue in clues:
        cells, group = {place for place in clue.hidden if place not in known}, [clue]
        if not cells:
            continue
        for part in [part for part in parts if part[0] & cells]:
            parts.remove(part)
            cells, group = cells | part[0], [*part[1], *group]
        parts.append((cells, group))
    return [group for _, group in parts]


def _follow(clues: Sequence[_Clue], known: Known, steps: list[str] | None = None) -> bool:
    """Adds to `known` what follows from one number at a time; False where a number can no longer be met."""
    changed = True
    while changed:
        changed = False
        for clue in clues:
            left = [place for place in clue.hidden if place not in known]
            missing = clue.mines - sum(known.get(place, False) for place in clue.hidden)
            if not 0 <= missing <= len(left):
                return False
            if left and missing in (0, len(left)):
                known.update(dict.fromkeys(left, missing > 0))
                changed = True
                if steps is not None:
                    what = "mines" if missing else "free"
                    steps.append(f"The {clue.mines} at {clue.place}: {', '.join(map(str, left))} {what}.")
    return True


def _arrangement(clues: Sequence[_Clue], known: Known) -> Known | None:
    """An arrangement on the hidden cells beside numbers that agrees with `known`, or None."""
    known = dict(known)
    if not _follow(clues, known):
        return None
    for part in _parts(clues, known):
        clue = min(part, key=lambda clue: sum(place not in known for place in clue.hidden))
        place = next(place for place in clue.hidden if place not in known)
        decided = _arrangement(part, {**known, place: True}) or _arrangement(part, {**known, place: False})
        if decided is None:
            return None
        known = decided
    return known
