"""Math path: every filling of small equations against a naive twin, the reported hole, knobs, published rows."""

import operator
import random
from fractions import Fraction
from itertools import product

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.math_path import MathPath, from_game
from tests.tasks.synlogic.math_path import GAMES

TASK = MathPath()
APPLY = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
}


def problem_of(equation: str) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state={"equation": equation}, answer="")


def naive(numbers: list[int], operators: str) -> Fraction | None:
    """The value of an expression without parentheses: first all of `* / %` from the left, then `+ -`."""
    terms, signs = [Fraction(numbers[0])], []
    for symbol, number in zip(operators, numbers[1:], strict=True):
        if symbol in "+-":
            signs.append(symbol)
            terms.append(Fraction(number))
        elif symbol in "/%" and number == 0:
            return None
        else:
            terms[-1] = APPLY[symbol](terms[-1], Fraction(number))
    total = terms[0]
    for symbol, term in zip(signs, terms[1:], strict=True):
        total = APPLY[symbol](total, term)
    return total


@pytest.mark.parametrize("operators", ["+*-", "-%*", "/*+", "%-/"])
def test_check_agrees_with_the_naive_value_on_all_fillings(operators: str) -> None:
    right = 3
    problem = problem_of(f"?{operators[0]}?{operators[1]}4{operators[2]}? = {right}")
    found = 0
    for one, two, four in product(range(10), repeat=3):
        text = f"[[{one}{operators[0]}{two}{operators[1]}4{operators[2]}{four} = {right}]]"
        is_right = naive([one, two, 4, four], operators) == right
        assert (TASK.check(problem, text)[1] == "") == is_right, text
        found += is_right
    assert found > 5


def test_parentheses_and_more_equals_signs_are_not_overlooked() -> None:
    problem = problem_of("?*(?+2) = 9")
    assert TASK.check(problem, "[[3*(1+2) = 9]]")[1] == ""
    assert "given" in TASK.check(problem, "[[7*1+2 = 9]]")[1]
    with pytest.raises(ValueError, match="=' has no place"):
        TASK.check(problem, "[[3*(1+2) = 9 = 9]]")


def test_equal_equations_have_one_canonical_text() -> None:
    problem = problem_of("?+? = 9")
    assert TASK.check(problem, "[[4+5=9]]")[0] == TASK.check(problem, "[[ 4 + 5 = 9 ]]")[0] == "[[4 + 5 = 9]]"
    assert TASK.canonical(problem) == TASK.canonical(problem_of("? + ? = 9"))
    assert TASK.canonical(problem) != TASK.canonical(problem_of("? + ? = 8"))


def test_generated_equations_stay_whole_on_the_way() -> None:
    draw = random.Random(0)
    for seed in draw.sample(range(10_000), 50):
        trace = TASK.solve(TASK.generate(seed, "hard"))
        assert "/" not in "".join(part.partition(" = ")[2] for part in trace.partition(" Try ")[2].split(". ")[1:-1])


def test_knobs_are_honored_and_refused() -> None:
    for operators, hidden, blanks in ((3, 1.0, 4), (5, 0.5, 3), (9, 0.3, 3)):
        equation = TASK.generate(1, f"easy(operators={operators},hidden={hidden})").state["equation"]
        left = equation.partition(" = ")[0]
        assert sum(character in "+-*/%" for character in left) == operators
        assert left.count("?") == blanks
    for change in ("operators=2", "operators=21", "hidden=0.2", "hidden=1.1", "hidden=nan"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, f"easy({change})")


def test_published_rows() -> None:
    assert [from_game(row["game"])[1] for row in GAMES] == ["[[2 +4 *3 -4 = 10]]", ""]
    for known in ("2+4*3-5 = 10", "2+4*3 = 14", "x", None):
        assert from_game({"metadata": {"query_expr": "?+?*3-? = 10", "ref_expr": known}})[1] == ""
    for query in (None, "", "?+?", "?+ = 3", "?+x = 3", "? + ? = x", "(?+? = 3"):
        with pytest.raises(ValueError, match="query_expr"):
            from_game({"metadata": {"query_expr": query}})
    with pytest.raises(ValueError, match="query_expr"):
        from_game({"question": "x"})
