"""Skyscrapers: a naive rule checker, answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem
from tests.tasks.synlogic.squares import Grid, near_misses_of

Clues = dict[str, list[int]]


def naive(clues: Clues, square: Grid) -> bool:
    """The rules as the puzzle states them."""
    size = len(square)
    columns = [[square[row][column] for row in range(size)] for column in range(size)]
    if any(set(line) != set(range(1, size + 1)) for line in [*square, *columns]):
        return False
    views = [
        *zip(clues["left"], square, strict=True),
        *zip(clues["right"], [row[::-1] for row in square], strict=True),
        *zip(clues["top"], columns, strict=True),
        *zip(clues["bottom"], [column[::-1] for column in columns], strict=True),
    ]
    return all(
        count == sum(all(before < height for before in line[:place]) for place, height in enumerate(line))
        for count, line in views
    )


def near_misses(problem: Problem) -> list[str]:
    solution = json.loads(problem.answer)
    size = len(solution)
    clues = [problem.state[side] for side in ("top", "bottom", "left", "right")]
    ring = [
        [0, *clues[0], 0],
        *([one, *row, other] for one, row, other in zip(clues[2], solution, clues[3], strict=True)),
        [0, *clues[1], 0],
    ]
    return [*near_misses_of(solution, [[None] * size for _ in range(size)]), json.dumps(clues), json.dumps(ring)]


def _game(solution: Grid | None, **clues: list[int]) -> dict[str, Any]:
    metadata = {"trace_id": "51c9", "n": len(clues["top"]), **clues, "solved_grid": solution}
    return {"question": "Skyscrapers", "answer": "", "difficulty": 1, "metadata": metadata, "gpt_response": ""}


_SQUARE = [[1, 2, 3], [3, 1, 2], [2, 3, 1]]
# Two squares that show the same.
_PAIR = [
    [[1, 2, 3, 4], [2, 4, 1, 3], [3, 1, 4, 2], [4, 3, 2, 1]],
    [[1, 2, 3, 4], [2, 1, 4, 3], [3, 4, 1, 2], [4, 3, 2, 1]],
]

GAMES: list[dict[str, Any]] = [
    {
        "game": _game(_SQUARE, top=[2, 2, 1], bottom=[2, 1, 3], left=[3, 1, 2], right=[1, 2, 2]),
        "right": [json.dumps(_SQUARE), f"```python\n{_SQUARE}\n```", "((1, 2, 3), (3, 1, 2), (2, 3, 1))"],
        "wrong": [
            # Rows of all heights whose columns are not.
            "[[1, 2, 3], [3, 1, 2], [3, 1, 2]]",
            "[[1, 3, 2], [3, 2, 1], [2, 1, 3]]",
            '[["1", "2", "3"], ["3", "1", "2"], ["2", "3", "1"]]',
            "[[1, 2, 3], [3, 1, 2]]",
        ],
    },
    {
        "game": _game(None, top=[4, 2, 2, 1], bottom=[1, 2, 2, 4], left=[4, 2, 2, 1], right=[1, 2, 2, 4]),
        "right": [*map(json.dumps, _PAIR), str(_PAIR[0])],
        "wrong": [
            json.dumps(_PAIR[0][::-1]),
            json.dumps([_PAIR[0][0], _PAIR[1][1], *_PAIR[0][2:]]),
            json.dumps([[1.0, 2, 3, 4], *_PAIR[0][1:]]),
            json.dumps(_PAIR[0][:3]),
        ],
    },
]
