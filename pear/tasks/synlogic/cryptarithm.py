"""Cryptarithm: letters stand for digits in an equation; find the digits."""

import json
import random
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem

_MAX_ANSWER = 2_000
_MAX_LETTERS = 10
_INTRODUCTION = re.compile(r"\A(?:(?:the )?answer is|答案是)[ \t]*[:\uff1a]?", re.IGNORECASE)
_TOKEN = re.compile(r"[0-9]{1,40}|[-+*=]")
_WORD = re.compile(r"[A-Za-z]{1,20}")
# Words and the operators between them; the last word is the result.
Equation = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    letters: int
    operators: int
    multiplication: bool = False

    def __post_init__(self) -> None:
        if not 5 <= self.letters <= _MAX_LETTERS:
            raise ValueError(f"letters is from 5 to {_MAX_LETTERS}")
        if not 1 <= self.operators <= 3:
            raise ValueError("operators is from 1 to 3")


_LEVELS = {
    "easy": _Knobs(letters=6, operators=1),
    "medium": _Knobs(letters=8, operators=1),
    "hard": _Knobs(letters=9, operators=2, multiplication=True),
}


class Cryptarithm(GeneratedTask):
    """An equation `word + word = word` whose letters are different digits. Each problem has exactly one solution.

    Levels differ in how many letters and operators there are, and in whether `*` is one of them or only `+` and `-`:
    easy 6, 1, no; medium 8, 1, no; hard 9, 2, yes.

    The answer is the equation in digits; "The answer is" before it is left out.
    """

    name = "synlogic/cryptarithm"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `cryptarithm` (arXiv 2505.19641); generator and verifier are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        while True:
            operators = _draw_operators(draw, knobs)
            numbers = _draw_numbers(draw, operators, knobs)
            if numbers is None:
                continue
            letters = draw.sample(string.ascii_uppercase, 10)
            words = ["".join(letters[int(digit)] for digit in str(number)) for number in numbers]
            if _solutions((tuple(words), tuple(operators))) == [[str(number) for number in numbers]]:
                break
        state = {"words": words, "operators": operators}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=_write([str(number) for number in numbers], operators),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        words, operators = problem.state["words"], problem.state["operators"]
        numbers, signs = _read_equation(answer)
        if [len(number) for number in numbers] != [len(word) for word in words] or signs != operators:
            raise ValueError("the answer is not the equation with digits in place of its letters")
        return _write(numbers, operators), _broken_rule(words, operators, numbers)

    def canonical(self, problem: Problem) -> str:
        """The equation with its letters renamed in the order in which they occur; terms of a sum in any order."""
        words, operators = problem.state["words"], problem.state["operators"]
        if "*" in operators:
            return f"{self.name}:{_renamed(words, operators)}"
        *terms, result = zip(["+", *operators, "="], words, strict=True)
        orders = [terms] if len(terms) > 4 else list(_orders(terms))
        views = [[*order, result] for order in orders]
        return f"{self.name}:{min(_renamed([word for _, word in view], [sign for sign, _ in view]) for view in views)}"

    def solve(self, problem: Problem) -> str:
        words, operators = problem.state["words"], problem.state["operators"]
        numbers = _solutions((tuple(words), tuple(operators)))[0]
        digits = dict(zip("".join(words), "".join(numbers), strict=True))
        steps = []
        for column in range(1, max(map(len, words)) + 1):
            new = [word[-column] for word in words if len(word) >= column]
            known = ", ".join(f"{letter} = {digits[letter]}" for letter in dict.fromkeys(new))
            total = _compute([int(number[-column:]) for number in numbers[:-1]], operators)
            steps.append(f"The last {column} digits: {known}, and the left side ends as {total} does.")
        steps.append("No other digits do.")
        return f"<think> {' '.join(steps)} </think> <answer> {_write(numbers, operators)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`metadata`: letter_words, operators; `answer`). Raises
    `ValueError` where a field is missing or has another shape."""
    metadata = game.get("metadata")
    if not isinstance(metadata, Mapping):
        raise ValueError("metadata is missing")
    words, operators = metadata.get("letter_words"), metadata.get("operators")
    if not isinstance(words, list) or not all(isinstance(word, str) and _WORD.fullmatch(word) for word in words):
        raise ValueError("metadata: letter_words is not a list of words")
    if not isinstance(operators, list) or any(operator not in ("+", "-", "*") for operator in operators):
        raise ValueError("metadata: operators is not a list of +, - and *")
    if not operators or len(words) != len(operators) + 2 or len(set("".join(words))) > _MAX_LETTERS:
        raise ValueError("metadata: letter_words and operators make no equation")
    state = {"words": words, "operators": operators}
    answer = game.get("answer")
    if not isinstance(answer, str):
        return state, ""
    try:
        wrong = Cryptarithm().check(Problem(task="", level="", id="", prompt=(), state=state, answer=""), answer)[1]
    except ValueError:
        return state, ""
    return state, "" if wrong else answer


def _draw_operators(draw: random.Random, knobs: _Knobs) -> list[str]:
    operators = [draw.choice("+-") for _ in range(knobs.operators)]
    if knobs.multiplication:
        operators[draw.randrange(knobs.operators)] = "*"
    return operators


def _draw_numbers(draw: random.Random, operators: list[str], knobs: _Knobs) -> list[int] | None:
    """The operands and the result, in as many different digits as letters are wanted; None where they are not."""
    near_times = {position for index, sign in enumerate(operators) if sign == "*" for position in (index, index + 1)}
    lengths = [4 if index in near_times else draw.randint(5, 6) for index in range(len(operators) + 1)]
    numbers = [draw.randrange(10 ** (length - 1), 10**length) for length in lengths]
    numbers.append(_compute(numbers, operators))
    return numbers if numbers[-1] >= 10 and len(set("".join(map(str, numbers)))) == knobs.letters else None


def _compute(numbers: Sequence[int], operators: Sequence[str]) -> int:
    """`*` before `+` and `-`."""
    total, sign, product = 0, 1, numbers[0]
    for operator, number in zip(operators, numbers[1:], strict=True):
        if operator == "*":
            product *= number
        else:
            total += sign * product
            sign, product = 1 if operator == "+" else -1, number
    return total + sign * product


def _solutions(equation: Equation) -> list[list[str]]:
    """The first two solutions, as the words in digits.

    It goes from the last digits to the first: the equation holds modulo 10 to the k for the last k digits alone, and
    the digit of the result follows from those of the operands.
    """
    words, operators = equation
    first = {word[0] for word in words if len(word) > 1}
    width = max(map(len, words))
    columns = [[word[-column] if len(word) >= column else "" for word in words] for column in range(1, width + 1)]
    digits: dict[str, int] = {"": 0}
    free = [True] * 10
    found: list[list[str]] = []

    def fill(column: int, tails: list[int]) -> None:
        if column == width:
            if _compute(tails[:-1], operators) == tails[-1]:
                found.append(["".join(str(digits[letter]) for letter in word) for word in words])
            return
        unknown = [letter for letter in dict.fromkeys(columns[column][:-1]) if letter not in digits]
        choose(column, tails, unknown)

    def choose(column: int, tails: list[int], unknown: list[str]) -> None:
        if not unknown:
            follow(column, tails)
            return
        letter = unknown[0]
        for digit in range(letter in first, 10):
            if free[digit] and len(found) < 2:
                free[digit], digits[letter] = False, digit
                choose(column, tails, unknown[1:])
                free[digit] = True
                del digits[letter]

    def follow(column: int, tails: list[int]) -> None:
        power = 10**column
        operands = [
            tail + power * digits[letter] for tail, letter in zip(tails[:-1], columns[column][:-1], strict=True)
        ]
        digit = _compute(operands, operators) // power % 10
        letter = columns[column][-1]
        tails = [*operands, tails[-1] + power * digit]
        if letter in digits:
            if digits[letter] == digit:
                fill(column + 1, tails)
        elif free[digit] and (digit or letter not in first):
            free[digit], digits[letter] = False, digit
            fill(column + 1, tails)
            free[digit] = True
            del digits[letter]

    fill(0, [0] * len(words))
    return found


def _read_equation(answer: str) -> tuple[list[str], list[str]]:
    """The numbers as they are written and the operators between them. Raises `ValueError` on any other text."""
    if len(answer) > _MAX_ANSWER:
        raise ValueError(f"the answer is longer than {_MAX_ANSWER:,} characters")
    text = _INTRODUCTION.sub("", unwrap(answer)).strip(" \t\r\n$").removesuffix(".").removesuffix("。").strip(" \t$")
    tokens = []
    for part in text.split():
        at = 0
        while at < len(part):
            match = _TOKEN.match(part, at)
            if match is None:
                raise ValueError(f"{part[at]!r} has no place in the equation")
            tokens.append(match.group())
            at = match.end()
    numbers, signs = tokens[::2], tokens[1::2]
    if len(tokens) % 2 == 0 or any(sign.isdigit() for sign in signs) or not all(number.isdigit() for number in numbers):
        raise ValueError("the answer is not an equation")
    if len(signs) < 2 or signs[-1] != "=" or "=" in signs[:-1]:
        raise ValueError("the answer is not an equation")
    return numbers, signs[:-1]


def _broken_rule(words: list[str], operators: list[str], numbers: list[str]) -> str:
    pairs = set(zip("".join(words), "".join(numbers), strict=True))
    if len(pairs) != len({letter for letter, _ in pairs}):
        return "a letter stands for two digits"
    if len(pairs) != len({digit for _, digit in pairs}):
        return "two letters stand for one digit"
    if any(len(number) > 1 and number.startswith("0") for number in numbers):
        return "a number starts with 0"
    *left, right = map(int, numbers)
    return "" if _compute(left, operators) == right else "the equation does not hold"


def _renamed(words: Sequence[str], operators: Sequence[str]) -> str:
    names: dict[str, str] = {}
    for letter in "".join(words):
        names.setdefault(letter, string.ascii_lowercase[len(names)])
    return json.dumps([["".join(names[letter] for letter in word) for word in words], list(operators)])


def _orders(terms: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    if not terms:
        yield []
    for index, term in enumerate(terms):
        for rest in _orders(terms[:index] + terms[index + 1 :]):
            yield [term, *rest]


def _write(numbers: Sequence[str], operators: Sequence[str]) -> str:
    left = " ".join(f"{number} {operator}" for number, operator in zip(numbers[:-2], operators, strict=True))
    return f"{left} {numbers[-2]} = {numbers[-1]}"


def _question(state: dict[str, Any]) -> str:
    return (
        f"{INSTRUCTION}\n\n"
        "In this equation every letter stands for a digit. The same letter is always the same digit, different "
        "letters are different digits, and no number of two or more digits starts with 0. As usual, * is computed "
        "before + and -.\n\n"
        f"{_write(state['words'], state['operators'])}\n\n"
        "Find the digits for which the equation holds.\n"
        "The answer is the equation with digits in place of the letters, like: The answer is 12 + 34 = 46."
    )
