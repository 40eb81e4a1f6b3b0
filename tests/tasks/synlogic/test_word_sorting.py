"""Word sorting: the order, and the ways to write the answer."""

import dataclasses
from typing import Any

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.word_sorting import WordSorting, from_game
from tests.tasks.synlogic.word_sorting import GAMES

TASK = WordSorting()


def problem_of(words: list[str], alphabet: str, descending: bool) -> Problem:
    state = {"words": words, "alphabet": alphabet, "descending": descending}
    return dataclasses.replace(TASK.generate(0, "easy"), state=state)


def is_right(problem: Problem, answer: str) -> bool:
    return TASK.verify(problem, f"<think> x </think> <answer> {answer} </answer>").correct


def test_the_order_is_the_new_alphabets() -> None:
    words = ["bank", "banker", "cab", "zoo", "bat"]
    front_z = "zabcdefghijklmnopqrstuvwxy"
    assert is_right(problem_of(words, front_z, False), "zoo, bank, banker, bat, cab")
    assert is_right(problem_of(words, front_z, True), "cab, bat, banker, bank, zoo")
    front_tc = "tcabdefghijklmnopqrsuvwxyz"
    assert is_right(problem_of(words, front_tc, False), "cab, bat, bank, banker, zoo")


@pytest.mark.parametrize(
    "answer",
    [
        "ant, bee, cat",
        "ant,bee,cat",
        "ant bee cat",
        "ant\nbee\ncat",
        "ant ,bee , cat",
        '["ant", "bee", "cat"]',
        "\\boxed{ant, bee, cat}",
        "So it is \\boxed{ant bee cat}.",
        '\\boxed{["ant", "bee", "cat"]}',
    ],
)
def test_ways_to_write_the_answer(answer: str) -> None:
    problem = problem_of(["cat", "ant", "bee"], "abcdefghijklmnopqrstuvwxyz", False)
    verdict = TASK.verify(problem, f"<think> x </think> <answer> {answer} </answer>")
    assert verdict.correct
    assert verdict.answer == "ant, bee, cat"


@pytest.mark.parametrize(
    "answer",
    ["ant, bee, cat,", ", ant, bee, cat", "ant; bee; cat", "[ant, bee, cat]", "1. ant 2. bee 3. cat", '["ant"]'],
)
def test_other_ways_are_refused(answer: str) -> None:
    assert not is_right(problem_of(["cat", "ant", "bee"], "abcdefghijklmnopqrstuvwxyz", False), answer)


@pytest.mark.parametrize("level", TASK.levels)
def test_the_new_alphabet_matters(level: str) -> None:
    for seed in range(100):
        problem = TASK.generate(seed, level)
        words = problem.answer.removeprefix("\\boxed{").removesuffix("}").split(", ")
        assert words != sorted(words, reverse=problem.state["descending"])
        assert sorted(problem.state["alphabet"]) == list("abcdefghijklmnopqrstuvwxyz")
        assert len(set(words)) == {"easy": 5, "medium": 10, "hard": 20}[level]


def test_the_canonical_form_ignores_the_words_order_and_unused_letters() -> None:
    first = problem_of(["cat", "ant"], "tabcdefghijklmnopqrsuvwxyz", False)
    assert TASK.canonical(first) == TASK.canonical(problem_of(["ant", "cat"], "ztabcdefghijklmnopqrsuvwxy", False))
    assert TASK.canonical(first) != TASK.canonical(problem_of(["ant", "cat"], "tabcdefghijklmnopqrsuvwxyz", True))
    assert TASK.canonical(first) != TASK.canonical(problem_of(["ant", "cat"], "ntabcdefghijklmopqrsuvwxyz", False))


def test_knobs_are_kept() -> None:
    problem = TASK.generate(0, "easy(words=12,moved=5,prefix=2)")
    words, alphabet = problem.state["words"], problem.state["alphabet"]
    assert len(words) == 12
    assert list(alphabet[5:]) == sorted(alphabet[5:])
    assert len({word[:2] for word in words}) < 12


@pytest.mark.parametrize("knobs", ["words=3", "words=51", "moved=0", "moved=7", "prefix=0", "prefix=6"])
def test_knobs_out_of_range_are_refused(knobs: str) -> None:
    with pytest.raises(UserError, match=knobs.split("=")[0]):
        TASK.generate(0, f"easy({knobs})")


def test_the_smallest_settings_always_make_a_problem() -> None:
    for seed in range(200):
        TASK.generate(seed, "easy(words=4,moved=1,prefix=5)")
        TASK.generate(seed, "easy(words=4,moved=6,prefix=5)")


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict[str, Any]) -> None:
    state, answer = from_game(row["game"])
    assert answer == f"\\boxed{{{row['game']['answer']}}}"
    problem = dataclasses.replace(TASK.generate(0, "easy"), state=state, answer=answer)
    assert all(is_right(problem, text) for text in [answer, *row["right"]])
    assert not any(is_right(problem, text) for text in row["wrong"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("words", []), ("words", ["A b"]), ("words", None), ("front_letters", ["z"]), ("order", 0), ("order", True)],
)
def test_rows_that_are_no_rows_are_refused(key: str, value: object) -> None:
    game = GAMES[0]["game"]
    with pytest.raises(ValueError, match=key):
        from_game({**game, "metadata": {**game["metadata"], key: value}})
