"""The two rules about the format: strict, as SynLogic rewards, and lenient, which counts what is right."""

from pathlib import Path

import pytest

from pear.configuration import StrictModel
from pear.errors import UserError
from pear.stages.collect import CollectConfig
from pear.stages.evaluate import EvaluateConfig
from pear.stages.grpo import GrpoConfig
from pear.tasks import TASKS, FileTask, Problem, Verdict
from tests.tasks.near_misses import file_rows, near_misses

NAMES = ["tiny/affine_chain", "synlogic/survo", "synlogic/word_sorting", "maths/gsm8k"]


def problem_of(name: str) -> Problem:
    task = TASKS[name]
    return (
        task.read(file_rows(name), origin="rows")[0] if isinstance(task, FileTask) else task.generate(0, task.levels[0])
    )


def verify(problem: Problem, completion: str) -> Verdict:
    return TASKS[problem.task].verify(problem, completion)


@pytest.mark.parametrize("name", NAMES)
def test_a_right_answer_outside_the_tags_counts_by_the_lenient_rule_alone(name: str) -> None:
    problem = problem_of(name)
    kept = verify(problem, f"<think> x </think> <answer> {problem.answer} </answer>")
    for completion in (
        f"<think> x <answer> {problem.answer} </answer>",
        f"<answer> {problem.answer} </answer> </think> x",
    ):
        verdict = verify(problem, completion)
        if name.startswith("maths/") and verdict.well_formed:
            continue
        strict, lenient = verdict.by("strict"), verdict.by("lenient")
        assert strict == verdict
        assert (strict.correct, strict.answer) == (False, None)
        assert strict.reason
        assert (lenient.correct, lenient.reason, lenient.well_formed) == (True, "", False)
        assert lenient.answer == kept.answer is not None


@pytest.mark.parametrize("name", NAMES)
def test_in_the_format_both_rules_agree(name: str) -> None:
    problem = problem_of(name)
    for answer in (problem.answer, "wrong", r"\boxed{7919}", "[[1]]"):
        verdict = verify(problem, f"<think> x </think> <answer> {answer} </answer>")
        if verdict.well_formed:
            assert verdict.by("lenient") == verdict.by("strict") == verdict
        assert verdict.by("lenient").correct == verdict.correct


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_or_missing_answer_counts_by_neither_rule(name: str) -> None:
    problem = problem_of(name)
    for completion in (
        "",
        "<think> x",
        f"<think> {problem.answer} </think>",
        f"{problem.answer} <answer> wrong </answer>",
    ):
        verdict = verify(problem, completion)
        if name.startswith("maths/") and verdict.accurate:
            continue
        for tags in ("strict", "lenient"):
            found = verdict.by(tags)
            assert not found.correct
            assert found.reason


def test_a_wrong_answer_outside_the_tags_is_a_vote_by_the_lenient_rule() -> None:
    problem = problem_of("tiny/affine_chain")
    wrong = near_misses(problem)[0]
    kept = verify(problem, f"<think> x </think> <answer> {wrong} </answer>")
    verdict = verify(problem, f"So <answer> {wrong} </answer>")
    assert kept.answer is not None
    assert (verdict.by("strict").answer, verdict.by("lenient").answer) == (None, kept.answer)
    assert not verdict.by("lenient").correct


CONFIGS: list[tuple[type[StrictModel], dict[str, object]]] = [
    (CollectConfig, {}),
    (EvaluateConfig, {}),
    (GrpoConfig, {"steps": 1, "max_completion_tokens": 8}),
]


@pytest.mark.parametrize(("config", "values"), CONFIGS)
def test_strict_is_the_default_and_leaves_fingerprints_alone(
    config: type[StrictModel], values: dict[str, object]
) -> None:
    sets = [{"task": "tiny/affine_chain", "split": "eval", "size": 2}]
    given = {"model": "m", "problems": sets, "output_dir": Path("out"), **values}
    default, strict, lenient = (
        config.parse({**given, **tags}, source="test") for tags in ({}, {"tags": "strict"}, {"tags": "lenient"})
    )
    assert default == strict
    assert "tags" not in default.hashed()
    assert lenient.hashed() == {**default.hashed(), "tags": "lenient"}
    with pytest.raises(UserError, match="tags: Input should be 'strict' or 'lenient'"):
        config.parse({**given, "tags": "loose"}, source="test")
