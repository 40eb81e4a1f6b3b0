"""Futoshiki: the rules against a naive twin, the one solution by OR-tools, symmetries, knobs, published rows."""

import json
import random
from itertools import islice
from typing import Any

import pytest
from ortools.sat.python import cp_model

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.futoshiki import Futoshiki, from_game
from pear.tasks.synlogic.latin import Rules, draw_square, fillings
from tests.tasks.synlogic.counting import another_solution
from tests.tasks.synlogic.futoshiki import GAMES, Grid, naive, read
from tests.tasks.synlogic.squares import Cells, bare, broken_squares, known, latin_model

TASK = Futoshiki()


def problem_of(state: dict[str, Any]) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def drawn_state(draw: random.Random, size: int, signs: int) -> dict[str, Any]:
    """A state that may have no solution, one or many, as the published ones."""
    state: dict[str, Any] = {"grid": [[None] * size for _ in range(size)], "signs": []}
    for _ in range(draw.randint(0, 2)):
        state["grid"][draw.randrange(size)][draw.randrange(size)] = draw.randint(1, size)
    for _ in range(signs):
        row, column = draw.randrange(size), draw.randrange(size - 1)
        cells = [[row, column], [row, column + 1]]
        if draw.random() < 0.5:
            cells = [cell[::-1] for cell in cells]
        state["signs"].append([*draw.sample(cells, 2), draw.choice("<>")])
    return state


def test_check_agrees_with_the_naive_rules() -> None:
    draw, verdicts = random.Random(0), []
    for _ in range(150):
        state = drawn_state(draw, 3, 1)
        square = draw_square(Rules(3), draw)
        for filled in [square, *broken_squares(square, state["grid"])]:
            verdicts.append(naive(state, filled))
            assert (TASK.check(problem_of(state), json.dumps(filled))[1] == "") == verdicts[-1]
    assert 150 < sum(verdicts) < len(verdicts) - 150


def test_the_solver_finds_exactly_what_the_naive_rules_allow() -> None:
    draw, counts = random.Random(1), []
    squares = list(fillings(Rules(4), [[None] * 4] * 4))
    assert len(squares) == 576
    for _ in range(40):
        state = drawn_state(draw, 4, 3)
        expected = [square for square in squares if naive(state, square)]
        counts.append(len(expected))
        solved = TASK.solve(problem_of(state))
        assert (solved is None) == (not expected)
        assert solved is None or any(solved.endswith(f"<answer> {bare(square)} </answer>") for square in expected)
    assert 0 in counts
    assert max(counts) > 1


def signs_model(state: dict[str, Any]) -> Any:
    def add(model: cp_model.CpModel, cells: Cells) -> None:
        for one, other, sign in state["signs"]:
            if sign == "<":
                model.add(cells[tuple(one)] < cells[tuple(other)])
            else:
                model.add(cells[tuple(one)] > cells[tuple(other)])

    return latin_model(state["grid"], add)


@pytest.mark.parametrize("level", TASK.levels)
def test_the_solution_is_the_only_one(level: str) -> None:
    for seed in range(10):
        problem = TASK.generate(seed, level)
        square = read(problem.answer)
        assert naive(problem.state, square)
        assert another_solution(signs_model(problem.state), known(square)) is None


def test_without_one_sign_there_may_be_more_and_each_is_right() -> None:
    found = 0
    for seed in range(10):
        state = TASK.generate(seed, "easy").state
        fewer = {**state, "signs": state["signs"][1:]}
        other = another_solution(signs_model(fewer), known(read(TASK.generate(seed, "easy").answer)))
        if other is not None:
            square = [[other[row, column] for column in range(4)] for row in range(4)]
            assert TASK.check(problem_of(fewer), bare(square))[1] == ""
            assert "does not hold" in TASK.check(problem_of(state), bare(square))[1]
            found += 1
    assert found


@pytest.mark.parametrize(
    ("level", "size", "signs", "prefilled"),
    [("easy", 4, 5, 2), ("medium", 5, 9, 3), ("hard", 6, 14, 4), ("hard(size=3,signs=12,prefilled=0)", 3, 12, 0)],
)
def test_the_knobs_are_honored(level: str, size: int, signs: int, prefilled: int) -> None:
    for seed in range(5):
        problem = TASK.generate(seed, level)
        grid, content = problem.state["grid"], problem.prompt[0]["content"]
        assert (len(grid), len(problem.state["signs"])) == (size, signs)
        given = sum(value is not None for row in grid for value in row)
        assert prefilled <= given < size * size
        rows = [" ".join("X" if value is None else str(value) for value in row) for row in grid]
        assert "\n".join(rows) in content
        for (row, column), (other_row, other_column), sign in problem.state["signs"]:
            assert abs(row - other_row) + abs(column - other_column) == 1
            assert f"\n({row + 1},{column + 1}) {sign} ({other_row + 1},{other_column + 1})\n" in content


@pytest.mark.parametrize("knobs", ["size=2", "size=9", "signs=0", "signs=25", "prefilled=-1", "prefilled=9"])
def test_settings_that_make_no_problem_are_refused(knobs: str) -> None:
    with pytest.raises(UserError, match=f"{knobs.partition('=')[0]} (is|are) from"):
        TASK.generate(0, f"easy({knobs})")


def turned(state: dict[str, Any]) -> dict[str, Any]:
    """By a quarter."""
    size = len(state["grid"])

    def place(cell: list[int]) -> list[int]:
        return [cell[1], size - 1 - cell[0]]

    return {
        "grid": [list(row) for row in zip(*state["grid"][::-1], strict=True)],
        "signs": [[place(one), place(other), sign] for one, other, sign in state["signs"]],
    }


def mirrored(state: dict[str, Any]) -> dict[str, Any]:
    size = len(state["grid"])
    signs = [
        [[one[0], size - 1 - one[1]], [other[0], size - 1 - other[1]], sign] for one, other, sign in state["signs"]
    ]
    return {"grid": [row[::-1] for row in state["grid"]], "signs": signs}


def backwards(state: dict[str, Any]) -> dict[str, Any]:
    size = len(state["grid"])
    return {
        "grid": [[value and size + 1 - value for value in row] for row in state["grid"]],
        "signs": [[one, other, "<" if sign == ">" else ">"] for one, other, sign in state["signs"]],
    }


def read_the_other_way(state: dict[str, Any]) -> dict[str, Any]:
    signs = [[other, one, "<" if sign == ">" else ">"] for one, other, sign in state["signs"]]
    return {**state, "signs": signs[::-1]}


def test_canonical_forms_ignore_symmetries_and_the_order_of_signs() -> None:
    for seed in range(5):
        state = TASK.generate(seed, "medium").state
        form = TASK.canonical(problem_of(state))
        for same in (turned(state), mirrored(state), backwards(state), read_the_other_way(state)):
            assert same != state
            assert TASK.canonical(problem_of(same)) == form
            assert TASK.canonical(problem_of(mirrored(turned(backwards(same))))) == form
        one, other, sign = state["signs"][0]
        flipped = {**state, "signs": [[other, one, sign], *state["signs"][1:]]}
        assert TASK.canonical(problem_of(flipped)) != form
        assert TASK.canonical(problem_of({**state, "signs": state["signs"][1:]})) != form
        only_numbers = {"grid": backwards(state)["grid"], "signs": state["signs"]}
        assert TASK.canonical(problem_of(only_numbers)) != form


def test_symmetries_take_solutions_along() -> None:
    def solutions(state: dict[str, Any]) -> list[Grid]:
        return [square for square in fillings(Rules(4), state["grid"]) if naive(state, square)]

    state = TASK.generate(1, "easy").state
    (square,) = solutions(state)
    assert solutions(backwards(state)) == [[[5 - value for value in row] for row in square]]
    assert solutions(turned(state)) == [[list(row) for row in zip(*square[::-1], strict=True)]]


@pytest.mark.parametrize("number", range(len(GAMES)))
def test_published_rows(number: int) -> None:
    case = GAMES[number]
    state, answer = from_game(case["game"])
    assert answer == ("" if number else case["right"][0])
    for text in case["right"]:
        assert TASK.check(problem_of(state), text)[1] == ""
    for text in case["wrong"]:
        try:
            assert TASK.check(problem_of(state), text)[1] != ""
        except ValueError:
            continue
    size = len(state["grid"])
    assert all(naive(state, read(text)) for text in case["right"][:1])
    for square in islice(fillings(Rules(size), [[None] * size] * size), 12):
        assert (TASK.check(problem_of(state), bare(square))[1] == "") == naive(state, square)


def test_a_given_row_without_blanks_keeps_the_others_in_place() -> None:
    grid = from_game(GAMES[1]["game"])[0]["grid"]
    assert grid == [[None] * 3, [2, 3, 1], [None] * 3]


def test_published_rows_that_lack_something() -> None:
    game = GAMES[0]["game"]
    metadata = game["metadata"]
    for change in (
        {"grid_size": None},
        {"grid_size": 1},
        {"prefilled_coords": None},
        {"prefilled_coords": [[3, 0]]},
        {"prefilled_coords": ["(1,1)"]},
        {"constraints": None},
        {"constraints": [[[0, 0], [0, 1]]]},
        {"constraints": [[[0, 0], [0, 1], "="]]},
        {"constraints": [[[0, 0], [0, 3], "<"]]},
        {"constraints": [[[0, 0], [0, True], "<"]]},
    ):
        with pytest.raises(ValueError, match="metadata"):
            from_game({**game, "metadata": {**metadata, **change}})
    for question in (None, "", "Current puzzle:\n1 X X\nX X X\n", game["question"].replace("1 X X", "7 X X")):
        with pytest.raises(ValueError, match="question"):
            from_game({**game, "question": question})
    with pytest.raises(ValueError, match="question"):
        from_game({**game, "metadata": {**metadata, "prefilled_coords": [[0, 1]]}})
    for answer in (None, "", "[[1 2 3]]", "[[1 2 3,3 1 2,2 3 1]]"):
        assert from_game({**game, "answer": answer})[1] == ""
