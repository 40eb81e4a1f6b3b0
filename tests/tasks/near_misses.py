"""For each task: answers that are almost right, and rows for tasks that read files."""

import importlib
import importlib.util
import re
from collections.abc import Callable
from typing import Any

from pear.tasks import TASKS, Problem

HAS_REASONING_GYM = importlib.util.find_spec("reasoning_gym") is not None
AVAILABLE = [name for name in TASKS if HAS_REASONING_GYM or not name.startswith("reasoning_gym/")]


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


def boxed(problem: Problem) -> list[str]:
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


def another_text(problem: Problem) -> list[str]:
    """For answers of any kind: a character changed, words added, half of it, and other things altogether."""
    answer = problem.answer
    at = re.search(r"[1-9]|0(?!\.)", answer) or re.search(r"[A-Za-z]", answer) or re.search(r"\S", answer)
    assert at is not None
    old = at[0]
    new = str((int(old) + 1) % 10) if old.isdigit() else chr(ord(old) + (-1 if old in "zZ" else 1))
    return [
        answer[: at.start()] + new + answer[at.end() :],
        f"{answer} and more",
        f"{answer}\n{answer}",
        answer[: len(answer) // 2].strip() or "none",
        "nothing of the kind",
        "[[0]]",
    ]


def _cases(name: str) -> Any:
    """The cases of a SynLogic task: `near_misses`, `GAMES` and, where it reads files, `ROWS`."""
    return importlib.import_module(f"tests.tasks.{name.replace('/', '.')}")


def is_maths(name: str) -> bool:
    """Whether answers stand in a box, with or without the think and answer tags."""
    return name.startswith("maths/")


def near_misses(problem: Problem) -> list[str]:
    finders: dict[str, Callable[[Problem], list[str]]] = {"tiny": chain, "maths": boxed, "reasoning_gym": another_text}
    family = problem.task.partition("/")[0]
    return (finders[family] if family in finders else _cases(problem.task).near_misses)(problem)


def games(task: str) -> list[dict[str, Any]]:
    """A SynLogic task's fixtures: a published `game`, and texts of `right` and `wrong` answers to it."""
    return _cases(task).GAMES


def file_rows(name: str) -> list[dict[str, Any]]:
    return _ROWS[name] if name in _ROWS else _cases(name).ROWS


_PLAIN = [
    {"problem": "What is half of one?", "answer": r"\frac{1}{2}"},
    {"problem": "How many seconds have 20 minutes?", "answer": "1200"},
]
_ROWS: dict[str, list[dict[str, Any]]] = {
    "maths/aime24": _PLAIN[1:],
    "maths/aime25": _PLAIN[1:],
    "maths/amc23": [{"problem": "How many seconds have 20 minutes?", "answer": 1200.0}],
    "maths/dapo17k": [
        {
            "prompt": [{"role": "user", "content": "How many seconds have 20 minutes?"}],
            "reward_model": {"ground_truth": "1200", "style": "rule"},
        }
    ],
    "maths/file": _PLAIN,
    "maths/gsm8k": [
        {"question": "What is 6 times 7?", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"},
        {"question": "How many seconds have 20 minutes?", "answer": "#### 1,200"},
        {"problem": "What is half of one?", "answer": r"\frac{1}{2}"},
        {"problem": "Factor x^2 - 1.", "answer": "(x-1)(x+1)"},
        {"problem": "What is 9 divided by 4?", "answer": 2.25},
    ],
    "maths/math500": _PLAIN,
    "maths/minerva": [{"problem": "What is half of one?", "solution": r"It is \boxed{\frac{1}{2}}."}],
    "maths/olympiadbench": [{"question": "What is half of one?", "final_answer": [r"\frac{1}{2}"], "error": None}],
    "maths/synthetic2": [
        {
            "problem_id": "vm_1",
            "task_type": "verifiable_math",
            "reward": 1.0,
            "messages": [
                {"role": "user", "content": "What is half of one?"},
                {"role": "assistant", "content": r"<think> easy </think> \boxed{\frac{1}{2}}"},
            ],
        }
    ],
}
