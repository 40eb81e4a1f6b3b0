"""Survo: any filling that keeps the rules passes, and symmetric problems are one problem."""

import dataclasses
import json
from typing import Any

import pytest

from pear.tasks import TASKS, GeneratedTask, Problem

SURVO = TASKS["synlogic/survo"]
assert isinstance(SURVO, GeneratedTask)


def with_matrix(problem: Problem, matrix: list[list[Any]]) -> Problem:
    return dataclasses.replace(problem, state={**problem.state, "matrix": matrix})


def test_every_right_filling_passes() -> None:
    # Two solutions: 1 2 / 2 1 crossed out and filled either way.
    problem = dataclasses.replace(
        SURVO.generate(0, "easy"),
        state={"matrix": [[None, None, 3], [None, None, 3], [3, 3, 6]], "numbers": [1, 1, 2, 2]},
    )
    for answer in ("[[1, 2, 3], [2, 1, 3], [3, 3, 6]]", "[[2,1,3],[1,2,3],[3,3,6]]"):
        assert SURVO.verify(problem, f"<think> x </think> <answer> {answer} </answer>").correct
    for answer in ("[[1, 2, 3], [1, 2, 3], [3, 3, 6]]", "[[0, 3, 3], [3, 0, 3], [3, 3, 6]]"):
        assert not SURVO.verify(problem, f"<think> x </think> <answer> {answer} </answer>").correct


def test_given_numbers_stay_even_where_all_sums_hold() -> None:
    problem = dataclasses.replace(
        SURVO.generate(0, "easy"), state={"matrix": [[1, None, 3], [2, None, 3], [3, 3, 6]], "numbers": [1, 2]}
    )
    for answer, correct in (("[[1, 2, 3], [2, 1, 3], [3, 3, 6]]", True), ("[[2, 1, 3], [1, 2, 3], [3, 3, 6]]", False)):
        assert SURVO.verify(problem, f"<think> x </think> <answer> {answer} </answer>").correct == correct


@pytest.mark.parametrize("level", SURVO.levels)
def test_the_canonical_form_ignores_symmetries_and_nothing_else(level: str) -> None:
    for seed in range(20):
        problem = SURVO.generate(seed, level)
        form, matrix = SURVO.canonical(problem), problem.state["matrix"]
        *rows, sums = matrix
        swapped_columns = [[row[1], row[0], *row[2:]] for row in matrix]
        for same in ([*reversed(rows), sums], swapped_columns, [list(line) for line in zip(*matrix, strict=True)]):
            assert same != matrix
            assert SURVO.canonical(with_matrix(problem, same)) == form
        at = next(number for number, value in enumerate(matrix[0]) if value is not None)
        changed = json.loads(json.dumps(matrix))
        changed[0][at] += 1
        assert SURVO.canonical(with_matrix(problem, changed)) != form


@pytest.mark.parametrize("level", SURVO.levels)
def test_problems_are_as_described(level: str) -> None:
    side, missing, largest = {"easy": (3, 4, 20), "medium": (4, 9, 40), "hard": (5, 15, 60)}[level]
    for seed in range(20):
        problem = SURVO.generate(seed, level)
        matrix, numbers = problem.state["matrix"], problem.state["numbers"]
        assert [len(row) for row in matrix] == [side + 1] * (side + 1)
        assert sum(row.count(None) for row in matrix) == len(numbers) == missing
        assert None not in matrix[-1]
        assert all(row[-1] is not None for row in matrix)
        given = [value for row in matrix[:-1] for value in row[:-1] if value is not None]
        assert len({*given, *numbers}) == side * side
        assert all(1 <= value <= largest for value in [*given, *numbers])
        assert problem.prompt[0]["content"].count("X") == missing + 2  # two in the explanation


def test_the_search_ends_soon() -> None:
    traces = [SURVO.solve(SURVO.generate(seed, "hard")) for seed in range(1000, 1300)]
    assert max(len(trace or "") for trace in traces) < 200_000
