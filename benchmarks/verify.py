"""Completions a second that the tasks verify, in one process.

    python -m benchmarks.verify [--problems 40] [--rounds 20]

Of each task with a generator, at its first level: right answers, and answers to another problem, in equal parts. The
last line is the rate of all SynLogic tasks together, each with as many completions. `benchmarks.verify_maths` is for
mathematics, whose checks run in worker processes.
"""

import argparse
import time

from pear.tasks import TASKS, GeneratedTask


def main() -> None:
    """Prints a line for each task, and one for SynLogic's together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    games, seconds = 0, 0.0
    for name, task in TASKS.items():
        if not isinstance(task, GeneratedTask) or name.startswith("reasoning_gym/"):
            continue
        problems = [task.generate(seed, task.levels[0]) for seed in range(options.problems)]
        pairs = [
            (problem, f"<think> x </think> <answer> {answer} </answer>")
            for problem, other in zip(problems, problems[1:] + problems[:1], strict=True)
            for answer in (problem.answer, other.answer)
        ] * options.rounds
        start = time.perf_counter()
        verdicts = task.verify_many([problem for problem, _ in pairs], [text for _, text in pairs])
        took = time.perf_counter() - start
        right = sum(verdict.correct for verdict in verdicts)
        print(f"{name:42} {len(pairs):6} completions, {right:5} right, {len(pairs) / took:9,.0f} a second")
        if name.startswith("synlogic/"):
            games, seconds = games + len(pairs), seconds + took
    print(f"{'synlogic, all tasks alike':42} {games:6} completions, {games / seconds:22,.0f} a second")


if __name__ == "__main__":
    main()
