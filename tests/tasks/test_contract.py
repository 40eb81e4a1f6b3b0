"""What every entry of TASKS keeps: gold passes, everything else is refused quickly, and all of it is reproducible."""

import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from pear.tasks import TASKS, FileTask, GeneratedTask, Problem, Verdict
from tests.tasks.near_misses import FILE_ROWS, NEAR_MISSES, TAGS_OPTIONAL

SEEDS = range(30)
LEVELS = [(name, level) for name, task in TASKS.items() for level in task.levels]
GENERATED = [(name, level) for name, level in LEVELS if isinstance(TASKS[name], GeneratedTask)]
over_levels = pytest.mark.parametrize(("name", "level"), LEVELS)
over_generated = pytest.mark.parametrize(("name", "level"), GENERATED)
over_tasks = pytest.mark.parametrize("name", TASKS)


@cache
def problems(name: str, level: str) -> list[Problem]:
    task = TASKS[name]
    if isinstance(task, FileTask):
        return task.read(FILE_ROWS[name], origin="rows")
    return [task.generate(seed, level) for seed in SEEDS]


def in_tags(answer: str) -> str:
    return f"<think> x </think> <answer> {answer} </answer>"


def check(name: str, problem: Problem, completion: str) -> Verdict:
    """A verdict that agrees with itself, found in less than a second of this process and again the same."""
    before, start = problem.to_json(), time.process_time()
    verdict = TASKS[name].verify(problem, completion)
    assert time.process_time() - start < 1
    assert TASKS[name].verify(problem, completion) == verdict
    assert problem.to_json() == before
    assert verdict.correct == (verdict.reason == "")
    assert verdict.well_formed or not verdict.correct
    assert verdict.accurate or not verdict.correct
    assert verdict.well_formed == (verdict.answer is not None)
    return verdict


@over_tasks
def test_names_and_levels(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert task.levels
    assert len(set(task.levels)) == len(task.levels)
    assert task.source
    assert task.version >= 1
    assert name in NEAR_MISSES


@over_levels
def test_problems_say_what_they_are(name: str, level: str) -> None:
    found = problems(name, level)
    for problem in found:
        assert (problem.task, problem.level) == (name, level)
        assert problem.id.startswith(f"{name}/{level}/")
        assert [message["role"] for message in problem.prompt] == ["user"]
        assert Problem.from_json(problem.to_json()) == problem
        assert Problem.from_json(problem.to_json()).to_json() == problem.to_json()
    assert len({problem.id for problem in found}) == len(found)


@over_levels
def test_gold_passes(name: str, level: str) -> None:
    for problem in problems(name, level):
        assert check(name, problem, in_tags(problem.answer)).correct
        assert check(name, problem, f"\n<think>\na\nb\n</think>\n\n<answer>\n{problem.answer}\n</answer>\n").correct
        copy = Problem.from_json(problem.to_json())
        assert check(name, copy, in_tags(problem.answer)).correct


@over_generated
def test_the_solver_is_right_and_reproducible(name: str, level: str) -> None:
    task = TASKS[name]
    assert isinstance(task, GeneratedTask)
    for problem in problems(name, level):
        trace = task.solve(problem)
        assert trace == task.solve(Problem.from_json(problem.to_json()))
        if trace is not None:
            assert check(name, problem, trace).correct


@over_levels
def test_near_misses_are_refused(name: str, level: str) -> None:
    for problem in problems(name, level):
        for answer in NEAR_MISSES[name](problem):
            verdict = check(name, problem, in_tags(answer))
            assert not verdict.correct, (problem, answer)
            # Only there is the box a part of the format.
            right = name == "maths/gsm8k" and answer == problem.state["gold"]
            for completion in (in_tags(answer), answer, f"<think> x </think> {answer}", f"<answer> {answer} </answer>"):
                assert TASKS[name].verify(problem, completion).accurate == right, completion


def without_answer(gold: str) -> list[str]:
    """Completions in which no answer stands where one is looked for, whatever the task."""
    return [
        "",
        " \n ",
        "<think>",
        "</think>",
        "<answer> </answer>",
        in_tags(""),
        in_tags(" \n"),
        f"<think> {gold} </think>",
        f"<think> {gold} </think> <answer> </answer>",
        f"<think> x <answer> {gold} </answer>",
        f"<think> <answer> {gold} </answer> </think>",
        f"<think> x </think> </think> <answer> {gold} </answer>",
        f"<think> x </think> <think> <answer> {gold} </answer>",
        f"<think> <think> x </think> </think> <answer> {gold} </answer>",
    ]


def outside_tags(gold: str) -> list[str]:
    """Right answers in a broken format."""
    return [
        gold,
        f"<answer> {gold} </answer>",
        f"<think> x </think> {gold}",
        f"<think> x </think> <answer> {gold}",
        f"<think> x </think> <answer> {gold} </answer> and more",
        f"before <think> x </think> <answer> {gold} </answer>",
        f"<think> x </think> so <answer> {gold} </answer>",
        f"<answer> {gold} </answer> <think> x </think>",
        f"<think> x </think> <answer> {gold} </answer> <answer> {gold} </answer>",
        f"<think> x </think> <answer> <answer> {gold} </answer> </answer>",
        f"<think> <answer> {gold} </answer> </think> <answer> {gold} </answer>",
        f"<THINK> x </THINK> <ANSWER> {gold} </ANSWER>",
        f"< think > x < /think > < answer > {gold} < /answer >",
        in_tags(gold).replace("<", "\N{FULLWIDTH LESS-THAN SIGN}").replace(">", "\N{FULLWIDTH GREATER-THAN SIGN}"),
    ]


@over_levels
def test_a_right_answer_is_accurate_whatever_the_tags(name: str, level: str) -> None:
    for problem in problems(name, level):
        others = [answer for answer in NEAR_MISSES[name](problem) if answer != problem.state.get("gold")]
        begun = [f"<think> x <answer> {problem.answer} </answer>", f"<answer> {problem.answer} </answer> so <answer>"]
        for completion in (*outside_tags(problem.answer)[:-3], *begun):
            assert check(name, problem, completion).accurate, completion
            assert not check(name, problem, f"{completion} <answer> {others[0]} </answer>").accurate, completion
        for completion in ("", "<think>", in_tags(""), f"<think> {problem.state} </think>", "<answer>", "</answer>"):
            assert not check(name, problem, completion).accurate, completion


@over_levels
def test_broken_formats_are_refused(name: str, level: str) -> None:
    for problem in problems(name, level):
        broken = without_answer(problem.answer)
        if name not in TAGS_OPTIONAL:
            broken += outside_tags(problem.answer)
        for completion in broken:
            verdict = check(name, problem, completion)
            assert not verdict.correct, completion
            assert not verdict.well_formed, completion


def hostile(problem: Problem, target: Path) -> list[str]:
    """Answers that are no answers: code, wrong types, broken text."""
    code = f"open({str(target)!r}, 'w').write('x')"
    return [
        code,
        f"__import__('pathlib').Path({str(target)!r}).touch()",
        f"[{code}]",
        f"[[{code}]]",
        f"{{{{{code}}}}}",
        f"$(touch {target})",
        f"`touch {target}`; touch {target}",
        f"!!python/object/apply:os.system ['touch {target}']",
        f"lambda: {code}",
        "null",
        "true",
        "None",
        "NaN",
        "-Infinity",
        "1e999",
        "[]",
        "{}",
        "[[]]",
        "[null]",
        '"' + problem.answer.replace('"', '\\"') + '"',
        "9" * 5000,
        "[" + "9" * 5000 + "]",
        "[[1, 2], [3]]",
        "[" * 15_000,
        "\x00",
        "\ud800",
        "a\ud800, b",
        "\u202e" + problem.answer,
        problem.answer + "\u200b",
        "\N{FULLWIDTH DIGIT ONE}",
        "\u2135\u2080 \u2208 \u211d",
        "%s%s%n {0.__class__}",
        problem.prompt[0]["content"],
    ]


@over_tasks
def test_hostile_answers_are_refused_and_not_run(name: str, tmp_path: Path) -> None:
    level, target = TASKS[name].levels[-1], tmp_path / "written"
    for problem in problems(name, level)[:3]:
        for answer in hostile(problem, target):
            completions = [answer, in_tags(answer), f"<think> {answer} </think> <answer> {answer} </answer>"]
            if name == "maths/gsm8k":
                completions.append(in_tags(rf"\boxed{{{answer}}}"))
            for completion in completions:
                if name == "maths/gsm8k" and problem.answer in completion:
                    continue  # a right box among other characters is a right answer there
                assert not check(name, problem, completion).correct, completion
    assert not target.exists()


@over_tasks
def test_an_echo_of_the_prompt_is_refused(name: str) -> None:
    problem = problems(name, TASKS[name].levels[0])[0]
    prompt = problem.prompt[0]["content"]
    for completion in (prompt, prompt + prompt, f"{prompt}\n{prompt.upper()}", prompt.rpartition("\n")[2]):
        assert not check(name, problem, completion).correct


PIECES = [
    "a",
    " ",
    "1",
    "[",
    "{",
    "}",
    "[[1,",
    '"',
    ", ",
    "\\",
    "<think>",
    "</answer>",
    "\\boxed{",
    "\\boxed{1} ",
    "$",
    "é",
]


@over_tasks
@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_is_refused_quickly(name: str, piece: str) -> None:
    problem = problems(name, TASKS[name].levels[0])[0]
    text = piece * (1_000_000 // len(piece))
    for completion in (text, in_tags(text), f"<think> {text} </think> <answer> 1 </answer>", f"</think> {text}"):
        assert not check(name, problem, completion).correct


@over_levels
def test_many_at_once_is_one_by_one(name: str, level: str) -> None:
    task, found = TASKS[name], problems(name, level)
    completions = [in_tags(problem.answer if number % 3 else "wrong") for number, problem in enumerate(found)]
    expected = [task.verify(problem, text) for problem, text in zip(found, completions, strict=True)]
    assert task.verify_many(found, completions) == expected
    assert task.verify_many([], []) == []
    with pytest.raises(ValueError, match="zip"):
        task.verify_many(found, completions[:-1])


@over_generated
def test_canonical_forms_tell_problems_apart(name: str, level: str) -> None:
    task = TASKS[name]
    assert isinstance(task, GeneratedTask)
    forms = [task.canonical(problem) for problem in problems(name, level)]
    assert forms == [task.canonical(task.generate(seed, level)) for seed in SEEDS]
    assert forms == [task.canonical(Problem.from_json(problem.to_json())) for problem in problems(name, level)]
    assert len(set(forms)) > len(forms) / 2  # the smallest level of the tiny games has 88 problems


PRINT_ALL = f"""
import json
from pear.tasks import TASKS, GeneratedTask
for name, level in {GENERATED!r}:
    for seed in {list(SEEDS[:5])!r}:
        problem = TASKS[name].generate(seed, level)
        print(json.dumps([problem.to_json(), TASKS[name].canonical(problem), TASKS[name].solve(problem)]))
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_gives_the_same_problem_in_every_process(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    printed = subprocess.run(
        [sys.executable, "-c", PRINT_ALL], env=environment, capture_output=True, text=True, check=True
    ).stdout
    expected = []
    for name, level in GENERATED:
        task = TASKS[name]
        assert isinstance(task, GeneratedTask)
        expected += [[item.to_json(), task.canonical(item), task.solve(item)] for item in problems(name, level)[:5]]
    assert [json.loads(line) for line in printed.splitlines()] == expected
