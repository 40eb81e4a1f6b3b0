"""Arrow maze: fill a grid with arrows so that as many as each number says lead away from it in straight lines."""

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import Place, game_metadata, read_text_grid, text_grid, write_rows

Grid = list[list[str]]
_OPEN = "X"
# Row and column that an arrow leads to.
_ARROWS: dict[str, Place] = {
    "↑": (-1, 0),
    "↓": (1, 0),
    "←": (0, -1),
    "→": (0, 1),
    "↖": (-1, -1),
    "↗": (-1, 1),
    "↘": (1, 1),
    "↙": (1, -1),
}
_NUMBER = re.compile("[0-9]{1,3}")
# Chance that a cell becomes a number where it could be an arrow.
_NEW_NUMBER = 0.12


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    width: int
    height: int
    fill: float

    def __post_init__(self) -> None:
        if not (2 <= self.width <= 15 and 2 <= self.height <= 15):
            raise ValueError("width and height are from 2 to 15")
        if not 0 <= self.fill <= 0.9:
            raise ValueError("fill is from 0 to 0.9")


_LEVELS = {
    "easy": _Knobs(width=4, height=4, fill=0.4),
    "medium": _Knobs(width=6, height=6, fill=0.25),
    "hard": _Knobs(width=9, height=9, fill=0.1),
}


class ArrowMaze(GeneratedTask):
    """A grid of numbers, some arrows, and open cells. From each number, straight lines of arrows that point away from
    it may start in the eight directions; together they have as many arrows as the number says. There may be several
    solutions, as in SynLogic.

    Levels differ in width and height of the grid, and in the share of arrows that are given: easy 4, 4, 0.4; medium 6,
    6, 0.25; hard 9, 9, 0.1.

    The answer is the filled grid, a list of rows of texts.
    """

    name = "synlogic/arrow_maze"
    knobs = _LEVELS
    levels = tuple(knobs)
    many_solutions = True
    source = "the rules of SynLogic's task `arrow_maze` (arXiv 2505.19641); generator and verifier are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        filled = None
        while filled is None:
            filled = _draw_maze(draw, knobs)
        maze = [
            [cell if cell not in _ARROWS or draw.random() < knobs.fill else _OPEN for cell in row] for row in filled
        ]
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(maze)},),
            state={"maze": maze},
            answer=json.dumps(filled, ensure_ascii=False),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        maze: Grid = problem.state["maze"]
        filled = read_text_grid(answer, len(maze), len(maze[0]))
        if any(cell not in _ARROWS and not _NUMBER.fullmatch(cell) for row in filled for cell in row):
            raise ValueError("a cell is neither a number nor an arrow")
        return json.dumps(filled, ensure_ascii=False), _broken_rule(maze, filled)

    def canonical(self, problem: Problem) -> str:
        """What turning and mirroring the maze with its arrows leave alone."""
        return f"{self.name}:{min(json.dumps(view, ensure_ascii=False) for view in _views(problem.state['maze']))}"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: maze, solution). Raises `ValueError` where the maze
    is missing or has another shape."""
    metadata = game_metadata(game)
    maze = metadata.get("maze")
    if not isinstance(maze, list) or not maze or not isinstance(maze[0], list) or not maze[0]:
        raise ValueError("metadata: maze is not a grid")
    read = text_grid(maze, len(maze), len(maze[0]))
    if any(cell != _OPEN and cell not in _ARROWS and not _NUMBER.fullmatch(cell) for row in read for cell in row):
        raise ValueError("metadata: a cell of maze is no number, arrow or X")
    try:
        solution = text_grid(metadata.get("solution"), len(read), len(read[0]))
    except ValueError:
        return {"maze": read}, ""
    return {"maze": read}, "" if _broken_rule(read, solution) else json.dumps(solution, ensure_ascii=False)


def _question(maze: Grid) -> str:
    return (
        f"{INSTRUCTION}\n\n"
        "This is an arrow maze. Put an arrow into every X of the grid below: ↑, ↓, ←, →, ↖, ↗, ↘ or ↙. Numbers and "
        "arrows that are there stay as they are.\n"
        "From a number, lines of arrows may start in any of the eight directions. A line begins in the cell next to "
        "the number, and goes straight on as long as the arrows point in the direction of the line, away from the "
        "number; it ends before the first cell that holds another arrow or a number.\n"
        "- All lines that start at a number together have as many arrows as the number says.\n"
        "- Every arrow of the grid belongs to a line of some number.\n\n"
        f"{write_rows(maze)}\n\n"
        'The answer is the filled grid as JSON, a list of rows of texts, like [["→", "↘"], ["1", "←"]].'
    )


def _broken_rule(maze: Grid, filled: Grid) -> str:
    reached: set[Place] = set()
    for row, line in enumerate(maze):
        for column, given in enumerate(line):
            cell = filled[row][column]
            if given != _OPEN and cell != given:
                return "a number or an arrow of the puzzle was changed"
            if given == _OPEN and cell not in _ARROWS:
                return "a cell without an arrow is left"
    for row, line in enumerate(filled):
        for column, cell in enumerate(line):
            if cell not in _ARROWS:
                lines = list(_lines(filled, (row, column)))
                if len(lines) != int(cell):
                    return f"from a {cell} lead {len(lines)} arrow(s)"
                reached.update(lines)
    arrows = {(row, at) for row, line in enumerate(filled) for at, cell in enumerate(line) if cell in _ARROWS}
    return "an arrow belongs to no number" if arrows - reached else ""


def _lines(filled: Grid, number: Place) -> Iterator[Place]:
    """The cells of the lines that start at a number."""
    for arrow, (down, right) in _ARROWS.items():
        row, column = number[0] + down, number[1] + right
        while 0 <= row < len(filled) and 0 <= column < len(filled[0]) and filled[row][column] == arrow:
            yield row, column
            row, column = row + down, column + right


def _views(maze: Grid) -> list[Grid]:
    """The eight mazes that a maze is when it is turned and mirrored, its arrows too."""
    views = [maze]
    for _ in range(3):
        last = views[-1]
        turned = [list(row) for row in zip(*last[::-1], strict=True)]
        views.append([[_changed(cell, lambda down, right: (right, -down)) for cell in row] for row in turned])
    mirrored = [
        [[_changed(cell, lambda down, right: (down, -right)) for cell in row[::-1]] for row in view] for view in views
    ]
    return views + mirrored


def _changed(cell: str, change: Any) -> str:
    if cell not in _ARROWS:
        return cell
    direction = change(*_ARROWS[cell])
    return next(arrow for arrow, other in _ARROWS.items() if other == direction)


def _draw_maze(draw: random.Random, knobs: _Knobs) -> Grid | None:
    """A filled grid that keeps the rules: from a first number on, each cell next to what is there goes on with a line
    or becomes a number. None where a number without arrows is left."""
    height, width = knobs.height, knobs.width
    cells: dict[Place, str] = {(draw.randrange(height), draw.randrange(width)): "0"}

    def near(place: Place) -> list[Place]:
        found = [(place[0] + down, place[1] + right) for down, right in _ARROWS.values()]
        return [(row, column) for row, column in found if 0 <= row < height and 0 <= column < width]

    def continued(place: Place) -> list[str]:
        """The arrows here that go on with a line."""
        return [
            arrow
            for arrow, (down, right) in _ARROWS.items()
            if cells.get((place[0] - down, place[1] - right)) in (arrow, "0")
        ]

    border = near(next(iter(cells)))
    while border:
        place = border.pop(draw.randrange(len(border)))
        if place in cells:
            continue
        arrows = continued(place)
        cells[place] = "0" if not arrows or draw.random() < _NEW_NUMBER else draw.choice(arrows)
        border += [other for other in near(place) if other not in cells]
    filled = [[cells[row, column] for column in range(width)] for row in range(height)]
    for row, column in sorted(cells):
        if cells[row, column] == "0":
            count = sum(1 for _ in _lines(filled, (row, column)))
            if count == 0:
                arrows = [arrow for arrow in continued((row, column)) if arrow in _ARROWS]
                if not arrows:
                    return None
                filled[row][column] = cells[row, column] = draw.choice(arrows)
    for row, column in sorted(cells):
        if cells[row, column] == "0":
            filled[row][column] = str(sum(1 for _ in _lines(filled, (row, column))))
    return filled
