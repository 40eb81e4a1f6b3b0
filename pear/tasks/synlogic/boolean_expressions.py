"""Boolean expressions: which of some expressions are true?"""

import json
import random
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.boxed import box, published_text, read_box


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    depth: int
    options: int

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 8:
            raise ValueError(f"depth must be from 1 to 8, got {self.depth}")
        if not 2 <= self.options <= 20:
            raise ValueError(f"options must be from 2 to 20, got {self.options}")


_LEVELS = {
    "easy": _Knobs(depth=2, options=3),
    "medium": _Knobs(depth=3, options=5),
    "hard": _Knobs(depth=5, options=8),
}

FACTS = {
    "A triangle has three sides.": True,
    "A spider has eight legs.": True,
    "A week has seven days.": True,
    "A dozen is twelve.": True,
    "The moon orbits the Earth.": True,
    "Rome is a city in Italy.": True,
    "Madrid is the capital of Spain.": True,
    "Egypt is a country in Africa.": True,
    "Ice is frozen water.": True,
    "Whales are mammals.": True,
    "An hour has sixty minutes.": True,
    "The Pacific is an ocean.": True,
    "Seven is a prime number.": True,
    "Bees make honey.": True,
    "A square has five corners.": False,
    "A year has ten months.": False,
    "The sun is a planet.": False,
    "Berlin is the capital of Italy.": False,
    "Canada is a country in Europe.": False,
    "Snakes have six legs.": False,
    "Bats are birds.": False,
    "Lead is lighter than water.": False,
    "Nine is a prime number.": False,
    "The Amazon is a desert.": False,
    "Sugar tastes salty.": False,
    "A minute has a hundred seconds.": False,
    "Horses lay eggs.": False,
    "Sydney is a city in Norway.": False,
}
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "is greater than or equal to": lambda left, right: left >= right,
    "is less than or equal to": lambda left, right: left <= right,
    "is not equal to": lambda left, right: left != right,
    "is greater than": lambda left, right: left > right,
    "is less than": lambda left, right: left < right,
    "is equal to": lambda left, right: left == right,
    ">=": lambda left, right: left >= right,
    "<=": lambda left, right: left <= right,
    "!=": lambda left, right: left != right,
    "==": lambda left, right: left == right,
    ">": lambda left, right: left > right,
    "<": lambda left, right: left < right,
}
# The longer of two comparisons with the same beginning comes first above.
_TOKEN = re.compile(rf'\s*("[^"]*"|[0-9]+|True|False|not|and|or|{"|".join(map(re.escape, _COMPARISONS))}|[-+*()])')
_ANSWER = re.compile(r"[A-Za-z](?:(?:\s*,\s*|\s+)[A-Za-z]){0,25}")


class BooleanExpressions(GeneratedTask):
    """Several expressions of `not`, `and`, `or`, comparisons and well-known facts; some of them are true.

    Levels differ in how deep the operators lie inside each other and in the number of expressions:
    easy 2, 3; medium 3, 5; hard 5, 8. At least one expression is true.

    The answer is `\\boxed{}` around the letters of the true ones, separated by commas or spaces, each once, in any
    order.
    """

    name = "synlogic/boolean_expressions"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = (
        "SynLogic's task `boolean_expressions` (arXiv 2505.19641); facts, generator and verifier are this package's"
    )

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        wanted = [False]
        while not any(wanted):
            wanted = [draw.random() < 0.5 for _ in range(knobs.options)]
        options: list[str] = []
        for value in wanted:
            text = _expression(draw, knobs.depth)
            while evaluate(text) != value or text in options:
                text = _expression(draw, knobs.depth)
            options.append(text)
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(options)},),
            state={"options": options},
            answer=box(
                ", ".join([label for label, value in zip(string.ascii_uppercase, wanted, strict=False) if value])
            ),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        labels = _read_labels(answer)
        true = _true_labels(problem.state)
        for label in labels:
            if label not in true:
                return ", ".join(labels), f"{label} is not true, or is no option"
        return ", ".join(labels), "" if labels == true else "a true option is missing"

    def canonical(self, problem: Problem) -> str:
        """The expressions, in whatever order they were given."""
        return f"{self.name}:{json.dumps(sorted(problem.state['options']), ensure_ascii=False)}"

    def solve(self, problem: Problem) -> str | None:
        if "true" in problem.state:
            return None
        lines = []
        for label, text in zip(string.ascii_uppercase, problem.state["options"], strict=False):
            steps: list[str] = []
            value = evaluate(text, steps)
            lines.append(f"{label}: {'; '.join([*steps, f'so {label} is {value}'])}.")
        return "<think> {} </think> <answer> {} </answer>".format("\n".join(lines), problem.answer)


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A published row: its options are lines `A. ...` of the question, and the true ones are those of its answer.

    Published expressions rest on facts that only their authors list, so their answer is what decides. Raises
    `ValueError` where options or answer are missing, or where the answer names no option.
    """
    question, answer = published_text(game, "question"), published_text(game, "answer")
    found = dict(re.findall(r"^[ \t]*([A-Z])[.:)][ \t]+(\S.*)$", question, re.MULTILINE))
    labels = [label for label, _ in zip(string.ascii_uppercase, found, strict=False) if label in found]
    if not labels or len(labels) != len(found):
        raise ValueError("`question` has no options A., B., ...")
    true = sorted(re.findall(r"[A-Z]", answer.upper()))
    if not true or len(set(true)) < len(true) or not set(true) <= set(labels):
        raise ValueError(f"`answer` is not some of the letters {', '.join(labels)}: '{answer[:50]}'")
    return {"options": [found[label].strip() for label in labels], "true": true}, box(", ".join(true))


def evaluate(text: str, steps: list[str] | None = None) -> bool:
    """The value of an expression, read by the usual precedence: `*`, then `+` and `-`, comparisons, not, and, or.

    Notes each operation in `steps`. Facts stand in double quotes. Raises `ValueError` on any other text.

    >>> evaluate('not (3 * 4 is greater than 10) or "Whales are mammals."')
    True
    """
    reader = _Reader(text, [] if steps is None else steps)
    value = reader.either()
    if reader.tokens[reader.position] or type(value) is not bool:
        raise ValueError(f"not a boolean expression: {text[:50]}")
    return value


class _Reader:
    """Reads an expression by recursive descent, one method a precedence, and computes its value on the way."""

    def __init__(self, text: str, steps: list[str]) -> None:
        self.tokens: list[str] = []
        self.position = 0
        self.steps = steps
        start = 0
        while match := _TOKEN.match(text, start):
            self.tokens.append(match.group(1))
            start = match.end()
        if text[start:].strip():
            raise ValueError(f"cannot be read from here: {text[start : start + 30]}")
        self.tokens.append("")

    def either(self) -> bool | int:
        return self._chain("or", self.both, any)

    def both(self) -> bool | int:
        return self._chain("and", self.negation, all)

    def negation(self) -> bool | int:
        count = 0
        while self._take("not"):
            count += 1
        value = self.comparison()
        if not count:
            return value
        result = _boolean(value) ^ (count % 2 == 1)
        self.steps.append(f"{'not ' * count}{value} is {result}")
        return result

    def comparison(self) -> bool | int:
        left = self.total()
        if self.tokens[self.position] not in _COMPARISONS:
            return left
        word = self._next()
        right = self.total()
        result = _COMPARISONS[word](_number(left), _number(right))
        self.steps.append(f"{left} {word} {right} is {result}")
        return result

    def total(self) -> bool | int:
        value = self.product()
        while (sign := self.tokens[self.position]) in ("+", "-"):
            self._next()
            other = _number(self.product())
            value = _number(value) + (other if sign == "+" else -other)
        return value

    def product(self) -> bool | int:
        value = self.factor()
        while self._take("*"):
            value = _number(value) * _number(self.factor())
        return value

    def factor(self) -> bool | int:
        token = self._next()
        if token == "-":
            return -_number(self.factor())
        if token == "(":
            value = self.either()
            if not self._take(")"):
                raise ValueError("a parenthesis is not closed")
            return value
        if token in ("True", "False"):
            return token == "True"
        if token.isdecimal():
            return int(token)
        if token.startswith('"') and token[1:-1] in FACTS:
            self.steps.append(f"{token} is {FACTS[token[1:-1]]}")
            return FACTS[token[1:-1]]
        raise ValueError(f"unexpected: '{token}'")

    def _chain(self, word: str, part: Callable[[], bool | int], combine: Callable[[list[bool]], bool]) -> bool | int:
        values = [part()]
        while self._take(word):
            values.append(part())
        if len(values) == 1:
            return values[0]
        result = combine([_boolean(value) for value in values])
        self.steps.append(f"{f' {word} '.join(map(str, values))} is {result}")
        return result

    def _next(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1]

    def _take(self, token: str) -> bool:
        taken = self.tokens[self.position] == token
        self.position += taken
        return taken


def _boolean(value: bool | int) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{value} is neither true nor false")
    return value


def _number(value: bool | int) -> int:
    if type(value) is not int:
        raise ValueError(f"{value} is no number")
    return value


def _expression(draw: random.Random, depth: int) -> str:
    """An expression with exactly so many operators inside each other."""
    if depth == 0:
        return _leaf(draw)
    deepest = _expression(draw, depth - 1)
    word = draw.choice(("not", "and", "or"))
    if word == "not":
        return f"{'not ' * draw.randint(1, 3)}({deepest})"
    parts = [_expression(draw, draw.randint(0, max(0, depth - 2))) for _ in range(draw.randint(1, 2))]
    parts.insert(draw.randint(0, len(parts)), deepest)
    return f" {word} ".join(f"({part})" for part in parts)


def _leaf(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.4:
        return f"({_arithmetic(draw)}) {draw.choice(list(_COMPARISONS))} ({_arithmetic(draw)})"
    if kind < 0.7:
        return f'"{draw.choice(list(FACTS))}"'
    return draw.choice(("True", "False"))


def _arithmetic(draw: random.Random) -> str:
    first, *rest = (draw.randint(-9, 9) for _ in range(draw.randint(2, 4)))
    return str(first) + "".join(f" {draw.choice('+-*')} {number}" for number in rest)


def _question(options: list[str]) -> str:
    lines = "\n".join(f"{label}. {text}" for label, text in zip(string.ascii_uppercase, options, strict=False))
    return (
        f"{INSTRUCTION}\n\n"
        "Which of these expressions are true? `*` goes before `+` and `-`, these before comparisons, then `not`, then "
        "`and`, then `or`; what stands in parentheses goes first. A sentence in quotes is true if what it says is "
        "so.\n\n"
        f"{lines}\n\n"
        "At least one of them is true. The answer is the letters of all the true ones, separated by commas, inside "
        "\\boxed{}: if X and Z were the true ones, \\boxed{X, Z}."
    )


def _true_labels(state: Mapping[str, Any]) -> list[str]:
    if "true" in state:
        return list(state["true"])
    pairs = zip(string.ascii_uppercase, state["options"], strict=False)
    return [label for label, text in pairs if _value(text)]


@lru_cache(maxsize=10_000)
def _value(text: str) -> bool:
    """`evaluate`, once for the many answers to one problem."""
    return evaluate(text)


def _read_labels(answer: str) -> list[str]:
    text = read_box(answer)
    if not _ANSWER.fullmatch(text):
        raise ValueError("the answer is not a list of letters like \\boxed{X, Z}")
    labels = sorted(re.split(r"[\s,]+", text.upper()))
    if len(set(labels)) < len(labels):
        raise ValueError("a letter stands twice")
    return labels
