"""Space reasoning in a tree: answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    names, target = problem.state["cousins"], problem.state["target"]
    gold = ", ".join(names)
    named = {name for fact in problem.state["facts"] for name in [fact["node"], *fact["nodes"]]}
    stranger = min(named - set(names) - {target})
    contents = [
        ", ".join([*names, target]),
        ", ".join([*names, stranger]),
        ", ".join([*names[:-1], stranger]),
        ", ".join([*names, names[0]]),
        ", ".join(names[:-1]) or target,
        ", ".join([names[0] + "s", *names[1:]]),
        gold + ",",
        gold + ".",
        gold.upper(),
        json.dumps(names),
        str(set(names)),
        "none",
        "",
    ]
    return [
        *(f"\\boxed{{{content}}}" for content in contents),
        problem.answer[:-1],
        f"{problem.answer} {problem.answer}",
    ]


GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "cup has 2 children: pen, key. pen has 1 child: lamp. key has 2 children: old bowl, fork.",
            "answer": "fork, old bowl",
            "difficulty": 2,
            "metadata": {"language": "en", "max_num_nodes": 300, "min_num_nodes": 50},
            "gpt_response": "",
        },
        "right": ["\\boxed{fork, old bowl}", "\\boxed{old bowl,fork}", "The cousins are \\boxed{fork,  old  bowl}."],
        "wrong": ["\\boxed{fork}", "\\boxed{fork, old bowl, lamp}", "\\boxed{}", "\\boxed{fork, fork, old bowl}"],
    },
    {
        "game": {"question": "台灯的堂兄弟节点是什么\uff1f", "answer": "书包, 雨伞", "difficulty": 2, "metadata": {}},
        "right": ["\\boxed{书包\uff0c雨伞}", "\\boxed{雨伞, 书包}"],
        "wrong": ["\\boxed{书包}", "\\boxed{书包雨伞}"],
    },
]
