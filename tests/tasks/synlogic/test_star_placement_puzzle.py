"""Star placement: the rules against a naive twin, other solutions by OR-tools, symmetries, knobs, published rows."""

import ast
import random

import pytest
from ortools.sat.python import cp_model

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.star_placement_puzzle import StarPlacementPuzzle, from_game
from tests.tasks.synlogic.star_placement_puzzle import GAMES, Stars, by_region, naive

TASK = StarPlacementPuzzle()


def problem_of(regions: list[list[str]], k: int) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state={"regions": regions, "k": k}, answer="")


def solutions(regions: list[list[str]], k: int, most: int = 20) -> list[Stars]:
    """Up to `most` solutions, by OR-tools."""
    size = range(len(regions))
    model = cp_model.CpModel()
    cells = {(row, column): model.new_bool_var(f"{row} {column}") for row in size for column in size}
    for line in size:
        model.add(sum(cells[line, other] for other in size) == k)
        model.add(sum(cells[other, line] for other in size) == k)
    for label in {label for row in regions for label in row}:
        model.add(sum(cells[place] for place in cells if regions[place[0]][place[1]] == label) == k)
    for row, column in cells:
        for near in ((row, column + 1), (row + 1, column - 1), (row + 1, column), (row + 1, column + 1)):
            if near in cells:
                model.add_bool_or([cells[row, column].negated(), cells[near].negated()])
    found: list[Stars] = []

    class Collect(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            found.append([(row + 1, column + 1) for (row, column), cell in cells.items() if self.value(cell)])
            if len(found) == most:
                self.stop_search()

    solver = cp_model.CpSolver()
    solver.parameters.enumerate_all_solutions = True
    solver.solve(model, Collect())
    return found


@pytest.mark.parametrize("level", TASK.levels)
def test_every_solution_passes_and_the_stored_one_is_among_them(level: str) -> None:
    for seed in range(4):
        problem = TASK.generate(seed, level)
        regions, k = problem.state["regions"], problem.state["k"]
        texts = []
        for stars in solutions(regions, k, most=200):
            assert naive(regions, k, stars)
            text, reason = TASK.check(problem, repr(by_region(regions, stars)))
            assert not reason
            texts.append(text)
        assert len(texts) == 200 or problem.answer in texts


def test_check_agrees_with_the_naive_rules() -> None:
    """On solutions in which stars are moved, or nothing is."""
    draw = random.Random(1)
    verdicts = []
    for seed in range(200):
        problem = TASK.generate(seed, "easy" if seed % 2 else "hard(n=9)")
        regions, k = problem.state["regions"], problem.state["k"]
        for changes in (0, 1, 2):
            stars = [star for own in ast.literal_eval(problem.answer).values() for star in own]
            for _ in range(changes):
                at = draw.randrange(len(stars))
                other = draw.randrange(len(stars))
                stars[at], stars[other] = (stars[at][0], stars[other][1]), (stars[other][0], stars[at][1])
            verdicts.append(naive(regions, k, stars))
            assert (TASK.check(problem, repr(by_region(regions, stars)))[1] == "") == verdicts[-1]
    assert 200 <= sum(verdicts) < 500


def test_a_star_in_another_region_than_it_is_named_for_is_refused() -> None:
    """The public verifier does not look at the names."""
    problem = TASK.generate(3, "medium")
    gold = ast.literal_eval(problem.answer)
    assert "outside of its region" in TASK.check(problem, repr({**gold, "A": gold["B"], "B": gold["A"]}))[1]


def test_reasons() -> None:
    regions = [list("AAAAA")] + [list("BCDEE")] * 4

    def reason(*stars: tuple[int, int]) -> str:
        return TASK.check(problem_of(regions, 1), repr(by_region(regions, list(stars))))[1]

    assert "twice" in reason((1, 1), (1, 1))
    assert "row" in reason((1, 1), (1, 3))
    assert "column" in reason((1, 1), (2, 3), (3, 3), (4, 2), (5, 5))
    assert "region" in reason((1, 1), (2, 4), (3, 2), (4, 5), (5, 3))
    assert "touch" in reason((1, 4), (2, 3), (3, 2), (4, 1), (5, 5))


def test_canonical_forms() -> None:
    regions = TASK.generate(5, "medium").state["regions"]
    form = TASK.canonical(problem_of(regions, 1))
    turned = [list(row) for row in zip(*regions[::-1], strict=True)]
    renamed = [[label.lower() for label in row] for row in regions]
    assert TASK.canonical(problem_of(turned, 1)) == TASK.canonical(problem_of(renamed, 1)) == form
    assert TASK.canonical(problem_of(regions, 2)) != form
    merged = [["A" if label == "B" else label for label in row] for row in regions]
    assert TASK.canonical(problem_of(merged, 1)) != form


def test_regions_are_connected_and_as_many_as_rows() -> None:
    for seed in range(20):
        regions = TASK.generate(seed, "hard").state["regions"]
        labels = {label for row in regions for label in row}
        assert len(labels) == len(regions) == 10
        for label in labels:
            cells = {(row, at) for row, line in enumerate(regions) for at, name in enumerate(line) if name == label}
            reached = {min(cells)}
            while grown := {
                (row, column)
                for row, column in cells - reached
                if {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)} & reached
            }:
                reached |= grown
            assert reached == cells


def test_knobs_are_honored_and_refused() -> None:
    assert len(TASK.generate(1, "easy(n=12)").state["regions"]) == 12
    assert TASK.generate(1, "easy(n=9,k=2)").state["k"] == 2
    for level in ("easy(n=4)", "easy(n=15)", "easy(k=2)", "easy(k=0)", "hard(n=8)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        assert answer == ""
        for text in row["right"]:
            assert TASK.check(problem_of(state["regions"], state["k"]), text)[1] == ""
    metadata = GAMES[0]["game"]["metadata"]
    for change in ({"n": 5}, {"k": 0}, {"region_grid": None}, {"region_grid": [[1]]}):
        with pytest.raises(ValueError, match=r"metadata|grid|row"):
            from_game({"metadata": {**metadata, **change}})
