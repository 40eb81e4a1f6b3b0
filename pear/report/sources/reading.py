"""The files of finished runs as Python values: logs, outcomes, tables of analyses."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from jaxtyping import Bool

from pear.errors import UserError
from pear.runs import MANIFEST, file_digest

if TYPE_CHECKING:
    import pyarrow

OUTCOMES = "outcomes.parquet"
# Of outcomes.parquet, among the results in the manifest of `pear evaluate`.
DIGEST = "outcomes_sha256"


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """One model's right and wrong samples: `correct` is (problem, sample), `tasks` and `problem_ids` are by problem."""

    problem_ids: tuple[str, ...]
    tasks: tuple[str, ...]
    correct: Bool[numpy.ndarray, "problem sample"]

    @property
    def shares(self) -> dict[str, tuple[str, float]]:
        """Problem id to its task and the share of its samples that are right."""
        means = self.correct.mean(axis=1).tolist()
        return {problem: (task, mean) for problem, task, mean in zip(self.problem_ids, self.tasks, means, strict=True)}

    def of(self, problem_ids: Sequence[str]) -> Bool[numpy.ndarray, "problem sample"]:
        """The rows of these problems, in this order."""
        places = {problem: place for place, problem in enumerate(self.problem_ids)}
        chosen: Bool[numpy.ndarray, "problem sample"] = self.correct[[places[problem] for problem in problem_ids]]
        return chosen


@dataclass(frozen=True, kw_only=True)
class Scope:
    """A part of an evaluation: one task, one level (`TASK LEVEL`) or the mean over tasks, at one temperature.

    None of them is the whole evaluation at its first temperature.
    """

    task: str | None = None
    level: str | None = None
    temperature: str | None = None
    macro: bool = False

    def of(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """This part of a `metrics.json`; empty where it has no such part."""
        path = [("temperatures", self.temperature), ("tasks", self.task), ("levels", self.level)]
        for key, name in path:
            if name is not None:
                metrics = (metrics.get(key) or {}).get(name) or {}
        return (metrics.get("macro") or {}) if self.macro else metrics


WHOLE = Scope()


def number(value: Any) -> float | None:
    """A finite number, or None: TRL logs text and NaN beside numbers, and neither can be averaged."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval_value(entry: Any) -> float | None:
    """A plain number, or the value of an entry `{"value", "low", "high"}` of a `metrics.json`."""
    return number(entry.get("value") if isinstance(entry, Mapping) else entry)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A file of JSON objects, one a line. Raises `UserError` and names the line that is cut short."""
    lines = []
    for place, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {place} is not valid JSON ({error}).") from None
    return lines


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A parquet file as one mapping a row. Raises `UserError` where it cannot be read."""
    rows: list[dict[str, Any]] = _read_table(path).to_pylist()
    return rows


def _read_table(path: Path, columns: Sequence[str] | None = None) -> "pyarrow.Table":
    """A parquet file, or those of the columns that it has."""
    import pyarrow
    import pyarrow.parquet

    try:
        known = pyarrow.parquet.read_schema(path).names
        return pyarrow.parquet.read_table(path, columns=[name for name in columns or known if name in known])
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}). Make the run again.") from None


def check_digest(path: Path, manifest: Mapping[str, Any] | None) -> None:
    """Raises `UserError` where an `outcomes.parquet` is not what its run wrote: the manifest holds the file's sha256.

    Version 1 of `pear evaluate` kept none; its files cannot be checked.
    """
    wanted = ((manifest or {}).get("results") or {}).get(DIGEST)
    if wanted is None:
        return
    try:
        found = file_digest(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Make the run again.") from None
    if found != wanted:
        raise UserError(
            f"{path}: is not the file that its run wrote (its sha256 is {found[:12]}, the {MANIFEST} beside it has "
            f"{str(wanted)[:12]}). Remove {path.parent} and evaluate the model again."
        )


def read_outcomes(path: Path) -> Outcomes:
    """`outcomes.parquet` at its first temperature.

    Raises:
        UserError: it cannot be read, no rows, or problems with different numbers of samples.
    """
    import pyarrow.compute

    table = _read_table(path, ("problem_id", "task", "sample", "correct", "temperature"))
    if len(table) == 0:
        raise UserError(f"{path}: holds no outcomes.")
    if "temperature" in table.column_names:
        table = table.filter(pyarrow.compute.equal(table["temperature"], table["temperature"][0]))
    problems = table["problem_id"].combine_chunks().dictionary_encode()
    codes, samples = problems.indices.to_numpy(), table["sample"].to_numpy()
    correct = numpy.zeros((len(problems.dictionary), int(samples.max()) + 1), dtype=bool)
    seen = numpy.zeros(correct.shape, dtype=numpy.int64)
    numpy.add.at(seen, (codes, samples), 1)
    if not (seen == 1).all():
        raise UserError(f"{path}: its problems have different numbers of samples. Evaluate again.")
    correct[codes, samples] = table["correct"].to_numpy()
    _, first = numpy.unique(codes, return_index=True)
    return Outcomes(
        problem_ids=tuple(problems.dictionary.to_pylist()),
        tasks=tuple(table["task"].take(first).to_pylist()),
        correct=correct,
    )
