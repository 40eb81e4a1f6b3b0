"""Minesweeper: answers that are almost right, and rows in the published format."""

import ast
import json
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    grid, mines = problem.state["grid"], ast.literal_eval(problem.answer)
    size = len(grid)
    places = [(row, column) for row in range(size) for column in range(size)]
    shown = [place for place in places if grid[place[0]][place[1]] != "X"]
    hidden = [place for place in places if grid[place[0]][place[1]] == "X"]
    others = [place for place in hidden if place not in mines]
    (row, column), rest = mines[0], mines[1:]
    return [
        *(str([*mines, place]) for place in (*others, *shown[:3])),
        *(str([*rest, place]) for place in (*others[:3], *shown[:3])),
        *([str(hidden)] if others else []),
        *([str(mines[:-1]), str(rest)] if rest else []),
        str([*mines, mines[0]]),
        str([(at + 1, to + 1) for at, to in mines]),
        str([(at - 1, to - 1) for at, to in mines]),
        "[]",
        "[[]]",
        str([*rest, (float(row), column)]),
        str([*rest, (str(row), column)]),
        str([*rest, (row, column, 1)]),
        str([*rest, (row,)]),
        str([*rest, (row, size)]),
        str([*rest, (row - size, column)]),
        str([*rest, None]),
        str({"mines": mines}),
        str(dict(mines)),
        json.dumps(grid),
        json.dumps([["M" if (at, to) in mines else "." for to in range(size)] for at in range(size)]),
        ", ".join(f"{at}-{to}" for at, to in mines),
        problem.answer.replace("(", "").replace(")", ""),
        f"{problem.answer}\n{problem.answer}",
        problem.answer + "]",
    ]


_FIRST = [["X", "2", "X"], ["1", "2", "1"], ["0", "0", "0"]]
# No number alone gives a mine away; all four together do.
_SECOND = [["X", "X", "X", "X"], ["1", "2", "2", "X"], ["0", "0", "1", "X"]]

GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "A 3 x 3 Minesweeper grid.\n\nX  2  X\n1  2  1\n0  0  0",
            "answer": "",
            "difficulty": 1,
            "metadata": {
                "trace_id": "5b1e2b8e-1a4a-4d3e-a0a4-0d4b6c9f0a01",
                "full_grid": [["M", "2", "M"], ["1", "2", "1"], ["0", "0", "0"]],
                "revealed_grid": _FIRST,
                "current_mines": [[0, 2], [0, 0]],
                "reasoning_steps": [],
                "n": 3,
                "mine_den": 0.2,
                "reveal_frac": 1.0,
            },
            "gpt_response": "",
        },
        "right": [
            "[(0, 0), (0, 2)]",
            "[(0,2),(0,0)]",
            "[[0, 2], [0, 0]]",
            "(0, 0), (0, 2)",
            "```\n[(0, 0), (0, 2)]\n```",
        ],
        "wrong": ["[]", "[(0, 0)]", "[(1, 1), (1, 3)]", "[(0, 0), (0, 2), (0, 1)]", "0, 0, 0, 2"],
    },
    {
        "game": {
            "question": "A 3 x 4 Minesweeper grid.\n\nX  X  X  X\n1  2  2  X\n0  0  1  X",
            "answer": "",
            "difficulty": 1,
            "metadata": {
                "trace_id": "5b1e2b8e-1a4a-4d3e-a0a4-0d4b6c9f0a02",
                "revealed_grid": _SECOND,
                "current_mines": [[0, 2], [0, 0]],
                "n": 4,
                "mine_den": 0.2,
                "reveal_frac": 0.4,
            },
            "gpt_response": "",
        },
        "right": ["[(0, 0), (0, 2)]", "[[0, 2], [0, 0]]"],
        "wrong": ["[(0, 2)]", "[(0, 1), (0, 2)]", "[(0, 0), (0, 2), (1, 3)]", "[]"],
    },
]
