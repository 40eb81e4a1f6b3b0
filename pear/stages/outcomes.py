"""The table of an evaluation's outcomes, and what `metrics.json` says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pear.engines.protocol import Completion, Sampling
from pear.tasks import TASKS, Problem, Verdict

if TYPE_CHECKING:
    import numpy
    import pyarrow


def outcome_row(
    problem: Problem, temperature: float, sample: int, completion: Completion, text: str, verdict: Verdict
) -> dict[str, Any]:
    """One row of `outcomes.parquet`: a completion and the verifier's word on it."""
    return {
        "problem_id": problem.id,
        "task": problem.task,
        "level": problem.level,
        "temperature": temperature,
        "sample": sample,
        "correct": verdict.correct,
        "accurate": verdict.accurate,
        "well_formed": verdict.well_formed,
        "reason": verdict.reason,
        "answer": verdict.answer,
        "finish": completion.finish,
        "num_tokens": len(completion.token_ids),
        "completion": text,
    }


def outcome_schema() -> "pyarrow.Schema":
    """The columns of `outcomes.parquet`. Rows are in the order of temperatures, problems and samples."""
    import pyarrow

    text, boolean = pyarrow.string(), pyarrow.bool_()
    return pyarrow.schema(
        [
            ("problem_id", text),
            ("task", text),
            ("level", text),
            ("temperature", pyarrow.float64()),
            ("sample", pyarrow.int32()),
            ("correct", boolean),
            ("accurate", boolean),
            ("well_formed", boolean),
            ("reason", text),
            ("answer", text),
            ("finish", text),
            ("num_tokens", pyarrow.int32()),
            ("completion", text),
        ]
    )


def outcome_metrics(outcomes: "pyarrow.Table", samplings: Sequence[Sampling], k: Sequence[int]) -> dict[str, Any]:
    """What `metrics.json` holds: the numbers at the first temperature, and at each where there are several.

    Over all problems (`avg@n`, `pass@k`, `maj@n`, ... and as `macro` the mean of the tasks' means), for each task, and
    for each level of it. Intervals are 95% bootstraps over whole problems, within tasks; they say nothing about
    training again.

    Args:
        outcomes: rows of `outcome_schema`, all samples of a problem in a row.
        samplings: one for each temperature, in the order of the rows.
        k: for which pass@k is estimated.
    """
    import pyarrow.compute

    found = {}
    for sampling in samplings:
        here = outcomes.filter(pyarrow.compute.equal(outcomes["temperature"], sampling.temperature))
        found[str(sampling.temperature)] = _metrics(_per_problem(here, sampling, k))
    first = next(iter(found.values()))
    return {**first, "temperatures": found} if len(found) > 1 else first


@dataclass(frozen=True, kw_only=True)
class _PerProblem:
    """One number for each problem, by metric key; `scores` get intervals, `shares` are averaged."""

    sampling: Sampling
    tasks: "numpy.ndarray"
    levels: "numpy.ndarray"
    scores: Mapping[str, "numpy.ndarray"]
    shares: Mapping[str, "numpy.ndarray"]


def _per_problem(outcomes: "pyarrow.Table", sampling: Sampling, k: Sequence[int]) -> _PerProblem:
    import numpy

    from pear.ops.majority import majority_at_k
    from pear.ops.pass_at_k import pass_at_k

    def matrix(name: str) -> "numpy.ndarray":
        return outcomes[name].to_numpy().reshape(-1, sampling.samples)

    correct = matrix("correct")
    answers = numpy.array([_votes(problem) for problem in matrix("answer")])
    return _PerProblem(
        sampling=sampling,
        tasks=matrix("task")[:, 0],
        levels=matrix("level")[:, 0],
        scores={
            # The mean over samples is the unbiased pass@1.
            "avg@n": pass_at_k(correct, 1),
            **{f"pass@{number}": pass_at_k(correct, number) for number in k},
            "maj@n": majority_at_k(answers, correct, sampling.samples),
        },
        shares={
            "accuracy": matrix("accurate").mean(axis=1),
            "format": matrix("well_formed").mean(axis=1),
            "truncated": (matrix("finish") == "length").mean(axis=1),
            "unparsable": (answers < 0).mean(axis=1),
            "mean_tokens": matrix("num_tokens").mean(axis=1),
        },
    )


def _votes(answers: Sequence[str | None]) -> list[int]:
    """A number for each sample of a problem, equal where the canonical answers are; -1 where none could be read."""
    groups: dict[str, int] = {}
    return [-1 if answer is None else groups.setdefault(answer, len(groups)) for answer in answers]


def _metrics(found: _PerProblem) -> dict[str, Any]:
    import numpy

    everything = numpy.ones(len(found.tasks), dtype=bool)
    tasks = sorted(set(found.tasks))
    levels = sorted(set(zip(found.tasks, found.levels, strict=True)))
    return {
        **_summary(found, everything),
        "macro": _intervals(found, everything, macro=True),
        "decoding": found.sampling.model_dump(mode="json"),
        "tasks": {task: _summary(found, found.tasks == task) for task in tasks},
        "levels": {
            f"{task} {level}": _summary(found, (found.tasks == task) & (found.levels == level))
            for task, level in levels
        },
        "many_solutions": [task for task in tasks if TASKS[task].many_solutions],
    }


def _summary(found: _PerProblem, chosen: "numpy.ndarray") -> dict[str, Any]:
    return {
        "num_problems": int(chosen.sum()),
        "num_samples": found.sampling.samples,
        **_intervals(found, chosen),
        **{name: float(values[chosen].mean()) for name, values in found.shares.items()},
    }


def _intervals(found: _PerProblem, chosen: "numpy.ndarray", *, macro: bool = False) -> dict[str, Any]:
    from pear.ops.statistics import bootstrap_interval

    entries = {}
    for name, values in found.scores.items():
        interval = bootstrap_interval(
            values[chosen], found.tasks[chosen].tolist(), seed=found.sampling.seed, macro=macro
        )
        entries[name] = {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
    return entries
