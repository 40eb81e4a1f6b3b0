"""Word sorting with a mistake: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    right = problem.state["mistake"]
    number = 1 if right == "No" else int(right)
    last = len(problem.state["steps"])
    contents = [
        str(number + 1),
        "7777" if right == "No" else "No",
        str(last + 1) if right != str(last + 1) else "1",
        f"0{number}",
        f"-{number}",
        f"{number}.0",
        f"step {number}",
        f"{right}, {number + 1}",
        f"'{right}'",
        f"[{right}]",
        f"{right}{right}",
        "None",
        "Yes",
        "0",
        "",
    ]
    return [*(f"\\boxed{{{content}}}" for content in contents), f"\\boxed{{{right}", f'"{right}"']


GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": 'Thought 1: "bee": "b" (2). "ant": "b" (2). Thought 2: We now have: ["bee" ? "ant"].',
            "answer": 1,
            "difficulty": 1,
            "metadata": {"is_mistake": True, "thoughts": "Thought 1", "words": ["bee", "ant"], "answer": 1},
            "gpt_response": "",
        },
        "right": ["\\boxed{1}", "The first wrong step is \\boxed{1}."],
        "wrong": ["\\boxed{2}", "\\boxed{No}", "\\boxed{01}", "\\boxed{one}"],
    },
    {
        "game": {
            "question": 'Thought 1: "bee": "b" (2). "ant": "a" (1). Thought 2: We now have: "ant" < "bee".',
            "answer": None,
            "difficulty": 1,
            "metadata": {"is_mistake": False, "thoughts": "Thought 1", "words": ["bee", "ant"], "answer": None},
        },
        "right": ["\\boxed{No}", "\\boxed{no}", "\\boxed{NO}"],
        "wrong": ["\\boxed{1}", "\\boxed{None}", "\\boxed{0}", "\\boxed{}", "\\boxed{No mistake}"],
    },
]
