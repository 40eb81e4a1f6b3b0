"""Word sorting with a mistake: the first wrong step follows from the text alone."""

import dataclasses
import re
from typing import Any

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.word_sorting_mistake import WordSortingMistake, from_game
from tests.tasks.synlogic.word_sorting_mistake import GAMES

TASK = WordSortingMistake()


def first_wrong(prompt: str) -> str:
    """The answer as read from the prompt: an own reading of its sentences."""
    _, _, listed, told, _, _ = prompt.split("\n\n")
    order = [listed.removeprefix("The words: ").split(", ")]
    noted: dict[str, str] = {}
    for line in told.split("\n"):
        number = line.split(":")[0].removeprefix("Step ")
        if match := re.search(r": Letter (\d+) of the words of one group\. (.*)\.$", line):
            noted = {}
            for part in match[2].split(", "):
                word, letter = part.split(": ")
                if (word + "?" * 30)[int(match[1]) - 1].replace("?", "none") != letter:
                    return number
                noted[word] = "" if letter == "none" else letter
        else:
            written = line.split("The order is now ")[1][:-1].split(" < ")
            found = [part.strip("[]").split(", ") for part in written]
            expected: list[list[str]] = []
            for group in order:
                if group != list(noted):
                    expected.append(group)
                    continue
                for letter in ["", *"abcdefghijklmnopqrstuvwxyz"]:
                    expected += [part] if (part := [word for word in group if noted[word] == letter]) else []
            if found != expected:
                return number
            order = found
    assert [word for group in order for word in group] == sorted(word for group in order for word in group)
    return "No"


@pytest.mark.parametrize("level", [*TASK.levels, "hard(words=30,mistake_rate=1)", "easy(words=4)"])
def test_the_text_gives_the_answer(level: str) -> None:
    answers = set()
    for seed in range(60):
        problem = TASK.generate(seed, level)
        assert first_wrong(problem.prompt[0]["content"]) == problem.state["mistake"]
        answers.add(problem.state["mistake"])
    assert ("No" in answers) == ("mistake_rate=1" not in level)
    assert len(answers) > 3


def test_the_share_of_mistakes_is_a_knob() -> None:
    assert {TASK.generate(seed, "easy(mistake_rate=0)").state["mistake"] for seed in range(20)} == {"No"}
    assert "No" not in {TASK.generate(seed, "easy(mistake_rate=1)").state["mistake"] for seed in range(20)}
    assert len(TASK.generate(0, "easy(words=9)").state["words"]) == 9


@pytest.mark.parametrize("knobs", ["words=3", "words=31", "mistake_rate=-0.1", "mistake_rate=1.1", "mistake_rate=nan"])
def test_knobs_out_of_range_are_refused(knobs: str) -> None:
    with pytest.raises(UserError, match=knobs.split("=")[0]):
        TASK.generate(0, f"easy({knobs})")


def test_problems_that_differ_in_a_step_differ() -> None:
    problem = TASK.generate(1, "medium")
    state = {**problem.state, "steps": problem.state["steps"][:-1]}
    assert TASK.canonical(dataclasses.replace(problem, state=state)) != TASK.canonical(problem)


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict[str, Any]) -> None:
    state, answer = from_game(row["game"])
    problem = Problem(task=TASK.name, level="published", id="0", prompt=(), state=state, answer=answer)
    assert TASK.check(problem, answer)[1] == ""
    assert {TASK.check(problem, text) for text in row["right"]} == {TASK.check(problem, answer)}
    assert TASK.solve(problem) is None


@pytest.mark.parametrize(
    "change", [{"answer": True}, {"answer": "maybe"}, {"answer": 1.0}, {"answer": 0}, {"question": ""}]
)
def test_rows_that_are_no_rows_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"number|text"):
        from_game({**GAMES[0]["game"], **change})
