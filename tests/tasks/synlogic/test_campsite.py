"""Campsite: the rules against a naive twin, the only solution by OR-tools, symmetries, knobs, published rows."""

import json
import random
from functools import partial
from itertools import permutations

import pytest
from ortools.sat.python import cp_model

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.campsite import Campsite, from_game
from tests.tasks.synlogic.campsite import GAMES
from tests.tasks.synlogic.counting import another_solution

TASK = Campsite()
Grid = list[list[str]]


def beside(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) == 1


def naive(state: dict, filled: Grid) -> bool:
    """The rules as the puzzle states them, by trying every pairing."""
    where = {sign: [] for sign in "TCX"}
    for row, line in enumerate(filled):
        for column, cell in enumerate(line):
            where[cell].append((row, column))
    given = [(row, column) for row, line in enumerate(state["grid"]) for column, cell in enumerate(line) if cell == "T"]
    tents, trees = where["C"], where["T"]
    if trees != given or len(tents) != len(trees):
        return False
    for row, count in enumerate(state["rows"]):
        if sum(tent[0] == row for tent in tents) != count:
            return False
    for column, count in enumerate(state["columns"]):
        if sum(tent[1] == column for tent in tents) != count:
            return False
    for one in tents:
        for other in tents:
            if one != other and abs(one[0] - other[0]) <= 1 and abs(one[1] - other[1]) <= 1:
                return False
    return any(all(map(beside, order, trees)) for order in permutations(tents))


def state_of(filled: Grid) -> dict:
    return {
        "grid": [["T" if cell == "T" else "X" for cell in line] for line in filled],
        "rows": [line.count("C") for line in filled],
        "columns": [list(column).count("C") for column in zip(*filled, strict=True)],
    }


def problem_of(state: dict) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def test_check_agrees_with_the_naive_rules() -> None:
    draw = random.Random(0)
    verdicts = []
    for _ in range(4_000):
        filled = [[draw.choice("TCXXX") for _ in range(4)] for _ in range(3)]
        if sum(line.count("T") for line in filled) > 5:
            continue
        state = state_of(filled)
        if draw.random() < 0.3:
            state["rows"][draw.randrange(3)] += 1
        verdicts.append(naive(state, filled))
        assert (TASK.check(problem_of(state), json.dumps(filled))[1] == "") == verdicts[-1]
    assert sum(verdicts) > 20


@pytest.mark.parametrize("grid", [["CTCT", "XXXX"], ["TCTC", "XXXX"], ["XTX", "CTC", "XXX"]])
def test_a_tent_may_belong_to_the_other_of_two_trees(grid: list[str]) -> None:
    filled = [list(line) for line in grid]
    state = state_of(filled)
    assert (TASK.check(problem_of(state), json.dumps(filled))[1] == "") == naive(state, filled)


def test_tents_that_share_a_tree_are_refused() -> None:
    filled = [list("CTCXT")]
    assert "paired" in TASK.check(problem_of(state_of(filled)), json.dumps(filled))[1]


def test_tents_that_touch_at_a_corner_are_refused() -> None:
    filled = [list("CT"), list("TC")]
    assert "touch" in TASK.check(problem_of(state_of(filled)), json.dumps(filled))[1]


def model_of(state: dict) -> tuple[cp_model.CpModel, dict]:
    """The rules for OR-tools: a tent or none in each cell, and who of a tree and a cell beside it are a pair."""
    grid, model = state["grid"], cp_model.CpModel()
    places = [(row, column) for row in range(len(grid)) for column in range(len(grid[0]))]
    trees = [place for place in places if grid[place[0]][place[1]] == "T"]
    tents = {place: model.new_bool_var(f"tent {place}") for place in places}
    pairs = {
        (tree, place): model.new_bool_var(f"pair {tree} {place}")
        for tree in trees
        for place in places
        if beside(tree, place) and place not in trees
    }
    for tree in trees:
        model.add_exactly_one(pairs[pair] for pair in pairs if pair[0] == tree)
    for place in places:
        model.add(sum(pairs[pair] for pair in pairs if pair[1] == place) == tents[place])
    for one in places:
        for other in places:
            if one < other and abs(one[0] - other[0]) <= 1 and abs(one[1] - other[1]) <= 1:
                model.add_at_most_one(tents[one], tents[other])
    for axis, counts in enumerate((state["rows"], state["columns"])):
        for line, count in enumerate(counts):
            model.add(sum(tents[place] for place in places if place[axis] == line) == count)
    return model, tents


@pytest.mark.parametrize("level", TASK.levels)
def test_there_is_one_solution(level: str) -> None:
    for seed in range(10):
        problem = TASK.generate(seed, level)
        known = {
            (row, column): int(cell == "C")
            for row, line in enumerate(json.loads(problem.answer))
            for column, cell in enumerate(line)
        }
        assert another_solution(partial(model_of, problem.state), known) is None


def test_the_independent_solver_finds_a_second_solution_where_there_is_one() -> None:
    state = {"grid": [["X", "T", "X"]], "rows": [1], "columns": [0, 0, 1]}
    known = {(0, 0): 0, (0, 1): 0, (0, 2): 1}
    assert another_solution(partial(model_of, state), known) is None
    two = [list("CXX"), list("TXT"), list("XXC")]
    state = {**state_of(two), "rows": [1, 0, 1], "columns": [1, 0, 1]}
    known = {(row, column): int(cell == "C") for row, line in enumerate(two) for column, cell in enumerate(line)}
    assert another_solution(partial(model_of, state), known) == {
        (row, column): int((row, column) in ((0, 2), (2, 0))) for row in range(3) for column in range(3)
    }


def test_canonical_forms_are_equal_up_to_turning_and_mirroring() -> None:
    problem = TASK.generate(3, "easy(rows=4,columns=6)")
    state = problem.state
    turned = {
        "grid": [list(line) for line in zip(*state["grid"][::-1], strict=True)],
        "rows": state["columns"],
        "columns": state["rows"][::-1],
    }
    mirrored = {**state, "grid": [line[::-1] for line in state["grid"]], "columns": state["columns"][::-1]}
    other = {**state, "columns": state["columns"][::-1]}
    form = TASK.canonical(problem)
    assert TASK.canonical(problem_of(turned)) == TASK.canonical(problem_of(mirrored)) == form
    assert other != state
    assert TASK.canonical(problem_of(other)) != form


def test_knobs_are_honored_and_refused() -> None:
    state = TASK.generate(1, "easy(columns=8,rows=4,tree_density=0.1)").state
    assert (len(state["grid"]), len(state["grid"][0])) == (4, 8)
    assert sum(line.count("T") for line in state["grid"]) == sum(state["rows"]) == 3
    for level in ("easy(rows=2)", "easy(columns=40)", "easy(tree_density=0.5)", "easy(tree_density=0)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        assert json.loads(answer or "null") == row["game"]["metadata"].get("solution")
        for text in row["right"]:
            assert TASK.check(problem_of(state), text)[1] == ""
    metadata = GAMES[0]["game"]["metadata"]
    for change in ({"grid": None}, {"row_constraints": [1]}, {"col_constraints": "1"}, {"grid": [["C"] * 4] * 4}):
        with pytest.raises(ValueError, match=r"row|col|other entries"):
            from_game({"metadata": {**metadata, **change}})
    with pytest.raises(ValueError, match="metadata"):
        from_game({"question": "x"})
    wrong = [list(line) for line in metadata["grid"]]
    assert from_game({"metadata": {**metadata, "solution": wrong}})[1] == ""
