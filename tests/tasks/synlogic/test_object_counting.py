"""Object counting: the number follows from the text alone."""

import dataclasses
import re

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.object_counting import ObjectCounting, from_game
from tests.tasks.synlogic.object_counting import GAMES

TASK = ObjectCounting()


def counted(prompt: str) -> int:
    """The answer as read from the prompt: an own reading of its sentences."""
    _, _, told, asked, _ = prompt.split("\n\n")
    mine: dict[str, int] = {}
    for sentence in told.split(". "):
        words = sentence.rstrip(".").split()
        if words[0] != "I":
            continue
        amount = int(words[2])
        for verb, change in re.findall(r"(bought|gave away) (\d+)", sentence):
            amount += int(change) if verb == "bought" else -int(change)
        name = words[3].rstrip(",")
        assert name not in mine
        mine[name] = amount
    question, groups = asked.split(" These count as ")
    members = {kind: names.split(", ") for kind, names in (part.split(": ") for part in groups[:-1].split("; "))}
    totals = [sum(mine.get(name, 0) for name in names) for names in members.values()]
    return abs(totals[0] - totals[1]) if question.startswith("By how much") else sum(totals)


@pytest.mark.parametrize("level", [*TASK.levels, "hard(sequence=8,others=50,kinds=8)"])
def test_the_text_gives_the_answer(level: str) -> None:
    asked = set()
    for seed in range(60):
        problem = TASK.generate(seed, level)
        assert counted(problem.prompt[0]["content"]) == problem.state["count"] > 1
        asked.add(problem.state["question"])
    assert asked == {"total", "sum", "difference"}


def test_things_never_run_out() -> None:
    for seed in range(100):
        for item in TASK.generate(seed, "hard(sequence=8)").state["belongings"]:
            assert all(sum(item["counts"][:length]) > 0 for length in range(1, len(item["counts"]) + 1))


def test_knobs_are_kept() -> None:
    problem = TASK.generate(0, "easy(others=7,kinds=3,items=1)")
    mine = [item for item in problem.state["belongings"] if item["owner"] == "I"]
    assert len(problem.state["belongings"]) - len(mine) == 7
    assert len({item["kind"] for item in mine}) == len(mine) == 3


@pytest.mark.parametrize("knobs", ["kinds=1", "kinds=9", "items=0", "items=9", "others=51", "sequence=-1", "largest=9"])
def test_knobs_out_of_range_are_refused(knobs: str) -> None:
    with pytest.raises(UserError, match=knobs.split("=")[0]):
        TASK.generate(0, f"easy({knobs})")


def test_the_order_of_sentences_and_kinds_does_not_matter() -> None:
    problem = TASK.generate(1, "medium")
    state = {**problem.state, "belongings": problem.state["belongings"][::-1], "kinds": problem.state["kinds"][::-1]}
    assert TASK.canonical(dataclasses.replace(problem, state=state)) == TASK.canonical(problem)
    other = {**problem.state, "belongings": problem.state["belongings"][1:]}
    assert TASK.canonical(dataclasses.replace(problem, state=other)) != TASK.canonical(problem)


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict[str, object]) -> None:
    state, answer = from_game(row["game"])  # type: ignore[arg-type]
    problem = Problem(task=TASK.name, level="published", id="0", prompt=(), state=state, answer=answer)
    assert TASK.check(problem, answer)[1] == ""
    assert TASK.canonical(problem).startswith(f"{TASK.name}:")
    assert TASK.solve(problem) is None


@pytest.mark.parametrize("change", [{"answer": None}, {"answer": "many"}, {"answer": True}, {"question": ""}])
def test_rows_that_are_no_rows_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"number|text"):
        from_game({**GAMES[0]["game"], **change})
