"""Operation: values against a recursive twin that reads the prompt's rules, symmetries, knobs, published rows."""

import re

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.operation import Operation, from_game
from tests.tasks.synlogic.operation import GAMES

TASK = Operation()
BUILT_IN = {"+": 1, "-": 1, "*": 2}


def problem_of(value: str, **state: object) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state={"value": value, **state}, answer=value)


def polynomial(text: str, x: int, y: int) -> int:
    """The value of a text like `-2*x + y - x*y + 3`."""
    total = 0
    for sign, term in re.findall(r"([-+]?) ?([0-9xy*]+)", text):
        product = 1
        for factor in term.split("*"):
            product *= {"x": x, "y": y}[factor] if factor in "xy" else int(factor)
        total += -product if sign == "-" else product
    return total


def holds(condition: str, x: int, y: int) -> bool:
    if condition.startswith("x and y are both"):
        return [x % 2, y % 2] == [int(condition.endswith("odd"))] * 2
    if match := re.fullmatch(r"([xy]) is (even|odd|a multiple of 3)", condition):
        value = {"x": x, "y": y}[match[1]]
        return {"even": not value % 2, "odd": bool(value % 2), "a multiple of 3": not value % 3}[match[2]]
    if condition.startswith("the sum"):
        return (x + y) % 2 == 0
    return x > y if condition == "x is greater than y" else x < y


def naive(tokens: list[str], rules: dict[str, tuple[int, str]]) -> int:
    """Splits at the operator that is computed last: the rightmost of the lowest precedence."""
    if len(tokens) == 1:
        return int(tokens[0])
    levels = {**BUILT_IN, **{symbol: level for symbol, (level, _) in rules.items()}}
    at = min(range(1, len(tokens), 2), key=lambda place: (levels[tokens[place]], -place))
    x, y, symbol = naive(tokens[:at], rules), naive(tokens[at + 1 :], rules), tokens[at]
    if symbol in BUILT_IN:
        return {"+": x + y, "-": x - y, "*": x * y}[symbol]
    rule = rules[symbol][1]
    plain = re.fullmatch(rf"x {symbol} y = (.*)\.", rule)
    if plain:
        return polynomial(plain[1], x, y)
    match = re.fullmatch(rf"if (.*), x {symbol} y = (.*); otherwise, x {symbol} y = (.*)\.", rule)
    assert match
    return polynomial(match[2] if holds(match[1], x, y) else match[3], x, y)


@pytest.mark.parametrize("level", TASK.levels)
def test_values_agree_with_the_rules_as_they_are_written(level: str) -> None:
    for seed in range(200):
        state = TASK.generate(seed, level).state
        rules = {symbol: (precedence, rule) for symbol, precedence, rule in state["definitions"]}
        assert naive(state["expression"].split(), rules) == int(state["value"])
        assert abs(int(state["value"])) <= 100_000


def test_the_prompt_names_the_precedences() -> None:
    problem = TASK.generate(1, "hard")
    order = re.search(r"computed first, and so on: (.*?)\. Op", problem.prompt[0]["content"])
    assert order
    levels = {**BUILT_IN, **{symbol: level for symbol, level, _ in problem.state["definitions"]}}
    named = [part.split(" and ") for part in order[1].split("; then ")]
    assert [{levels[symbol] for symbol in group} for group in named] == [
        {level} for level in sorted(set(levels.values()), reverse=True)
    ]
    assert sorted(symbol for group in named for symbol in group) == sorted(levels)


def test_numbers_are_exact_unless_the_published_one_is_a_decimal() -> None:
    for text, right in [("7/3", "7/3"), ("14/6", "7/3"), ("-7", "-7"), ("-7.0", "-7"), ("3.500000001", "3.5")]:
        assert TASK.check(problem_of(right), text)[1] == ""
    for text, right in [("2.3333333333", "7/3"), ("7.0000000001", "7"), ("3.50001", "3.5"), ("-7/3", "7/3")]:
        assert TASK.check(problem_of(right), text)[1] == "the value is another"
    for text in ("7/-3", "7/0", "1e400", "0x7", "7_0", "--7", "", "7" * 30):
        with pytest.raises(ValueError, match="answer"):
            TASK.check(problem_of("7"), text)
    assert TASK.check(problem_of("7/3"), r"\boxed{\frac{14}{6}}")[0] == TASK.check(problem_of("7/3"), "7/3")[0] == "7/3"


def test_canonical_forms_forget_the_names_of_symbols() -> None:
    one = [["△", 1, "x △ y = x + y."], ["□", 2, "x □ y = x - y."]]
    other = [["☆", 2, "x ☆ y = x - y."], ["⊕", 1, "x ⊕ y = x + y."]]
    form = TASK.canonical(problem_of("0", definitions=one, expression="1 △ 2 □ 3"))
    assert TASK.canonical(problem_of("0", definitions=other, expression="1 ⊕ 2 ☆ 3")) == form
    assert TASK.canonical(problem_of("0", definitions=other, expression="1 ☆ 2 ⊕ 3")) != form
    assert TASK.canonical(problem_of("0", definitions=one, expression="1 △ 2 □ 4")) != form


def test_knobs_are_honored_and_refused() -> None:
    state = TASK.generate(1, "easy(symbols=3,operands=7,condition_rate=1)").state
    assert len(state["definitions"]) == 3
    assert all(rule.startswith("if ") for _, _, rule in state["definitions"])
    tokens = state["expression"].split()
    assert len(tokens[::2]) == 7
    assert {symbol for symbol, _, _ in state["definitions"]} <= set(tokens)
    plain = TASK.generate(1, "hard(condition_rate=0)").state
    assert not any(rule.startswith("if ") for _, _, rule in plain["definitions"])
    for change in ("symbols=0", "symbols=5", "operands=2", "operands=13", "condition_rate=1.5", "condition_rate=nan"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, f"easy({change})")


def test_published_rows() -> None:
    assert [from_game(row["game"])[1] for row in GAMES] == ["10", "3.3333333333333335"]
    game = GAMES[0]["game"]
    for change in (
        {"answer": None},
        {"answer": "zoo"},
        {"answer": ""},
        {"metadata": None},
        {"metadata": {"expression": "1"}},
        {"metadata": {"symbol_definitions": {}}},
        {"metadata": {"expression": "1", "symbol_definitions": {"": {}}}},
    ):
        with pytest.raises(ValueError, match=r"answer|metadata"):
            from_game({**game, **change})
