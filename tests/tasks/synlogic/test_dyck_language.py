"""Dyck language: one completion only, and what counts as one."""

import itertools
import random
import re
from collections import Counter

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.brackets import PAIRS, draw_brackets, first_error, open_brackets, renamed
from pear.tasks.synlogic.dyck_language import DyckLanguage, from_game
from tests.tasks.synlogic.dyck_language import GAMES

TASK = DyckLanguage()


def balanced(text: str) -> bool:
    """Whether nothing is left after neighbors that match are taken out again and again."""
    while text != (text := re.sub(r"\(\)|\[\]|\{\}|<>", "", text)):
        pass
    return text == ""


def problem_of(sequence: str) -> Problem:
    message = {"role": "user", "content": "x"}
    return Problem(task=TASK.name, level="easy", id="x", prompt=(message,), state={"sequence": sequence}, answer="")


@pytest.mark.parametrize("given", ["(", "[(", "()<", "([]{"])
def test_of_all_short_answers_one_passes(given: str) -> None:
    left = len(open_brackets(given))
    for added in range(5):
        for tail in itertools.product("()[]{}<>", repeat=added):
            answer = given + "".join(tail)
            assert (TASK.check(problem_of(given), answer)[1] == "") == (balanced(answer) and added == left)


@pytest.mark.parametrize("level", TASK.levels)
def test_problems_keep_the_knobs(level: str) -> None:
    knobs = TASK.knobs[level]
    for seed in range(40):
        problem = TASK.generate(seed, level)
        given = problem.state["sequence"]
        assert balanced(problem.answer)
        assert len(problem.answer) == knobs.length
        assert len(problem.answer) - len(given) == knobs.fill
        assert len({bracket for bracket in given if bracket in "([{<"}) <= knobs.types
        assert all(bracket in "([{<" for bracket in given[: knobs.depth])
        assert given in problem.prompt[0]["content"].splitlines()


@pytest.mark.parametrize("knobs", ["types=0", "types=5", "length=7", "length=2", "fill=0", "fill=11", "depth=11"])
def test_knobs_out_of_range_are_refused(knobs: str) -> None:
    with pytest.raises(UserError):
        TASK.generate(0, f"easy({knobs})")


@pytest.mark.parametrize("knobs", ["fill=10,depth=10", "fill=10,depth=0", "fill=1,depth=10", "length=4,fill=2,depth=2"])
def test_knobs_at_the_edge_make_problems(knobs: str) -> None:
    assert balanced(TASK.generate(0, f"easy({knobs},types=1)").answer)


def test_all_shapes_are_drawn_alike() -> None:
    draw = random.Random("shapes")
    counts = Counter(draw_brackets(draw, ["()"], 6, 2) for _ in range(9_000))
    assert len(counts) == 9
    assert max(counts.values()) < 1.15 * min(counts.values())


def test_errors_are_found_where_they_are() -> None:
    for size in range(1, 5):
        for brackets in itertools.product("()[]", repeat=size):
            text = "".join(brackets)
            # A prefix can still be completed as long as some closing brackets balance it.
            alive = [
                any(
                    balanced(text[:end] + "".join(tail))
                    for more in range(5)
                    for tail in itertools.product(")]", repeat=more)
                )
                for end in range(1, size + 1)
            ]
            assert first_error(text) == (alive.index(False) if False in alive else None), text


def test_kinds_of_brackets_are_only_names() -> None:
    given = TASK.generate(5, "hard").state["sequence"]
    for order in itertools.permutations(PAIRS):
        table = str.maketrans("".join(PAIRS), "".join(order))
        assert TASK.canonical(problem_of(given.translate(table))) == TASK.canonical(problem_of(given))
    assert renamed("[]{}") != renamed("[][]")


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict) -> None:
    state, answer = from_game(row["game"])
    assert answer == row["game"]["metadata"]["full_sequence"]
    problem = problem_of(state["sequence"])
    for text in row["right"]:
        assert TASK.verify(problem, f"<think> x </think> <answer> {text} </answer>").correct, text
    for text in row["wrong"]:
        assert not TASK.verify(problem, f"<think> x </think> <answer> {text} </answer>").correct, text


@pytest.mark.parametrize("given", [None, "", "(a", "()", "(]", 3])
def test_broken_rows_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="question_sequence"):
        from_game({"metadata": {"question_sequence": given}})
    with pytest.raises(ValueError, match="question_sequence"):
        from_game({"metadata": None})
