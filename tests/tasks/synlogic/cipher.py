"""Cipher: answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    right = json.loads(problem.answer)[0][0]
    other = "B" if right[0] == "A" else "A"
    swap = next(place for place in range(len(right) - 1) if right[place] != right[place + 1])
    swapped = right[:swap] + right[swap + 1] + right[swap] + right[swap + 2 :]
    texts = [other + right[1:], swapped, right[:-1], right + right[-1], right.lower(), problem.state["text"], ""]
    texts += [f" {right}", right[:3] + " " + right[3:], f"[{right}]", other + right]
    return [
        *(json.dumps([[text]]) for text in texts),
        json.dumps([right]),
        json.dumps(right),
        json.dumps([[right, right]]),
        json.dumps([[right], [right]]),
        json.dumps([[[right]]]),
        json.dumps({"answer": right}),
        json.dumps([list(right)]),
        right,
        f"[[{right}]",
        f"[[{swapped}]]",
        f"it is {problem.answer}",
        "[[1]]",
    ]


GAMES: list[dict[str, Any]] = [
    {
        "game": {"question": "Shift HELLO by 1.", "answer": "[[IFMMP]]", "metadata": {}, "difficulty": 1},
        "right": ['[["IFMMP"]]', "[['IFMMP']]", '```python\n[["IFMMP"]]\n```', "[[IFMMP]]"],
        "wrong": [
            "IFMMP",
            '["IFMMP"]',
            '[["HELLO"]]',
            "[[IFMM]]",
            '[["ifmmp"]]',
            '[["IFMMP"], ["IFMMP"]]',
            "[[open()]]",
        ],
    },
    {
        "game": {"question": "Write as numbers: AB*", "answer": "[[1 2 *]]", "metadata": None, "difficulty": 1},
        "right": ['[["1 2 *"]]', "```python\n[['1 2 *']]\n```"],
        "wrong": ["[[1, 2]]", '[["1 2"]]', '[["1 2 *", ""]]', "[[12]]"],
    },
]
