"""Numbrix: the rules against a naive twin, other solutions, symmetries, knobs, published rows."""

import json
import random

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.numbrix import Numbrix, from_game
from tests.tasks.synlogic.numbrix import GAMES, Grid, naive

TASK = Numbrix()


def problem_of(grid: Grid) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state={"grid": grid}, answer="")


def test_check_agrees_with_the_naive_rules() -> None:
    """Paths of one problem in the grid of another, with two cells swapped or not."""
    draw = random.Random(0)
    paths = [json.loads(TASK.generate(seed, "easy(size=3)").answer) for seed in range(40)]
    verdicts = []
    for grid in [TASK.generate(seed, "easy(size=3,fill_rate=0.2)").state["grid"] for seed in range(25)]:
        for path in paths:
            filled = [list(line) for line in path]
            if draw.random() < 0.3:
                row, column = draw.randrange(3), draw.randrange(3)
                filled[row][column] = draw.randint(0, 10)
            verdicts.append(naive(grid, filled))
            assert (TASK.check(problem_of(grid), json.dumps(filled))[1] == "") == verdicts[-1]
    assert 10 < sum(verdicts) < 900


@pytest.mark.parametrize("level", TASK.levels)
def test_solutions_are_paths_and_differ(level: str) -> None:
    problems = [TASK.generate(seed, level) for seed in range(20)]
    assert all(naive(problem.state["grid"], json.loads(problem.answer)) for problem in problems)
    assert len({problem.answer for problem in problems}) == 20


def test_canonical_forms_are_equal_up_to_symmetries() -> None:
    grid = TASK.generate(2, "medium").state["grid"]
    form = TASK.canonical(problem_of(grid))
    backwards = [[cell if cell == "X" else 37 - cell for cell in line] for line in grid]
    assert TASK.canonical(problem_of([list(line) for line in zip(*grid[::-1], strict=True)])) == form
    assert TASK.canonical(problem_of(backwards)) == TASK.canonical(problem_of(grid[::-1])) == form
    assert TASK.canonical(problem_of([["X" if cell == 1 else cell for cell in line] for line in grid])) != form


def test_knobs_are_honored_and_refused() -> None:
    cells = [cell for line in TASK.generate(1, "easy(size=7,fill_rate=0.2)").state["grid"] for cell in line]
    assert (len(cells), len(cells) - cells.count("X")) == (49, 9)
    assert {1, 49} < set(cells)
    for level in ("easy(size=2)", "easy(size=99)", "easy(fill_rate=0)", "easy(fill_rate=1)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        assert answer == row["right"][0]
        for text in row["right"]:
            assert TASK.check(problem_of(state["grid"]), text)[1] == ""
    metadata = GAMES[0]["game"]["metadata"]
    for solution in (None, [], metadata["grid"], metadata["solution"][::-1]):
        assert from_game({"metadata": {**metadata, "solution": solution}})[1] == ""
    for grid in (None, [], [[1, 2], [3]], [["Y", 1]], [[1.0, "X"]]):
        with pytest.raises(ValueError, match=r"grid|row"):
            from_game({"metadata": {**metadata, "grid": grid}})
