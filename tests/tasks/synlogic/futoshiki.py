"""Futoshiki: a naive rule checker, answers that are almost right, and rows in the published format."""

import json
from itertools import islice
from typing import Any

from pear.tasks import Problem
from pear.tasks.synlogic.latin import Rules, fillings
from tests.tasks.synlogic.squares import Grid, bare, near_misses_of


def naive(state: dict[str, Any], filled: Grid) -> bool:
    """The rules as the puzzle states them."""
    size = len(state["grid"])
    for row in range(size):
        for column in range(size):
            value = filled[row][column]
            if value not in range(1, size + 1) or state["grid"][row][column] not in (None, value):
                return False
            for other in range(size):
                if (other != column and filled[row][other] == value) or (
                    other != row and filled[other][column] == value
                ):
                    return False
    for (row, column), (other_row, other_column), sign in state["signs"]:
        one, other = filled[row][column], filled[other_row][other_column]
        if not {"<": one < other, ">": one > other}[sign]:
            return False
    return True


def read(text: str) -> Grid:
    return [[int(number) for number in row.split()] for row in text.strip("[]").split(",")]


def near_misses(problem: Problem) -> list[str]:
    grid, solution = problem.state["grid"], read(problem.answer)
    size = len(grid)
    # Everything but the signs, or everything but the given numbers, holds there.
    starts = [grid, [solution[0], *[[None] * size] * (size - 1)]]
    squares = [square for start in starts for square in islice(fillings(Rules(size), start), 4)]
    others = [square for square in squares if not naive(problem.state, square)]
    return [
        *near_misses_of(solution, grid),
        *map(bare, others),
        *map(json.dumps, others),
        bare([["X" if value is None else value for value in row] for row in grid]),  # type: ignore[misc]
        problem.answer.replace(",", "\n"),
        problem.answer.replace(",", "],["),
        problem.answer.replace(" ", ""),
        problem.answer.replace("1", "01.", 1),
        "\n".join(" ".join(map(str, row)) for row in solution),
    ]


def _question(rows: list[str]) -> str:
    """The wording does not matter, only that the grid stands in lines of its own."""
    return "\n".join(
        [
            "Fill the 3 x 3 grid. Write it like [[1 2 3,2 3 1,3 1 2]].",
            "Current puzzle:",
            *rows,
            "(1,1) < (1,2)",
            "Answer:",
        ]
    )


def _game(rows: list[str], shown: list[list[int]], constraints: list[Any], answer: str) -> dict[str, Any]:
    return {
        "question": _question(rows),
        "answer": answer,
        "difficulty": 1,
        "metadata": {
            "trace_id": "b2f1",
            "grid_size": 3,
            "num_inequality_signs": len(constraints),
            "num_prefilled_coords": len(shown),
            "prefilled_coords": shown,
            "constraints": constraints,
        },
        "gpt_response": "",
    }


GAMES: list[dict[str, Any]] = [
    {
        "game": _game(["1 X X", "X X X", "X X X"], [[0, 0]], [[[1, 0], [2, 0], "<"]], "[[1 2 3,2 3 1,3 1 2]]"),
        # Not only the stored solution is right.
        "right": [
            "[[1 2 3,2 3 1,3 1 2]]",
            "[[1 3 2,2 1 3,3 2 1]]",
            "[[1, 2, 3], [2, 3, 1], [3, 1, 2]]",
            "```\n[[1 2 3, 2 3 1, 3 1 2]]\n```",
        ],
        "wrong": [
            "[[1 2 3,3 1 2,2 3 1]]",
            "[[2 3 1,1 2 3,3 1 2]]",
            "[[1 2 3,2 3 1]]",
            "[[1 2 3,2 3 1,3 1 2,]]",
            "[[1 2 3,2 3 1,3 2 1]]",
        ],
    },
    {
        # A row without X, and a stored answer that breaks a rule.
        "game": _game(
            ["X X X", "2 3 1", "X X X"],
            [[1, 0], [1, 1], [1, 2]],
            [[[0, 2], [2, 2], ">"], [[0, 0], [0, 1], "<"]],
            "[[3 1 2,2 3 1,1 2 3]]",
        ),
        "right": ["[[1 2 3,2 3 1,3 1 2]]"],
        "wrong": ["[[3 1 2,2 3 1,1 2 3]]", "[[1 2 3,3 1 2,2 3 1]]", "[[X X X,2 3 1,X X X]]"],
    },
]
