"""Number wall: the rules against a naive twin on all fillings, other solutions, symmetries, knobs, published rows."""

import itertools
import json
import random

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.number_wall import NumberWall, from_game
from tests.tasks.synlogic.number_wall import GAMES, Grid, naive

TASK = NumberWall()


def problem_of(grid: Grid) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state={"grid": grid}, answer="")


def fillings(grid: Grid) -> list[Grid]:
    open_cells = [(row, column) for row, line in enumerate(grid) for column, cell in enumerate(line) if cell == "X"]
    found = []
    for choice in itertools.product("AX", repeat=len(open_cells)):
        filled = [list(row) for row in grid]
        for (row, column), cell in zip(open_cells, choice, strict=True):
            filled[row][column] = cell
        found.append(filled)
    return found


def test_check_agrees_with_the_naive_rules_on_every_filling() -> None:
    solutions = []
    for seed in range(12):
        problem = TASK.generate(seed, "easy(size=3,largest=3)")
        grid = problem.state["grid"]
        right = [json.dumps(filled) for filled in fillings(grid) if TASK.check(problem, json.dumps(filled))[1] == ""]
        assert right == [json.dumps(filled) for filled in fillings(grid) if naive(grid, filled)]
        assert problem.answer in right
        solutions.append(len(right))
    assert max(solutions) > 1, "no problem with another solution than the stored one"


def test_check_agrees_with_the_naive_rules_near_solutions() -> None:
    draw = random.Random(1)
    verdicts = []
    for seed in range(150):
        problem = TASK.generate(seed, "medium")
        grid = problem.state["grid"]
        for changes in (0, 1, 2):
            filled = json.loads(problem.answer)
            for _ in range(changes):
                row, column = draw.randrange(len(grid)), draw.randrange(len(grid))
                if grid[row][column] == "X":
                    filled[row][column] = "A" if filled[row][column] == "X" else "X"
            verdicts.append(naive(grid, filled))
            assert (TASK.check(problem, json.dumps(filled))[1] == "") == verdicts[-1]
    assert 150 < sum(verdicts) < 400


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["2A1", "AAA", "1A1"], "numbers"),
        (["1A1", "A1A", "1A1"], "numbers"),
        (["1A1", "AXA", "1A1"], "one number"),
        (["1X1", "AAA", "1A1"], "one number"),
        (["1A1", "XAA", "XA1"], "numbers"),
    ],
)
def test_reasons(rows: list[str], words: str) -> None:
    filled = [[int(cell) if cell.isdigit() else cell for cell in row] for row in rows]
    grid = [[1, "X", 1], ["X", "X", "X"], [1, "X", 1]]
    assert words in TASK.check(problem_of(grid), json.dumps(filled))[1]


def test_reasons_about_sizes_corners_and_squares() -> None:
    grid = [[2, "X", "X"], ["X", "X", "X"], ["X", "X", 1]]

    def reason(*rows: str) -> str:
        filled = [[int(cell) if cell.isdigit() else cell for cell in row] for row in rows]
        return TASK.check(problem_of(grid), json.dumps(filled))[1]

    assert "size" in reason("2AA", "AAA", "AA1")
    assert "square" in reason("2XA", "AAA", "AA1")
    corner = [[1, "X"], ["X", 1]]
    assert "corner" in TASK.check(problem_of(corner), '[[1, "A"], ["A", 1]]')[1]


def test_canonical_forms() -> None:
    grid = TASK.generate(4, "medium").state["grid"]
    form = TASK.canonical(problem_of(grid))
    turned = [list(row) for row in zip(*grid[::-1], strict=True)]
    assert TASK.canonical(problem_of(turned)) == TASK.canonical(problem_of([row[::-1] for row in grid])) == form
    other = [list(row) for row in grid]
    row, column = next((row, line.index("X")) for row, line in enumerate(grid) if "X" in line)
    other[row][column] = 1
    assert TASK.canonical(problem_of(other)) != form


def test_knobs_are_honored_and_refused() -> None:
    numbers = set()
    for seed in range(20):
        grid = TASK.generate(seed, "hard(size=8,largest=3)").state["grid"]
        assert [len(row) for row in grid] == [8] * 8
        numbers |= {cell for row in grid for cell in row if cell != "X"}
    assert numbers == {1, 2, 3}
    for level in ("easy(size=2)", "easy(size=16)", "easy(largest=0)", "easy(largest=10)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        assert answer == row["right"][0]
        for text in row["right"]:
            assert TASK.check(problem_of(state["grid"]), text)[1] == ""
    metadata = GAMES[1]["game"]["metadata"]
    for solution in ([["A"]], None, [[1, "A", 1], ["A", "X", "A"], [1, "A", 1]]):
        assert from_game({"metadata": {**metadata, "solution": solution}})[1] == ""
    for change in ({"n": 4}, {"grid": None}, {"grid": [[0, "X", 1]] * 3}, {"grid": [["A", "X", 1]] * 3}):
        with pytest.raises(ValueError, match=r"grid|row|n"):
            from_game({"metadata": {**metadata, **change}})
