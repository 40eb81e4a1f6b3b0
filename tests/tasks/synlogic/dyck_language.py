"""Dyck language: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem

_MATCHING = {")": "(", "]": "[", "}": "{", ">": "<", "(": ")", "[": "]", "{": "}", "<": ">"}


def near_misses(problem: Problem) -> list[str]:
    right, given = problem.answer, problem.state["sequence"]
    added = right[len(given) :]
    other = next(bracket for bracket in ")]}>" if bracket != right[-1])
    return [
        given,
        added,
        right[:-1],
        right + right[-1],
        right + "()",
        given + "()" + added,
        "()" + right,
        right[:-1] + other,
        right[:-1] + _MATCHING[right[-1]],
        given + other + added[1:] if other != added[0] else given + added[1:],
        given[1:] + added,
        given[:-1] + added,
        right + right,
        right[::-1],
        "".join(_MATCHING[bracket] for bracket in reversed(given)) + added,
        f"the answer is {right}",
        f"'{right}'",
        f"[{right}]",
        right.replace(right[-1], right[-1] + ","),
    ]


def _row(given: str, full: str) -> dict[str, Any]:
    metadata = {
        "trace_id": "0",
        "full_sequence": full,
        "question_sequence": given,
        "n_types": 3,
        "total_length": len(full),
        "fill_length": len(full) - len(given),
        "nesting_depth": 0,
    }
    return {"question": f"Close {given}", "answer": full, "difficulty": 1, "metadata": metadata, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        "game": _row("[({}{(", "[({}{()})]"),
        "right": ["[({}{()})]", "[ ( { } { ( ) } ) ]", "[({}{(\n)})]"],
        "wrong": ["[({}{(", ")})]", "[({}{()}])", "[({}{()})][]", "[({}{())})]", "[({}{()[]})]", "x[({}{()})]"],
    },
    {
        "game": _row("<>{<", "<>{<>}"),
        "right": ["<>{<>}"],
        "wrong": ["<>{<}>", "{<>}", "<>{<>", "<>{<>}>", '"<>{<>}"', "<>{<>}()"],
    },
]
