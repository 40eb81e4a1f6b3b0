"""Game of 24: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    numbers, target = problem.state["numbers"], problem.state["target"]
    gold = problem.answer

    def block(text: str) -> str:
        return f"```python\n{text}\n```"

    total = " + ".join(map(str, numbers))
    product = " * ".join(map(str, numbers))
    sums = [block(total)] if sum(numbers) != target else []
    return [
        *sums,
        block(product) if sum(numbers) == target else block(f"{total} + 0"),
        block(f"{target}"),
        block(f"({gold}) + 0"),
        block(f"({gold}) * 1"),
        block(f"{gold} = {target}"),
        block(f"-(0 - ({gold}))"),
        block(f"+{gold}"),
        block(f"({gold}) - {numbers[0]} + {numbers[0]}"),
        block(f"({gold}"),
        block(f"{gold})"),
        block(f"{gold} +"),
        block(f"({gold}) ** 1"),
        block(f"({gold}) // 1"),
        block(gold.replace(str(numbers[-1]), f"{numbers[-1]}.0", 1)),
        block(gold.replace(str(numbers[-1]), f"0{numbers[-1]}", 1)),
        block(gold.replace(str(numbers[-1]), str(numbers[-1] + 1), 1)),
        block(f"{gold}\n{gold}"),
        block(f"x = {gold}"),
        block(f"eval('{gold}')"),
        block(f"int({gold})"),
        block(f"[{gold}]"),
        f"{gold} is the answer",
        block(", ".join(map(str, numbers))),
    ]


GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "Use 1, 2, 3, 4 and + - * / to get 24.",
            "answer": "",
            "difficulty": 1,
            "metadata": {
                "trace_id": "5b1c1f0a-8f8d-4d7e-9d6b-2a4f6f1a0001",
                "numbers": [1, 2, 3, 4],
                "solutions": ["nums: (1, 2, 3, 4), ops: ('*', '*', '*')"],
                "candidates": [1, 2, 3, 4, 5, 6, 7, 8, 9],
                "operators": ["+", "-", "*", "/"],
                "result": 24,
                "num_of_numbers": 4,
            },
            "gpt_response": "",
        },
        "right": [
            "```python\n1 * 2 * 3 * 4\n```",
            "```python\n(1+2+3)*4\n```",
            "```\n4 * (3 + 2 + 1)\n```",
            "So:\n```python\n2 * 3 * 4 / 1\n```",
            "3*4*2*1",
        ],
        "wrong": [
            "```python\n1 + 2 + 3 + 4\n```",
            "```python\n12 * 3 - 4\n```",
            "```python\n24\n```",
            "```python\n4 * 3 * 2\n```",
            "```python\n(1 + 2 + 3) * 4 + 0\n```",
            "```python\n4 ** 2 + 3 * 1\n```",
        ],
    },
    {
        "game": {
            "question": "Mathador: reach 65 from 3, 3, 8, 8, 1 with +, -, * and %.",
            "answer": "",
            "difficulty": 1,
            "metadata": {
                "numbers": [1, 3, 3, 8, 8],
                "solutions": ["nums: (3, 3, 8, 8, 1), ops: ('-', '+', '*', '+')"],
                "operators": ["+", "-", "*", "%"],
                "result": 65,
            },
            "gpt_response": "",
        },
        "right": ["```python\n(3 - 3 + 8) * 8 + 1\n```", "```python\n8 * 8 + 1 + 3 % 3\n```"],
        "wrong": ["```python\n8 * 8 + 3 / 3\n```", "```python\n8 * 8 + 1 * 3 / 3\n```", "8 * 8 + 1", "65", "[]"],
    },
]
