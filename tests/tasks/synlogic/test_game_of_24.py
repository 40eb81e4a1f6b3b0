"""Game of 24: the verifier against trees computed apart, the reported hole, symmetries, knobs, published rows."""

import operator
import random
from collections.abc import Callable
from fractions import Fraction

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.expressions import read_expression
from pear.tasks.synlogic.game_of_24 import GameOf24, from_game
from tests.tasks.synlogic.game_of_24 import GAMES

TASK = GameOf24()
APPLY: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
}


def problem_of(state: dict) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def draw_tree(draw: random.Random, numbers: list[int]) -> tuple[str, Fraction | None]:
    """An expression in parentheses and its value, None where it divides by zero."""
    if len(numbers) == 1:
        return str(numbers[0]), Fraction(numbers[0])
    split, symbol = draw.randrange(1, len(numbers)), draw.choice("+-*/%")
    (left, one), (right, other) = draw_tree(draw, numbers[:split]), draw_tree(draw, numbers[split:])
    fails = one is None or other is None or (symbol in "/%" and other == 0)
    return f"({left}{symbol}{right})", None if fails else APPLY[symbol](one, other)  # type: ignore[arg-type]


def test_check_agrees_with_values_computed_beside_the_text() -> None:
    draw = random.Random(0)
    verdicts = []
    for _ in range(3_000):
        numbers = [draw.randint(1, 4) for _ in range(4)]
        text, value = draw_tree(draw, draw.sample(numbers, 4))
        state = {"numbers": numbers, "operators": list("+-*/%"), "target": draw.randint(1, 6)}
        verdicts.append(value == state["target"])
        assert (TASK.check(problem_of(state), text)[1] == "") == verdicts[-1], (text, value)
    assert 100 < sum(verdicts) < 1_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 4", 14),
        ("2 * 3 + 4", 10),
        ("9 - 4 - 3", 2),
        ("9 - (4 - 3)", 8),
        ("24 / 4 / 2", 3),
        ("7 % 4 * 2", 6),
        ("2 - 7 % 4", -1),
        ("((8)) / (3 - 8 / 3)", 24),
        ("1 / 2 % 1", Fraction(1, 2)),
        ("(1 - 8) % 3", 2),
    ],
)
def test_precedence(text: str, value: int | Fraction) -> None:
    assert read_expression(text).value() == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "()", "1 +", "+ 1", "1 2", "(1", "1)", "1 ( 2 )", ")(", "1 // 2", "2 ** 3", "-1", "01", "1_0", "1.0"),
        *("1e3", "x", "1,2", "\N{ARABIC-INDIC DIGIT ONE}", "\N{SUPERSCRIPT TWO}", "1\u00a0+ 2", "9" * 10),
        "1+" * 300 + "1",
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_expression(text)


def test_huge_values_are_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        read_expression("*".join(["999999999"] * 45)).value()


def test_a_sum_of_the_numbers_is_not_enough() -> None:
    state = {"numbers": [1, 2, 3, 4], "operators": list("+-*/"), "target": 24}
    assert "value" in TASK.check(problem_of(state), "```python\n1+2+3+4\n```")[1]
    assert TASK.check(problem_of(state), "```python\n(1+2+3)*4\n```")[1] == ""


def test_only_the_operators_given_may_be_used() -> None:
    state = {"numbers": [2, 3, 4, 1], "operators": ["+", "*"], "target": 24}
    assert "operator" in TASK.check(problem_of(state), "2*3*4/1")[1]
    assert TASK.check(problem_of(state), "2*3*4*1")[1] == ""
    assert "zero" in TASK.check(problem_of({**state, "operators": list("+*/-")}), "4/(3-2-1)")[1]


def test_equal_expressions_have_one_canonical_text() -> None:
    problem = problem_of({"numbers": [2, 3, 4], "operators": ["*"], "target": 24})
    texts = {TASK.check(problem, text)[0] for text in ("2*3*4", " 2 *  3*4", "```python\n2 * 3 * 4\n```")}
    assert texts == {"2 * 3 * 4"}


def test_canonical_forms_forget_the_order() -> None:
    state = {"numbers": [1, 2, 3, 4], "operators": ["+", "*"], "target": 24}
    form = TASK.canonical(problem_of(state))
    assert TASK.canonical(problem_of({**state, "numbers": [4, 2, 1, 3], "operators": ["*", "+"]})) == form
    for change in ({"numbers": [1, 2, 3, 5]}, {"operators": ["+"]}, {"target": 25}):
        assert TASK.canonical(problem_of({**state, **change})) != form


def test_knobs_are_honored_and_refused() -> None:
    state = TASK.generate(1, "easy(numbers=3,target=30,largest=9,operators=+*)").state
    assert len(state["numbers"]) == 3
    assert max(state["numbers"]) <= 9
    assert (state["operators"], state["target"]) == (["+", "*"], 30)
    refused = ["numbers=2", "numbers=7", "target=0", "target=101", "largest=8", "operators=+-", "operators=+*^"]
    for change in [*refused, "operators=++*", "operators="]:
        with pytest.raises(UserError, match=r"from|operators"):
            TASK.generate(1, f"easy({change})")


def test_published_rows() -> None:
    assert [from_game(row["game"])[1] for row in GAMES] == [
        "((1 * 2) * 3) * 4",
        "(((3 - 3) + 8) * 8) + 1",
    ]
    for row in GAMES:
        state = from_game(row["game"])[0]
        for text in row["right"]:
            assert TASK.check(problem_of(state), text)[1] == ""
    metadata = GAMES[0]["game"]["metadata"]
    for change in ({"numbers": None}, {"numbers": ["1"]}, {"operators": "+"}, {"operators": ["**"]}, {"result": "24"}):
        with pytest.raises(ValueError, match="metadata"):
            from_game({"metadata": {**metadata, **change}})
    with pytest.raises(ValueError, match="metadata"):
        from_game({"question": "x"})
    for solutions in (None, [], ["x"], ["nums: (1, 2, 3, 4), ops: ('+', '+', '+')"], ["nums: (1, 2), ops: ('+', '+')"]):
        assert from_game({"metadata": {**metadata, "solutions": solutions}})[1] == ""
