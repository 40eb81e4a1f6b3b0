"""Rows of evaluations summed up: means over units, differences, reversals, sampling error; and CSV files of them."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pear.ops.statistics import Interval, bootstrap_interval
from pear.report.rows import BASE_STAGE, Study, Unit
from pear.report.verdict import METRIC, Judgment, SanityCheck, Verdict, interval_over

CsvValue = str | float | int | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table to be written as `tables/NAME.csv`."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[CsvValue]]

    def text(self) -> str:
        """The table as CSV; what is missing is an empty field."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name}: {len(row)} values for {len(self.columns)} columns")
            writer.writerow(["" if value is None else value for value in row])
        return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm at one stage: means over the units that are there, with 95% t intervals.

    `planned` is how many units have this evaluation in the plan; `problems` and `samples` are the distinct sizes of the
    evaluations; the shares are means over units.
    """

    arm: str
    stage: int
    metric: str
    mean: Interval | None
    difference: Interval | None
    planned: int
    problems: tuple[int, ...]
    samples: tuple[int, ...]
    truncated: float | None
    malformed: float | None
    tokens: float | None

    @property
    def units(self) -> int:
        """How many units are in the mean."""
        return 0 if self.mean is None else self.mean.n


@dataclass(frozen=True, kw_only=True)
class Reversal:
    """Two arms whose order changes: `arm` is behind `other` after SFT and ahead after RL."""

    arm: str
    other: str
    offline: Interval
    online: Interval

    @property
    def established(self) -> bool:
        """Whether both intervals leave out 0."""
        return self.offline.high < 0 < self.online.low


@dataclass(frozen=True, kw_only=True)
class UnitDifference:
    """One unit's arm minus reference after RL, with a bootstrap interval over whole problems."""

    arm: str
    unit: Unit
    interval: Interval


def stage_name(stage: int) -> str:
    """`base`, `after SFT`, `RL 20`."""
    return {BASE_STAGE: "base", 0: "after SFT"}.get(stage, f"RL {stage}")


def cell(study: Study, arm: str, stage: int, metric: str) -> Cell:
    """Sums up one arm at one stage."""
    nodes = [study.evaluation_node(arm, unit, stage) for unit in study.units]
    found = [study.value(arm, unit, stage, metric) for unit in study.units]
    metrics = [entry for entry in (study.evaluation(arm, unit, stage) for unit in study.units) if entry is not None]
    well_formed = _mean_of(metrics, "format")
    paired = [] if arm == study.reference or stage == BASE_STAGE else list(study.paired(arm, stage, metric).values())
    return Cell(
        arm=arm,
        stage=stage,
        metric=metric,
        mean=interval_over([value for value in found if value is not None]),
        difference=interval_over(paired),
        planned=sum(node is not None for node in nodes),
        problems=tuple(sorted({int(entry["num_problems"]) for entry in metrics if "num_problems" in entry})),
        samples=tuple(sorted({int(entry["num_samples"]) for entry in metrics if "num_samples" in entry})),
        truncated=_mean_of(metrics, "truncated"),
        malformed=None if well_formed is None else 1 - well_formed,
        tokens=_mean_of(metrics, "mean_tokens"),
    )


def _mean_of(metrics: Sequence[Any], key: str) -> float | None:
    values = [float(entry[key]) for entry in metrics if isinstance(entry.get(key), int | float)]
    return sum(values) / len(values) if values else None


def reversals(study: Study) -> tuple[list[Reversal], int]:
    """Pairs of arms whose means change order from after SFT to after RL, and how many pairs could be compared."""
    last = study.last_rl_step
    if last is None:
        return [], 0
    found, compared = [], 0
    for one, two in combinations(study.arms, 2):
        offline, online = [], []
        for unit in study.units:
            values = [study.value(arm, unit, stage, METRIC) for stage in (0, last) for arm in (one, two)]
            first, second, third, fourth = values
            if first is not None and second is not None and third is not None and fourth is not None:
                offline.append(first - second)
                online.append(third - fourth)
        if not offline:
            continue
        compared += 1
        if sum(offline) * sum(online) < 0:
            rises = sum(online) > 0
            sign = 1 if rises else -1
            before, after = (interval_over([sign * value for value in values]) for values in (offline, online))
            assert before is not None
            assert after is not None
            arm, other = (one, two) if rises else (two, one)
            found.append(Reversal(arm=arm, other=other, offline=before, online=after))
    return found, compared


def unit_differences(study: Study) -> list[UnitDifference]:
    """Every unit's difference to the reference after RL, where both outcome files are there.

    The difference is of the shares of correct samples problem by problem (pass@1 where every problem has equally many
    samples); whole problems are drawn again, within each task.
    """
    import numpy

    last = study.last_rl_step
    if last is None:
        return []
    rows = []
    for arm in study.arms:
        for unit in study.units if arm != study.reference else []:
            ours, theirs = (study.outcomes(name, unit, last) for name in (arm, study.reference))
            problems = sorted(set(ours or ()) & set(theirs or ()))
            if not problems or ours is None or theirs is None:
                continue
            interval = bootstrap_interval(
                numpy.asarray([ours[problem][1] - theirs[problem][1] for problem in problems]),
                strata=[ours[problem][0] for problem in problems],
                resamples=4000,
            )
            rows.append(UnitDifference(arm=arm, unit=unit, interval=interval))
    return rows


def task_names(study: Study) -> list[str]:
    """The tasks that the evaluations name."""
    names: dict[str, None] = {}
    for _, _, _, node in study.evaluations():
        names.update(dict.fromkeys((study.metrics(node) or {}).get("tasks") or {}))
    return list(names)


def task_cell(study: Study, arm: str, stage: int, task: str) -> tuple[Interval | None, Interval | None]:
    """pass@1 of one arm on one task, and its difference to the reference; both None where it is missing."""

    def value(name: str, unit: Unit) -> float | None:
        entry = ((study.evaluation(name, unit, stage) or {}).get("tasks") or {}).get(task, {}).get(METRIC)
        return entry.get("value") if isinstance(entry, dict) else entry

    pairs = [(value(arm, unit), value(study.reference, unit)) for unit in study.units]
    differences = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    mean = interval_over([ours for ours, _ in pairs if ours is not None])
    return mean, None if arm == study.reference else interval_over(differences)


def evaluation_tables(study: Study, judgment: Judgment, differences: Sequence[UnitDifference]) -> Iterator[Table]:
    """The CSV files about evaluations."""
    yield _verdict_table(judgment.verdicts)
    yield _check_table(judgment.checks, study)
    yield _results_table(study)
    yield _evaluations_table(study)
    yield Table(
        name="reversals",
        columns=("behind_offline_ahead_online", "other", *_ends("offline"), *_ends("online"), "units", "established"),
        rows=[
            (row.arm, row.other, *_values(row.offline), *_values(row.online), row.online.n, int(row.established))
            for row in reversals(study)[0]
        ],
    )
    yield Table(
        name="unit_differences",
        columns=("arm", "reference", "base", "seed", *_ends("difference"), "problems"),
        rows=[
            (row.arm, study.reference, row.unit.base, row.unit.seed, *_values(row.interval), row.interval.n)
            for row in differences
        ],
    )


def _verdict_table(verdicts: Sequence[Verdict]) -> Table:
    return Table(
        name="verdict",
        columns=(
            *("arm", "reference", "rl_step", *_ends("difference")),
            *("units", "planned_units", "verdict", "units_to_settle"),
        ),
        rows=[
            (
                row.arm,
                row.reference,
                row.rl_step,
                *_values(row.interval),
                0 if row.interval is None else row.interval.n,
                row.planned_units,
                row.outcome,
                row.settle,
            )
            for row in verdicts
        ],
    )


def _check_table(checks: Sequence[SanityCheck], study: Study) -> Table:
    return Table(
        name="checks",
        columns=("claim", "arm", *_ends("difference"), "units", "planned_units"),
        rows=[
            (
                row.claim,
                study.reference,
                *_values(row.interval),
                0 if row.interval is None else row.interval.n,
                row.planned_units,
            )
            for row in checks
        ],
    )


def _results_table(study: Study) -> Table:
    rows = []
    for metric in study.pass_metrics:
        for arm in study.arms:
            for stage in study.stages:
                entry = cell(study, arm, stage, metric)
                rows.append(
                    (
                        arm,
                        stage_name(stage),
                        metric,
                        *_values(entry.mean),
                        *_values(entry.difference),
                        entry.units,
                        entry.planned,
                        "/".join(map(str, entry.problems)),
                        "/".join(map(str, entry.samples)),
                        entry.truncated,
                        entry.malformed,
                        entry.tokens,
                    )
                )
    return Table(
        name="results",
        columns=(
            *("arm", "stage", "metric", *_ends("mean"), *_ends("difference"), "units", "planned_units"),
            *("problems", "samples", "truncated", "malformed", "mean_tokens"),
        ),
        rows=rows,
    )


def _evaluations_table(study: Study) -> Table:
    rows = []
    for arm, unit, stage, node in study.evaluations():
        metrics = study.metrics(node) or {}
        numbers: list[CsvValue] = []
        for metric in study.pass_metrics:
            entry = metrics.get(metric) or {}
            numbers += [entry.get("value"), entry.get("low"), entry.get("high")]
        counts = [metrics.get(key) for key in ("num_problems", "num_samples", "truncated", "format", "mean_tokens")]
        rows.append((arm or "", unit.base, unit.seed, stage_name(stage), node.id, node.status, *numbers, *counts))
    ends = [f"{metric}{end}" for metric in study.pass_metrics for end in ("", "_low", "_high")]
    return Table(
        name="evaluations",
        columns=(
            *("arm", "base", "seed", "stage", "node", "status", *ends),
            *("problems", "samples", "truncated", "format", "mean_tokens"),
        ),
        rows=rows,
    )


def _ends(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def _values(interval: Interval | None) -> tuple[CsvValue, CsvValue, CsvValue]:
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
