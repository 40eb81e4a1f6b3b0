"""Arrow maze: the rules against a naive twin, other solutions, symmetries, knobs, published rows."""

import itertools
import json
import random

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.arrow_maze import ArrowMaze, from_game
from tests.tasks.synlogic.arrow_maze import DIRECTIONS, GAMES, Grid, naive

TASK = ArrowMaze()


def problem_of(maze: Grid) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state={"maze": maze}, answer="")


def passes(maze: Grid, filled: Grid) -> bool:
    return TASK.check(problem_of(maze), json.dumps(filled))[1] == ""


def test_check_agrees_with_the_naive_rules_on_every_filling() -> None:
    several = 0
    for seed in range(30):
        problem = TASK.generate(seed, "easy(width=3,height=2,fill=0.5)")
        maze = problem.state["maze"]
        places = [(row, at) for row, line in enumerate(maze) for at, cell in enumerate(line) if cell == "X"]
        if len(places) > 3:
            continue
        right = []
        for arrows in itertools.product(DIRECTIONS, repeat=len(places)):
            filled = [list(row) for row in maze]
            for (row, at), arrow in zip(places, arrows, strict=True):
                filled[row][at] = arrow
            assert passes(maze, filled) == naive(maze, filled)
            right += [filled] * naive(maze, filled)
        assert json.loads(problem.answer) in right
        several += len(right) > 1
    assert several, "no problem with another solution than the stored one"


def test_check_agrees_with_the_naive_rules_near_solutions() -> None:
    draw = random.Random(1)
    verdicts = []
    for seed in range(150):
        problem = TASK.generate(seed, "medium(fill=0)")
        maze = problem.state["maze"]
        for changes in (0, 1, 2):
            filled = json.loads(problem.answer)
            for _ in range(changes):
                row, at = draw.randrange(6), draw.randrange(6)
                if maze[row][at] == "X":
                    filled[row][at] = draw.choice(list(DIRECTIONS))
            verdicts.append(naive(maze, filled))
            assert passes(maze, filled) == verdicts[-1]
    assert 150 < sum(verdicts) < 400


def test_reasons() -> None:
    maze = [["2", "X", "X"], ["X", "X", "↑"]]

    def reason(*rows: str) -> str:
        return TASK.check(problem_of(maze), json.dumps([list(row) for row in rows]))[1]

    assert reason("3→→", "↓↘↑") == "a number or an arrow of the puzzle was changed"
    assert reason("2→→", "↓↘↓") == "a number or an arrow of the puzzle was changed"
    assert reason("211", "↓↘↑") == "a cell without an arrow is left"
    assert reason("2→→", "↓↘↑") == "from a 2 lead 4 arrow(s)"
    assert reason("2→→", "→→↑") == "an arrow belongs to no number"


def test_canonical_forms_turn_the_arrows_too() -> None:
    maze = TASK.generate(4, "medium").state["maze"]
    form = TASK.canonical(problem_of(maze))
    clockwise = dict(zip("↑↗→↘↓↙←↖", "→↘↓↙←↖↑↗", strict=True))
    mirrored = dict(zip("↑↗→↘↓↙←↖", "↑↖←↙↓↘→↗", strict=True))
    turned = [[clockwise.get(cell, cell) for cell in row] for row in zip(*maze[::-1], strict=True)]
    flipped = [[mirrored.get(cell, cell) for cell in row[::-1]] for row in maze]
    assert TASK.canonical(problem_of(turned)) == TASK.canonical(problem_of(flipped)) == form
    assert TASK.canonical(problem_of([list(row) for row in zip(*maze[::-1], strict=True)])) != form
    # A solution turned is a solution of the maze turned.
    filled = json.loads(TASK.generate(4, "medium").answer)
    assert passes(turned, [[clockwise.get(cell, cell) for cell in row] for row in zip(*filled[::-1], strict=True)])


def test_knobs_are_honored_and_refused() -> None:
    maze = TASK.generate(1, "easy(width=7,height=3)").state["maze"]
    assert [len(row) for row in maze] == [7] * 3
    cells = [cell for seed in range(40) for row in TASK.generate(seed, "hard(fill=0.5)").state["maze"] for cell in row]
    arrows = sum(cell in DIRECTIONS for cell in cells)
    assert 0.45 < arrows / (arrows + cells.count("X")) < 0.55
    for level in ("easy(width=1)", "easy(height=16)", "easy(fill=1)", "easy(fill=-0.1)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        assert answer == row["right"][0]
        assert all(passes(state["maze"], json.loads(text)) for text in row["right"][:1])
    metadata = GAMES[1]["game"]["metadata"]
    for solution in (None, [["3"]], metadata["maze"]):
        assert from_game({"metadata": {**metadata, "solution": solution}})[1] == ""
    for maze in (None, [], [["3", "Y"]], [["3"], ["X", "X"]], [[3, "X"]], [["x"]]):
        with pytest.raises(ValueError, match=r"maze|row|text"):
            from_game({"metadata": {"maze": maze}})
