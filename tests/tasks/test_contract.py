"""What every entry of TASKS keeps: gold passes, everything else is refused quickly, and all of it is reproducible."""

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pear.tasks import TASKS, FileTask, GeneratedTask, Problem, Verdict
from pear.tasks.extraction import INSTRUCTION, unwrap
from pear.tasks.levels import read_level, write_level
from tests.tasks.near_misses import AVAILABLE, file_rows, is_maths, near_misses

# 200 problems of a task: with three levels, most of them at the first, whose problems are the quickest to make.
SEEDS = {0: range(110), 1: range(60)}
LAST_SEEDS = range(30)
ONLY_SEEDS = range(200)
# Verification of one answer, in seconds of this process.
LIMIT = 0.05
NAMES = [name for name in AVAILABLE if name != "synlogic/rows"]  # whose problems are other tasks' problems
LEVELS = [(name, level) for name in NAMES for level in TASKS[name].levels]
GENERATED = [(name, level) for name, level in LEVELS if isinstance(TASKS[name], GeneratedTask)]
over_levels = pytest.mark.parametrize(("name", "level"), LEVELS)
over_generated = pytest.mark.parametrize(("name", "level"), GENERATED)
over_tasks = pytest.mark.parametrize("name", NAMES)

# What a verifier must not do, as the interpreter's audit events; None while nobody looks.
FORBIDDEN = ("exec", "os.system", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "open")
seen: list[str] | None = None


def note_event(event: str, arguments: tuple[Any, ...]) -> None:
    if seen is not None and event in FORBIDDEN:
        seen.append(f"{event} {arguments}")


sys.addaudithook(note_event)


@cache
def problems(name: str, level: str) -> list[Problem]:
    task = TASKS[name]
    if isinstance(task, FileTask):
        return task.read(file_rows(name), origin="rows")
    seeds = ONLY_SEEDS if len(task.levels) == 1 else SEEDS.get(task.levels.index(level), LAST_SEEDS)
    return [task.generate(seed, level) for seed in seeds]


def few(name: str, level: str, count: int = 8) -> list[Problem]:
    return problems(name, level)[:count]


def in_tags(answer: str) -> str:
    return f"<think> x </think> <answer> {answer} </answer>"


def quick(name: str, problem: Problem, completion: str) -> Verdict:
    """A verdict found within the limit; what else the machine does may cost the first tries their time."""
    for _ in range(4):
        start = time.process_time()
        verdict = TASKS[name].verify(problem, completion)
        if time.process_time() - start < LIMIT:
            return verdict
    pytest.fail(f"{name}: longer than {LIMIT} s for {completion[:100]!r} ({len(completion)} characters)")


def check(name: str, problem: Problem, completion: str) -> Verdict:
    """A verdict that is quick, agrees with itself, and changes nothing."""
    before, state = problem.to_json(), random.getstate()
    verdict = quick(name, problem, completion)
    assert problem.to_json() == before
    assert random.getstate() == state
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
    assert near_misses(few(name, task.levels[0])[0])


@over_generated
def test_knobs_are_settings_that_a_level_can_name(name: str, level: str) -> None:
    task = TASKS[name]
    assert isinstance(task, GeneratedTask)
    if not task.knobs:
        assert name.startswith("tiny/")
        return
    assert tuple(task.knobs) == task.levels
    knobs = task.knobs[level]
    values = dataclasses.asdict(knobs)
    assert values
    assert all(type(value) in (int, float, bool, str) for value in values.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(knobs, next(iter(values)), 1)
    text = write_level(level, values)
    assert read_level(text, task.knobs) == knobs
    problem = task.generate(1, text)
    assert problem.level == text
    assert check(name, problem, in_tags(problem.answer)).correct


@over_levels
def test_problems_say_what_they_are(name: str, level: str) -> None:
    found = problems(name, level)
    for problem in found:
        assert (problem.task, problem.level) == (name, level)
        assert problem.id.startswith(f"{name}/{level}/")
        assert [message["role"] for message in problem.prompt] == ["user"]
        assert Problem.from_json(problem.to_json()) == problem
        assert Problem.from_json(problem.to_json()).to_json() == problem.to_json()
        prompt = problem.prompt[0]["content"]
        assert not name.startswith("synlogic/") or prompt.startswith(INSTRUCTION)
    # A short answer may well be a number or a word of the puzzle, and words may happen to be sorted already; some
    # questions of reasoning-gym offer answers to choose from.
    told = [item for item in found if len(item.answer) > 12 and item.answer in item.prompt[0]["content"]]
    assert name.startswith("reasoning_gym/") or len(told) <= len(found) / 20, told[0]
    assert len({problem.id for problem in found}) == len(found)


@over_levels
def test_gold_passes(name: str, level: str) -> None:
    for problem in problems(name, level):
        assert check(name, problem, in_tags(problem.answer)).correct, problem
    for problem in few(name, level):
        assert check(name, problem, f"\n<think>\na\nb\n</think>\n\n<answer>\n{problem.answer}\n</answer>\n").correct
        copy = Problem.from_json(problem.to_json())
        assert check(name, copy, in_tags(problem.answer)) == check(name, problem, in_tags(problem.answer))


@over_generated
def test_the_solver_is_right_and_reproducible(name: str, level: str) -> None:
    task = TASKS[name]
    assert isinstance(task, GeneratedTask)
    for problem in few(name, level):
        trace = task.solve(problem)
        assert trace == task.solve(Problem.from_json(problem.to_json()))
        if trace is not None:
            assert check(name, problem, trace).correct


@over_levels
def test_near_misses_are_refused(name: str, level: str) -> None:
    for problem in few(name, level):
        for answer in near_misses(problem):
            verdict = check(name, problem, in_tags(answer))
            assert not verdict.correct, (problem, answer)
            # Only there is the box a part of the format.
            right = is_maths(name) and answer == problem.state["gold"]
            for completion in (answer, f"<think> x </think> {answer}", f"<answer> {answer} </answer>"):
                assert TASKS[name].verify(problem, completion).accurate == right, completion


@over_generated
def test_near_misses_of_every_seed_are_refused(name: str, level: str) -> None:
    for problem in problems(name, level)[8:]:
        for answer in near_misses(problem)[::3]:
            assert not TASKS[name].verify(problem, in_tags(answer)).correct, (problem, answer)


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
    for problem in few(name, level, 3):
        others = [answer for answer in near_misses(problem) if answer != problem.state.get("gold")]
        begun = [f"<think> x <answer> {problem.answer} </answer>", f"<answer> {problem.answer} </answer> so <answer>"]
        for completion in (*outside_tags(problem.answer)[:-3], *begun):
            assert check(name, problem, completion).accurate, completion
            assert not check(name, problem, f"{completion} <answer> {others[0]} </answer>").accurate, completion
        for completion in ("", "<think>", in_tags(""), f"<think> {problem.state} </think>", "<answer>", "</answer>"):
            assert not check(name, problem, completion).accurate, completion


@over_levels
def test_broken_formats_are_refused(name: str, level: str) -> None:
    for problem in few(name, level, 3):
        broken = without_answer(problem.answer)
        if not is_maths(name):
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
    global seen
    target = tmp_path / "written"
    for problem in few(name, TASKS[name].levels[-1], 3):
        check(name, problem, in_tags(problem.answer))
        for answer in hostile(problem, target):
            completions = [answer, in_tags(answer), f"<think> {answer} </think> <answer> {answer} </answer>"]
            if is_maths(name):
                completions.append(in_tags(rf"\boxed{{{answer}}}"))
            for completion in completions:
                if is_maths(name) and problem.answer in completion:
                    continue  # a right box among other characters is a right answer there
                if unwrap(answer) == unwrap(problem.answer):
                    continue  # what stands around a box or a code block does not count
                seen = []
                try:
                    verdict = TASKS[name].verify(problem, completion)
                    events = seen
                finally:
                    seen = None
                # Workers check mathematics, and their processes are started here.
                assert is_maths(name) or not events, completion
                assert check(name, problem, completion) == verdict
                assert not verdict.correct, completion
    assert not target.exists()


@over_tasks
def test_an_echo_of_the_prompt_is_refused(name: str) -> None:
    for problem in few(name, TASKS[name].levels[0], 3):
        prompt = problem.prompt[0]["content"]
        for completion in (prompt, prompt + prompt, f"{prompt}\n{prompt.upper()}", prompt.rpartition("\n")[2]):
            assert not check(name, problem, completion).correct
            assert not check(name, problem, in_tags(completion)).correct


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
def test_a_megabyte_is_refused_quickly(name: str) -> None:
    problem = problems(name, TASKS[name].levels[0])[0]
    for piece in [*PIECES, f"{problem.answer}\n"]:
        text = piece * (1_000_000 // len(piece))
        assert not quick(name, problem, in_tags(text)).correct, piece
        assert not quick(name, problem, text).correct, piece
    for completion in (f"<think> {text} </think> <answer> 1,1 </answer>", f"</think> {text}"):
        assert not quick(name, problem, completion).correct


@over_levels
def test_many_at_once_is_one_by_one(name: str, level: str) -> None:
    task, found = TASKS[name], few(name, level)
    completions = [in_tags(problem.answer if number % 3 else "wrong") for number, problem in enumerate(found)]
    expected = [task.verify(problem, text) for problem, text in zip(found, completions, strict=True)]
    assert task.verify_many(found, completions) == expected
    assert task.verify_many([], []) == []
    with pytest.raises(ValueError, match="zip"):
        task.verify_many(found, completions[:-1])


@over_generated
def test_canonical_forms_tell_problems_apart(name: str, level: str) -> None:
    task, found = TASKS[name], few(name, level, 30)
    forms = [task.canonical(problem) for problem in found]
    assert forms == [task.canonical(Problem.from_json(problem.to_json())) for problem in found]
    assert all(form.startswith(f"{name}:") for form in forms)
    assert len(set(forms)) > len(forms) / 2  # the smallest level of the tiny games has 88 problems


PRINT_ALL = f"""
import json
from pear.tasks import TASKS
for name, level in {GENERATED!r}:
    for seed in range(3):
        problem = TASKS[name].generate(seed, level)
        trace = TASKS[name].solve(problem) if seed == 0 else None
        print(json.dumps([problem.to_json(), TASKS[name].canonical(problem), trace]))
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
        expected += [
            [item.to_json(), task.canonical(item), None if number else task.solve(item)]
            for number, item in enumerate(few(name, level, 3))
        ]
    assert [json.loads(line) for line in printed.splitlines()] == expected
