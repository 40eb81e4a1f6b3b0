"""Time sequence: answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    length, count = json.loads(problem.answer)
    return [
        json.dumps([length + 5, count]),
        json.dumps([length + 30, 1]),
        json.dumps([length, count + 1]),
        json.dumps([count, length] if count != length else [length, count + 2]),
        json.dumps([length, -1]),
        json.dumps([length // 5 or 1, count]),
        json.dumps([length / 60 or 0.5, count]),
        json.dumps([float(length), count]),
        json.dumps([str(length), count]),
        json.dumps([length, True]),
        json.dumps([length, None]),
        json.dumps([length]),
        json.dumps([length, count, 0]),
        json.dumps([[length, count]]),
        json.dumps({"length": length, "count": count}),
        f"[{length} {count}]",
        f"[{length}, {count}] [{length}, {count}]",
        f"{length} minutes, {count} options",
        f"[{length}, {count}",
        str(length),
    ]


def _game(length: Any, count: Any, names: list[str]) -> dict[str, Any]:
    times = {day: ["占用", [[0, 20], [30, 96]]] for day in "一二三四五"}
    return {
        "question": "When can they meet? Put the length and the number of options in [ ].",
        "answer": [length, count],
        "difficulty": 1,
        "metadata": {
            "trace_id": "5b1c1f0a-8f8d-4d7e-9d6b-2a4f6f1a0004",
            "n": len(names),
            "rule_prob": 0.5,
            "records": {
                "raw_schedule": dict.fromkeys(names, times),
                "rules_desc": dict.fromkeys(names, ""),
                "answers": {"answer_record": [[24, 30]], "answer_nums": count, "answer_maxLen": length},
            },
        },
        "gpt_response": "",
    }


GAMES: list[dict[str, Any]] = [
    {
        "game": _game(30, 5, ["Sara", "Edwin"]),
        "right": ["[30, 5]", "[30,5]", r"\boxed{[30, 5]}", "```python\n[30, 5]\n```", "(30, 5)"],
        "wrong": ["[5, 30]", "[30, 4]", "[30.0, 5]", "[30]", "30, 5 options", "[0, 0]"],
    },
    {"game": _game(0, 0, ["Tyler", "Cindy", "Joan"]), "right": ["[0, 0]"], "wrong": ["0", "[0]", "[0, 1]", "[5, 0]"]},
]
