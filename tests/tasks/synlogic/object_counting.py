"""Object counting: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem
from tests.tasks.synlogic.boxes import wrong_counts


def near_misses(problem: Problem) -> list[str]:
    count = problem.state["count"]
    mine = {item["name"] for item in problem.state["belongings"] if item["owner"] == "I"}
    others = [
        sum(sum(item["counts"]) for item in problem.state["belongings"]),
        sum(item["counts"][0] for item in problem.state["belongings"] if item["owner"] == "I"),
        len(mine),
    ]
    return [*wrong_counts(count), *(f"\\boxed{{{other}}}" for other in others if other != count)]


GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "I have 12 plums. My aunt has 9 apples. I also have 30 cats. How many fruits do I have?",
            "answer": "12",
            "difficulty": 1,
            "metadata": {
                "possessions": {
                    "I": {"fruit": [["plums", 12, ""]], "animal": [["cats", 30, ""]]},
                    "My aunt": {"fruit": [["apples", 9, ""]], "animal": []},
                },
                "used_categories": ["fruit", "animal"],
                "language": "en",
            },
            "gpt_response": "",
        },
        "right": [
            "\\boxed{12}",
            "The answer is \\boxed{12}.",
            "$\\boxed{ 12 }$",
            "**\\boxed{12}**",
            "\\[\\boxed{12}\\]",
        ],
        "wrong": ["\\boxed{21}", "\\boxed{42}", "\\boxed{12.0}", "\\boxed{}", "twelve"],
    },
    {
        "game": {
            "question": "我有25只狗。我的叔叔有40只猫。我总共有多少个动物\uff1f",
            "answer": "25",
            "difficulty": 1,
            "metadata": {"possessions": {}, "used_categories": ["animal"], "language": "zh"},
            "gpt_response": "",
        },
        "right": ["\\boxed{25}", "答案是\uff1a\\boxed{25}。"],
        "wrong": ["\\boxed{65}", "\\boxed{\uff12\uff15}", "\\boxed{25, 40}"],
    },
]
