"""Wordscapes: the rules against a naive twin, all solutions, the answer's forms, symmetries, knobs, published rows."""

import itertools
import json
import random

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.wordscapes import Wordscapes, _filled, _solutions, from_game
from tests.tasks.synlogic.wordscapes import GAMES, naive

TASK = Wordscapes()


def problem_of(state: dict) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def test_check_agrees_with_the_naive_rules() -> None:
    """On solutions in which letters are exchanged or changed, or nothing is."""
    draw = random.Random(1)
    verdicts = []
    for seed in range(150):
        problem = TASK.generate(seed, "easy")
        for changes in (0, 0, 1, 2):
            filled = json.loads(problem.answer)
            places = [(row, at) for row, line in enumerate(filled) for at, cell in enumerate(line) if cell != "0"]
            for _ in range(changes):
                (row, at), (other_row, other_at) = draw.sample(places, 2)
                filled[row][at], filled[other_row][other_at] = filled[other_row][other_at], filled[row][at]
            verdicts.append(naive(problem.state, filled))
            assert (TASK.check(problem, json.dumps(filled))[1] == "") == verdicts[-1]
    assert 300 <= sum(verdicts) < 400


def test_every_solution_passes_and_none_is_missed() -> None:
    """Against giving the words to the runs in every order."""
    several = 0
    for seed in range(60):
        state = TASK.generate(seed, "easy").state
        problem = problem_of(state)
        found = {json.dumps(_filled(state["grid"], placed)) for placed in _solutions(state)}
        assert all(TASK.check(problem, text)[1] == "" for text in found)
        runs = [run for run, _ in next(_solutions(state))]
        expected = set()
        orders = itertools.product(
            itertools.permutations(state["across_words"]), itertools.permutations(state["down_words"])
        )
        for across, down in orders:
            words = {False: iter(across), True: iter(down)}
            placed = [(run, next(words[run.down])) for run in sorted(runs, key=lambda run: run.places)]
            if all(len(run.places) == len(word) for run, word in placed):
                filled = _filled(state["grid"], placed)
                if naive(state, filled):
                    expected.add(json.dumps(filled))
        assert found == expected
        several += len(found) > 1
    assert several


def test_a_word_inside_of_a_longer_run_is_not_enough() -> None:
    """The public verifier looks for words anywhere in a row, with the gaps closed."""
    state = {"grid": [list("XXX0XX")], "across_words": ["ate", "so"], "down_words": []}
    assert TASK.check(problem_of(state), '[["a", "t", "e", "0", "s", "o"]]')[1] == ""
    hole = {"grid": [list("XX0XXX")], "across_words": ["ate", "so"], "down_words": []}
    assert TASK.check(problem_of(hole), '[["s", "o", "0", "a", "t", "e"]]')[1] == ""
    assert TASK.check(problem_of(hole), '[["a", "t", "0", "e", "s", "o"]]')[1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("[[c,a,t],[o,0,a],[d,0,g]]", "where the X are"),
        ("[[c,a,t],[o,a,a],[d,o,g]]", "where the X are"),
        ("[[c,a,t],[o,0,a],[d,i,g]]", "across"),
        ("[[c,a,t],[u,0,a],[d,o,g]]", "down"),
    ],
)
def test_reasons(answer: str, words: str) -> None:
    assert words in TASK.check(problem_of(from_game(GAMES[0]["game"])[0]), answer)[1]


@pytest.mark.parametrize("answer", ["", "[]", "[[]]", "cat", "[[c,a,t]", '[["c", "a", "t"], "oa", "dog"]', "[[c;a;t]]"])
def test_text_that_is_no_grid_is_none(answer: str) -> None:
    with pytest.raises(ValueError, match=r"answer|rows|row"):
        TASK.check(problem_of(from_game(GAMES[0]["game"])[0]), answer)


def test_canonical_forms() -> None:
    state = TASK.generate(3, "medium").state
    turned = {
        "grid": [list(column) for column in zip(*state["grid"], strict=True)],
        "across_words": state["down_words"][::-1],
        "down_words": state["across_words"],
    }
    form = TASK.canonical(problem_of(state))
    assert TASK.canonical(problem_of(turned)) == form
    assert TASK.canonical(problem_of({**state, "down_words": ["other", *state["down_words"][1:]]})) != form


def test_knobs_are_honored_and_refused() -> None:
    for seed in range(10):
        state = TASK.generate(seed, "easy(size=9,words=7)").state
        assert len(state["across_words"]) + len(state["down_words"]) == 7
        assert max(len(state["grid"]), len(state["grid"][0])) <= 9
        assert not set(state["across_words"]) & set(state["down_words"])
    for level in ("easy(size=5)", "easy(size=21)", "easy(words=1)", "easy(words=9)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        assert answer == "" or TASK.check(problem_of(state), answer)[1] == ""
        assert all(TASK.check(problem_of(state), text)[1] == "" for text in row["right"])
    assert from_game(GAMES[0]["game"])[1]
    beside = {**GAMES[0]["game"]["metadata"], "metadata": {}}
    assert from_game(beside) == from_game(GAMES[0]["game"])
    metadata = GAMES[0]["game"]["metadata"]
    for change in ({"grid": []}, {"grid": [["X", "Y"]]}, {"grid": [["X"], ["X", "0"]]}, {"down_words": "cod"}):
        with pytest.raises(ValueError, match=r"grid|row|words"):
            from_game({"metadata": {**metadata, **change}})
