"""The adapter of reasoning-gym; the contract tests hold its tasks."""

import importlib
import importlib.metadata
from types import SimpleNamespace
from typing import Any

import pytest

from pear.errors import UserError
from pear.stages.tasks import task_list
from pear.tasks import TASKS, GeneratedTask, reasoning_gym
from pear.tasks.levels import read_level
from pear.tasks.problems import ProblemSet, load_problems
from pear.tasks.reasoning_gym import ALLOWED, REASONING_GYM
from tests.tasks.near_misses import HAS_REASONING_GYM

LEG = "reasoning_gym/leg_counting"
needs_package = pytest.mark.skipif(not HAS_REASONING_GYM, reason="reasoning-gym is not installed")


def in_tags(answer: str) -> str:
    return f"<think> x </think> <answer> {answer} </answer>"


@pytest.fixture
def afresh() -> Any:
    """The package is looked for anew, and again afterwards."""
    caches = (reasoning_gym._package, reasoning_gym._settings, reasoning_gym._open)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


def test_the_registry_holds_what_is_allowed() -> None:
    assert [name for name in TASKS if name.startswith("reasoning_gym/")] == [
        f"reasoning_gym/{name}" for name in ALLOWED
    ]
    assert list(ALLOWED) == sorted(set(ALLOWED))
    executed = {"spiral_matrix", "countdown", "binary_matrix", "n_queens", "string_insertion", "puzzle24"}
    assert not executed & set(ALLOWED)


def test_without_the_package_tasks_are_listed_and_problems_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, afresh: None
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(reasoning_gym.importlib, "import_module", missing)
    assert LEG in task_list()
    with pytest.raises(UserError, match=r"pip install 'pear-sft\[reasoning-gym\]'"):
        load_problems([ProblemSet(task=LEG, split="sft", size=1)])


@needs_package
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, afresh: None) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.26")
    with pytest.raises(UserError, match=r"pip install 'reasoning-gym==0\.1\.25'"):
        load_problems([ProblemSet(task=LEG, split="sft", size=1)])


@needs_package
def test_the_package_has_every_data_set() -> None:
    assert set(ALLOWED) <= set(importlib.import_module("reasoning_gym.factory").DATASETS)


@needs_package
def test_knobs_are_the_settings_of_the_data_set() -> None:
    task = TASKS[LEG]
    assert isinstance(task, GeneratedTask)
    (problem,) = load_problems([ProblemSet(task=LEG, knobs={"min_animals": 1, "max_animals": 1}, split="sft", size=1)])
    assert len(problem.state["entry"]["metadata"]["animals"]) == 1
    assert task.verify(problem, in_tags(problem.answer)).correct
    with pytest.raises(UserError, match="knob 'min_animal'"):
        read_level("default(min_animal=1)", task.knobs)
    with pytest.raises(UserError, match="level default"):
        read_level("default(min_animals=5,max_animals=2)", task.knobs)
    with pytest.raises(UserError, match="level 'easy'"):
        read_level("easy", task.knobs)


@needs_package
@pytest.mark.parametrize(("score", "right"), [(1.0, True), (1, True), (0.99, False), (0.0, False), (True, True)])
def test_right_is_a_score_of_exactly_one(monkeypatch: pytest.MonkeyPatch, score: float, right: bool) -> None:
    task = REASONING_GYM[LEG]
    problem = task.generate(3, "default")
    monkeypatch.setattr(reasoning_gym, "_open", lambda *_: SimpleNamespace(score_answer=lambda answer, entry: score))
    verdict = task.verify(problem, in_tags("a  b"))
    assert (verdict.correct, verdict.well_formed, verdict.answer) == (right, True, "a b")


@needs_package
def test_an_answer_that_the_scorer_cannot_read_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    task = REASONING_GYM[LEG]
    problem = task.generate(3, "default")

    def broken(answer: str, entry: dict[str, Any]) -> float:
        raise KeyError(answer)

    monkeypatch.setattr(reasoning_gym, "_open", lambda *_: SimpleNamespace(score_answer=broken))
    verdict = task.verify(problem, in_tags(problem.answer))
    assert not verdict.well_formed
    assert "cannot read" in verdict.reason
