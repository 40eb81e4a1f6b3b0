"""Kukurasu: the rules against a naive twin on all fillings, other solutions, symmetries, knobs, published rows."""

import itertools
import json
import random
from typing import Any

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.kukurasu import Kukurasu, from_game
from tests.tasks.synlogic.kukurasu import GAMES, naive

TASK = Kukurasu()


def problem_of(state: dict[str, Any]) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def test_check_agrees_with_the_naive_rules_on_every_filling() -> None:
    for seed in range(40):
        problem = TASK.generate(seed, "easy(n=3,m=3,p=0.5)")
        right = []
        for cells in itertools.product("1X", repeat=9):
            filled = [list(cells[start : start + 3]) for start in (0, 3, 6)]
            passes = TASK.check(problem, json.dumps(filled))[1] == ""
            assert passes == naive(problem.state, filled)
            right += [json.dumps(filled)] * passes
        assert problem.answer in right


def test_check_agrees_with_the_naive_rules_near_solutions() -> None:
    """On solutions in which 3 of a row is exchanged for 1 and 2 and the like, or a cell is changed, or nothing is."""
    draw = random.Random(1)
    verdicts = []
    for seed in range(200):
        problem = TASK.generate(seed, "medium")
        filled = json.loads(problem.answer)
        for changes in (0, 1, 2):
            for _ in range(changes):
                row, at = draw.randrange(6), draw.randrange(6)
                filled[row][at] = "X" if filled[row][at] == "1" else "1"
            verdicts.append(naive(problem.state, filled))
            assert (TASK.check(problem, json.dumps(filled))[1] == "") == verdicts[-1]
    assert 200 <= sum(verdicts) < 400


def test_reasons_name_the_line() -> None:
    state = {"row_sums": [3, 2], "column_sums": [1, 3, 0]}
    for filled, words in (
        (["11X", "XXX"], "row 2 has another sum"),
        (["XX1", "X1X"], "column 1 has another sum"),
        (["11X", "X1X"], ""),
    ):
        assert TASK.check(problem_of(state), json.dumps([list(row) for row in filled]))[1] == words


def test_canonical_forms() -> None:
    state = TASK.generate(3, "easy(n=4,m=6)").state
    form = TASK.canonical(problem_of(state))
    turned = {"row_sums": state["column_sums"], "column_sums": state["row_sums"]}
    assert TASK.canonical(problem_of(turned)) == form
    other = {**state, "row_sums": [state["row_sums"][0] + 1, *state["row_sums"][1:]]}
    assert TASK.canonical(problem_of(other)) != form


def test_knobs_are_honored_and_refused() -> None:
    state = TASK.generate(1, "easy(n=3,m=12)").state
    assert (len(state["row_sums"]), len(state["column_sums"])) == (3, 12)
    full = [json.loads(TASK.generate(seed, "hard(p=0.9)").answer) for seed in range(20)]
    assert 0.85 < sum(cell == "1" for grid in full for row in grid for cell in row) / (20 * 81) < 0.95
    for level in ("easy(n=1)", "easy(m=16)", "easy(p=0)", "easy(p=1)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        assert answer == row["right"][0]
        for text in row["right"]:
            assert TASK.check(problem_of(state), text)[1] == ""
    metadata = GAMES[1]["game"]["metadata"]
    for solution in (None, [["1"]], [["1", "1", "X"], ["X", "1", "Y"]], [["X"] * 3] * 2):
        assert from_game({"metadata": {**metadata, "solution": solution}})[1] == ""
    for change in ({"n": 3}, {"m": None}, {"row_sums": ["3", 2]}, {"col_sums": [1]}):
        with pytest.raises(ValueError, match="metadata"):
            from_game({"metadata": {**metadata, **change}})
