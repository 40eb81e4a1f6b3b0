"""Object properties: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem
from tests.tasks.synlogic.boxes import wrong_counts


def near_misses(problem: Problem) -> list[str]:
    count, items, asked = problem.state["count"], problem.state["items"], problem.state["asked"]
    others = [
        len(items),
        sum(any(item[key] == value for key, value in asked) for item in items),
        sum(all(item[key] == value for key, value in asked) for item in items),
    ]
    return [*wrong_counts(count), *(f"\\boxed{{{other}}}" for other in others if other != count)]


GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "I have a large red pen and a small blue bag. Then I lost all small items. How many red?",
            "answer": "1",
            "difficulty": 1,
            "metadata": {
                "story": "I have a large red pen and a small blue bag.",
                "question": "How many red?",
                "answer": "1",
                "initial_collection": [],
                "final_collection": [],
                "language": "english",
            },
            "gpt_response": "",
        },
        "right": ["\\boxed{1}", "So the answer is: \\boxed{1}"],
        "wrong": ["\\boxed{2}", "\\boxed{unknown}", "\\boxed{01}", "one"],
    },
    {
        "game": {"question": "没有物品。有多少红色的物品\uff1f", "answer": "0", "difficulty": 1, "metadata": {}},
        "right": ["\\boxed{0}", "0"],
        "wrong": ["\\boxed{00}", "\\boxed{-0}", "\\boxed{}"],
    },
]
