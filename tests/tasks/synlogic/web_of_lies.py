"""Web of lies: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    words = ["yes" if value else "no" for value in problem.state["honest"]]
    flipped = [
        ", ".join(("no" if word == "yes" else "yes") if place == at else word for at, word in enumerate(words))
        for place in range(len(words))
    ]
    return [
        *flipped,
        ", ".join([*words, "yes"]),
        ", ".join([*words, words[-1]]),
        ", ".join(words[:-1]) or "maybe",
        ", ".join("true" if word == "yes" else "false" for word in words),
        ", ".join("1" if word == "yes" else "0" for word in words),
        ", ".join(["maybe", *words[1:]]),
        ", ".join(["yes no", *words[1:]]),
        f"The answer is **{flipped[0]}**.",
        f"{', '.join(words)} or {flipped[0]}",
        f"{', '.join(words)}; {flipped[0]}",
        "".join(words),
        ", ".join(problem.state["people"]),
    ]


def _game(answer: str, people: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    metadata = {} if people is None else {"people": people}
    return {"question": "Who lies?", "answer": answer, "difficulty": 1, "metadata": metadata, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        "game": _game("yes, no, yes"),
        "right": [
            "yes, no, yes",
            "The answer is **yes, no, yes**",
            "The answer is **Yes, No, Yes**.",
            r"\boxed{yes, no, yes}",
            '["yes", "no", "yes"]',
            "yes,no,yes.",
        ],
        "wrong": ["yes, yes, yes", "yes, no", "yes no yes", "The answer is **no, yes, no**", "no, no, yes, no, yes"],
    },
    {
        "game": _game(
            "",
            [
                {"name": "A", "is_truth_teller": False, "is_target": True},
                {"name": "B", "is_truth_teller": True, "is_target": False},
                {"name": "C", "is_truth_teller": True, "is_target": True},
            ],
        ),
        "right": ["no, yes", "答案是 **否\uff0c是**", "否,是。"],
        "wrong": ["yes, yes", "no", "no, yes, yes", "否,否"],
    },
]
