"""Minesweeper: certain mines against every arrangement and OR-tools, symmetries, knobs, published rows."""

import ast
import random
from itertools import product

import pytest
from ortools.sat.python import cp_model

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.minesweeper import Minesweeper, _certain_mines, from_game
from tests.tasks.synlogic.minesweeper import GAMES

TASK = Minesweeper()


def around(place: tuple[int, int], other: tuple[int, int]) -> bool:
    return place != other and abs(place[0] - other[0]) <= 1 and abs(place[1] - other[1]) <= 1


def shown_and_hidden(grid: list[list[str]]) -> tuple[dict[tuple[int, int], int], list[tuple[int, int]]]:
    cells = {(row, column): cell for row, line in enumerate(grid) for column, cell in enumerate(line)}
    return {at: int(cell) for at, cell in cells.items() if cell != "X"}, [at for at in cells if cells[at] == "X"]


def by_enumeration(grid: list[list[str]]) -> list[tuple[int, int]] | None:
    """The cells that are mines in every arrangement, by trying all of them; None where none fits."""
    shown, hidden = shown_and_hidden(grid)
    certain: set[tuple[int, int]] | None = None
    for choice in product((False, True), repeat=len(hidden)):
        mines = {place for place, mine in zip(hidden, choice, strict=True) if mine}
        if all(sum(around(place, mine) for mine in mines) == count for place, count in shown.items()):
            certain = mines if certain is None else certain & mines
    return None if certain is None else sorted(certain)


def test_certain_mines_are_those_of_every_arrangement() -> None:
    draw = random.Random(0)
    seen = 0
    for _ in range(100):
        rows, columns = draw.choice([(2, 4), (3, 3), (3, 4)])
        places = [(row, column) for row in range(rows) for column in range(columns)]
        draw.shuffle(places)
        mines, free = places[:3], places[3:]
        grid = [["X"] * columns for _ in range(rows)]
        for row, column in free[: draw.randint(2, 5)]:
            grid[row][column] = str(sum(around((row, column), mine) for mine in mines))
        if draw.random() < 0.2:
            grid[free[0][0]][free[0][1]] = str(draw.randint(0, 5))
        expected = by_enumeration(grid)
        if expected is None:
            with pytest.raises(ValueError, match="no arrangement"):
                _certain_mines(grid)
        else:
            assert _certain_mines(grid) == expected
            seen += bool(expected)
    assert seen > 20


@pytest.mark.parametrize("level", TASK.levels)
def test_answers_are_certain_mines_and_all_of_them(level: str) -> None:
    """OR-tools finds no arrangement without a mine of the answer, and one without each other cell."""
    for seed in range(2):
        problem = TASK.generate(seed, level)
        shown, hidden = shown_and_hidden(problem.state["grid"])
        answer = ast.literal_eval(problem.answer)
        assert answer
        for free in hidden:
            model = cp_model.CpModel()
            mines = {place: model.new_bool_var(str(place)) for place in hidden}
            for place, count in shown.items():
                model.add(sum(mines[other] for other in hidden if around(place, other)) == count)
            model.add(mines[free] == 0)
            solver = cp_model.CpSolver()
            solver.parameters.num_workers = 1
            assert (solver.solve(model) == cp_model.INFEASIBLE) == (free in answer)


def test_several_numbers_together_count_too() -> None:
    """The public verifier wants its stored mines, which follow from one number at a time."""
    metadata = GAMES[1]["game"]["metadata"]
    state, answer = from_game({"metadata": {**metadata, "current_mines": []}})
    assert state["mines"] == [[0, 0], [0, 2]]
    assert answer == ""


def test_canonical_forms_are_equal_up_to_turning_and_mirroring() -> None:
    problem = TASK.generate(4, "medium")
    grid = problem.state["grid"]

    def form(cells: list[list[str]]) -> str:
        return TASK.canonical(
            Problem(task=TASK.name, level="medium", id="x", prompt=(), state={"grid": cells, "mines": []}, answer="")
        )

    assert form([list(line) for line in zip(*grid[::-1], strict=True)]) == TASK.canonical(problem)
    assert form([line[::-1] for line in grid]) == TASK.canonical(problem)
    assert form([["X" if cell == "1" else cell for cell in line] for line in grid]) != TASK.canonical(problem)


def test_knobs_are_honored_and_refused() -> None:
    grid = TASK.generate(1, "easy(size=8,mine_density=0.25,revealed=0.5)").state["grid"]
    shown, hidden = shown_and_hidden(grid)
    assert (len(grid), len(shown), len(hidden)) == (8, 24, 40)
    for level in ("easy(size=2)", "easy(size=40)", "easy(mine_density=0.9)", "easy(revealed=0.1)", "easy(revealed=1)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        problem = Problem(task=TASK.name, level="published", id="x", prompt=(), state=state, answer=answer)
        assert answer == row["right"][0]
        for text in row["right"]:
            assert TASK.check(problem, text)[1] == ""
    wrong_grids = (None, [], [["X"], ["X", "1"]], [["M", "1"]], [["9", "X"]], [["3", "X"]], [[1, "X"]])
    for grid in wrong_grids:
        with pytest.raises(ValueError, match=r"grid|row|number|arrangement|text"):
            from_game({"metadata": {"revealed_grid": grid, "current_mines": []}})
    with pytest.raises(ValueError, match="revealed_grid"):
        from_game({})
