"""Cryptarithm: the rules against a naive twin, one solution by OR-tools, symmetries, knobs, published rows."""

import random
from functools import partial, reduce
from itertools import permutations

import pytest
from ortools.sat.python import cp_model

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.cryptarithm import Cryptarithm, from_game
from tests.tasks.synlogic.counting import another_solution
from tests.tasks.synlogic.cryptarithm import GAMES

TASK = Cryptarithm()


def problem_of(words: list[str], operators: list[str]) -> Problem:
    state = {"words": words, "operators": operators}
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def products(operators: list[str]) -> list[tuple[int, list[int]]]:
    """The left side as a sum of products: each with its sign and the positions of its factors."""
    groups: list[tuple[int, list[int]]] = [(1, [0])]
    for position, operator in enumerate(operators, 1):
        if operator == "*":
            groups[-1][1].append(position)
        else:
            groups.append((1 if operator == "+" else -1, [position]))
    return groups


def naive(words: list[str], operators: list[str], digits: dict[str, int]) -> bool:
    numbers = [sum(digits[letter] * 10**place for place, letter in enumerate(reversed(word))) for word in words]
    left = sum(sign * reduce(int.__mul__, (numbers[at] for at in group)) for sign, group in products(operators))
    starts = any(len(word) > 1 and digits[word[0]] == 0 for word in words)
    return left == numbers[-1] and not starts and len(set(digits.values())) == len(digits)


@pytest.mark.parametrize(
    ("words", "operators"),
    [(["AB", "C", "DA"], ["+"]), (["AB", "C", "D", "AE"], ["*", "-"]), (["A", "B", "C", "AD"], ["+", "*"])],
)
def test_check_agrees_with_the_naive_rules(words: list[str], operators: list[str]) -> None:
    problem, letters = problem_of(words, operators), sorted(set("".join(words)))
    draw, verdicts = random.Random(0), []
    choices = [*permutations(range(10), len(letters))]
    for values in [*draw.sample(choices, 4_000), (1,) * len(letters), (0,) * len(letters)]:
        digits = dict(zip(letters, values, strict=True))
        numbers = ["".join(str(digits[letter]) for letter in word) for word in words]
        text = " ".join(part for pair in zip(numbers, [*operators, "=", ""], strict=True) for part in pair).strip()
        verdicts.append(naive(words, operators, digits))
        assert (TASK.check(problem, text)[1] == "") == verdicts[-1], text
    assert sum(verdicts) >= 10


def model_of(words: list[str], operators: list[str]) -> tuple[cp_model.CpModel, dict]:
    model = cp_model.CpModel()
    digits = {letter: model.new_int_var(0, 9, letter) for letter in sorted(set("".join(words)))}
    model.add_all_different(digits.values())
    for word in words:
        if len(word) > 1:
            model.add(digits[word[0]] >= 1)
    numbers = []
    for word in words:
        numbers.append(model.new_int_var(0, 10 ** len(word), word))
        model.add(numbers[-1] == sum(digits[letter] * 10**place for place, letter in enumerate(reversed(word))))
    terms = []
    for sign, group in products(operators):
        product = model.new_int_var(0, 10**13, "product")
        model.add_multiplication_equality(product, [numbers[at] for at in group])
        terms.append(sign * product)
    model.add(sum(terms) == numbers[-1])
    return model, digits


@pytest.mark.parametrize(("level", "count"), [("easy", 8), ("medium", 4), ("hard", 1)])
def test_there_is_one_solution(level: str, count: int) -> None:
    for seed in range(count):
        problem = TASK.generate(seed, level)
        words = problem.state["words"]
        numbers = "".join(part for part in problem.answer.split() if part.isdigit())
        known = {letter: int(digit) for letter, digit in zip("".join(words), numbers, strict=True)}
        assert another_solution(partial(model_of, words, problem.state["operators"]), known) is None


def test_the_independent_solver_finds_a_second_solution_where_there_is_one() -> None:
    known = {"A": 1, "B": 2, "C": 3}
    assert another_solution(partial(model_of, ["A", "B", "C"], ["+"]), known) is not None


def test_any_solution_passes() -> None:
    problem = problem_of(["A", "B", "C"], ["+"])
    for text in ("1 + 2 = 3", "2 + 1 = 3", "4 + 5 = 9"):
        assert TASK.check(problem, text)[1] == ""
    assert TASK.check(problem, "The answer is 1+2=3.")[0] == TASK.check(problem, "1 + 2 = 3")[0] == "1 + 2 = 3"
    for text, reason in (("1 + 1 = 2", "two letters"), ("1 + 2 = 4", "hold")):
        assert reason in TASK.check(problem, text)[1]
    assert "two digits" in TASK.check(problem_of(["A", "A", "B"], ["+"]), "1 + 2 = 3")[1]
    assert "starts with 0" in TASK.check(problem_of(["AB", "C", "AD"], ["+"]), "01 + 2 = 03")[1]


@pytest.mark.parametrize(
    "text", ["1 + 2", "1 + 2 = 3 = 3", "1 2 + 3 = 4", "1 + = 3", "A + B = C", "1 + 2 = 12", "1 - 2 = 3"]
)
def test_what_is_no_such_equation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="equation"):
        TASK.check(problem_of(["A", "B", "C"], ["+"]), text)


def test_canonical_forms_are_equal_up_to_names_and_the_order_of_terms() -> None:
    form = TASK.canonical(problem_of(["ABC", "CD", "EF", "AGA"], ["-", "+"]))
    assert TASK.canonical(problem_of(["XYZ", "ZU", "VW", "XTX"], ["-", "+"])) == form
    assert TASK.canonical(problem_of(["EF", "ABC", "CD", "AGA"], ["+", "-"])) == form
    assert TASK.canonical(problem_of(["CD", "ABC", "EF", "AGA"], ["-", "+"])) != form
    assert TASK.canonical(problem_of(["ABC", "CD", "EF", "AGG"], ["-", "+"])) != form
    product = problem_of(["AB", "CD", "EF", "AGA"], ["*", "+"])
    assert TASK.canonical(product) == TASK.canonical(problem_of(["GB", "CD", "EF", "GAG"], ["*", "+"]))
    assert TASK.canonical(product) != TASK.canonical(problem_of(["AB", "CD", "EF", "AGA"], ["+", "*"]))


def test_knobs_are_honored_and_refused() -> None:
    for level in ("easy(letters=7,operators=2)", "hard(letters=9,operators=2)"):
        state = TASK.generate(1, level).state
        assert len(set("".join(state["words"]))) == (7 if "easy" in level else 9)
        assert len(state["operators"]) == 2
        assert ("*" in state["operators"]) == ("hard" in level)
    for change in ("letters=4", "letters=11", "operators=0", "operators=4"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, f"easy({change})")


def test_published_rows() -> None:
    assert [from_game(row["game"])[1] for row in GAMES] == ["9567 + 1085 = 10652", ""]
    game = GAMES[0]["game"]
    for answer in ("9567 + 1085 = 10653", "see above", None):
        assert from_game({**game, "answer": answer})[1] == ""
    metadata = game["metadata"]
    for change in (
        {"letter_words": None},
        {"letter_words": ["SEND", "MORE"]},
        {"letter_words": ["SEND", "MO-RE", "X"]},
        {"letter_words": ["ABCDEF", "GHIJKL", "M"]},
        {"operators": ["/"]},
        {"operators": []},
    ):
        with pytest.raises(ValueError, match="metadata"):
            from_game({"metadata": {**metadata, **change}})
    with pytest.raises(ValueError, match="metadata"):
        from_game({"question": "x"})
