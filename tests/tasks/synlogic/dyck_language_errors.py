"""Dyck language errors: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    right, sequence = int(problem.answer), problem.state["sequence"]
    numbers = [right - 1, right + 1, 0, -2, -right, len(sequence), len(sequence) + 1, len(sequence) + 2, -1, 1]
    return [
        *(str(number) for number in numbers if number != right),
        f"{right}.0",
        f"+{right}",
        f"0{right}",
        f"{right}, {right + 1}",
        f"[{right}]",
        f'"{right}"',
        f"place {right}",
        f"{right} {sequence}",
        "valid",
        "invalid",
        "correct",
        sequence,
        "True",
    ]


def _row(sequence: str, place: int | None) -> dict[str, Any]:
    metadata = {
        "trace_id": "0",
        "bracket_string": sequence,
        "first_error_pos": place,
        "is_valid": place is None,
        "n_types": 2,
        "total_length": len(sequence),
        "bracket_pairs": [{"open": "(", "close": ")"}, {"open": "[", "close": "]"}],
    }
    answer = "-1" if place is None else str(place)
    return {
        "question": f"Check {sequence}",
        "answer": answer,
        "difficulty": 1,
        "metadata": metadata,
        "gpt_response": "",
    }


GAMES: list[dict[str, Any]] = [
    {
        "game": _row("[()](])", 6),
        "right": ["6", " 6\n"],
        "wrong": ["5", "-1", "7", "8", "6.0", "valid", "invalid at 6"],
    },
    {
        "game": _row("([])()", None),
        "right": ["-1"],
        "wrong": ["1", "7", "0", "-1.0", "valid", "correct", "incorrect", "1-1"],
    },
    {"game": _row("([]((", 6), "right": ["6"], "wrong": ["5", "4", "1", "-1", "unclosed"]},
]
