"""What may stand behind a difference between arms: how far each moved, how long it writes, what RL could learn from.

Arms with equal RL steps need not have had equal changes: these rows stand side by side, each a mean over units.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pear.ops.statistics import Interval
from pear.report.export import ExportTable
from pear.report.figures.curves import RL_METRICS, UPDATE_NORM, Metric, Role, run_summary
from pear.report.results.verdict import interval_over
from pear.report.sources.reading import interval_value
from pear.report.sources.rows import Study, Unit

_IN_RL = ("rl/kl_to_start", "rl/groups_without_variance", "rl/completion_length", "rl/truncated")


@dataclass(frozen=True, kw_only=True)
class Confound:
    """One quantity of every arm: its mean over units with a 95% t interval, None where no unit has it."""

    key: str
    title: str
    unit: str
    values: dict[str, Interval | None]


def confound_rows(study: Study) -> list[Confound]:
    """The quantities that any arm has, in the order of the pipeline."""
    last = study.last_rl_step

    def divergence(arm: str, unit: Unit) -> float | None:
        return interval_value((study.analysis("divergence", arm, unit, 0) or {}).get("divergence/forward_kl"))

    rows = [
        _logged(study, "sft", UPDATE_NORM, "Update norm of SFT"),
        _mean_of(
            study,
            "divergence/forward_kl",
            "KL to the base after SFT",
            "KL(base || checkpoint), nats a token of the calibration trajectories",
            divergence,
        ),
        *_evaluated(study, 0, "after SFT"),
        _logged(study, "grpo", UPDATE_NORM, "Update norm of RL"),
        *(_logged(study, "grpo", metric, f"{metric.title}, in RL") for metric in RL_METRICS if metric.key in _IN_RL),
        *(_evaluated(study, last, f"after RL step {last}") if last is not None else ()),
    ]
    return [row for row in rows if any(value is not None for value in row.values.values())]


def confound_table(study: Study) -> ExportTable:
    """The rows as a table, an arm a column."""
    return ExportTable(
        name="confounds",
        title="Confounds side by side",
        columns=("quantity", "unit", *study.arms),
        rows=[(row.title, row.unit, *(row.values[arm] for arm in study.arms)) for row in confound_rows(study)],
        note="Means over (base, seed) units",
    )


def _logged(study: Study, role: Role, metric: Metric, title: str) -> Confound:
    spans = {"last tenth": "last tenth of the run", "mean": "mean over the run"}
    unit = ", ".join(text for text in (metric.unit, spans.get(metric.summary, "")) if text)
    values = {arm: run_summary(study, role, arm, metric) for arm in study.arms}
    return Confound(key=f"{role}:{metric.key}", title=title, unit=unit, values=values)


def _evaluated(study: Study, stage: int, when: str) -> list[Confound]:
    named = (("mean_tokens", "Completion length", "tokens, mean"), ("truncated", "Truncated", "share cut at the limit"))

    def reader(key: str) -> Callable[[str, Unit], float | None]:
        return lambda arm, unit: study.value(arm, unit, stage, key)

    return [
        _mean_of(study, f"evaluation:{key}:{stage}", f"{title}, evaluated {when}", unit_text, reader(key))
        for key, title, unit_text in named
    ]


def _mean_of(study: Study, key: str, title: str, unit_text: str, read: Callable[[str, Unit], float | None]) -> Confound:
    values = {}
    for arm in study.arms:
        found = [read(arm, unit) for unit in study.units]
        values[arm] = interval_over([value for value in found if value is not None])
    return Confound(key=key, title=title, unit=unit_text, values=values)
