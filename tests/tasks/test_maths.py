"""Maths: which text is the answer, plain numbers, math-verify's traps, and the pool of workers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pear.tasks import TASKS
from pear.tasks.maths import verifier
from pear.tasks.maths.answers import compare_plain, extract_boxed, plain_number, voting_text
from pear.tasks.maths.verifier import AnswerPool, compare_answers

TASK = TASKS["maths/gsm8k"]
BOMB = "9^{9^{9^9}}"


@pytest.fixture
def pool() -> Iterator[AnswerPool]:
    made = AnswerPool(size=2, cpu_seconds=1)
    yield made
    made.close()


def workers_of(pool: AnswerPool) -> list[int]:
    return [worker.process.pid for worker in pool._workers]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True


def ends(pids: list[int]) -> bool:
    for _ in range(200):
        if not any(is_alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{42}", "42"),
        (r"<think> 6 * 7 </think> So it is \boxed{42}.", "42"),
        (r"6 * 7 </think> \boxed{42}", "42"),
        (r"<think> \boxed{41} </think> <answer> $\boxed{42}$ </answer>", "42"),
        (r"\boxed{43} wait \boxed{42}", "42"),
        (r"\boxed{43}\boxed{42}", "42"),
        (r"\boxed{\boxed{42}}", r"\boxed{42}"),
        (r"\boxed{\frac{84}{2}} {", r"\frac{84}{2}"),
        (r"\boxed {42}", "42"),
        (r"a } b { \boxed{ $42$ }", "42"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{42} then \boxed{43", "42"),
        ("\\boxed{\n42\n}", "42"),
        (r"<think> \boxed{42} </think> 42", None),
        (r"<think> \boxed{42}", None),
        (r"</think> x </think> \boxed{42}", None),
        (r"<think> a </think> <think> \boxed{42}", None),
        (r"</think> <think> \boxed{42}", None),
        (r"\boxed{}", None),
        (r"\boxed{ $ }", None),
        (r"\boxed{42\}", None),
        (r"\\boxed{42}", None),
        (r"\boxed{" + "1" * 1001 + "}", None),
        ("The answer is 42.", None),
        (" " * 400_000 + r"\boxed{42}", None),
        ("<think>" + " " * 400_000 + r"</think> \boxed{42}", "42"),
    ],
)
def test_the_last_box_after_the_reasoning(completion: str, answer: str | None) -> None:
    extracted = extract_boxed(completion)
    assert extracted.answer == answer
    assert (extracted.reason == "") == (answer is not None)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"), ("-42", "-42"), ("+42", "42"), ("042", "42"), ("42.", "42"), ("42.0", "42"), ("42.50", "42.5"),
        (".5", "0.5"), ("-0", "0"), ("-.0", "0"), ("1,234", "1234"), ("1,234,567.8", "1234567.8"), (r"1{,}234", "1234"),
        (r"1\,234", "1234"), ("1 234", "1234"), (r"\$42", "42"), ("$42", "42"), ("-$1,000", "-1000"),
        ("1e3", "1000"), ("4.5E-2", "0.045"), (r"1.25 \times 10^{2}", "125"), (r"-2\cdot10^{-1}", "-0.2"),
        ("10^3", "1000"),
        (r"10,\!080", "10080"), (r"11,\! 111,\! 100", "11111100"), ("0.5e1", "5"), ("1e999", None), ("2e", None),
        ("10^{2}3", None), (r"3 \times 10^{n}", None), ("1e0.5", None),
        ("", None), (".", None), ("-", None), ("1,23", None), ("1,2345", None), ("0,123", None), ("12,34,567", None),
        ("1,234 567", None), ("4 2", None), ("1_000", None), ("\u0664\u0662", None), ("\uff11", None),
        ("\u00b2", None), ("inf", None), ("nan", None), ("42%", None), ("1/2", None), ("--1", None), ("1.2.3", None),
    ],
)  # fmt: skip
def test_plain_numbers(text: str, number: str | None) -> None:
    assert plain_number(text) == number


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("42", "42.00", True),
        ("1200", "1,200", True),
        ("42", "43", False),
        ("42", "4.2", False),
        ("0.5", "0.50002", False),
        ("0.5", "0.5000001", None),
        ("42", r"\frac{84}{2}", None),
        # math-verify reads numbers side by side as their sum.
        ("6", "4 2", False),
        ("42", "40 +2", False),
        ("1.5", "1 1/2", None),
        ("x", "x", True),
        ("x", "y", None),
        # Small numbers are not all zero.
        ("0.0000000001", r"3 \times 10^{-10}", False),
        ("4.5e33", r"4.5 \times 10^{33}", True),
        ("4.5e33", "4.6e33", False),
        # A percent or degree sign is a unit.
        ("62.5%", "62.5", True),
        (r"8 \%", "8", True),
        (r"8 \%", "9\\%", False),
        (r"90^\circ", "90", True),
        ("90", r"90^{\circ}", True),
        (r"90^\circ", "91", False),
        ("62.5%", "0.625", None),
        # Words are no products of letters.
        (r"\text{Evelyn}", "evelyn", True),
        (r"\text{even}", "neve", False),
        (r"\text{(C)}", "C", True),
        (r"\text{(C)}", r"\textbf{(B)}", False),
        (r"\text{42}", "42", None),
    ],
)
def test_what_plain_numbers_settle(gold: str, answer: str, equal: bool | None) -> None:
    assert compare_plain(gold, answer) is equal


@pytest.mark.parametrize(
    ("answer", "equal"),
    [("4.2", True), ("4.3", True), ("4.1", True), ("4.31", False), (r"4.2\%", True), ("-4.2", False)],
)
def test_a_tolerance_is_for_plain_numbers(answer: str, equal: bool) -> None:
    assert compare_plain("4.2", answer, "0.1") is equal


def test_plain_numbers_and_math_verify_agree() -> None:
    answers = ["42", "42.0", "0.50", ".5", "-7", "7", "1,234", "1234", "0.5002", "43", r"\$42", "420", "0", "-42"]
    pairs = [(gold, answer) for gold in ("42", "0.5", "-7", "1234", "0") for answer in answers]
    assert compare_answers(pairs) == [compare_plain(*pair) for pair in pairs]


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("42", r"\frac{84}{2}", True),
        ("42", r"x = 42", True),
        ("42", r"42 \text{ dollars}", True),
        ("1/3", "0.333333", True),
        (r"\frac{1}{2}", r"\frac12", True),
        ("(x-1)(x+1)", "x^2 - 1", True),
        ("(0, 1)", "(0,1)", True),
        ("(0, 1)", "[0, 1]", False),
        ("B", "B", True),
        ("B", "C", False),
        (r"\text{(C)}", "C", True),
        ("42", "42, 43", False),
        ("42", r"42 \text{ or } 43", False),
        ("x = 3", "3", True),
        # Not symmetric: the gold answer's form leads.
        ("1 < x < 2", "(1, 2)", True),
        ("(1, 2)", "1 < x < 2", False),
        ("42", r"\text{about } 42 or so", False),
        # A letter behind a number is a unit only where the gold answer has no variables.
        ("6", "6 m", True),
        ("6m", "6", False),
        ("6m", r"m \cdot 6", True),
        ("2n-2", r"2(n-1) \text{ moves}", True),
        ("1.6", r"1.6 \mathrm{~cm}", True),
        (r"864 \mbox{ inches}^2", "864", True),
        # Not the fraction alone, where the rest is hard to read.
        (r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", r"\frac{E_1+2E_2}{3}", True),
        (r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}", r"\frac{2}{3}", False),
        # Small numbers that math-verify rounds to zero.
        ("0.000000000361", r"\frac{3.61}{10^{10}}", True),
        ("0.000000000361", r"\frac{3.62}{10^{10}}", False),
        ("0", "x - x", True),
        # Lists, sets, intervals, bases.
        ("1,3", "3, 1", True),
        ("1,3", r"x = 1 \text{ or } x = 3", True),
        ("1,3", r"\{1, 3\}", True),
        ("1,3", "1", False),
        ("1,3", "1, 3, 5", False),
        ("(2,4)", "(4,2)", False),
        ("(2,4)", "2, 4", True),
        (r"x \in [-2,7]", "[-2,7]", True),
        ("[-2,7]", "(-2,7)", False),
        (r"(-\infty, 0) \cup\{1\}", r"\{1\} \cup (-\infty, 0)", True),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", True),
        (r"137 \frac{1}{2}", r"\frac{275}{2}", True),
        ("2516_8", "2516_{8}", True),
        # Capital and small letters are one variable.
        ("2RC+R+C", "c+r+2rc", True),
        ("f(x)=2 x", "2x", True),
        # What an equation says last.
        ("0", "x + y = 0", True),
        ("42", "__import__('os').getpid()", False),
        ("42", "\ud800", False),
        ("42", "\\", False),
    ],
)
def test_math_verify_compares(gold: str, answer: str, equal: bool) -> None:
    assert compare_answers([(gold, answer)]) == [equal]


def test_results_are_in_order_whatever_takes_long(pool: AnswerPool) -> None:
    pairs = [("12", f"{number} + 2") for number in range(20)]
    pairs[3] = pairs[11] = ("12", BOMB)
    expected: list[bool | None] = [number == 10 for number in range(20)]
    expected[3] = expected[11] = None
    assert pool.compare(pairs) == expected
    assert pool.compare(pairs[4:8]) == expected[4:8]
    assert len(workers_of(pool)) <= 2


def test_an_endless_answer_costs_its_limit_and_no_more(pool: AnswerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_POOL", pool)
    problem = TASK.read([{"question": "?", "answer": "42"}], origin="row")[0]  # type: ignore[union-attr]
    verdict = TASK.verify(problem, rf"\boxed{{{BOMB}}}")
    assert not verdict.correct
    assert verdict.well_formed
    assert verdict.reason == "the answer could not be checked in time"
    assert TASK.verify(problem, r"\boxed{40 + 2}").correct


def test_a_worker_that_waits_is_ended_by_the_clock(pool: AnswerPool) -> None:
    assert pool.compare([("1", "0 + 1")]) == [True]
    os.kill(workers_of(pool)[0], signal.SIGSTOP)
    pool._wall_seconds = 0.5
    assert pool.compare([("1", "0 + 1")]) == [None]
    pool._wall_seconds = verifier.WALL_SECONDS
    assert pool.compare([("1", "0 + 1")]) == [True]


def test_a_worker_killed_between_calls_is_replaced(pool: AnswerPool) -> None:
    assert pool.compare([("1", "0 + 1"), ("1", "0 + 2")]) == [True, False]
    before = workers_of(pool)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert ends(before)
    assert pool.compare([("1", "0 + 1"), ("1", "0 + 2")]) == [True, False]
    assert not set(before) & set(workers_of(pool))


def test_workers_start_late_stay_and_are_as_many_as_needed(pool: AnswerPool) -> None:
    assert pool.compare([]) == []
    assert workers_of(pool) == []
    assert pool.compare([("1", "0 + 1")]) == [True]
    first = workers_of(pool)
    assert len(first) == 1
    assert pool.compare([("1", "0 + 1")] * 6) == [True] * 6
    assert workers_of(pool)[:1] == first
    pool.close()
    assert ends(first)
    assert pool.compare([("1", "0 + 1")]) == [True]


def test_an_interrupted_call_leaves_no_stale_answers(pool: AnswerPool) -> None:
    pool.compare([("1", "0 + 1")])

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)

    def compare_until_interrupted() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        pool.compare([("1", BOMB), ("1", BOMB)])

    try:
        with pytest.raises(KeyboardInterrupt):
            compare_until_interrupted()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert workers_of(pool) == []
    assert pool.compare([("1", "0 + 2"), ("1", "0 + 1")]) == [False, True]


def test_works_in_threads_and_leaves_the_callers_alarm_alone(pool: AnswerPool) -> None:
    found: list[list[bool | None]] = []
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        pairs = [("5", "2 + 3"), ("5", "2 + 2")]
        threads = [threading.Thread(target=lambda: found.append(pool.compare(pairs))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert found == [[True, False]] * 4


def _compare_in_child(queue: Any) -> None:
    queue.put((compare_answers([("5", "2 + 3"), ("5", "2 + 2")]), workers_of(verifier._POOL)))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_works_in_child_processes_also_daemons(method: Any) -> None:
    assert compare_answers([("5", "1 + 4")]) == [True]
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_compare_in_child, args=(queue,), daemon=True)
    child.start()
    results, workers = queue.get(timeout=120)
    assert results == [True, False]
    assert not set(workers) & set(workers_of(verifier._POOL))
    child.join()
    assert child.exitcode == 0
    assert compare_answers([("5", "1 + 4"), ("5", "5 + 4")]) == [True, False]


def test_a_fork_during_another_threads_call_does_not_hang() -> None:
    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    with verifier._POOL._lock:
        child = context.Process(target=_compare_in_child, args=(queue,))
        child.start()
        assert queue.get(timeout=120)[0] == [True, False]
    child.join()


SCRIPT = """
import os, signal, sys
from pear.tasks.maths.verifier import _POOL, compare_answers
assert compare_answers([("5", "2 + 3")]) == [True]
assert compare_answers([("5", chr(92) + "left( 5")]) == [False]
print(*[worker.process.pid for worker in _POOL._workers], flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_no_worker_outlives_its_process(how: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    finished = subprocess.run([sys.executable, "-c", SCRIPT, how], env=environment, capture_output=True, text=True)
    assert finished.stderr == ""
    pids = [int(word) for word in finished.stdout.split()]
    assert len(pids) == 1
    assert ends(pids)


def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('broken installation')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pool = AnswerPool(size=1)
    with pytest.raises(RuntimeError, match="did not start"):
        pool.compare([("1", "0 + 1")])
    assert workers_of(pool) == []


def test_equal_answers_vote_together() -> None:
    problem = TASK.read([{"question": "?", "answer": "1,200"}], origin="row")[0]  # type: ignore[union-attr]
    texts = ["1200", "1,200", r"\$1200.00", "1200."]
    assert {TASK.verify(problem, rf"\boxed{{{text}}}").answer for text in texts} == {"1200"}


@pytest.mark.parametrize(
    "texts",
    [
        ["(1, \\frac{1}{2})", "( 1,\\frac12 )", r"\left(1 ,\, \dfrac{1}{2}\right)", r"(1,\tfrac 1 2)"],
        ["x - 1", "x-1", r"x\! -\; 1"],
        ["4 2"],
        ["42", "42.0", r"\$42"],
        ["4. 2"],
        ["4.2"],
        [r"\leftarrow", r" \leftarrow "],
        ["arrow"],
        [r"\text{two words}", r"\text{ two words }"],
        [r"\text{twowords}"],
    ],
)
def test_votes_ignore_how_an_answer_is_set_and_nothing_else(texts: list[str]) -> None:
    (form,) = {voting_text(text.strip()) for text in texts}
    assert voting_text(form) == form
    others = {voting_text(text) for text in ("42", "4 2", "4.2", "4. 2", "x-1", r"\leftarrow", "arrow")}
    assert len(others) == 7


@pytest.mark.parametrize(
    ("completion", "accurate", "well_formed"),
    [
        (r"<think> \boxed{41} so \boxed{42}", True, False),
        (r"<think> \boxed{42} so \boxed{41}", False, False),
        (r"<think> \boxed{42} </think> \boxed{41}", False, True),
        (r"<think> x </think> <answer> 42 </answer>", True, False),
        (r"<think> x </think> <answer> $42.00$ </answer>", True, False),
        (r"<think> 42 </think> <answer> The answer is 42. </answer>", False, False),
        (r"<think> 42", False, False),
        (r"<think> x </think> \boxed{} <answer> 42 </answer>", True, False),
        (r"<think> \boxed{ </think> \boxed{42} }", True, True),
    ],
)
def test_accuracy_and_format_apart(completion: str, accurate: bool, well_formed: bool) -> None:
    problem = TASK.read([{"question": "?", "answer": "42"}], origin="row")[0]  # type: ignore[union-attr]
    verdict = TASK.verify(problem, completion)
    assert (verdict.accurate, verdict.well_formed) == (accurate, well_formed)
    assert verdict.correct == (accurate and well_formed)
