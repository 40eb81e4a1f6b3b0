"""Word sorting: answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    gold = problem.answer.removeprefix("\\boxed{").removesuffix("}")
    words = gold.split(", ")
    contents = [
        ", ".join([words[1], words[0], *words[2:]]),
        ", ".join([*words[:-2], words[-1], words[-2]]),
        ", ".join(reversed(words)),
        ", ".join(sorted(words, reverse=problem.state["descending"])),
        ", ".join(words[:-1]),
        ", ".join([*words, words[-1]]),
        ", ".join([words[0], words[0], *words[2:]]),
        ", ".join([words[0] + "s", *words[1:]]),
        gold.upper(),
        gold.replace(", ", "; "),
        gold.replace(", ", "} \\boxed{"),
        gold + ".",
        "",
        json.dumps([words]),
        json.dumps({"words": words}),
        json.dumps([*words, 1]),
    ]
    return [*(f"\\boxed{{{content}}}" for content in contents), *contents[:-4], problem.answer[:-1]]


GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "The first letters of the alphabet are z and b. Sort increasing: ant,bee,zoo,cat",
            "answer": "zoo, bee, ant, cat",
            "difficulty": 1,
            "metadata": {
                "words": ["ant", "bee", "zoo", "cat"],
                "sorted_words": ["zoo", "bee", "ant", "cat"],
                "front_letters": "z,b",
                "order": 1,
            },
            "gpt_response": "",
        },
        "right": [
            "\\boxed{zoo, bee, ant, cat}",
            "\\boxed{zoo,bee,ant,cat}",
            "The order is \\boxed{zoo , bee , ant , cat}.",
            "\\boxed{zoo\uff0cbee\uff0cant\uff0ccat}",
        ],
        "wrong": [
            "\\boxed{ant, bee, cat, zoo}",
            "\\boxed{cat, ant, bee, zoo}",
            "\\boxed{zoo, bee, ant}",
            "\\boxed{zoo, bee, ant, cat, cat}",
        ],
    },
    {
        "game": {
            "question": "The first letter of the alphabet is c. Sort decreasing: cab,dab,dam",
            "answer": "dam, dab, cab",
            "difficulty": 1,
            "metadata": {"words": ["cab", "dab", "dam"], "front_letters": "c", "order": -1},
        },
        "right": ["\\boxed{dam, dab, cab}"],
        "wrong": ["\\boxed{cab, dab, dam}", "\\boxed{}"],
    },
]
