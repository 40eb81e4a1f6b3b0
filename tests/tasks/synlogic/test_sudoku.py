"""Sudoku: the rules against a naive twin, the one solution by OR-tools, symmetries, knobs, published rows."""

import ast
import dataclasses
import random
from typing import Any

import pytest
from ortools.sat.python import cp_model

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.sudoku import Sudoku, from_game
from tests.tasks.synlogic.counting import another_solution
from tests.tasks.synlogic.squares import Cells, Grid, broken_squares, known, latin_model
from tests.tasks.synlogic.sudoku import GAMES

TASK = Sudoku()


def naive(grid: list[list[Any]], filled: Grid) -> bool:
    for row in range(9):
        for column in range(9):
            value = filled[row][column]
            if grid[row][column] not in (None, value) or value not in range(1, 10):
                return False
            for i in range(9):
                for j in range(9):
                    same_box = (i // 3, j // 3) == (row // 3, column // 3)
                    if (i, j) != (row, column) and (i == row or j == column or same_box) and filled[i][j] == value:
                        return False
    return True


def boxes(model: cp_model.CpModel, cells: Cells) -> None:
    for row in (0, 3, 6):
        for column in (0, 3, 6):
            model.add_all_different([cells[row + i, column + j] for i in range(3) for j in range(3)])


def with_grid(problem: Problem, grid: Any) -> Problem:
    return dataclasses.replace(problem, state={"grid": grid})


def test_check_agrees_with_the_naive_rules() -> None:
    for seed in range(3):
        problem = TASK.generate(seed, "medium")
        solution = [list(row) for row in ast.literal_eval(problem.answer)]
        rows = [*solution[3:6], *solution[:3], *solution[6:]]
        for given in (problem.state["grid"], [[None] * 9 for _ in range(9)]):
            for square in [solution, rows, *broken_squares(solution, given)]:
                reason = TASK.check(with_grid(problem, given), str(square))[1]
                assert (reason == "") == naive(given, square)
        # Without clues all symmetric squares are right, so both verdicts occurred.
        assert TASK.check(with_grid(problem, [[None] * 9] * 9), str(rows))[1] == ""


def test_lines_that_hold_each_number_do_not_make_up_for_boxes() -> None:
    square = [[(row + column) % 9 + 1 for column in range(9)] for row in range(9)]
    problem = with_grid(TASK.generate(0, "easy"), [[None] * 9] * 9)
    assert "box" in TASK.check(problem, str(square))[1]


@pytest.mark.parametrize("level", TASK.levels)
def test_the_solution_is_the_only_one(level: str) -> None:
    for seed in range(10):
        problem = TASK.generate(seed, level)
        square = ast.literal_eval(problem.answer)
        assert naive(problem.state["grid"], square)
        assert another_solution(latin_model(problem.state["grid"], boxes), known(square)) is None


@pytest.mark.parametrize(("level", "clues"), [("easy", 50), ("medium", 36), ("hard", 28), ("easy(clues=80)", 80)])
def test_the_number_of_clues(level: str, clues: int) -> None:
    for seed in range(5):
        problem = TASK.generate(seed, level)
        assert sum(value is not None for row in problem.state["grid"] for value in row) == clues
        assert problem.prompt[0]["content"].count("X") == 81 - clues + 1
        assert "There is one solution." in problem.prompt[0]["content"]


def test_without_the_promise_of_one_solution_any_is_right() -> None:
    problem = TASK.generate(0, "easy(clues=10,unique=False)")
    assert "Any solution will do." in problem.prompt[0]["content"]
    found = another_solution(latin_model(problem.state["grid"], boxes), known(ast.literal_eval(problem.answer)))
    assert found is not None
    other = [[found[row, column] for column in range(9)] for row in range(9)]
    assert TASK.check(problem, str(other))[1] == ""


@pytest.mark.parametrize("knobs", ["clues=24", "clues=81", "clues=-1,unique=False", "clues=81,unique=False"])
def test_settings_that_make_no_problem_are_refused(knobs: str) -> None:
    with pytest.raises(UserError, match="clues, not"):
        TASK.generate(0, f"easy({knobs})")


def test_canonical_forms_ignore_turning_mirroring_and_names() -> None:
    names = dict(zip(range(1, 10), random.Random(0).sample(range(1, 10), 9), strict=True))
    for seed in range(5):
        problem = TASK.generate(seed, "hard")
        grid, form = problem.state["grid"], TASK.canonical(problem)
        renamed = [[value and names[value] for value in row] for row in grid]
        turned = [list(row) for row in zip(*grid[::-1], strict=True)]
        for same in (renamed, turned, [row[::-1] for row in renamed]):
            assert same != grid
            assert TASK.canonical(with_grid(problem, same)) == form
        row, column = next((i, j) for i in range(9) for j in range(9) if grid[i][j] is not None)
        fewer = [[None if (i, j) == (row, column) else grid[i][j] for j in range(9)] for i in range(9)]
        assert TASK.canonical(with_grid(problem, fewer)) != form


def test_canonical_forms_tell_numbers_apart() -> None:
    rows = [[1, 2, None, None, None, None, None, None, None], [None] * 9, [2, None, 1, *[None] * 6]]
    other = [rows[0], rows[1], [1, None, 2, *[None] * 6]]
    rest = [[None] * 9] * 6
    problem = TASK.generate(0, "easy")
    assert TASK.canonical(with_grid(problem, rows + rest)) != TASK.canonical(with_grid(problem, other + rest))


@pytest.mark.parametrize("number", range(len(GAMES)))
def test_published_rows(number: int) -> None:
    case = GAMES[number]
    state, answer = from_game(case["game"])
    problem = Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer=answer)
    for text in [answer, *case["right"]]:
        assert TASK.check(problem, text)[1] == ""
    for text in case["wrong"]:
        try:
            assert TASK.check(problem, text)[1] != ""
        except ValueError:
            continue


def test_published_clues_may_be_digits() -> None:
    game = GAMES[0]["game"]
    grid = game["metadata"]["original_sudoku"]
    texts = {**game["metadata"], "original_sudoku": [[str(cell) for cell in row] for row in grid]}
    assert from_game({**game, "metadata": texts}) == from_game(game)


def test_without_a_solution_there_is_no_trace() -> None:
    problem = with_grid(TASK.generate(0, "easy"), [[1, 1, *[None] * 7], *[[None] * 9] * 8])
    assert TASK.solve(problem) is None


def test_published_rows_that_lack_something() -> None:
    game = GAMES[0]["game"]
    grid = game["metadata"]["original_sudoku"]
    for metadata in (None, {}, {"original_sudoku": grid[:8]}, {"original_sudoku": [*grid[:8], [10] * 9]}):
        with pytest.raises(ValueError, match="metadata"):
            from_game({**game, "metadata": metadata})
    for solution in (None, grid, game["metadata"]["complete_sudoku"][::-1]):
        assert from_game({**game, "metadata": {**game["metadata"], "complete_sudoku": solution}})[1] == ""
