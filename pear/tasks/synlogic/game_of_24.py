"""Game of 24 (with other targets and operators: Mathador): make a number from given numbers by arithmetic."""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.expressions import read_expression, write_number

_OPERATORS = "+-*/%"
_MAX_ANSWER = 2_000
# How many expressions are drawn from the same numbers before other numbers are drawn.
_TRIES = 100
_SOLUTION = re.compile(r"nums: \(([0-9, ]{1,200})\), ops: \(([-+*/%', ]{1,200})\)")


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    numbers: int
    target: int
    largest: int
    operators: str = "+-*/"

    def __post_init__(self) -> None:
        if not 3 <= self.numbers <= 6:
            raise ValueError("numbers is from 3 to 6")
        if not 1 <= self.target <= 100:
            raise ValueError("target is from 1 to 100")
        if not 9 <= self.largest <= 100:
            raise ValueError("largest is from 9 to 100")
        if len(set(self.operators)) != len(self.operators) or not set(self.operators) <= set(_OPERATORS):
            raise ValueError(f"operators are distinct ones of {_OPERATORS}")
        if not {"+", "*"} <= set(self.operators):
            raise ValueError("operators hold + and *")


_LEVELS = {
    "easy": _Knobs(numbers=4, target=24, largest=13),
    "medium": _Knobs(numbers=5, target=24, largest=25),
    "hard": _Knobs(numbers=6, target=48, largest=30, operators="+-*/%"),
}


class GameOf24(GeneratedTask):
    """Numbers, a target, and the operators that may be used. Each problem has a solution, most have several.

    Levels differ in how many numbers there are, the target, the largest number and the operators: easy 4, 24, 13,
    `+-*/`; medium 5, 24, 25, `+-*/`; hard 6, 48, 30, `+-*/%`.

    The answer is an expression, in a Python code block or bare, in which each number stands exactly once. It is
    computed exactly, in fractions, and signs before a number are not read.
    """

    name = "synlogic/game_of_24"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = (
        "the rules of SynLogic's tasks `game_of_24` and `mathador` (arXiv 2505.19641); generator and verifier are this "
        "package's"
    )
    many_solutions = True

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        expression = None
        while expression is None:
            numbers = sorted(draw.randint(1, knobs.largest) for _ in range(knobs.numbers))
            tries = (_draw_expression(draw, numbers, knobs) for _ in range(_TRIES))
            expression = next((found for found in tries if found is not None), None)
        state = {"numbers": numbers, "operators": list(knobs.operators), "target": knobs.target}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=expression,
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        if len(answer) > _MAX_ANSWER:
            raise ValueError(f"the answer is longer than {_MAX_ANSWER:,} characters")
        expression = read_expression(unwrap(answer))
        state = problem.state
        canonical = " ".join(expression.tokens)
        if sorted(expression.numbers) != sorted(state["numbers"]):
            return canonical, "the numbers are not the given ones, each once"
        if not set(expression.operators) <= set(state["operators"]):
            return canonical, "an operator may not be used"
        try:
            value = expression.value()
        except ValueError as error:
            return canonical, str(error)
        return canonical, "" if value == state["target"] else f"the value is not {state['target']}"

    def canonical(self, problem: Problem) -> str:
        """The numbers and the operators in order, and the target."""
        state = problem.state
        return f"{self.name}:{json.dumps([sorted(state['numbers']), sorted(state['operators']), state['target']])}"

    def solve(self, problem: Problem) -> str:
        steps = [
            f"{write_number(left)} {operator} {write_number(right)} = {result}."
            for left, operator, right, result in read_expression(problem.answer).steps()
        ]
        return f"<think> {' '.join(steps)} </think> <answer>\n```python\n{problem.answer}\n```\n</answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: numbers, operators, result, solutions). Raises
    `ValueError` where a field is missing or has another shape."""
    metadata = game.get("metadata")
    if not isinstance(metadata, Mapping):
        raise ValueError("metadata is missing")
    numbers, operators, target = (metadata.get(key) for key in ("numbers", "operators", "result"))
    if not isinstance(numbers, list) or not numbers or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("metadata: numbers is not a list of whole numbers")
    if not isinstance(operators, list) or any(operator not in list(_OPERATORS) for operator in operators):
        raise ValueError(f"metadata: operators is not a list of some of {_OPERATORS}")
    if type(target) is not int:
        raise ValueError("metadata: result is not an integer")
    state = {"numbers": numbers, "operators": operators, "target": target}
    return state, _published_answer(metadata.get("solutions"), state)


def _published_answer(solutions: Any, state: dict[str, Any]) -> str:
    """The first published solution, whose operations go from left to right; "" where it is none."""
    first = solutions[0] if isinstance(solutions, list) and solutions else ""
    match = _SOLUTION.fullmatch(first) if isinstance(first, str) else None
    if match is None:
        return ""
    numbers = match[1].replace(",", " ").split()
    operators = [character for character in match[2] if character in _OPERATORS]
    if len(numbers) != len(operators) + 1:
        return ""
    text = numbers[0]
    for operator, number in zip(operators, numbers[1:], strict=True):
        text = f"({text}) {operator} {number}" if " " in text else f"{text} {operator} {number}"
    problem = Problem(task=GameOf24.name, level="", id="", prompt=(), state=state, answer=text)
    try:
        return "" if GameOf24().check(problem, text)[1] else text
    except ValueError:
        return ""


def _draw_expression(draw: random.Random, numbers: list[int], knobs: _Knobs) -> str | None:
    """Combines two of the numbers at random until one is left, in whole numbers from 0 up to ten times the target: its
    expression if it is the target."""
    values = [(number, str(number)) for number in numbers]
    while len(values) > 1:
        left, left_text = values.pop(int(draw.random() * len(values)))
        right, right_text = values.pop(int(draw.random() * len(values)))
        operator = knobs.operators[int(draw.random() * len(knobs.operators))]
        result = _whole(left, operator, right)
        if result is None or result > 10 * knobs.target:
            return None
        values.append((result, f"({left_text} {operator} {right_text})"))
    value, text = values[0]
    return text[1:-1] if value == knobs.target else None


def _whole(left: int, operator: str, right: int) -> int | None:
    """The result of one operation if it is a whole number from 0 up and a remainder is one of a larger number."""
    if operator == "+":
        return left + right
    if operator == "*":
        return left * right
    if operator == "-":
        return left - right if left >= right else None
    if not right or left < right:
        return None
    if operator == "%":
        return left % right
    return None if left % right else left // right


def _question(state: dict[str, Any]) -> str:
    numbers, operators = ", ".join(map(str, state["numbers"])), state["operators"]
    remainder = (
        " a % b is the remainder of a divided by b, with the sign of b; it binds as * and / do."
        if "%" in operators
        else ""
    )
    division = " Division is exact and may give fractions on the way." if "/" in operators else ""
    return (
        f"{INSTRUCTION}\n\n"
        f"Make {state['target']} from the numbers {numbers}. Use each of them exactly once (a number that is given "
        f"twice, twice), in any order, and no other numbers; digits may not be joined. Between the numbers you may use "
        f"the operators {', '.join(operators)}, each as often as you like, and parentheses. Signs before a number are "
        f"not allowed.{division}{remainder}\n\n"
        "The answer is a Python code block with nothing but the expression, without an equals sign, like\n"
        "```python\n(5 + 6)\n```"
    )
