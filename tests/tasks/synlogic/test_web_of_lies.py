"""Web of lies: what follows, by an independent solver; its own reasoning; the answer's forms; published rows."""

import itertools
import random
from typing import Any

import pytest
from ortools.sat.python import cp_model

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.web_of_lies import WebOfLies, _models, from_game
from tests.tasks.synlogic.web_of_lies import GAMES

TASK = WebOfLies()


def problem_of(state: dict[str, Any]) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def holds(claim: list[Any], honest: list[bool]) -> bool:
    """A claim as its words say it."""
    speaker, kind, *about = claim
    said = {
        "honest": lambda: honest[about[0]],
        "lies": lambda: not honest[about[0]],
        "same": lambda: honest[about[0]] == honest[speaker],
        "other": lambda: honest[about[0]] != honest[speaker],
        "either": lambda: honest[about[0]] or honest[about[1]],
        "both": lambda: honest[about[0]] and honest[about[1]],
    }[kind]()
    return said == honest[speaker]


def worlds(state: dict[str, Any]) -> list[list[bool]]:
    """Every way to be honest that agrees with all that is told and said, by OR-tools."""
    model = cp_model.CpModel()
    people = [model.new_bool_var(name) for name in state["people"]]
    for person, value in state["told"]:
        model.add(people[person] == value)
    for speaker, kind, *about in state["claims"]:
        members = [people[speaker], *(people[person] for person in about)]
        allowed = []
        for values in itertools.product((False, True), repeat=len(members)):
            honest = {speaker: values[0], **dict(zip(about, values[1:], strict=True))}
            if holds([speaker, kind, *about], [honest.get(person, False) for person in range(len(people))]):
                allowed.append(values)
        model.add_allowed_assignments(members, allowed)
    found: list[list[bool]] = []

    class Collect(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            found.append([bool(self.value(person)) for person in people])

    solver = cp_model.CpSolver()
    solver.parameters.enumerate_all_solutions = True
    solver.solve(model, Collect())
    return found


@pytest.mark.parametrize("level", TASK.levels)
def test_what_everybody_is_follows(level: str) -> None:
    for seed in range(10):
        state = TASK.generate(seed, level).state
        (honest,) = worlds(state)
        assert [honest[person] for person in state["targets"]] == state["honest"]


def test_worlds_are_those_of_the_independent_solver() -> None:
    draw = random.Random(3)
    counts = set()
    for seed in range(20):
        state = TASK.generate(seed, "medium").state
        state["claims"] = draw.sample(state["claims"], draw.randrange(2, len(state["claims"])))
        left = _models(len(state["people"]), state["told"], state["claims"])
        expected = sum(
            1 << sum(1 << person for person, value in enumerate(honest) if value) for honest in worlds(state)
        )
        assert left == expected
        counts.add(left.bit_count())
    assert len(counts) > 3


def test_nothing_more_can_be_said_of_liars_and_honest_people_than_is_true_and_false() -> None:
    for seed in range(30):
        state = TASK.generate(seed, "hard").state
        (honest,) = worlds(state)
        assert all(holds(claim, honest) for claim in state["claims"])
        assert {claim[0] for claim in state["claims"]} == set(range(len(honest)))


def test_most_problems_have_a_trace_that_is_right() -> None:
    traces = [(problem, TASK.solve(problem)) for problem in (TASK.generate(seed, "medium") for seed in range(40))]
    assert all(trace is None or TASK.verify(problem, trace).correct for problem, trace in traces)
    assert sum(trace is not None for _, trace in traces) > 30


def test_the_prompt_tells_all_claims_in_words() -> None:
    problem = TASK.generate(5, "hard")
    prompt = problem.prompt[0]["content"]
    names = problem.state["people"]
    for speaker, kind, *about in problem.state["claims"]:
        (said,) = [
            line
            for line in prompt.splitlines()
            if line.startswith(f"{names[speaker]} says")
            and all(names[person] in line for person in about)
            and ("kind" in line) == (kind in ("same", "other"))
            and ("both" in line) == (kind in ("either", "both"))
            and ("different" in line) == (kind == "other")
            and ("do." in line) == (kind == "either")
            and ("lies" in line) == (kind == "lies")
        ]
        assert said.endswith('."')


def test_canonical_forms() -> None:
    state = TASK.generate(2, "medium").state
    form = TASK.canonical(problem_of(state))
    renamed = {**state, "people": state["people"][::-1], "claims": state["claims"][::-1]}
    assert TASK.canonical(problem_of(renamed)) == form
    assert TASK.canonical(problem_of({**state, "targets": state["targets"][:-1]})) != form
    assert TASK.canonical(problem_of({"text": "Who?", "honest": [True]})) != form


def test_knobs_are_honored_and_refused() -> None:
    state = TASK.generate(1, "easy(people=9,targets=4,told=3,about_two=1)").state
    assert [len(state[key]) for key in ("people", "targets", "told", "honest")] == [9, 4, 3, 4]
    assert {claim[1] for claim in state["claims"]} == {"either", "both"}
    assert not {person for person, _ in state["told"]} & set(state["targets"])
    for level in ("easy(people=2)", "easy(people=17)", "easy(told=0)", "easy(targets=4)", "easy(about_two=2)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        assert from_game(row["game"])[1] == row["right"][0]
    game = GAMES[0]["game"]
    for change in ({"question": ""}, {"answer": "perhaps"}, {"answer": "", "metadata": {}}, {"answer": None}):
        with pytest.raises(ValueError, match=r"question|answer"):
            from_game({**game, **change})
    with pytest.raises(ValueError, match="people"):
        from_game({**game, "answer": "", "metadata": {"people": [{"is_target": True}]}})
