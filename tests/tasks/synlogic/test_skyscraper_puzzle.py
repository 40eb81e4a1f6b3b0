"""Skyscrapers: the rules against a naive twin, the one solution by OR-tools, symmetries, knobs, published rows."""

import dataclasses
import json
import random
from functools import partial
from typing import Any

import pytest
from ortools.sat.python import cp_model

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.skyscraper_puzzle import SkyscraperPuzzle, from_game
from tests.tasks.synlogic.counting import another_solution
from tests.tasks.synlogic.skyscraper_puzzle import GAMES, Clues, naive
from tests.tasks.synlogic.squares import Cells, broken_squares, known, latin_model

TASK = SkyscraperPuzzle()


def problem_of(state: dict[str, Any], answer: str = "") -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer=answer)


def clues_of(clues: Clues, model: cp_model.CpModel, cells: Cells) -> None:
    """Of each line, the tallest building so far rises as often as the clue says."""
    size = len(clues["top"])
    for number in range(size):
        row = [cells[number, other] for other in range(size)]
        column = [cells[other, number] for other in range(size)]
        for side, line in (("left", row), ("right", row[::-1]), ("top", column), ("bottom", column[::-1])):
            rises = []
            for place in range(1, size):
                tallest, before = model.new_int_var(1, size, ""), model.new_int_var(1, size, "")
                model.add_max_equality(tallest, line[: place + 1])
                model.add_max_equality(before, line[:place])
                rises.append(model.new_bool_var(""))
                model.add(tallest > before).only_enforce_if(rises[-1])
                model.add(tallest == before).only_enforce_if(~rises[-1])
            model.add(sum(rises) == clues[side][number] - 1)


def test_check_agrees_with_the_naive_rules() -> None:
    """Squares of one problem with the clues of another, and squares that are almost right."""
    problems = [TASK.generate(seed, "easy(size=3)") for seed in range(20)]
    problems += [TASK.generate(seed, "medium") for seed in range(5)]
    verdicts = []
    for problem in problems:
        size = len(problem.state["top"])
        squares = [json.loads(other.answer) for other in problems if len(other.state["top"]) == size]
        squares += broken_squares(json.loads(problem.answer), [[None] * size] * size)
        for square in squares:
            verdicts.append(naive(problem.state, square))
            assert (TASK.check(problem, json.dumps(square))[1] == "") == verdicts[-1]
    assert 20 < sum(verdicts) < len(verdicts) / 2


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_each_clue_counts(side: str) -> None:
    problem = TASK.generate(0, "medium")
    for number, clue in enumerate(problem.state[side]):
        clues = list(problem.state[side])
        clues[number] = clue % 5 + 1
        reason = TASK.check(problem_of({**problem.state, side: clues}), problem.answer)[1]
        line = "column" if side in ("top", "bottom") else "row"
        assert reason == f"{line} {number + 1} shows {clue} buildings from the {side}, not {clue % 5 + 1}"


@pytest.mark.parametrize("level", TASK.levels)
def test_the_solution_is_the_only_one(level: str) -> None:
    for seed in range(10):
        problem = TASK.generate(seed, level)
        square = json.loads(problem.answer)
        assert naive(problem.state, square)
        build = latin_model([[None] * len(square)] * len(square), partial(clues_of, problem.state))
        assert another_solution(build, known(square)) is None


def test_any_solution_of_a_published_row_is_right() -> None:
    state = from_game(GAMES[1]["game"])[0]
    one, other = (json.loads(text) for text in GAMES[1]["right"][:2])
    build = latin_model([[None] * 4] * 4, partial(clues_of, state))
    assert another_solution(build, known(one)) is not None
    assert (
        TASK.check(problem_of(state), json.dumps(one))[1] == TASK.check(problem_of(state), json.dumps(other))[1] == ""
    )


def test_the_solver_finds_a_solution_or_none() -> None:
    for row in GAMES:
        trace = TASK.solve(problem_of(from_game(row["game"])[0]))
        assert trace is not None
        assert TASK.verify(problem_of(from_game(row["game"])[0]), trace).correct
    state = {side: [1, 1, 1] for side in ("top", "bottom", "left", "right")}
    assert TASK.solve(problem_of(state)) is None
    # Larger than what is generated.
    assert TASK.solve(problem_of({side: [1] * 9 for side in state})) is None


def test_canonical_forms_are_equal_up_to_turning_and_mirroring() -> None:
    draw = random.Random(0)
    for seed in range(10):
        state = TASK.generate(seed, draw.choice(TASK.levels)).state
        form = TASK.canonical(problem_of(state))
        mirrored = {
            "top": state["top"][::-1],
            "bottom": state["bottom"][::-1],
            "left": state["right"],
            "right": state["left"],
        }
        # A quarter to the right: what stood on the left, from the bottom up, stands on the top.
        turned = {
            "top": state["left"][::-1],
            "right": state["top"],
            "bottom": state["right"][::-1],
            "left": state["bottom"],
        }
        assert TASK.canonical(problem_of(mirrored)) == TASK.canonical(problem_of(turned)) == form
        changed = {**state, "top": [state["top"][0] + 1, *state["top"][1:]]}
        assert TASK.canonical(problem_of(changed)) != form


def test_knobs_are_honored_and_refused() -> None:
    for size in range(3, 7):
        problem = TASK.generate(1, f"easy(size={size})")
        assert [len(problem.state[side]) for side in ("top", "bottom", "left", "right")] == [size] * 4
        assert f"{size} x {size} grid" in problem.prompt[0]["content"]
    for size in (2, 7):
        with pytest.raises(UserError, match="size is from 3 to 6"):
            TASK.generate(1, f"easy(size={size})")


def test_the_prompt_tells_all_clues() -> None:
    problem = TASK.generate(3, "hard")
    lines = problem.prompt[0]["content"].splitlines()
    for side in ("top", "bottom", "left", "right"):
        (line,) = [line for line in lines if line.startswith(f"From the {side}")]
        assert line.endswith(": " + " ".join(map(str, problem.state[side])))


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict[str, Any]) -> None:
    state, answer = from_game(row["game"])
    assert answer == (row["right"][0] if row["game"]["metadata"]["solved_grid"] else "")
    problem = dataclasses.replace(problem_of(state), answer=answer)
    for text in row["right"]:
        assert TASK.check(problem, text)[1] == ""
    for text in row["wrong"]:
        assert not TASK.verify(problem, f"<think> x </think> <answer> {text} </answer>").correct


def test_published_rows_that_lack_something() -> None:
    metadata = GAMES[0]["game"]["metadata"]
    for solution in (None, [], metadata["solved_grid"][::-1], [["1"] * 3] * 3):
        assert from_game({"metadata": {**metadata, "solved_grid": solution}})[1] == ""
    for change in ({"n": None}, {"n": True}, {"n": 4}, {"top": None}, {"left": [1, 2]}, {"right": ["1", "2", "2"]}):
        with pytest.raises(ValueError, match="metadata"):
            from_game({"metadata": {**metadata, **change}})
    with pytest.raises(ValueError, match="metadata"):
        from_game({})
