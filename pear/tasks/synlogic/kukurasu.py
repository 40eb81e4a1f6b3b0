"""Kukurasu: fill cells so that the positions of the filled ones add up to the sums at the edges."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import game_integers, game_metadata, game_size, read_text_grid, text_grid, transposed

Grid = list[list[str]]
_FILLED, _EMPTY = "1", "X"


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    n: int
    m: int
    p: float

    def __post_init__(self) -> None:
        if not (2 <= self.n <= 15 and 2 <= self.m <= 15):
            raise ValueError("n and m are from 2 to 15")
        if not 0 < self.p < 1:
            raise ValueError("p is between 0 and 1, from above 0 to below 1")


_LEVELS = {
    "easy": _Knobs(n=4, m=4, p=0.4),
    "medium": _Knobs(n=6, m=6, p=0.45),
    "hard": _Knobs(n=9, m=9, p=0.5),
}


class Kukurasu(GeneratedTask):
    """A grid with a sum for each row and each column: a filled cell counts as the number of its column in its row, and
    as the number of its row in its column. There may be several solutions, as in SynLogic.

    Levels differ in the rows n, the columns m, and the share p of filled cells: easy 4, 4, 0.4; medium 6, 6, 0.45; hard
    9, 9, 0.5.

    The answer is the grid, a list of rows with "1" for filled cells and "X" for the others.
    """

    name = "synlogic/kukurasu"
    knobs = _LEVELS
    levels = tuple(knobs)
    many_solutions = True
    source = "the rules of SynLogic's task `kukurasu` (arXiv 2505.19641); generator and verifier are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        filled = [[_FILLED if draw.random() < knobs.p else _EMPTY for _ in range(knobs.m)] for _ in range(knobs.n)]
        state = {"row_sums": _sums(filled), "column_sums": _sums(transposed(filled))}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=json.dumps(filled),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        state = problem.state
        filled = _checked(read_text_grid(answer, len(state["row_sums"]), len(state["column_sums"])))
        return json.dumps(filled), _broken_rule(state, filled)

    def canonical(self, problem: Problem) -> str:
        """What swapping rows and columns leaves alone."""
        sums = [problem.state["row_sums"], problem.state["column_sums"]]
        return f"{self.name}:{json.dumps(min(sums, sums[::-1]))}"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: row_sums, col_sums, n, m, solution). Raises
    `ValueError` where a field is missing or has another shape."""
    metadata = game_metadata(game)
    rows, columns = game_size(metadata, "n"), game_size(metadata, "m")
    state = {
        "row_sums": game_integers(metadata, "row_sums", rows),
        "column_sums": game_integers(metadata, "col_sums", columns),
    }
    try:
        solution = _checked(text_grid(metadata.get("solution"), rows, columns))
    except ValueError:
        return state, ""
    return state, "" if _broken_rule(state, solution) else json.dumps(solution)


def _question(state: Mapping[str, Any]) -> str:
    rows, columns = state["row_sums"], state["column_sums"]
    return (
        f"{INSTRUCTION}\n\n"
        f"This is a Kukurasu puzzle on a grid of {len(rows)} rows and {len(columns)} columns. Fill some of its cells. "
        "In its row, a filled cell counts as the number of its column (1 for the leftmost); in its column, it counts "
        "as the number of its row (1 for the topmost). The filled cells of each row add up to the row's sum, and "
        "those of each column to the column's sum. A row or column with the sum 0 has no filled cell.\n\n"
        f"Sums of the rows, from top to bottom: {', '.join(map(str, rows))}\n"
        f"Sums of the columns, from left to right: {', '.join(map(str, columns))}\n\n"
        'The answer is the grid, a list of rows with "1" for a filled cell and "X" for any other, like '
        '[["X", "1"], ["1", "1"]].'
    )


def _checked(grid: Grid) -> Grid:
    if any(cell not in (_FILLED, _EMPTY) for row in grid for cell in row):
        raise ValueError('a cell is neither "1" nor "X"')
    return grid


def _sums(lines: Sequence[Sequence[str]]) -> list[int]:
    return [sum(place for place, cell in enumerate(line, 1) if cell == _FILLED) for line in lines]


def _broken_rule(state: Mapping[str, Any], filled: Grid) -> str:
    for name, sums, lines in (
        ("row", state["row_sums"], filled),
        ("column", state["column_sums"], transposed(filled)),
    ):
        wrong = [number for number, (one, other) in enumerate(zip(sums, _sums(lines), strict=True), 1) if one != other]
        if wrong:
            return f"{name} {wrong[0]} has another sum"
    return ""
