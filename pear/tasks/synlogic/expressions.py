"""Arithmetic in answers: expressions of whole numbers, their tokens and their exact values. No text is ever run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_MAX_LENGTH = 500
_MAX_DIGITS = 9
_LARGEST = 10**40
_TOKEN = re.compile(r"[0-9]+|[-+*/%()]")
_BLANKS = " \t\r\n"
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "%": 2}


@dataclass(frozen=True, kw_only=True)
class Expression:
    """An expression of whole numbers, two-sided operators and parentheses.

    Args:
        tokens: the expression's parts in order.
        postfix: numbers and operators in the order in which they are computed.
    """

    tokens: tuple[str, ...]
    postfix: tuple[int | str, ...]

    @property
    def numbers(self) -> list[int]:
        """The numbers in the order in which they are written."""
        return [int(token) for token in self.tokens if token.isdigit()]

    @property
    def operators(self) -> list[str]:
        """The operators in the order in which they are written."""
        return [token for token in self.tokens if token in _PRECEDENCE]

    def steps(self) -> list[tuple[Fraction, str, Fraction, Fraction]]:
        """Each operation as (left, operator, right, result), in the order in which they are computed. Raises
        `ValueError` on a division by zero and on numbers beyond 10 to the 40th."""
        stack: list[Fraction] = []
        steps = []
        for item in self.postfix:
            if isinstance(item, int):
                stack.append(Fraction(item))
                continue
            right, left = stack.pop(), stack.pop()
            steps.append((left, item, right, apply(left, item, right)))
            stack.append(steps[-1][-1])
        return steps

    def value(self) -> Fraction:
        """The exact value. Raises `ValueError` as `steps` does."""
        steps = self.steps()
        return steps[-1][-1] if steps else Fraction(self.numbers[0])


def apply(left: Fraction, operator: str, right: Fraction) -> Fraction:
    """The exact result of one operation; `%` is the remainder with the sign of the divisor, for fractions too. Raises
    `ValueError` on a division by zero and on numbers beyond 10 to the 40th.

    >>> apply(Fraction(-7), "%", Fraction(3)), apply(Fraction(1), "/", Fraction(3))
    (Fraction(2, 1), Fraction(1, 3))
    """
    if operator in "/%" and not right:
        raise ValueError("the expression divides by zero")
    if operator == "+":
        result = left + right
    elif operator == "-":
        result = left - right
    elif operator == "*":
        result = left * right
    else:
        result = left / right if operator == "/" else left % right
    if abs(result.numerator) > _LARGEST or result.denominator > _LARGEST:
        raise ValueError("the expression's numbers are too large")
    return result


def tokenize(text: str) -> list[str]:
    """The numbers, operators and parentheses of a text. Raises `ValueError` on any other character, on numbers with
    more than nine digits or a leading zero, and on more than 500 characters.

    >>> tokenize("(12+3) * 4")
    ['(', '12', '+', '3', ')', '*', '4']
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"the expression is longer than {_MAX_LENGTH} characters")
    tokens = []
    at = 0
    while at < len(text):
        if text[at] in _BLANKS:
            at += 1
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at]!r} has no place in the expression")
        token = match.group()
        if token.isdigit() and (len(token) > _MAX_DIGITS or (len(token) > 1 and token.startswith("0"))):
            raise ValueError("a number is too long or starts with 0")
        tokens.append(token)
        at = match.end()
    return tokens


def read_expression(text: str) -> Expression:
    """Reads `+ - * / %` between whole numbers, and parentheses; signs before a number are refused. Raises `ValueError`,
    with words for people, on any other text.

    >>> read_expression("8 / (3 - 8 / 3)").value()
    Fraction(24, 1)
    """
    tokens = tokenize(text)
    return Expression(tokens=tuple(tokens), postfix=tuple(_postfix(tokens)))


def _postfix(tokens: Sequence[str]) -> list[int | str]:
    """By precedence, operators of one precedence from left to right (Dijkstra's shunting yard)."""
    output: list[int | str] = []
    waiting: list[str] = []
    operand_next = True
    for token in tokens:
        if operand_next != (token.isdigit() or token == "("):
            raise ValueError(f"'{token}' stands at a wrong place of the expression")
        if token.isdigit():
            output.append(int(token))
            operand_next = False
        elif token == "(":
            waiting.append(token)
        elif token == ")":
            while waiting and waiting[-1] != "(":
                output.append(waiting.pop())
            if not waiting:
                raise ValueError("a parenthesis is not opened")
            waiting.pop()
        else:
            while waiting and waiting[-1] != "(" and _PRECEDENCE[waiting[-1]] >= _PRECEDENCE[token]:
                output.append(waiting.pop())
            waiting.append(token)
            operand_next = True
    if operand_next:
        raise ValueError("the expression has no end")
    while waiting:
        if waiting[-1] == "(":
            raise ValueError("a parenthesis is not closed")
        output.append(waiting.pop())
    return output


def write_number(value: Fraction) -> str:
    """A number for people: whole, or as a fraction; negative ones in parentheses.

    >>> write_number(Fraction(-1, 2)), write_number(Fraction(3))
    ('(-1/2)', '3')
    """
    return f"({value})" if value < 0 else str(value)
