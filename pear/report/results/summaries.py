"""Rows of evaluations summed up: means over units, differences, reversals, sampling error; and tables of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pear.ops.statistics import Interval, bootstrap_interval
from pear.report.export import ExportTable, ExportValue
from pear.report.results.verdict import METRIC, Judgment, SanityCheck, Verdict, interval_over
from pear.report.sources.reading import WHOLE, Scope
from pear.report.sources.rows import BASE_STAGE, Study, Unit

MAJORITY = "maj@n"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm at one stage: means over the units that are there, with 95% t intervals.

    `planned` is how many units have this evaluation in the plan; `problems` and `samples` are the distinct sizes of the
    evaluations; the shares are means over units. `mean` is over problems, `macro` the mean of the tasks' means;
    `accuracy` counts right answers whatever their format.
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
    unparsable: float | None
    accuracy: float | None
    macro: Interval | None

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


@dataclass(frozen=True, kw_only=True)
class BaseGroup:
    """Units that a table shows as one column: those of one base, or all where every seed has a base of its own."""

    label: str
    units: tuple[Unit, ...]


def base_groups(study: Study) -> list[BaseGroup]:
    """The column groups of the paper's tables, one per base model."""
    bases = list(dict.fromkeys(unit.base for unit in study.units))
    seeds = {unit.seed for unit in study.units}
    if len(bases) > 1 and len(bases) == len(seeds) == len(study.units):
        # One base per seed, as a study file's `{seed}` makes them: the base is a part of what the seeds vary.
        return [BaseGroup(label=f"{len(bases)} bases", units=tuple(study.units))]
    return [
        BaseGroup(label=short_base(base), units=tuple(unit for unit in study.units if unit.base == base))
        for base in bases
    ]


def short_base(base: str) -> str:
    """The last part of a model's name or path."""
    return base.rstrip("/").rsplit("/", 1)[-1]


def over_units(
    study: Study, read: Callable[[Unit], float | None], units: Sequence[Unit] | None = None
) -> Interval | None:
    """The mean over units, of those that have the number, with its 95% t interval."""
    found = [read(unit) for unit in (study.units if units is None else units)]
    return interval_over([value for value in found if value is not None])


def mean_and_change(
    study: Study, arm: str, read: Callable[[str, Unit], float | None], units: Sequence[Unit] | None = None
) -> tuple[Interval | None, Interval | None]:
    """An arm's mean over units, and its paired difference to the reference; None for the reference itself."""
    mean = over_units(study, lambda unit: read(arm, unit), units)
    if arm == study.reference or study.reference not in study.arms:
        return mean, None

    def difference(unit: Unit) -> float | None:
        ours, theirs = read(arm, unit), read(study.reference, unit)
        return None if ours is None or theirs is None else ours - theirs

    return mean, over_units(study, difference, units)


def reader(study: Study, stage: int, metric: str, scope: Scope = WHOLE) -> Callable[[str, Unit], float | None]:
    """How one number of an evaluation is read, for `mean_and_change`."""
    return lambda arm, unit: study.value(arm, unit, stage, metric, scope)


def ranked(study: Study, stage: int | None) -> list[str]:
    """The arms beside the reference, best first: those whose interval over units lies above it, then by mean."""
    merits = {}
    for arm in study.arms:
        paired = {} if stage is None or arm == study.reference else study.paired(arm, stage, METRIC)
        found = interval_over(list(paired.values()))
        if found is not None:
            merits[arm] = (found.low > 0, found.value)
    return sorted(merits, key=lambda arm: merits[arm], reverse=True)


def task_average(study: Study, arm: str, unit: Unit, stage: int, metric: str) -> float | None:
    """The macro mean: the mean of the tasks' means; of a single task, its own."""
    found = study.value(arm, unit, stage, metric, Scope(macro=True))
    if found is not None:
        return found
    values = [study.value(arm, unit, stage, metric, Scope(task=task)) for task in study.parts("tasks")]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


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
        unparsable=_mean_of(metrics, "unparsable"),
        accuracy=_mean_of(metrics, "accuracy"),
        macro=over_units(study, lambda unit: task_average(study, arm, unit, stage, metric)),
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


def evaluation_tables(study: Study, judgment: Judgment, differences: Sequence[UnitDifference]) -> Iterator[ExportTable]:
    """The exported tables about evaluations."""
    yield _verdict_table(study, judgment.verdicts)
    yield _check_table(judgment.checks, study)
    yield _results_table(study)
    yield _parts_table(study)
    yield _evaluations_table(study)
    yield ExportTable(
        name="reversals",
        title="Pairs of arms that change order from after SFT to after RL",
        columns=("behind offline, ahead online", "other", "offline", "online", "established"),
        rows=[(row.arm, row.other, row.offline, row.online, int(row.established)) for row in reversals(study)[0]],
        note=f"Differences in {METRIC}, the first arm minus the other.",
    )
    yield ExportTable(
        name="unit_differences",
        title=f"Difference to {study.reference} after RL, unit by unit",
        columns=("arm", "base", "seed", "difference"),
        rows=[(row.arm, row.unit.base, row.unit.seed, row.interval) for row in differences],
        note=f"{METRIC}; sampling error over problems alone.",
    )


def _verdict_table(study: Study, verdicts: Sequence[Verdict]) -> ExportTable:
    return ExportTable(
        name="verdict",
        title=f"{METRIC} after RL, arm minus {study.reference}",
        columns=("arm", "verdict", "difference", "planned units", "units to settle"),
        rows=[(row.arm, row.outcome, row.interval, row.planned_units, row.settle) for row in verdicts],
    )


def _check_table(checks: Sequence[SanityCheck], study: Study) -> ExportTable:
    return ExportTable(
        name="checks",
        title="Does the pipeline work?",
        columns=("claim", "arm", "difference", "planned units"),
        rows=[(row.claim, study.reference, row.interval, row.planned_units) for row in checks],
        note=f"Differences in {METRIC}, over units.",
    )


def _results_table(study: Study) -> ExportTable:
    rows = []
    for metric in [*study.pass_metrics, *([MAJORITY] if has_majority(study) else [])]:
        for arm in study.arms:
            for stage in study.stages:
                entry = cell(study, arm, stage, metric)
                rows.append(
                    (
                        *(arm, stage_name(stage), metric, entry.mean, entry.difference, entry.macro, entry.planned),
                        *("/".join(map(str, sizes)) for sizes in (entry.problems, entry.samples)),
                        *(entry.accuracy, entry.malformed, entry.truncated, entry.unparsable, entry.tokens),
                    )
                )
    return ExportTable(
        name="results",
        title="Results, stage by stage",
        columns=(
            *("arm", "stage", "metric", "mean", "difference", "macro", "planned units", "problems", "samples"),
            *("accuracy", "malformed", "truncated", "unparsable", "mean tokens"),
        ),
        rows=rows,
        note=f"Means over units; differences are paired, to {study.reference}.",
    )


def _parts_table(study: Study) -> ExportTable:
    """Every task, level and temperature, after SFT and after the last RL step."""
    metrics = [*study.pass_metrics, *([MAJORITY] if has_majority(study) else [])]
    stages = [stage for stage in study.rl_steps if stage in (0, study.last_rl_step)]
    rows: list[tuple[ExportValue, ...]] = []
    for group in base_groups(study):
        for part, scope in scopes(study):
            for arm in study.arms:
                for stage in stages:
                    for metric in metrics:
                        found = mean_and_change(study, arm, reader(study, stage, metric, scope), group.units)
                        rows.append((group.label, part, arm, stage_name(stage), metric, *found))
    return ExportTable(
        name="parts",
        title="Results by task, level and temperature",
        columns=("base", "part", "arm", "stage", "metric", "mean", "difference"),
        rows=rows,
        note=f"Means over units; differences are paired, to {study.reference}.",
    )


def scopes(study: Study) -> list[tuple[str, Scope]]:
    """What the evaluations tell apart, with its name: all problems, tasks, levels, temperatures."""
    found = [("all", WHOLE)]
    found += [(task, Scope(task=task)) for task in study.parts("tasks")]
    found += [(level, Scope(level=level)) for level in study.parts("levels")]
    found += [(f"temperature {name}", Scope(temperature=name)) for name in study.parts("temperatures")]
    return found


def has_majority(study: Study) -> bool:
    """Whether any evaluation holds a majority vote."""
    return any(MAJORITY in (study.metrics(node) or {}) for _, _, _, node in study.evaluations())


def _evaluations_table(study: Study) -> ExportTable:
    keys = ("num_problems", "num_samples", "accuracy", "format", "truncated", "unparsable", "mean_tokens")
    metrics = [*study.pass_metrics, *([MAJORITY] if has_majority(study) else [])]
    rows: list[tuple[ExportValue, ...]] = []
    for arm, unit, stage, node in study.evaluations():
        found = study.metrics(node) or {}
        shown = [read_interval(found.get(metric)) for metric in metrics]
        place = (arm or "", unit.base, unit.seed, stage_name(stage), node.id, node.status)
        rows.append((*place, *shown, *(found.get(key) for key in keys)))
    return ExportTable(
        name="evaluations",
        title="Every evaluation",
        columns=("arm", "base", "seed", "stage", "node", "status", *metrics, *keys),
        rows=rows,
    )


def read_interval(entry: Any) -> Interval | None:
    """An interval as `pear evaluate` wrote it."""
    if not isinstance(entry, dict) or entry.get("value") is None:
        return None
    return Interval(
        value=entry["value"],
        low=entry["low"],
        high=entry["high"],
        n=int(entry.get("n") or 0),
        method="bootstrap over problems",
    )
