"""The mathematical files: their columns, their answers against themselves and each other, and fuzzed answers."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pear.errors import UserError
from pear.tasks import TASKS, FileTask, Problem
from pear.tasks.maths import verifier
from pear.tasks.maths.answers import readable
from pear.tasks.maths.verifier import AnswerPool
from pear.tasks.problems import ProblemSet, load_problems

FILES = {
    "aime24": ("aime24", 30),
    "aime25": ("aime25", 30),
    "amc23": ("amc23", 40),
    "gsm8k": ("gsm8k_test", 1319),
    "math500": ("math500", 500),
    "minerva": ("minerva", 272),
    "olympiadbench": ("olympiadbench", 675),
}
over_files = pytest.mark.parametrize("name", FILES)

# (gold, another problem's gold): what passes although the two texts differ, and why it should.
PASSING_SHIFTS = {
    "math500": {("5", "x=5"), ("40_9", "40")},  # the same value; a base's index may be left out
    "olympiadbench": {("k=3", "3")},  # the same value
    # An equation stands for what it says last, as in "6 * 7 = 42".
    "minerva": {("0", r"x^{\prime}+\frac{r}{V} x-r c=0")},
}


@pytest.fixture
def benchmark_dir() -> Path:
    if "PEAR_BENCHMARK_DIR" not in os.environ:
        pytest.skip("PEAR_BENCHMARK_DIR is not set")
    return Path(os.environ["PEAR_BENCHMARK_DIR"])


@pytest.fixture
def quick_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two seconds an answer: two differential equations against each other take any limit there is."""
    pool = AnswerPool(size=2, cpu_seconds=2)
    monkeypatch.setattr(verifier, "_POOL", pool)
    yield
    pool.close()


def read(name: str, *rows: dict[str, Any]) -> list[Problem]:
    task = TASKS[f"maths/{name}"]
    assert isinstance(task, FileTask)
    return task.read(rows, origin="rows.jsonl")


def load(name: str, directory: Path) -> list[Problem]:
    file, count = FILES[name]
    problems = load_problems([ProblemSet(task=f"maths/{name}", path=directory / "maths" / f"{file}.jsonl")])
    assert len(problems) == count
    return problems


def shifted(problems: list[Problem], by: int) -> list[tuple[Problem, str]]:
    """Each problem with the answer of the one that many places on, where the two answers' texts differ."""
    pairs = zip(problems, problems[by:] + problems[:by], strict=True)
    return [(one, other.state["gold"]) for one, other in pairs if one.state["gold"] != other.state["gold"]]


def passing(pairs: list[tuple[Problem, str]]) -> set[tuple[str, str]]:
    completions = [rf"<think> x </think> \boxed{{{answer}}}" for _, answer in pairs]
    verdicts = TASKS["maths/file"].verify_many([problem for problem, _ in pairs], completions)
    assert all(verdict.well_formed for verdict in verdicts)
    return {
        (problem.state["gold"], answer) for (problem, answer), item in zip(pairs, verdicts, strict=True) if item.correct
    }


@over_files
def test_every_gold_answer_passes(name: str, benchmark_dir: Path) -> None:
    problems = load(name, benchmark_dir)
    completions = [f"<think> x </think> <answer> {problem.answer} </answer>" for problem in problems]
    verdicts = TASKS[f"maths/{name}"].verify_many(problems, completions)
    assert all(verdict.correct for verdict in verdicts)


@over_files
def test_another_problems_gold_answer_fails(name: str, benchmark_dir: Path, quick_pool: None) -> None:
    pairs = shifted(load(name, benchmark_dir), 1)
    assert passing(pairs) == PASSING_SHIFTS.get(name, set()) & {(one.state["gold"], answer) for one, answer in pairs}


@pytest.mark.slow
@pytest.mark.parametrize("by", [2, 13, 21, 34])
@over_files
def test_more_shifts(name: str, by: int, benchmark_dir: Path, quick_pool: None) -> None:
    pairs = shifted(load(name, benchmark_dir), by)
    assert passing(pairs) == PASSING_SHIFTS.get(name, set()) & {(one.state["gold"], answer) for one, answer in pairs}


@pytest.mark.slow
@over_files
def test_every_gold_answer_passes_through_math_verify(name: str, benchmark_dir: Path) -> None:
    golds = [readable(problem.state["gold"]) for problem in load(name, benchmark_dir)]
    assert verifier.compare_answers([(gold, gold) for gold in golds]) == [True] * len(golds)


PIECES = [
    *"0123456789+-*/^_=<>()[]{}|,.;:!%$&#~ xnabei",
    r"\frac", r"\frac{1}{2}", r"\sqrt", r"\left(", r"\right)", r"\pi", r"\infty", r"\cup", r"\cdot", r"\times",
    r"\text{", r"\begin{pmatrix}", r"\end{pmatrix}", r"\\", "\\", r"\{", r"\}", r"\boxed{", r"\int", r"\sum_{n=1}^{",
    r"\lim", r"\pm", r"\circ", r"\%", r"\binom", "__import__('os')", "\x00", "\ud800", "\u0664", "é", "\n", "10^{",
    "e-5", "<think>", "</think>",
]  # fmt: skip


def fuzzed(draw: random.Random, gold: str) -> str:
    """A completion with an answer made of pieces, or of a gold answer with some places broken."""
    pieces = [draw.choice(PIECES) for _ in range(draw.randrange(1, 14))]
    if draw.random() < 0.5:
        at = draw.randrange(len(gold) + 1)
        pieces = [gold[:at], *pieces[:2], gold[at + draw.randrange(2) :]]
    return rf"\boxed{{{''.join(pieces)}}}"


def crash_nothing(count: int, seed: int) -> None:
    golds = [
        "42",
        r"\frac{1}{2}",
        "x^2 - 1",
        "(0, 1]",
        "1,3",
        r"\text{even}",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        "x=5",
    ]
    problems = [read("file", {"problem": f"? {gold}", "answer": gold})[0] for gold in golds]
    draw = random.Random(seed)
    chosen = [draw.choice(problems) for _ in range(count)]
    completions = [fuzzed(draw, problem.state["gold"]) for problem in chosen]
    verdicts = TASKS["maths/file"].verify_many(chosen, completions)
    assert len(verdicts) == count
    assert sum(verdict.correct for verdict in verdicts) < count / 10
    assert sum(verdict.well_formed for verdict in verdicts) > count / 4
    right = TASKS["maths/file"].verify_many(problems, [problem.answer for problem in problems])
    assert all(verdict.correct for verdict in right)


def test_fuzzed_answers_crash_nothing(quick_pool: None) -> None:
    crash_nothing(400, seed=1)


@pytest.mark.slow
def test_ten_thousand_fuzzed_answers_crash_nothing(quick_pool: None) -> None:
    crash_nothing(10_000, seed=2)


DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\nWhat is 6 times 7?\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [{"role": "user", "content": DAPO}], "reward_model": {"ground_truth": "42", "style": "rule"}},
        {"prompt": "What is 6 times 7?", "solution": "42", "reward_model": {"ground_truth": "42"}, "source_prompt": []},
    ],
)
def test_dapo_in_both_variants(row: dict[str, Any]) -> None:
    (problem,) = read("dapo17k", *[row] * 3)
    assert problem.state == {"question": "What is 6 times 7?", "gold": "42"}
    assert "Answer:" not in problem.prompt[0]["content"]
    assert TASKS["maths/dapo17k"].verify(problem, r"<think> 6 * 7 </think> \boxed{42}").correct
    assert not TASKS["maths/dapo17k"].verify(problem, "<think> 6 * 7 </think> Answer: 42").correct


def synthetic(**changes: Any) -> dict[str, Any]:
    solution = changes.pop("solution", r"<think> \boxed{41} </think> \boxed{\frac{1}{2}}")
    messages = [{"role": "user", "content": "Half of one?"}, {"role": "assistant", "content": solution}]
    return {"problem_id": "vm_1", "task_type": "verifiable_math", "reward": 1.0, "messages": messages, **changes}


def test_synthetic_2_takes_the_box_of_a_verified_solution() -> None:
    others = [
        synthetic(task_type="prime_rl_code"), synthetic(reward=0.0), synthetic(reward=None),
        synthetic(solution="It is 1/2."), synthetic(solution=r"<think> \boxed{3}"),
    ]  # fmt: skip
    assert read("synthetic2", *others) == []
    (problem,) = read("synthetic2", *others, synthetic(), synthetic(solution=r"\boxed{0.5}"))
    assert problem.state == {"question": "Half of one?", "gold": r"\frac{1}{2}"}


def test_olympiadbench_asks_for_all_answers_in_the_unit() -> None:
    row = {
        "question": "Which?",
        "final_answer": ["$1$", "$3$"],
        "is_multiple_answer": True,
        "unit": "km",
        "error": None,
    }
    (problem,) = read("olympiadbench", {**row, "context": "Let x be odd."})
    assert problem.state == {"question": "Let x be odd.\n\nWhich?", "gold": "1, 3"}
    assert "separated by commas" in problem.prompt[0]["content"]
    assert problem.prompt[0]["content"].endswith("leave the unit out: km")
    verdicts = [TASKS[problem.task].verify(problem, rf"\boxed{{{text}}}").correct for text in ("3, 1", "1", "1,3,5")]
    assert verdicts == [True, False, False]
    (problem,) = read("olympiadbench", {"question": "How much?", "final_answer": ["4.2"], "unit": "%", "error": "1e-1"})
    verdicts = [TASKS[problem.task].verify(problem, rf"\boxed{{{text}}}").correct for text in ("4.3", "4.31", r"4.2\%")]
    assert verdicts == [True, False, True]


def test_minerva_reads_the_box_of_the_solution() -> None:
    rows = [
        {"problem": "a", "solution": r"So \boxed{4.5e33} erg."},
        {"problem": "b", "solution": r"\boxed{np.arcsin(10/13)}"},
        {"problem": "c", "solution": r"\boxed{-1./3}"},
    ]
    problems = read("minerva", *rows)
    answers = [r"4.5 \times 10^{33}", r"\arcsin\left(\frac{10}{13}\right)", r"-\frac{1}{3}"]
    verdicts = TASKS["maths/minerva"].verify_many(problems, [rf"\boxed{{{answer}}}" for answer in answers])
    assert all(verdict.correct for verdict in verdicts)


def test_any_file_by_the_names_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"Aufgabe": "6 * 7?", "Ergebnis": 42.0, "answer": "none"}) + "\n")
    columns: dict[str, Any] = {"problem_column": "Aufgabe", "answer_column": "Ergebnis"}
    (problem,) = load_problems([ProblemSet(task="maths/file", path=path, **columns)])
    assert problem.state == {"question": "6 * 7?", "gold": "42"}
    with pytest.raises(UserError, match="expected the column 'problem', found 'Aufgabe', 'Ergebnis'"):
        load_problems([ProblemSet(task="maths/file", path=path, answer_column="Ergebnis")])
    with pytest.raises(UserError, match="maths/gsm8k: its files have columns of their own"):
        load_problems([ProblemSet(task="maths/gsm8k", path=path, **columns)])
    with pytest.raises(UserError, match="leave `problem_column`"):
        load_problems([ProblemSet(task="synlogic/survo", split="rl", size=1, **columns)])


def test_columns_count_for_the_fingerprint_only_where_they_are_named() -> None:
    plain = ProblemSet(task="maths/file", path=Path("rows.jsonl"))
    assert not {"problem_column", "answer_column"} & set(plain.hashed())
    named = ProblemSet(task="maths/file", path=Path("rows.jsonl"), answer_column="a")
    assert named.hashed()["answer_column"] == "a"


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("math500", {"problem": "?"}, "expected the column 'answer' or 'expected_answer', found 'problem'"),
        ("math500", {"answer": "1"}, "expected the column 'problem' or 'question'"),
        ("math500", {"problem": " ", "answer": "1"}, "'problem' is not a text"),
        ("amc23", {"problem": "?", "answer": float("nan")}, "cannot be used"),
        ("aime24", {"problem": "?", "answer": True}, "neither a text nor a number, but bool"),
        ("aime25", {"problem": "?", "answer": "{1"}, "cannot be used"),
        ("minerva", {"problem": "?", "solution": "no box"}, "holds no"),
        ("minerva", {"problem": "?", "solution": r"\boxed{}"}, "cannot be used"),
        ("olympiadbench", {"question": "?", "final_answer": None}, "Problems to prove have none"),
        ("olympiadbench", {"question": "?", "final_answer": [1]}, "to be a list of texts"),
        ("olympiadbench", {"question": "?", "final_answer": ["1"], "image_1": "x"}, "has an image"),
        ("olympiadbench", {"question": "?", "final_answer": ["1"], "error": "1e-1,1e-2"}, "is not one number"),
        ("dapo17k", {"prompt": "?", "reward_model": {"style": "rule"}}, "has no 'ground_truth'"),
        ("dapo17k", {"prompt": [], "reward_model": {"ground_truth": "1"}}, "one user message"),
        ("dapo17k", {"prompt": 3, "reward_model": {"ground_truth": "1"}}, "'prompt' is not a text"),
        ("synthetic2", {"task_type": "verifiable_math", "messages": []}, "the column 'reward' is missing"),
        ("synthetic2", synthetic(messages=None), "the texts of a user and an assistant"),
        ("synthetic2", synthetic(messages=[{"role": "user", "content": "?"}]), "the texts of a user and an assistant"),
    ],
)
def test_rows_that_cannot_be_used_say_what_is_wrong(name: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read(name, row)
    assert str(raised.value).startswith("rows.jsonl, row 1")


@pytest.mark.parametrize("name", ["math500", "file"])
def test_one_question_has_one_answer(name: str) -> None:
    first = {"problem": "6 * 7?", "answer": "42"}
    assert len(read(name, first, {"problem": " 6  * 7? ", "answer": 42.0})) == 1
    with pytest.raises(UserError, match="row 2: the answer '43' is another than in row 1"):
        read(name, first, {"problem": "6 * 7?", "answer": "43"})
