"""Dyck language reasoning errors: the wrong thoughts follow from the prompt's text alone."""

import itertools
import re
from collections import Counter

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.brackets import PAIRS
from pear.tasks.synlogic.dyck_language_reasoning_errors import DyckLanguageReasoningErrors, from_game
from tests.tasks.synlogic.dyck_language_reasoning_errors import GAMES

TASK = DyckLanguageReasoningErrors()


def wrong_thoughts(prompt: str) -> list[int]:
    """The wrong thoughts as read from the prompt, by an own stack."""
    stack: list[str] = []
    wrong = []
    for number, bracket, noted in re.findall(r"^Thought (\d+): (\S) ; stack: (\S+)$", prompt, re.MULTILINE):
        if bracket in "([{<":
            stack.append(bracket)
        else:
            assert stack.pop() + bracket in PAIRS
        if noted != ("".join(stack) or "empty"):
            wrong.append(int(number))
    assert not stack
    last = re.findall(
        r"^Thought (\d+): That was the last bracket, and the stack is (not )?empty\.$", prompt, re.MULTILINE
    )
    return [*wrong, *(int(number) for number, negated in last if negated)]


def problem_of(state: dict) -> Problem:
    return Problem(
        task=TASK.name, level="easy", id="x", prompt=({"role": "user", "content": "x"},), state=state, answer=""
    )


@pytest.mark.parametrize("level", TASK.levels)
def test_the_text_gives_the_answer(level: str) -> None:
    knobs = TASK.knobs[level]
    counts: Counter[int] = Counter()
    for seed in range(100):
        problem = TASK.generate(seed, level)
        wrong = wrong_thoughts(problem.prompt[0]["content"])
        assert problem.answer == (", ".join(map(str, wrong)) or "no errors")
        assert len(problem.state["sequence"]) == len(problem.state["stacks"]) == knobs.length
        assert len(set(problem.state["sequence"])) <= 2 * knobs.types
        counts[len(wrong)] += 1
    assert sorted(counts) == list(range(knobs.errors + 1))


def test_of_all_answers_one_passes() -> None:
    problem = TASK.generate(3, "easy(length=4)")
    wrong = wrong_thoughts(problem.prompt[0]["content"])
    for size in range(1, 4):
        for numbers in itertools.permutations(range(1, 9), size):
            answer = ",".join(map(str, numbers))
            assert (TASK.check(problem, answer)[1] == "") == (sorted(numbers) == wrong)
    assert (TASK.check(problem, "no errors")[1] == "") == (not wrong)


@pytest.mark.parametrize("knobs", ["types=0", "types=5", "length=7", "length=2", "length=202", "errors=0", "errors=13"])
def test_knobs_out_of_range_are_refused(knobs: str) -> None:
    with pytest.raises(UserError):
        TASK.generate(0, f"easy({knobs})")


def test_every_step_can_be_wrong() -> None:
    seen = {number for seed in range(60) for number in wrong_thoughts(content(seed, "easy(types=1,errors=12)"))}
    assert seen == set(range(3, 16))


def content(seed: int, level: str) -> str:
    return TASK.generate(seed, level).prompt[0]["content"]


def test_kinds_of_brackets_are_only_names() -> None:
    state = TASK.generate(5, "hard").state
    for order in itertools.permutations(PAIRS):
        table = str.maketrans("".join(PAIRS), "".join(order))
        stacks = [stack.translate(table) for stack in state["stacks"]]
        other = {**state, "sequence": state["sequence"].translate(table), "stacks": stacks}
        assert TASK.canonical(problem_of(other)) == TASK.canonical(problem_of(state))
    other = {**state, "ends_empty": not state["ends_empty"]}
    assert TASK.canonical(problem_of(other)) != TASK.canonical(problem_of(state))


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict) -> None:
    state, answer = from_game(row["game"])
    assert answer.replace(" ", "") == (row["game"]["answer"] or "noerrors")
    for text in row["right"]:
        assert TASK.verify(problem_of(state), f"<think> x </think> <answer> {text} </answer>").correct, text
    for text in row["wrong"]:
        assert not TASK.verify(problem_of(state), f"<think> x </think> <answer> {text} </answer>").correct, text


@pytest.mark.parametrize(
    "change",
    [
        {"dyck_sequence": None},
        {"dyck_sequence": "((a"},
        {"dyck_sequence": "{()}["},
        {"dyck_sequence": "(())[]"},
        {"thoughts": None},
        {"thoughts": []},
        {"thoughts": [3] * 9},
        {"thoughts": ["Thought 1: x"] * 9},
    ],
)
def test_broken_rows_are_refused(change: dict) -> None:
    game = GAMES[0]["game"]
    with pytest.raises(ValueError, match="metadata"):
        from_game({**game, "metadata": {**game["metadata"], **change}})
    with pytest.raises(ValueError, match="metadata"):
        from_game({**game, "metadata": None})
