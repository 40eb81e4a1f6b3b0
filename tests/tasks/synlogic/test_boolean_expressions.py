import ast
import itertools
import operator
import random
import re
import string

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.boolean_expressions import FACTS, BooleanExpressions, evaluate, from_game
from tests.tasks.synlogic.boolean_expressions import GAMES

TASK = BooleanExpressions()
WORDS = {
    "is greater than or equal to": ">=",
    "is less than or equal to": "<=",
    "is not equal to": "!=",
    "is greater than": ">",
    "is less than": "<",
    "is equal to": "==",
}
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Not: operator.not_,
    ast.USub: operator.neg,
}


def by_python_grammar(text: str) -> object:
    """The value of an expression by Python's own parser, walked over here."""
    for words, symbol in WORDS.items():
        text = text.replace(words, symbol)
    return walk(ast.parse(text, mode="eval").body)


def walk(node: ast.expr) -> object:
    match node:
        case ast.Constant(value=str(text)):
            return FACTS[text]
        case ast.Constant(value=value):
            return value
        case ast.BoolOp(op=ast.And(), values=values):
            return all(walk(value) for value in values)
        case ast.BoolOp(values=values):
            return any(walk(value) for value in values)
        case ast.UnaryOp(op=op, operand=operand):
            return OPERATORS[type(op)](walk(operand))
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](walk(left), walk(right))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return OPERATORS[type(op)](walk(left), walk(right))
    raise AssertionError(ast.dump(node))


def problem_of(options: list[str]) -> Problem:
    return Problem(
        task=TASK.name,
        level="easy",
        id="x",
        prompt=({"role": "user", "content": "x"},),
        state={"options": options},
        answer="",
    )


@pytest.mark.parametrize("level", TASK.levels)
def test_the_parser_agrees_with_pythons_grammar(level: str) -> None:
    for seed in range(25):
        for text in TASK.generate(seed, level).state["options"]:
            assert evaluate(text) is by_python_grammar(text), text


def test_precedence_without_parentheses() -> None:
    draw = random.Random("precedence")
    for _ in range(300):
        parts = []
        for _ in range(draw.randint(1, 5)):
            sums = ["".join(draw.choice(("3", "-2", "4 * 5", "1 - 6", "2 + 7 * -1"))) for _ in range(2)]
            parts.append(
                "not " * draw.randint(0, 3) + draw.choice(["True", "False", f" {draw.choice(list(WORDS))} ".join(sums)])
            )
        text = parts[0] + "".join(f" {draw.choice(('and', 'or'))} {part}" for part in parts[1:])
        assert evaluate(text) is by_python_grammar(text), text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1 + 2",
        "True and 1",
        "not 3",
        "True + 1",
        "(True",
        "True)",
        "True True",
        "1 < True",
        "1 2 < 3",
        "- True",
    ],
)
def test_ill_typed_texts_are_no_expressions(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither|no number|not a bool|not closed|unexpected"):
        evaluate(text)


@pytest.mark.parametrize(
    "text",
    ['"No such fact."', "x", "__import__('os')", "True and", "1 < 2 < 3", "1.5 > 1", "\u0661 < 2", '"A triangle has'],
)
def test_unknown_texts_are_no_expressions(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a bool|unexpected|cannot be read"):
        evaluate(text)


def test_only_the_set_of_true_letters_passes() -> None:
    problem = problem_of(["True", "not True", "1 < 2", '"Bats are birds."'])
    for size in range(5):
        for labels in itertools.product("ABCDE", repeat=size):
            right = sorted(labels) == ["A", "C"]
            verdict = TASK.verify(problem, f"<think> </think> <answer> \\boxed{{{','.join(labels)}}} </answer>")
            assert verdict.correct == right, labels
    assert TASK.check(problem, "\\boxed{c , a}") == ("A, C", "")
    assert TASK.check(problem, "C, A") == ("A, C", "")


def test_letters_are_not_read_as_a_set() -> None:
    # Elsewhere `\boxed{abba}` counts as a and b.
    problem = problem_of(["True", "True", "False"])
    for answer in (
        "\\boxed{abba}",
        "\\boxed{AB}",
        "\\boxed{A, B, A}",
        "\\boxed{A, B, B}",
        "\\boxed{a b are true: A, B}",
    ):
        with pytest.raises(ValueError, match=r"letter"):
            TASK.check(problem, answer)


@pytest.mark.parametrize("level", TASK.levels)
def test_knobs_are_kept(level: str) -> None:
    for depth, options in ((1, 2), (4, 6)):
        problem = TASK.generate(3, f"{level}(depth={depth},options={options})")
        assert len(problem.state["options"]) == options
        for text in problem.state["options"]:
            assert depth_of(text) == depth
        lines = problem.prompt[0]["content"].splitlines()
        for label, text in zip(string.ascii_uppercase, problem.state["options"], strict=False):
            assert f"{label}. {text}" in lines


def depth_of(text: str) -> int:
    """How deep parentheses lie inside each other, those of comparisons left out."""
    depths = [0]
    for token in re.findall(r"[()]", re.sub(r"\([-+* 0-9]+\)", "", text)):
        depths.append(depths[-1] + (1 if token == "(" else -1))
    return max(depths)


@pytest.mark.parametrize("knobs", ["depth=0", "depth=9", "options=1", "options=21", "depth=x", "size=3"])
def test_knobs_are_refused(knobs: str) -> None:
    with pytest.raises(UserError):
        TASK.generate(0, f"easy({knobs})")


def test_the_order_of_the_options_is_no_matter() -> None:
    problem = TASK.generate(1, "medium")
    other = problem_of(problem.state["options"][::-1])
    assert TASK.canonical(problem) == TASK.canonical(other)
    assert TASK.canonical(problem) != TASK.canonical(problem_of([*problem.state["options"][:-1], "True"]))


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict) -> None:
    state, answer = from_game(row["game"])
    problem = Problem(
        task=TASK.name,
        level="published",
        id="x",
        prompt=({"role": "user", "content": "x"},),
        state=state,
        answer=answer,
    )
    assert TASK.check(problem, answer)[1] == ""
    assert TASK.solve(problem) is None
    for text in row["right"]:
        assert TASK.verify(problem, f"<think> x </think> <answer> {text} </answer>").correct, text
    for text in row["wrong"]:
        assert not TASK.verify(problem, f"<think> x </think> <answer> {text} </answer>").correct, text


@pytest.mark.parametrize(
    "change",
    [{"question": None}, {"answer": None}, {"question": "none"}, {"answer": ""}, {"answer": "E"}, {"answer": "B,B"}],
)
def test_broken_rows_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"text|options|letters"):
        from_game({**GAMES[0]["game"], **change})
