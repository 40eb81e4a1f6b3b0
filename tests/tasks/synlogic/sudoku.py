"""Sudoku: answers that are almost right, and rows in the published format."""

import ast
from typing import Any

from pear.tasks import Problem
from tests.tasks.synlogic.squares import near_misses_of


def near_misses(problem: Problem) -> list[str]:
    solution = [list(row) for row in ast.literal_eval(problem.answer)]
    stacks = [[*line[3:6], *line[:3], *line[6:]] for line in solution]
    return [
        *near_misses_of(solution, problem.state["grid"]),
        # Whole bands and stacks of boxes may be swapped, but for the clues.
        str([*solution[3:6], *solution[:3], *solution[6:]]),
        str(stacks),
        str(tuple(map(tuple, stacks))),
        "\n".join(" ".join(map(str, line)) for line in solution),
        problem.answer.replace(", ", " "),
        problem.answer.replace("9", "09"),
    ]


_SOLUTION = [[(3 * row + row // 3 + column) % 9 + 1 for column in range(9)] for row in range(9)]
_SWAPPED = [[{1: 2, 2: 1}.get(value, value) for value in row] for row in _SOLUTION]


def _game(blank: set[int], sign: Any, answer: str = "") -> dict[str, Any]:
    grid = [[sign if value in blank else value for value in row] for row in _SOLUTION]
    return {
        "question": "Please solve: " + "\n".join("".join(map(str, row)) for row in grid),
        "answer": answer,
        "difficulty": 2,
        "metadata": {
            "trace_id": "5d0b",
            "original_sudoku": grid,
            "complete_sudoku": _SOLUTION,
            "difficulty": 2,
            "unique_solution": len(blank) < 2,
        },
        "gpt_response": "",
    }


def _code(grid: list[list[int]]) -> str:
    return f"```python\n{tuple(tuple(row) for row in grid)}\n```"


GAMES: list[dict[str, Any]] = [
    {
        "game": _game({5}, "X", str(tuple(map(tuple, _SOLUTION)))),
        "right": [_code(_SOLUTION), str(_SOLUTION), "so:\n" + _code(_SWAPPED) + "\nno:\n" + _code(_SOLUTION)],
        "wrong": [_code(_SWAPPED), _code([row[::-1] for row in _SOLUTION]), _code(_SOLUTION[:8]), "X"],
    },
    {
        "game": _game({1, 2}, 0),
        "right": [_code(_SOLUTION), _code(_SWAPPED), "((" + _code(_SWAPPED) + "))"],
        "wrong": [
            _code([_SOLUTION[0], *_SWAPPED[1:]]),
            _code([[value % 9 + 1 for value in row] for row in _SOLUTION]),
            _code([[(row + column) % 9 + 1 for column in range(9)] for row in range(9)]),
        ],
    },
]
