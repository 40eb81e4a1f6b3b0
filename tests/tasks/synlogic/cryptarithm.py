"""Cryptarithm: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    words, operators = problem.state["words"], problem.state["operators"]
    numbers = [part for part in problem.answer.split() if part.isdigit()]
    digits = dict(zip("".join(words), "".join(numbers), strict=True))

    def written(values: list[str], signs: list[str] = operators) -> str:
        parts = [values[0]]
        for sign, value in zip([*signs, "="], values[1:], strict=True):
            parts += [sign, value]
        return " ".join(parts)

    def replaced(changes: dict[str, str]) -> str:
        return written(["".join({**digits, **changes}[letter] for letter in word) for word in words])

    letters = list(digits)
    one, other = letters[0], letters[-1]
    last = numbers[-1]
    # A last digit that differs breaks the equation, whatever its letter does elsewhere.
    ending = str((int(last[-1]) + 1) % 10)
    return [
        written(words),
        replaced({one: digits[other], other: digits[one]}),
        replaced({one: digits[other]}),
        *(replaced({letter: "0"}) for letter in letters if digits[letter] != "0"),
        written([*numbers[:-1], last[:-1] + ending]),
        written([str(int(numbers[0]) + 1), *numbers[1:-1], last]),
        written([*numbers[:-1], "0" + last]),
        written([*numbers[:-1], last + "0"]),
        written([*numbers[:-1], "-" + last]),
        written([*numbers[:-1], last + ".0"]),
        written(numbers, [{"+": "-", "-": "*", "*": "+"}[operators[0]], *operators[1:]]),
        " ".join(problem.answer.split()[:-2]),
        f"{last} = " + " ".join(problem.answer.split()[:-2]),
        f"{problem.answer} = {last}",
        f"{problem.answer}, {problem.answer}",
        problem.answer.replace("=", "=="),
        f"[{problem.answer}]",
        str(digits),
        last,
    ]


GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "Solve the cryptarithm SEND + MORE = MONEY.",
            "answer": "9567 + 1085 = 10652",
            "difficulty": 1,
            "metadata": {
                "trace_id": "5b1c1f0a-8f8d-4d7e-9d6b-2a4f6f1a0002",
                "numbers": [9567, 1085, 10652],
                "letter_words": ["SEND", "MORE", "MONEY"],
                "operators": ["+"],
                "digit_map": {"S": 9, "E": 5, "N": 6, "D": 7, "M": 1, "O": 0, "R": 8, "Y": 2},
                "num_letter": 8,
                "operator_num": 1,
                "operator_level": 1,
            },
            "gpt_response": "",
        },
        "right": [
            "9567 + 1085 = 10652",
            "9567+1085=10652",
            "The answer is 9567 + 1085 = 10652.",
            "The answer is: $9567 + 1085 = 10652$",
            "答案是 9567 + 1085 = 10652。",
            r"\boxed{9567 + 1085 = 10652}",
        ],
        "wrong": [
            "1085 + 9567 = 10652",
            "9567 + 1085 = 10653",
            "2817 + 0368 = 03185",
            "9999 + 1111 = 11110",
            "95671085 + 10652 = 0",
            "9 5 6 7 + 1 0 8 5 = 1 0 6 5 2",
            "SEND + MORE = MONEY",
        ],
    },
    {
        # Two solutions: either passes.
        "game": {
            "question": "Solve AB * C - D = EF.",
            "answer": "",
            "difficulty": 1,
            "metadata": {"letter_words": ["AB", "C", "D", "EF"], "operators": ["*", "-"]},
            "gpt_response": "",
        },
        "right": ["13 * 7 - 2 = 89", "19 * 3 - 0 = 57"],
        "wrong": ["13 * 7 - 3 = 88", "12 * 8 - 3 = 93", "89 + 2 = 13 * 7", "13 * 7 + 2 = 89"],
    },
]
