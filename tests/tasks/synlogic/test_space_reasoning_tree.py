"""Space reasoning in a tree: the cousins follow from the facts alone."""

import dataclasses
import re
from typing import Any

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.space_reasoning_tree import SpaceReasoningTree, from_game
from tests.tasks.synlogic.space_reasoning_tree import GAMES

TASK = SpaceReasoningTree()


def deduced(prompt: str) -> set[str]:
    """The cousins as they follow from the prompt's sentences: by both ways to know them, which agree."""
    _, _, told, asked, _ = prompt.split("\n\n")
    facts: dict[tuple[str, str], set[str]] = {}
    for relation, node, nodes in re.findall(r"The (\w+) of (\w+): ([^.]+)\.", told):
        known = set() if nodes == "none" else set(nodes.split(", "))
        assert facts.setdefault((relation, node), known) == known
    target = re.findall(r"cousins of (\w+)\?", asked)[0]
    (parent,) = {node for (relation, node), nodes in facts.items() if relation == "children" and target in nodes}
    found = []
    for (relation, node), nodes in facts.items():
        if relation == "grandchildren" and target in nodes:
            found.append(nodes - facts["children", parent])
        if relation == "children" and parent in nodes and all(("children", aunt) in facts for aunt in nodes):
            found.append({child for aunt in nodes - {parent} for child in facts["children", aunt]})
        assert node != target or target not in nodes
    assert found
    assert all(one == found[0] for one in found)
    return found[0]


@pytest.mark.parametrize("level", [*TASK.levels, "easy(nodes=8,children=2,facts=0)", "hard(nodes=300,facts=150)"])
def test_the_facts_give_the_answer(level: str) -> None:
    for seed in range(30):
        problem = TASK.generate(seed, level)
        assert deduced(problem.prompt[0]["content"]) == set(problem.state["cousins"])


def test_knobs_are_kept() -> None:
    problem = TASK.generate(0, "medium(nodes=60,children=2,facts=20)")
    facts = problem.state["facts"]
    assert max(len(fact["nodes"]) for fact in facts if fact["relation"] == "children") <= 2
    assert 22 <= len(facts) <= 23


@pytest.mark.parametrize("knobs", ["nodes=7", "nodes=301", "children=1", "children=7", "facts=-1", "facts=151"])
def test_knobs_out_of_range_are_refused(knobs: str) -> None:
    with pytest.raises(UserError, match=knobs.split("=")[0]):
        TASK.generate(0, f"easy({knobs})")


def test_the_order_of_facts_does_not_matter() -> None:
    problem = TASK.generate(1, "medium")
    state = {**problem.state, "facts": problem.state["facts"][::-1]}
    assert TASK.canonical(dataclasses.replace(problem, state=state)) == TASK.canonical(problem)
    state = {**problem.state, "target": problem.state["cousins"][0]}
    assert TASK.canonical(dataclasses.replace(problem, state=state)) != TASK.canonical(problem)


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict[str, Any]) -> None:
    state, answer = from_game(row["game"])
    problem = Problem(task=TASK.name, level="published", id="0", prompt=(), state=state, answer=answer)
    assert TASK.check(problem, answer)[1] == ""
    assert {TASK.check(problem, text)[0] for text in row["right"]} == {TASK.check(problem, answer)[0]}
    assert TASK.solve(problem) is None


@pytest.mark.parametrize("change", [{"answer": None}, {"answer": "a,,b"}, {"answer": ""}, {"question": None}])
def test_rows_that_are_no_rows_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"names|text"):
        from_game({**GAMES[0]["game"], **change})
