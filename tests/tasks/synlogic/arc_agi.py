"""ARC-AGI: rows in its format, answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem

_MIRRORED = {
    "train": [
        {"input": [[1, 0, 2]], "output": [[2, 0, 1]]},
        {"input": [[3, 3, 0], [0, 5, 4]], "output": [[0, 3, 3], [4, 5, 0]]},
    ],
    "test": [
        {"input": [[7, 8, 9], [0, 0, 1]], "output": [[9, 8, 7], [1, 0, 0]]},
        {"input": [[6, 0], [0, 2], [4, 2]], "output": [[0, 6], [2, 0], [2, 4]]},
    ],
}
_GROWN = {
    "id": "grown",
    "train": [
        {"input": [[4]], "output": [[4, 4], [4, 4]]},
        {"input": [[1, 2]], "output": [[1, 1, 2, 2], [1, 1, 2, 2]]},
    ],
    "test": [{"input": [[5, 0], [0, 6]], "output": [[5, 5, 0, 0], [5, 5, 0, 0], [0, 0, 6, 6], [0, 0, 6, 6]]}],
}
ROWS: list[dict[str, Any]] = [_MIRRORED, _GROWN]


def near_misses(problem: Problem) -> list[str]:
    output = problem.state["output"]
    given = problem.state["input"]
    changed = [list(row) for row in output]
    changed[0][0] = (changed[0][0] + 1) % 10
    last = [list(row) for row in output]
    last[-1][-1] = (last[-1][-1] + 9) % 10
    as_text = [[str(color) for color in row] for row in output]
    as_float = [[float(color) for color in row] for row in output]
    as_truth = [[bool(color) for color in row] for row in output]
    return [
        json.dumps(changed),
        json.dumps(last),
        json.dumps(given),
        json.dumps(output[:-1]),
        json.dumps([*output, output[-1]]),
        json.dumps([[*row, 0] for row in output]),
        json.dumps([row[::-1] for row in output]),
        json.dumps(as_text),
        json.dumps(as_float),
        json.dumps(as_truth),
        json.dumps([output]),
        json.dumps([color for row in output for color in row]),
        "\n".join(" ".join(map(str, row)) for row in output),
        f"{json.dumps(output)} or {json.dumps(given)}",
        f"```json\n{json.dumps(output)}\n```\n```json\n{json.dumps(given)}\n```",
    ]


def _game(answer: Any) -> dict[str, Any]:
    return {"question": "Find the rule.", "answer": answer, "difficulty": 1, "metadata": {}, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        "game": _game([[7, 0], [0, 7]]),
        "right": ["[[7, 0], [0, 7]]", "```json\n[[7, 0], [0, 7]]\n```", "((7, 0), (0, 7))"],
        "wrong": ["[[7, 0], [7, 0]]", "[[7, 0]]", "[[7, 0], [0]]", "[7, 0, 0, 7]", "7 0\n0 7"],
    },
    {
        "game": _game("[[1, 2, 3]]"),
        "right": ["[[1, 2, 3]]", "[[1,2,3]]"],
        "wrong": ["[[1], [2], [3]]", "[1, 2, 3]", "[[1, 2, 33]]", "[[1, 2, 3.0]]"],
    },
]
