"""For each task: answers that are almost right, and rows for tasks that read files."""

import json
from collections.abc import Callable
from typing import Any

from pear.tasks import Problem


def chain(problem: Problem) -> list[str]:
    states = problem.answer.split()
    first, rest = int(states[0]), states[1:]
    return [
        " ".join([str((first + 1) % 7), *rest]),
        " ".join([*states[:-1], str((int(states[-1]) - 1) % 7)]),
        " ".join([str(first + 7), *rest]),
        " ".join([f"0{first}", *rest]),
        " ".join([f"+{first}", *rest]),
        " ".join([f"{first}.0", *rest]),
        " ".join([chr(0x0660 + first), *rest]),
        " ".join([*states, *states]),
        " ".join(states[:-1]) or "none",
        f"[{problem.answer}]",
        f"the end is {problem.answer}",
        ", ".join([*states, ""]),
    ]


def survo(problem: Problem) -> list[str]:
    solution = json.loads(problem.answer)
    matrix = problem.state["matrix"]
    blanks = [(row, column) for row, line in enumerate(matrix) for column, value in enumerate(line) if value is None]
    (row, column), (other_row, other_column) = blanks[0], blanks[-1]
    first, last = solution[row][column], solution[other_row][other_column]

    def changed(changes: dict[tuple[int, int], Any]) -> str:
        copy = [list(line) for line in solution]
        for (at_row, at_column), value in changes.items():
            copy[at_row][at_column] = value
        return json.dumps(copy)

    given = next((at, line.index(value)) for at, line in enumerate(matrix) for value in line if value is not None)
    return [
        changed({(row, column): last, (other_row, other_column): first}),
        changed({(row, column): last}),
        changed({(row, column): first + 1}),
        changed({(row, column): float(first)}),
        changed({(row, column): str(first)}),
        changed({(row, column): None}),
        changed({(row, column): True}),
        changed({given: solution[given[0]][given[1]] + 1}),
        changed({(len(solution) - 1, len(solution[0]) - 1): 0}),
        json.dumps([line[:-1] for line in solution[:-1]]),
        json.dumps(solution[:-1]),
        json.dumps([[*line, 0] for line in solution]),
        json.dumps([list(line) for line in zip(*solution, strict=True)]),
        json.dumps([solution[1], solution[0], *solution[2:]]),
        json.dumps([solution]),
        problem.answer + " " + problem.answer,
        problem.answer.replace("[", "(").replace("]", ")"),
        problem.answer[:-1],
    ]


def word_sorting(problem: Problem) -> list[str]:
    words = problem.answer.split(", ")
    return [
        ", ".join([words[1], words[0], *words[2:]]),
        ", ".join([*words[:-2], words[-1], words[-2]]),
        ", ".join(reversed(words)),
        ", ".join(sorted(words, reverse=problem.state["descending"])),
        ", ".join(words[:-1]),
        ", ".join([*words, words[-1]]),
        ", ".join([words[0], words[0], *words[2:]]),
        ", ".join([words[0] + "s", *words[1:]]),
        problem.answer.upper(),
        problem.answer.replace(", ", "; "),
        problem.answer + ".",
        json.dumps([words]),
        json.dumps({"words": words}),
        json.dumps([*words, 1]),
    ]


def gsm8k(problem: Problem) -> list[str]:
    gold = problem.state["gold"]
    return [
        rf"\boxed{{{answer}}}"
        for answer in [
            f"{gold} + 1",
            f"-({gold}) - 1",
            f"{gold}, {gold} + 1",
            rf"{gold} \text{{ or }} 7919",
            rf"{gold} \neq 7919",
            f"{gold}, 7919",
            rf"\{{{gold}, 7919\}}",
            rf"{gold} \quad 7919",
            rf"\text{{the answer is }} {gold}",
            "x_{7919}",
        ]
    ] + [rf"\boxed{{{gold}}} \boxed{{7919}}", rf"\boxed{{{gold}", gold, f"answer: {gold}"]


NEAR_MISSES: dict[str, Callable[[Problem], list[str]]] = {
    "tiny/affine_chain": chain,
    "tiny/permutation_chain": chain,
    "synlogic/survo": survo,
    "synlogic/word_sorting": word_sorting,
    "maths/gsm8k": gsm8k,
}

# Tasks that also take an answer without the think and answer tags.
TAGS_OPTIONAL = {"maths/gsm8k"}

FILE_ROWS: dict[str, list[dict[str, Any]]] = {
    "maths/gsm8k": [
        {"question": "What is 6 times 7?", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"},
        {"question": "How many seconds have 20 minutes?", "answer": "#### 1,200"},
        {"problem": "What is half of one?", "answer": r"\frac{1}{2}"},
        {"problem": "Factor x^2 - 1.", "answer": "(x-1)(x+1)"},
        {"problem": "What is 9 divided by 4?", "answer": 2.25},
    ],
}
