"""Boolean expressions: answers that are almost right, and rows in the published format."""

import string
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    true = problem.answer.removeprefix("\\boxed{").removesuffix("}").split(", ")
    letters = string.ascii_uppercase[: len(problem.state["options"])]
    false = [letter for letter in letters if letter not in true]

    def boxed(labels: list[str], separator: str = ", ") -> str:
        return f"\\boxed{{{separator.join(labels)}}}"

    wrong = [boxed(sorted([*true, letter])) for letter in false]
    wrong += [boxed([other for other in true if other != letter]) for letter in true]
    wrong += [boxed(sorted([false[0], *true[1:]]))] if false else []
    return [
        boxed([*true, "X"]),
        boxed(["X"]),
        boxed(false),
        *wrong,
        boxed([*true, true[0]]),
        boxed([true[0], *true]),
        boxed([true[0] * 2, *true[1:]]),
        boxed(["".join([*true, *true])]),
        boxed([*true, "None"]),
        boxed([*true, ""]),
        boxed(["not " + true[0], *true[1:]]),
        boxed([str(ord(letter) - ord("A") + 1) for letter in true]),
        boxed([chr(ord("\N{FULLWIDTH LATIN CAPITAL LETTER A}") + ord(letter) - ord("A")) for letter in true]),
        boxed([*true, "X"], separator="; "),
        str([letter in true for letter in letters]),
        problem.answer + " " + boxed([*true, "X"]),
        problem.answer[:-1],
        "\n".join(problem.state["options"]),
    ]


_LINES = (
    "Look at the expressions below.\n\nA. (not (True)) and (Water is wet.)\nB. (3 * 4) is greater than (2 - -9)\n"
    "C. not not (False) or (The moon is square.)\nD. True\n\nWhich of them hold? Use \\boxed{}."
)

GAMES: list[dict[str, Any]] = [
    {
        "game": {"question": _LINES, "answer": "B,D", "difficulty": 1, "metadata": {}, "gpt_response": ""},
        "right": ["\\boxed{B,D}", "\\boxed{B, D}", "\\boxed{d,b}", "B, D", "\\boxed{ D B }"],
        "wrong": [
            "\\boxed{B}",
            "\\boxed{B,D,D}",
            "\\boxed{BDDB}",
            "\\boxed{A,B,D}",
            "\\boxed{}",
            "B and D",
            "\\boxed{B,D",
        ],
    },
    {
        "game": {
            "question": "A. (5) 大于 (3)\nB. True\nC. not (True)\n哪些选项为真:",
            "answer": "A,B",
            "difficulty": 1,
            "metadata": None,
            "gpt_response": "",
        },
        "right": ["\\boxed{A,B}", "\\boxed{b, a}"],
        "wrong": ["\\boxed{abba}", "\\boxed{AB C}", "\\boxed{A}", "\\boxed{A,C}", "\\boxed{A,B,C}", "True"],
    },
]
