"""Norinori: the rules against a naive twin and puzzlekit, all solutions, symmetries, knobs, published rows."""

import ast
import random
from itertools import combinations

import puzzlekit
import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.norinori import Norinori, _solutions, from_game
from tests.tasks.synlogic.norinori import GAMES, naive

TASK = Norinori()


def problem_of(regions: list[list[str]]) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state={"regions": regions}, answer="")


def verdict(regions: list[list[str]], dominoes: object) -> str:
    return TASK.check(problem_of(regions), str(dominoes))[1]


def test_check_agrees_with_the_naive_rules() -> None:
    """On solutions in which a domino is moved, a label is changed, both or none."""
    draw = random.Random(1)
    verdicts = []
    for seed in range(400):
        problem = TASK.generate(seed, "easy" if seed % 2 else "easy(size=4,regions=2,shadow_ratio=0)")
        regions, dominoes = problem.state["regions"], ast.literal_eval(problem.answer)
        size = len(regions)
        cells = [(row, column) for row in range(1, size + 1) for column in range(1, size + 1)]
        for _ in range(5):
            changed, placed = [list(line) for line in regions], list(dominoes)
            if draw.random() < 0.7:
                one = draw.choice(cells)
                near = [cell for cell in cells if abs(cell[0] - one[0]) + abs(cell[1] - one[1]) <= 2]
                placed[draw.randrange(len(placed))] = [one, draw.choice(near)]
            if draw.random() < 0.4:
                changed[draw.randrange(size)][draw.randrange(size)] = draw.choice("ABCX")
            verdicts.append(naive(changed, placed))
            assert (verdict(changed, placed) == "") == verdicts[-1]
    assert 300 < sum(verdicts) < 1_700


def test_every_solution_passes_and_puzzlekit_finds_one_of_them() -> None:
    several = 0
    for seed in range(4):
        regions = TASK.generate(seed, "easy(shadow_ratio=0,regions=4)").state["regions"]
        found = {TASK.check(problem_of(regions), TASK.solve(problem_of(regions)).split("<answer>")[1][:-9])[0]}
        for dominoes in _solutions(regions):
            counted = [[(row + 1, column + 1) for row, column in domino] for domino in dominoes]
            assert naive(regions, counted)
            text, reason = TASK.check(problem_of(regions), str(counted))
            assert not reason
            found.add(text)
        several += len(found) > 1
        size = len(regions)
        result = puzzlekit.solve(
            {"num_rows": size, "num_cols": size, "region_grid": regions}, "norinori", {"num_workers": 1}
        )
        marked = [
            (row + 1, column + 1)
            for row in range(size)
            for column in range(size)
            if result.solution_data["solution_grid"].value(row, column) == "x"
        ]
        pairs = [
            [one, other]
            for one in marked
            for other in marked
            if one < other and abs(one[0] - other[0]) + abs(one[1] - other[1]) == 1
        ]
        assert TASK.check(problem_of(regions), str(pairs)) in [(text, "") for text in found]
    assert several


def test_all_solutions_are_found() -> None:
    """Against trying every set of dominoes."""
    regions = GAMES[1]["game"]["metadata"]["region_grid"]
    cells = [(row, column) for row in range(1, 5) for column in range(1, 5)]
    pairs = [
        [one, other]
        for one in cells
        for other in cells
        if one < other and other[0] - one[0] + abs(other[1] - one[1]) == 1
    ]
    expected = [sorted(map(tuple, chosen)) for chosen in combinations(pairs, 4) if naive(regions, list(chosen))]
    found = [
        sorted(tuple((row + 1, column + 1) for row, column in domino) for domino in dominoes)
        for dominoes in _solutions(regions)
    ]
    assert expected
    assert sorted(found) == sorted(expected)


def test_an_empty_answer_or_an_uncovered_region_is_refused() -> None:
    """The public verifier skips regions without a covered cell."""
    for seed in range(20):
        problem = TASK.generate(seed, "easy(shadow_ratio=0,regions=4)")
        assert TASK.check(problem, "[]")[1]
        assert TASK.check(problem, str(ast.literal_eval(problem.answer)[:1]))[1]


@pytest.mark.parametrize(
    ("dominoes", "words"),
    [
        ([[(1, 1), (2, 2)]], "next to each other"),
        ([[(1, 1), (1, 1)]], "next to each other"),
        ([[(1, 1), (1, 2)], [(1, 2), (1, 3)]], "overlap"),
        ([[(1, 1), (1, 2)], [(2, 2), (2, 3)]], "share a side"),
        ([[(1, 1), (1, 2)]], "shadow"),
        ([[(3, 3), (3, 4)]], "two covered"),
    ],
)
def test_reasons(dominoes: list, words: str) -> None:
    regions = [list("AABB"), list("AABB"), list("CCXX")]
    assert words in verdict(regions, dominoes)


def test_canonical_forms_are_equal_up_to_symmetries_and_names() -> None:
    regions = TASK.generate(5, "medium").state["regions"]
    turned = [list(line) for line in zip(*regions[::-1], strict=True)]
    swap = {"A": "B", "B": "A"}
    renamed = [[swap.get(label, label) for label in line] for line in regions]
    merged = [["A" if label == "B" else label for label in line] for line in regions]
    form = TASK.canonical(problem_of(regions))
    assert TASK.canonical(problem_of(turned)) == TASK.canonical(problem_of(renamed)) == form
    assert TASK.canonical(problem_of([line[::-1] for line in renamed])) == form
    assert TASK.canonical(problem_of(merged)) != form


def test_knobs_are_honored_and_refused() -> None:
    regions = TASK.generate(1, "easy(size=8,regions=9,shadow_ratio=0.07)").state["regions"]
    labels = [label for line in regions for label in line]
    assert (len(regions), len(set(labels)), labels.count("X")) == (8, 10, 4)
    for level in ("easy(size=3)", "easy(size=30)", "easy(regions=1)", "easy(regions=9)", "easy(shadow_ratio=0.5)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_regions_are_connected() -> None:
    for seed in range(20):
        regions = TASK.generate(seed, "medium").state["regions"]
        for label in {label for line in regions for label in line} - {"X"}:
            cells = {(row, at) for row, line in enumerate(regions) for at, name in enumerate(line) if name == label}
            reached = {min(cells)}
            while grown := {
                (row, column)
                for row, column in cells - reached
                if {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)} & reached
            }:
                reached |= grown
            assert reached == cells


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        assert answer == row["right"][0]
        for text in row["right"]:
            assert TASK.check(problem_of(state["regions"]), text)[1] == ""
    metadata = GAMES[0]["game"]["metadata"]
    for solution in (None, [], [[[1, 1]]], metadata["solution"][:-1]):
        assert from_game({"metadata": {**metadata, "solution": solution}})[1] == ""
    for metadata in (None, {}, {"region_grid": []}, {"region_grid": [["A", "B"], ["A"]]}, {"region_grid": [[1]]}):
        with pytest.raises(ValueError, match=r"region_grid|row|text"):
            from_game({"metadata": metadata})
