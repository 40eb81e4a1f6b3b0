"""Math path: find the digits that were hidden in an equation."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pear.tasks.extraction import INSTRUCTION, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.expressions import read_expression, tokenize, write_number

_OPERATORS = "+-*/%"
_MAX_ANSWER = 2_000


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    operators: int
    hidden: float

    def __post_init__(self) -> None:
        if not 3 <= self.operators <= 20:
            raise ValueError("operators is from 3 to 20")
        if not 0.3 <= self.hidden <= 1:
            raise ValueError("hidden is from 0.3 to 1")


_LEVELS = {
    "easy": _Knobs(operators=4, hidden=0.5),
    "medium": _Knobs(operators=7, hidden=0.7),
    "hard": _Knobs(operators=12, hidden=0.8),
}


class MathPath(GeneratedTask):
    """An equation whose left side is an expression of digits, some of which are hidden. Each problem has a solution,
    most have several.

    Levels differ in the number of operators and in the share of digits that are hidden: easy 4, 0.5; medium 7, 0.7;
    hard 12, 0.8.

    The answer is the whole equation between `[[` and `]]`. It is computed exactly, in fractions.
    """

    name = "synlogic/math_path"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `math_path` (arXiv 2505.19641); generator and verifier are this package's"
    many_solutions = True

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        while True:
            text = _draw_expression(draw, knobs.operators)
            value = _whole_value(text)
            if value is not None and abs(value) < 1_000:
                break
        digits = [at for at, character in enumerate(text) if character.isdigit()]
        hidden = draw.sample(digits, max(2, round(knobs.hidden * len(digits))))
        puzzle = "".join("?" if at in hidden else character for at, character in enumerate(text))
        state = {"equation": f"{puzzle} = {value}"}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=f"[[{text} = {value}]]",
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        if len(answer) > _MAX_ANSWER:
            raise ValueError(f"the answer is longer than {_MAX_ANSWER:,} characters")
        text = unwrap(answer)
        if not (text.startswith("[[") and text.endswith("]]")):
            raise ValueError("the answer is not an equation between [[ and ]]")
        left, right = _sides(text[2:-2])
        given_left, given_right = _sides(problem.state["equation"])
        expression = read_expression(left)
        canonical = f"[[{' '.join(expression.tokens)} = {right}]]"
        if right != given_right or not _fits(expression.tokens, _tokens(given_left)):
            return canonical, "it is not the given equation with a digit for each ?"
        try:
            value = expression.value()
        except ValueError as error:
            return canonical, str(error)
        return canonical, "" if value == Fraction(right) else "the equation does not hold"

    def canonical(self, problem: Problem) -> str:
        """The equation without its blanks."""
        return f"{self.name}:{''.join(problem.state['equation'].split())}"

    def solve(self, problem: Problem) -> str:
        left = _sides(problem.answer[2:-2])[0]
        steps = [
            f"{write_number(one)} {operator} {write_number(other)} = {result}."
            for one, operator, other, result in read_expression(left).steps()
        ]
        return f"<think> Try {left}. {' '.join(steps)} </think> <answer> {problem.answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: query_expr, ref_expr). Raises `ValueError` where a
    field is missing or has another shape."""
    metadata = game.get("metadata")
    equation = metadata.get("query_expr") if isinstance(metadata, Mapping) else None
    if not isinstance(equation, str):
        raise ValueError("metadata: query_expr is not a text")
    try:
        left, right = _sides(equation)
        read_expression("".join(_tokens(left)).replace("?", "1"))
        Fraction(right)
    except ValueError as error:
        raise ValueError(f"metadata: query_expr is no equation ({error})") from None
    assert isinstance(metadata, Mapping)
    state, known = {"equation": equation}, metadata.get("ref_expr")
    if not isinstance(known, str):
        return state, ""
    answer = f"[[{known}]]"
    try:
        wrong = MathPath().check(Problem(task="", level="", id="", prompt=(), state=state, answer=""), answer)[1]
    except ValueError:
        return state, ""
    return state, "" if wrong else answer


def _sides(equation: str) -> tuple[str, str]:
    """The left side, and the right side, a whole number without a sign or with a minus. Raises `ValueError` on any
    other text."""
    left, equals, right = equation.partition("=")
    sign, number = ("-", right.strip()[1:]) if right.strip().startswith("-") else ("", right.strip())
    if not equals or len(tokenize(number)) != 1 or not number.isdigit():
        raise ValueError("the text is not an expression, an equals sign and a number")
    return left.strip(), sign + number


def _tokens(text: str) -> list[str]:
    """The tokens of an expression of which digits are hidden."""
    tokens = []
    for part in text.replace("?", " ? ").split():
        tokens += [part] if part == "?" else tokenize(part)
    return tokens


def _fits(tokens: Sequence[str], given: Sequence[str]) -> bool:
    return len(tokens) == len(given) and all(
        (token.isdigit() and len(token) == 1) if hidden == "?" else token == hidden
        for token, hidden in zip(tokens, given, strict=True)
    )


def _draw_expression(draw: random.Random, count: int) -> str:
    """Digits and operators, with up to two pairs of parentheses around two numbers that follow each other."""
    parts = [str(draw.randrange(10)) for _ in range(count + 1)]
    operators = [draw.choice(_OPERATORS) for _ in range(count)]
    for at in sorted(draw.sample(range(count), draw.randint(0, 2))):
        if parts[at].isdigit():
            parts[at], parts[at + 1] = f"({parts[at]}", f"{parts[at + 1]})"
    return parts[0] + "".join(f" {operator} {part}" for operator, part in zip(operators, parts[1:], strict=True))


def _whole_value(text: str) -> int | None:
    """The value, where it is a whole number on all of the way and no division has a remainder."""
    try:
        steps = read_expression(text).steps()
    except ValueError:
        return None
    return int(steps[-1][-1]) if all(step[-1].denominator == 1 for step in steps) else None


def _question(state: dict[str, Any]) -> str:
    return (
        f"{INSTRUCTION}\n\n"
        "In the equation below, some digits on the left side were replaced by question marks:\n\n"
        f"{state['equation']}\n\n"
        "Put a digit from 0 to 9 for every question mark so that the equation holds. Nothing else may be changed: the "
        "operators, the parentheses and the other digits stay as they are. * and / and % bind before + and -, and are "
        "computed from left to right; / is exact division, and a % b is the remainder of a divided by b, with the sign "
        "of b. Nothing may be divided by 0.\n\n"
        "The answer is the whole equation between [[ and ]], like [[2 + 5 = 7]]."
    )
