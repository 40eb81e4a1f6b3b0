"""Buggy tables: answers that are almost right, and rows in the published format."""

from decimal import Decimal
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    target = Decimal(problem.state["target"])
    return [
        f"{target + Decimal('0.01')}",
        f"{target - Decimal('0.01')}",
        f"{target + 1}",
        f"{target + Decimal('0.001')}",
        f"{-target - 1}",
        f"{target * 10 + 1}",
        f"{target} or {target + 1}",
        f"{target} USD",
        f"about {target}",
        f"{target}e0",
        f"+{target}",
        f"{target}.",
        f"1,{target:06.2f}",
        str(target).replace(".", ","),
        chr(0x0660) + str(target),
        "nan",
    ]


def _game(answer: Any, **metadata: Any) -> dict[str, Any]:
    return {"question": "Mean?", "answer": answer, "difficulty": 1, "metadata": metadata, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        "game": _game("12.30", bug_type="null"),
        "right": ["12.30", "12.3", r"\boxed{12.30}", "```\n12.30\n```"],
        "wrong": ["12.31", "12", "-12.30", "12.30%", "12,30", "0.00"],
    },
    {"game": _game("", target_answer=0.0), "right": ["0.0", "0.00", "0"], "wrong": ["0.01", "none", ""]},
]
