"""Operation: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    value = int(problem.answer)
    return [
        str(value + 1),
        str(value - 1),
        rf"\boxed{{{value + 1}}}",
        rf"\boxed{{{value}}} \boxed{{{value + 1}}}",
        str(-value if value else 10),
        f"{value}.5",
        f"{value}.0000001",
        f"1{abs(value)}",
        f"({2 * value + 1})/2",
        f"{2 * value + 1}/2",
        rf"\frac{{{2 * value + 1}}}{{2}}",
        f"{value}/0",
        f"{value} {value}",
        f"{value}, {value}",
        f"{value} = {value}",
        f"x = {value}",
        f"the value is {value}",
        f"{value}%",
        f"[{value}]",
        f"'{value}'",
        f"{value} + 0",
        f"int({value})",
        problem.state["expression"],
        "nan",
        "inf",
        "True",
    ]


def _definition(operation: str, precedence: int) -> dict[str, Any]:
    return {"conditions": [], "associativity": "left", "precedence": precedence, "default_operation": operation}


GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "Define △ on the real numbers: x △ y = 2*x - y. Compute 3 △ 4 * 5.",
            "answer": "10",
            "difficulty": 1,
            "metadata": {
                "expression": "3 △ 4 * 5",
                "symbol_definitions": {"△": _definition("2*x - y", 3)},
                "result": 10,
                "simplified_expr": "((2*3 - 4)) * 5",
            },
            "gpt_response": "",
        },
        "right": ["10", r"\boxed{10}", "10.0", "20/2", r"\boxed{\frac{20}{2}}", "$10$", "+10"],
        "wrong": ["-10", "10.0000001", "-14", "10 20", "ten", "1e2", "100/9", r"\boxed{}", "3 △ 4 * 5"],
    },
    {
        "game": {
            "question": "Define ◇: x ◇ y = x/y. Compute 10 ◇ 3.",
            "answer": "3.3333333333333335",
            "difficulty": 1,
            "metadata": {
                "expression": "10 ◇ 3",
                "symbol_definitions": {"◇": _definition("x/y", 2)},
                "result": 3.3333333333333335,
            },
            "gpt_response": "",
        },
        "right": ["10/3", r"\boxed{\frac{10}{3}}", r"\boxed{\dfrac{10}{3}}", "3.333333", "3.3333333333333335"],
        "wrong": ["3.33", "3", "3/10", r"\frac{-10}{3}", r"-\frac{10}{3}", "3.34"],
    },
]
