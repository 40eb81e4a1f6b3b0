"""Calcudoko: one solution, by an independent solver; the rules against a naive twin; symmetries; published rows."""

import json
import random
from typing import Any

import pytest
from ortools.sat.python import cp_model

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.calcudoko import Calcudoko, from_game
from pear.tasks.synlogic.grids import read_bare_grid
from tests.tasks.synlogic.calcudoko import GAMES, naive
from tests.tasks.synlogic.counting import another_solution
from tests.tasks.synlogic.squares import Cells, Grid, known, latin_model

TASK = Calcudoko()


def problem_of(state: dict[str, Any]) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def solution_of(problem: Problem) -> Grid:
    size = problem.state["size"]
    return read_bare_grid(problem.answer, size, size)


@pytest.mark.parametrize("level", TASK.levels)
def test_there_is_one_solution(level: str) -> None:
    for seed in range(10):
        problem = TASK.generate(seed, level)
        size, regions = problem.state["size"], problem.state["regions"]

        def more(model: cp_model.CpModel, cells: Cells, regions: Any = regions, size: int = size) -> None:
            for places, target, kind in regions:
                values = [cells[row, column] for row, column in places]
                model.add_all_different(values)
                if kind == "+":
                    model.add(sum(values) == target)
                elif kind == "*":
                    product = model.new_int_var(0, size ** len(values), "product")
                    model.add_multiplication_equality(product, values)
                    model.add(product == target)
                else:
                    pairs = [
                        (one, other)
                        for one in range(1, size + 1)
                        for other in range(1, size + 1)
                        if (
                            max(one, other) - min(one, other) == target
                            if kind == "-"
                            else max(one, other) == target * min(one, other)
                        )
                    ]
                    model.add_allowed_assignments(values, pairs)

        build = latin_model([[None] * size for _ in range(size)], more)
        assert naive(regions, solution_of(problem))
        assert another_solution(build, known(solution_of(problem))) is None


def test_check_agrees_with_the_naive_rules() -> None:
    """On solutions, on squares with two lines exchanged, and on other problems' solutions."""
    draw = random.Random(1)
    problems = [TASK.generate(seed, "easy") for seed in range(60)]
    verdicts = []
    for problem in problems:
        square = solution_of(problem)
        one, other = draw.sample(range(4), 2)
        exchanged = [list(row) for row in square]
        exchanged[one], exchanged[other] = exchanged[other], exchanged[one]
        for filled in (square, exchanged, solution_of(draw.choice(problems))):
            verdicts.append(naive(problem.state["regions"], filled))
            assert (TASK.check(problem, json.dumps(filled))[1] == "") == verdicts[-1]
    assert 60 <= sum(verdicts) < 90


def test_regions_are_connected_without_repeats_and_cover_the_square() -> None:
    for seed in range(20):
        problem = TASK.generate(seed, "hard")
        square = solution_of(problem)
        cells = [tuple(place) for places, _, _ in problem.state["regions"] for place in places]
        assert sorted(cells) == [(row, column) for row in range(6) for column in range(6)]
        for places, _, kind in problem.state["regions"]:
            values = [square[row][column] for row, column in places]
            assert len(set(values)) == len(values) <= 4
            assert kind in "+*" or len(values) == 2
            reached = {tuple(places[0])}
            while grown := {
                (row, column)
                for row, column in places
                if (row, column) not in reached
                and {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)} & reached
            }:
                reached |= grown
            assert len(reached) == len(places)


def test_malformed_squares_are_not_padded_or_cut() -> None:
    """The public verifier pads and cuts rows, and takes the first square of several."""
    problem = TASK.generate(2, "easy")
    square = solution_of(problem)
    for text in (
        json.dumps([row[:-1] for row in square]),
        json.dumps([[*row, 1] for row in square]),
        json.dumps(square[:-1]),
        f"{problem.answer} {problem.answer}",
        problem.answer.replace(",", " "),
    ):
        with pytest.raises(ValueError, match=r"row|grid|answer|literal"):
            TASK.check(problem, text)


def test_a_difference_or_quotient_of_three_cells_is_never_right() -> None:
    for kind in "-÷":
        state = {
            "size": 3,
            "regions": [
                [[[0, 0], [0, 1], [0, 2]], 1, kind],
                *([[[row, at]], 1, "+"] for row in (1, 2) for at in range(3)),
            ],
        }
        assert TASK.check(problem_of(state), "[[1 2 3,2 3 1,3 1 2]]")[1].startswith("the region of (1,1)")


def test_canonical_forms() -> None:
    state = TASK.generate(4, "medium").state
    form = TASK.canonical(problem_of(state))
    turned = [[[[column, 4 - row] for row, column in cells], target, kind] for cells, target, kind in state["regions"]]
    assert TASK.canonical(problem_of({**state, "regions": turned[::-1]})) == form
    cells, target, kind = state["regions"][0]
    assert TASK.canonical(problem_of({**state, "regions": [[cells, target + 1, kind], *state["regions"][1:]]})) != form


def test_knobs_are_honored_and_refused() -> None:
    assert TASK.generate(1, "easy(size=3)").state["size"] == 3
    assert TASK.generate(1, "hard(size=7)").state["size"] == 7
    for level in ("easy(size=2)", "easy(size=8)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        assert answer == row["right"][0]
        assert all(TASK.check(problem_of(state), text)[1] == "" for text in row["right"])
    game = GAMES[0]["game"]
    for answer in ("", None, "[[1 1,2 2]]", "no"):
        assert from_game({**game, "answer": answer})[1] == ""
    first, second = game["metadata"]["regions"]
    for regions in (
        None,
        [],
        [first],
        [first, first],
        [first, {**second, "operator": "%"}],
        [first, {**second, "target": "2"}],
        [first, {**second, "cells": ["(2,1)", "(3,1)"]}],
        [first, {**second, "cells": [[2, 1], [2, 2]]}],
    ):
        with pytest.raises(ValueError, match="metadata"):
            from_game({**game, "metadata": {**game["metadata"], "regions": regions}})
