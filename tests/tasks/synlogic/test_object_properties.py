"""Object properties: what the changes do, read from the text alone."""

import dataclasses
import re

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.object_properties import ObjectProperties, from_game
from tests.tasks.synlogic.object_properties import GAMES

TASK = ObjectProperties()
HAVING = re.compile(r"the (color|size|material|origin|smell) ([A-Za-z]+)")


def counted(prompt: str) -> int:
    """The answer as read from the prompt: an own reading of its sentences, one thing at a time."""
    _, _, listed, _, changes, asked, _ = prompt.split("\n\n")
    things = [dict(part.split(" ") for part in line.split(": ")[1].split(", ")) for line in listed.split("\n")]
    first = [dict(thing) for thing in things]
    for line in changes.split("\n"):
        found = HAVING.findall(line)
        result = []
        copies = []
        for thing in things:
            if "occur in no thing" in line:
                match = re.search(r"whose (\w+) and (\w+),", line)
                assert match
                known = [(old[match[1]], old[match[2]]) for old in first]
                copies += [dict(thing)] if (thing[match[1]], thing[match[2]]) not in known else []
                result.append(thing)
            elif thing[found[0][0]] != found[0][1]:
                result.append(thing)
            elif "is changed to have" in line:
                result.append({**thing, **dict(found[1:])})
            elif "a copy joins" in line:
                result.append(thing)
                copies.append({**thing, **dict(found[1:])})
            else:
                assert line.endswith("is lost.")
        things = result + copies
    wanted = HAVING.findall(asked)
    return sum(1 for thing in things if any(thing[key] == value for key, value in wanted))


@pytest.mark.parametrize("level", [*TASK.levels, "medium(changes=6,features=2,items=8)"])
def test_the_text_gives_the_answer(level: str) -> None:
    for seed in range(60):
        problem = TASK.generate(seed, level)
        assert counted(problem.prompt[0]["content"]) == problem.state["count"] > 1


def test_every_kind_of_change_occurs() -> None:
    kinds = {change["kind"] for seed in range(20) for change in TASK.generate(seed, "hard").state["changes"]}
    assert kinds == {"lose", "change", "copy", "unseen"}


def test_knobs_are_kept() -> None:
    problem = TASK.generate(0, "easy(items=7,features=2,changes=2)")
    assert len(problem.state["items"]) == 7
    assert len(problem.state["changes"]) == 2
    assert len({item["color"] for item in problem.state["items"]}) <= 2


@pytest.mark.parametrize("knobs", ["items=3", "items=31", "features=1", "features=9", "changes=0", "changes=9"])
def test_knobs_out_of_range_are_refused(knobs: str) -> None:
    with pytest.raises(UserError, match=knobs.split("=")[0]):
        TASK.generate(0, f"easy({knobs})")


def test_the_order_of_things_does_not_matter_that_of_changes_does() -> None:
    problem = TASK.generate(1, "medium")
    state = {**problem.state, "items": problem.state["items"][::-1], "asked": problem.state["asked"][::-1]}
    assert TASK.canonical(dataclasses.replace(problem, state=state)) == TASK.canonical(problem)
    other = {**problem.state, "changes": problem.state["changes"][::-1]}
    assert TASK.canonical(dataclasses.replace(problem, state=other)) != TASK.canonical(problem)


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict[str, object]) -> None:
    state, answer = from_game(row["game"])  # type: ignore[arg-type]
    problem = Problem(task=TASK.name, level="published", id="0", prompt=(), state=state, answer=answer)
    assert TASK.check(problem, answer)[1] == ""
    assert TASK.solve(problem) is None


@pytest.mark.parametrize("change", [{"answer": None}, {"answer": "unknown"}, {"answer": -1}, {"question": 3}])
def test_rows_that_are_no_rows_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"number|text"):
        from_game({**GAMES[0]["game"], **change})
