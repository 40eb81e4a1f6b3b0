"""Answers a second that the mathematical tasks verify, on right and wrong answers to the problems of seven files.

    python -m benchmarks.verify_maths DIRECTORY

The directory holds aime24.jsonl, aime25.jsonl, amc23.jsonl, gsm8k_test.jsonl, math500.jsonl, minerva.jsonl and
olympiadbench.jsonl. Each problem has four answers: the right one, the right one set differently, the right one with
a digit changed (or one added), and another problem's. Starting the worker processes is not counted in the rates by the
clock; the rate by CPU time counts it, and is what two cores give that do nothing else.
"""

import re
import resource
import sys
import time
from pathlib import Path

from pear.tasks import TASKS, Problem
from pear.tasks.maths import verifier
from pear.tasks.maths.answers import compare_plain
from pear.tasks.maths.verifier import compare_answers
from pear.tasks.problems import ProblemSet, load_problems

FILES = {
    "aime24": "aime24",
    "aime25": "aime25",
    "amc23": "amc23",
    "gsm8k": "gsm8k_test",
    "math500": "math500",
    "minerva": "minerva",
    "olympiadbench": "olympiadbench",
}


def answers(problems: list[Problem]) -> list[tuple[Problem, str]]:
    """Four answers for each problem of a file."""
    found = []
    for problem, other in zip(problems, problems[1:] + problems[:1], strict=True):
        gold = problem.state["gold"]
        reset = gold.replace(r"\frac", r"\dfrac").replace(" ", "").replace(",", ", ") + r"\,"
        digits = list(re.finditer(r"\d", gold))
        at = digits[-1].start() if digits else len(gold)
        near = f"{gold[:at]}{(int(gold[at]) + 1) % 10}{gold[at + 1 :]}" if digits else f"{gold}+1"
        found += [(problem, text) for text in (gold, reset, near, other.state["gold"])]
    return found


def main(directory: Path) -> None:
    """Prints one line a file, and one for all of them together."""
    compare_answers([("1", "x")] * 16)
    total, seconds = 0, 0.0
    for name, file in FILES.items():
        pairs = answers(load_problems([ProblemSet(task=f"maths/{name}", path=directory / f"{file}.jsonl")]))
        start = time.perf_counter()
        verdicts = TASKS[f"maths/{name}"].verify_many(
            [problem for problem, _ in pairs], [rf"<think> x </think> \boxed{{{answer}}}" for _, answer in pairs]
        )
        took = time.perf_counter() - start
        slow = sum(compare_plain(problem.state["gold"], answer) is None for problem, answer in pairs)
        right = sum(verdict.correct for verdict in verdicts)
        late = sum("in time" in verdict.reason for verdict in verdicts)
        print(
            f"{name:14} {len(pairs):5} answers, {right:5} right, {slow:5} by math-verify, {late} over their time, "
            f"{len(pairs) / took:8.0f} a second"
        )
        total, seconds = total + len(pairs), seconds + took
    verifier._POOL.close()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() + used.ru_utime + used.ru_stime
    print(f"{'all':14} {total:5} answers, {total / seconds:8.0f} a second, {2 * total / cpu:.0f} in 2 s of CPU time")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
