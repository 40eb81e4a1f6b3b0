"""Goods exchange: answers that are almost right, and rows in the published format."""

import ast
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    pairs = list(ast.literal_eval(problem.answer))
    people = [person for person, _ in pairs]
    things = [thing for _, thing in pairs]

    def with_things(order: list[str]) -> str:
        return repr(tuple(zip(people, order, strict=True)))

    return [
        with_things([things[1], things[0], *things[2:]]),
        with_things([things[-1], *things[1:-1], things[0]]),
        with_things([*things[1:], things[0]]),
        with_things([things[1], *things[1:]]),
        with_things([f"the {thing}" for thing in things]),
        repr(tuple((thing, person) for person, thing in pairs)),
        repr(tuple(pairs[:-1])),
        repr((*pairs, pairs[0])),
        repr((*pairs, ("Zoe", "spoon"))),
        repr((("Zoe", things[0]), *pairs[1:])),
        repr(tuple(f"{person} {thing}" for person, thing in pairs)),
        repr(tuple((person, [thing]) for person, thing in pairs)),
        repr(tuple((person, thing, 1) for person, thing in pairs)),
        ", ".join(f"{person}: {thing}" for person, thing in pairs),
        repr(pairs) + " or " + with_things(things[::-1]),
    ]


def _game(owns_after: Any) -> dict[str, Any]:
    metadata = {"owns_after": owns_after, "num_people": 3, "is_chinese": False}
    return {"question": "Who owns what?", "answer": "", "difficulty": 1, "metadata": metadata, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        "game": _game("(('Ann','Cup'),('Ben','ball'),('Cal','hat'))"),
        "right": [
            "(('Ann', 'cup'), ('Ben', 'ball'), ('Cal', 'hat'))",
            "```python\n(('Cal','Hat'),('Ben','Ball'),('Ann','Cup'))\n```",
            '[["ann", "cup"], ["ben", "ball"], ["cal", "hat"]]',
        ],
        "wrong": [
            "(('Ann', 'ball'), ('Ben', 'cup'), ('Cal', 'hat'))",
            "(('Ann', 'cup'), ('Ben', 'ball'))",
            "(('Ann', 'cup'), ('Ben', 'ball'), ('Cal', 'hat'), ('Cal', 'cup'))",
            "Ann cup, Ben ball, Cal hat",
            "()",
        ],
    },
    {
        "game": _game([["小明", "苹果"], ["小红", "书"]]),
        "right": ["(('小明','苹果'),('小红','书'))", "{'小红': '书', '小明': '苹果'}"],
        "wrong": ["(('小明','书'),('小红','苹果'))", "(('小明','苹果'),)"],
    },
]
