"""Dyck language reasoning errors: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    right = [] if problem.answer == "no errors" else [int(number) for number in problem.answer.split(", ")]
    last = len(problem.state["sequence"]) + 3
    fine = [number for number in range(3, last + 1) if number not in right]

    def written(numbers: list[int]) -> str:
        return ", ".join(map(str, numbers))

    if right:
        found = ["no errors", '""', written(right[1:]) or "no", written([*right, right[0]]), written([0, *right])]
        found += [written([number - 1 for number in right]), written([number - 2 for number in right])]
        found += [f"{right[0]}.0" + "".join(f", {number}" for number in right[1:]), f"[{written(right)}"]
        found += [
            f'"{written(right)}"',
            f"thoughts {written(right)}",
            f"{written(right)}, no errors",
            f"[[{written(right)}]]",
        ]
    else:
        found = ["0", "[]", "none of 3", "[no errors]", '"no errors"', "no errors in 3", "no errors, 4", "False", "''"]
    return [
        *found,
        written([*right, fine[0]]),
        written([*right, fine[-1]]),
        written([fine[0], *right[1:]]),
        written([*right, last + 1]),
        written([*right, 2]),
        written(fine),
        problem.state["sequence"],
    ]


def _row(sequence: str, stacks: list[str], end: str, errors: list[int], chinese: bool) -> dict[str, Any]:
    word, empty = ("栈", "空") if chinese else ("stack", "empty")
    texts = ["One by one.", f"{word}: {empty}"]
    texts += [f"{bracket} ; {word}: {stack or empty}" for bracket, stack in zip(sequence, stacks, strict=True)]
    metadata = {
        "trace_id": "0",
        "dyck_sequence": sequence,
        "thoughts": [f"Thought {number}: {text}" for number, text in enumerate([*texts, end], 1)],
        "error_indices": errors,
        "n_types": 3,
        "total_length": len(sequence),
        "n_errors": len(errors),
    }
    answer = ",".join(map(str, errors))
    return {"question": sequence, "answer": answer, "difficulty": 1, "metadata": metadata, "gpt_response": ""}


_OPEN = ["{", "{(", "{", "", "[", ""]

GAMES: list[dict[str, Any]] = [
    {
        "game": _row("{()}[]", ["{", "{(", "{)", "", "]", ""], "到了结尾, 最终栈是空的。", [5, 7], True),
        "right": ["5,7", "5, 7", "[5,7]", "7,5"],
        "wrong": ["5", "7", "5,7,8", "no", '""', "3,5", "5 7", "5,7,5", "Thought 5,7"],
    },
    {
        "game": _row("{()}[]", _OPEN, "到了结尾, 最终栈是不为空的。", [9], True),
        "right": ["9", "[9]"],
        "wrong": ["no errors", "8", "10", "9,9", "9, 8", "[]"],
    },
    {
        "game": _row("{()}[]", _OPEN, "The end, and the stack is empty.", [], False),
        "right": ["no errors", '""', "No", "all correct"],
        "wrong": ["9", "3", "0", "[]", "unclear", "no errors, 3"],
    },
]
