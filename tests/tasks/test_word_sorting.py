"""Word sorting: the order, and the ways to write the answer."""

import dataclasses

import pytest

from pear.tasks import TASKS, GeneratedTask, Problem

TASK = TASKS["synlogic/word_sorting"]
assert isinstance(TASK, GeneratedTask)


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
    ["ant, bee, cat", "ant,bee,cat", "ant bee cat", "ant\nbee\ncat", "ant ,bee , cat", '["ant", "bee", "cat"]'],
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
        words = problem.answer.split(", ")
        assert words != sorted(words, reverse=problem.state["descending"])
        assert sorted(problem.state["alphabet"]) == list("abcdefghijklmnopqrstuvwxyz")
        assert len(set(words)) == {"easy": 5, "medium": 10, "hard": 20}[level]


def test_the_canonical_form_ignores_the_words_order_and_unused_letters() -> None:
    first = problem_of(["cat", "ant"], "tabcdefghijklmnopqrsuvwxyz", False)
    assert TASK.canonical(first) == TASK.canonical(problem_of(["ant", "cat"], "ztabcdefghijklmnopqrsuvwxy", False))
    assert TASK.canonical(first) != TASK.canonical(problem_of(["ant", "cat"], "tabcdefghijklmnopqrsuvwxyz", True))
    assert TASK.canonical(first) != TASK.canonical(problem_of(["ant", "cat"], "ntabcdefghijklmopqrsuvwxyz", False))
