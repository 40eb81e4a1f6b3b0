"""Operation: compute with operators that are defined for the occasion."""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pear.tasks.extraction import INSTRUCTION, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem

_SYMBOLS = ("△", "◇", "☆", "□", "⊕", "⊗")
_BUILT_IN = {"+": 1, "-": 1, "*": 2}
_LARGEST = 100_000
_MAX_ANSWER = 1_000
_NUMBER = re.compile(r"[-+]?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:[eE][-+]?[0-9]{1,2})?")
_RATIO = re.compile(r"([-+]?[0-9]{1,20}) ?/ ?([0-9]{1,20})")
_FRAC = re.compile(r"([-+]?) ?\\d?frac ?\{([-+]?[0-9]{1,20})\} ?\{([0-9]{1,20})\}")
_CONDITIONS: dict[str, Callable[[int, int], bool]] = {
    "x and y are both even": lambda x, y: x % 2 == y % 2 == 0,
    "x and y are both odd": lambda x, y: x % 2 == y % 2 == 1,
    "x is even": lambda x, y: x % 2 == 0,
    "y is odd": lambda x, y: y % 2 == 1,
    "x is greater than y": lambda x, y: x > y,
    "x is less than y": lambda x, y: x < y,
    "x is a multiple of 3": lambda x, y: x % 3 == 0,
    "y is a multiple of 3": lambda x, y: y % 3 == 0,
    "the sum of x and y is even": lambda x, y: (x + y) % 2 == 0,
}


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    symbols: int
    operands: int
    condition_rate: float

    def __post_init__(self) -> None:
        if not 1 <= self.symbols <= 4:
            raise ValueError("symbols is from 1 to 4")
        if not self.symbols + 2 <= self.operands <= 12:
            raise ValueError("operands is from 2 more than symbols to 12")
        if not 0 <= self.condition_rate <= 1:
            raise ValueError("condition_rate is from 0 to 1")


_LEVELS = {
    "easy": _Knobs(symbols=1, operands=4, condition_rate=0.3),
    "medium": _Knobs(symbols=2, operands=6, condition_rate=0.6),
    "hard": _Knobs(symbols=4, operands=9, condition_rate=0.9),
}


@dataclass(frozen=True, kw_only=True)
class _Definition:
    """`x symbol y` is p x + q y + r xy + s by one set of coefficients where the condition holds, else by the other."""

    symbol: str
    precedence: int
    otherwise: tuple[int, int, int, int]
    condition: str
    special: tuple[int, int, int, int]

    def apply(self, x: int, y: int) -> int:
        holds = bool(self.condition) and _CONDITIONS[self.condition](x, y)
        p, q, r, s = self.special if holds else self.otherwise
        return p * x + q * y + r * x * y + s


class Operation(GeneratedTask):
    """New operators with rules and precedences, and an expression to compute with them.

    Levels differ in the number of new symbols, of operands, and in the share of definitions with a special case:
    easy 1, 4, 0.3; medium 2, 6, 0.6; hard 4, 9, 0.9.

    The answer is the number, bare or in `\\boxed{}`: whole, as a decimal or as a fraction. It must be exact, except
    where a published answer is a decimal: there it may differ by a millionth.
    """

    name = "synlogic/operation"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `operation` (arXiv 2505.19641); generator and verifier are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        while True:
            definitions = [_draw_definition(draw, symbol, knobs) for symbol in draw.sample(_SYMBOLS, knobs.symbols)]
            tokens = _draw_expression(draw, definitions, knobs)
            steps = _compute(tokens, definitions)
            if all(abs(step[-1]) <= _LARGEST for step in steps):
                break
        value = str(steps[-1][-1])
        state = {
            "definitions": [[item.symbol, item.precedence, _rule(item)] for item in definitions],
            "expression": " ".join(tokens),
            "value": value,
        }
        trace = [f"({left}) {symbol} ({right}) = {result}." for left, symbol, right, result in steps]
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state={**state, "steps": trace},
            answer=value,
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        if len(answer) > _MAX_ANSWER:
            raise ValueError(f"the answer is longer than {_MAX_ANSWER:,} characters")
        value, right = _read_number(unwrap(answer).strip(" $")), problem.state["value"]
        slack = Fraction(1, 1_000_000) if re.search(r"[.eE]", right) else 0
        return str(value), "" if abs(value - _read_number(right)) <= slack else "the value is another"

    def canonical(self, problem: Problem) -> str:
        """The definitions and the expression, with the symbols renamed in the order in which they occur in it."""
        expression, definitions = problem.state["expression"], problem.state["definitions"]
        order = sorted(definitions, key=lambda item: (expression + item[0]).index(item[0]))
        text = json.dumps([order, expression], ensure_ascii=False)
        for number, (symbol, *_) in enumerate(order):
            text = text.replace(symbol, f"<{number}>")
        return f"{self.name}:{text}"

    def solve(self, problem: Problem) -> str:
        return f"<think> {' '.join(problem.state['steps'])} </think> <answer> {problem.answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`answer`; `metadata`: expression, symbol_definitions). Raises
    `ValueError` where a field is missing or has another shape, and where the answer is no number."""
    metadata, answer = game.get("metadata"), game.get("answer")
    if not isinstance(answer, str) or not isinstance(metadata, Mapping):
        raise ValueError("answer or metadata is missing")
    expression, definitions = metadata.get("expression"), metadata.get("symbol_definitions")
    if not isinstance(expression, str) or not isinstance(definitions, Mapping) or "" in definitions:
        raise ValueError("metadata: expression or symbol_definitions is missing")
    value = answer.strip()
    _read_number(value)
    listed = [[symbol, json.dumps(rule, ensure_ascii=False, sort_keys=True)] for symbol, rule in definitions.items()]
    return {"definitions": listed, "expression": expression, "value": value}, value


def _read_number(text: str) -> Fraction:
    """A whole number, a decimal, or a fraction. Raises `ValueError` on any other text."""
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    if match := _RATIO.fullmatch(text):
        top, bottom = match.groups()
    elif match := _FRAC.fullmatch(text):
        top, bottom = match[2], match[3]
        top = str(-int(top)) if match[1] == "-" else top
    else:
        raise ValueError("the answer is not a number")
    if not int(bottom):
        raise ValueError("the answer divides by zero")
    return Fraction(int(top), int(bottom))


def _draw_definition(draw: random.Random, symbol: str, knobs: _Knobs) -> _Definition:
    condition = draw.choice(list(_CONDITIONS)) if draw.random() < knobs.condition_rate else ""
    otherwise = _draw_coefficients(draw)
    special = _draw_coefficients(draw)
    while special == otherwise:
        special = _draw_coefficients(draw)
    return _Definition(
        symbol=symbol, precedence=draw.randint(1, 3), otherwise=otherwise, condition=condition, special=special
    )


def _draw_coefficients(draw: random.Random) -> tuple[int, int, int, int]:
    product = draw.choice((0, 0, 1, -1))
    first, second = (draw.choice((-3, -2, -1, 1, 2, 3)) for _ in range(2))
    return first, second, product, draw.randint(-5, 5)


def _draw_expression(draw: random.Random, definitions: Sequence[_Definition], knobs: _Knobs) -> list[str]:
    """Numbers from 1 to 10 with operators between them, each new symbol at least once."""
    symbols = [item.symbol for item in definitions]
    signs = symbols + [draw.choice([*_BUILT_IN, *symbols]) for _ in range(knobs.operands - 1 - len(symbols))]
    draw.shuffle(signs)
    return [str(draw.randint(1, 10)), *(part for sign in signs for part in (sign, str(draw.randint(1, 10))))]


def _compute(tokens: Sequence[str], definitions: Sequence[_Definition]) -> list[tuple[int, str, int, int]]:
    """Each operation as (left, symbol, right, result): the highest precedence first, the leftmost of equals first."""
    rules = {item.symbol: item for item in definitions}
    precedence = _BUILT_IN | {item.symbol: item.precedence for item in definitions}
    values, signs = [int(token) for token in tokens[::2]], list(tokens[1::2])
    steps = []
    while signs:
        at = max(range(len(signs)), key=lambda place: (precedence[signs[place]], -place))
        sign, left, right = signs.pop(at), values[at], values.pop(at + 1)
        if sign in rules:
            values[at] = rules[sign].apply(left, right)
        else:
            values[at] = left * right if sign == "*" else left + right if sign == "+" else left - right
        steps.append((left, sign, right, values[at]))
    return steps


def _formula(coefficients: tuple[int, int, int, int]) -> str:
    terms = [(number, name) for number, name in zip(coefficients, ("x", "y", "x*y", ""), strict=True) if number]
    text = ""
    for number, name in terms:
        size = str(abs(number)) if not name else name if abs(number) == 1 else f"{abs(number)}*{name}"
        sign = " - " if number < 0 else " + "
        text += size if not text and number > 0 else f"-{size}" if not text else sign + size
    return text


def _rule(item: _Definition) -> str:
    if not item.condition:
        return f"x {item.symbol} y = {_formula(item.otherwise)}."
    special, otherwise = _formula(item.special), _formula(item.otherwise)
    return f"if {item.condition}, x {item.symbol} y = {special}; otherwise, x {item.symbol} y = {otherwise}."


def _question(state: dict[str, Any]) -> str:
    levels: dict[int, list[str]] = {}
    for symbol, level in [*_BUILT_IN.items(), *((item[0], item[1]) for item in state["definitions"])]:
        levels.setdefault(level, []).append(symbol)
    order = "; then ".join(" and ".join(levels[level]) for level in sorted(levels, reverse=True))
    rules = "\n".join(f"- {rule}" for _, _, rule in state["definitions"])
    return (
        f"{INSTRUCTION}\n\n"
        f"These operators are defined for whole numbers x and y, where + and - and * have their usual meaning and "
        f"precedence in the definitions:\n\n{rules}\n\n"
        f"In the expression below, these are computed first, and so on: {order}. Operators that are named together "
        f"are computed from left to right.\n\n{state['expression']}\n\n"
        "Compute its value. The answer is the number alone, like \\boxed{1234567}."
    )
