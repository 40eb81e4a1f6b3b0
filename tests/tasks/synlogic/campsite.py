"""Campsite: answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    solution, grid = json.loads(problem.answer), problem.state["grid"]
    places = [(row, column) for row in range(len(grid)) for column in range(len(grid[0]))]
    tent = next(place for place in places if solution[place[0]][place[1]] == "C")
    tree = next(place for place in places if solution[place[0]][place[1]] == "T")
    empty = [place for place in places if solution[place[0]][place[1]] == "X"]

    def changed(changes: dict[tuple[int, int], Any]) -> str:
        copy = [list(line) for line in solution]
        for (row, column), value in changes.items():
            copy[row][column] = value
        return json.dumps(copy)

    return [
        json.dumps(grid),
        changed({tent: "X"}),
        changed({tree: "X"}),
        changed({tree: "C"}),
        changed({empty[0]: "T"}),
        changed({tent: "X", tree: "X"}),
        *(changed({place: "C"}) for place in empty[:3]),
        *(changed({tent: "X", place: "C"}) for place in empty),
        changed({tent: "c"}),
        changed({tent: "tent"}),
        changed({empty[0]: None}),
        changed({empty[0]: 0}),
        changed({empty[0]: "."}),
        changed({tent: ["C"]}),
        json.dumps(solution[:-1]),
        json.dumps([*solution, solution[-1]]),
        json.dumps([[*line, "X"] for line in solution]),
        json.dumps([line[:-1] for line in solution]),
        json.dumps([solution]),
        json.dumps([*solution[:-1], "".join(solution[-1])]),
        json.dumps({"grid": solution}),
        "\n".join(" ".join(line) for line in solution),
        f"{problem.answer}\n{problem.answer}",
        problem.answer[:-1],
    ]


_FIRST = [["C", "T", "X", "X"], ["X", "X", "X", "X"], ["X", "C", "T", "C"], ["X", "X", "X", "T"]]
_SECOND = [["X", "C", "T", "X", "X"], ["X", "X", "X", "T", "C"], ["T", "C", "X", "X", "X"]]
# The first row has two readings of who is whose; the pairing has to be found.
_THIRD = [["C", "T", "C", "T", "X"], ["X", "X", "X", "X", "X"]]

GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "A campsite of 4 x 4 cells. Rows: [1, 0, 2, 0]. Columns: [1, 1, 0, 1]. Put C for tents.",
            "answer": "",
            "difficulty": 1,
            "metadata": {
                "trace_id": "0d3c0d46-6d2c-4cb1-9d0c-4f6e3b8b7a01",
                "grid": [["X", "T", "X", "X"], ["X"] * 4, ["X", "X", "T", "X"], ["X", "X", "X", "T"]],
                "solution": _FIRST,
                "row_constraints": [1, 0, 2, 0],
                "col_constraints": [1, 1, 0, 1],
                "n": 4,
                "m": 4,
                "tree_density": 0.2,
            },
            "gpt_response": "",
        },
        "right": [
            json.dumps(_FIRST),
            str(_FIRST),
            f"```python\n{_FIRST}\n```",
            json.dumps(_FIRST, indent=1),
        ],
        "wrong": [
            json.dumps([["X", "T", "C", "X"], *_FIRST[1:]]),
            json.dumps([["X", "T", "X", "X"], ["X"] * 4, ["X", "X", "T", "X"], ["X", "X", "X", "T"]]),
            json.dumps(_FIRST[:3]),
            "[]",
        ],
    },
    {
        "game": {
            "question": "A campsite of 3 x 5 cells. Rows: [1, 1, 1]. Columns: [0, 2, 0, 0, 1].",
            "answer": "",
            "difficulty": 1,
            "metadata": {
                "trace_id": "0d3c0d46-6d2c-4cb1-9d0c-4f6e3b8b7a02",
                "grid": [["X", "X", "T", "X", "X"], ["X", "X", "X", "T", "X"], ["T", "X", "X", "X", "X"]],
                "solution": _SECOND,
                "row_constraints": [1, 1, 1],
                "col_constraints": [0, 2, 0, 0, 1],
                "n": 3,
                "m": 5,
                "tree_density": 0.2,
            },
            "gpt_response": "",
        },
        "right": [json.dumps(_SECOND)],
        "wrong": [
            # All counts hold and no tents touch, but a tree has no tent of its own.
            json.dumps([["X", "C", "T", "X", "X"], ["X", "X", "X", "T", "C"], ["C", "X", "X", "X", "X"]]),
            json.dumps([["X", "X", "T", "X", "C"], ["X", "C", "X", "T", "X"], ["T", "C", "X", "X", "X"]]),
            json.dumps([list(column) for column in zip(*_SECOND, strict=True)]),
        ],
    },
    {
        "game": {
            "question": "A campsite of 2 x 5 cells. Rows: [2, 0]. Columns: [1, 0, 1, 0, 0].",
            "answer": "",
            "difficulty": 1,
            "metadata": {
                "grid": [["X", "T", "X", "T", "X"], ["X"] * 5],
                "row_constraints": [2, 0],
                "col_constraints": [1, 0, 1, 0, 0],
                "n": 2,
                "m": 5,
            },
            "gpt_response": "",
        },
        "right": [json.dumps(_THIRD)],
        "wrong": [json.dumps([["X", "T", "C", "T", "C"], ["X"] * 5]), json.dumps(_THIRD[::-1])],
    },
]
