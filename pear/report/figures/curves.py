"""What training runs logged: curves over steps, small multiples of them, and their summary over a run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pear.ops.statistics import Interval
from pear.ops.weight_warnings import weight_warnings
from pear.report.export import ExportTable
from pear.report.figures.drawing import Panel, arm_styles, few_ticks, muted_first, shown
from pear.report.figures.svg import LIGHT, Picture
from pear.report.results.verdict import interval_over
from pear.report.sources.rows import Series, Study

_MOST_POINTS = 120
_QUANTILE = re.compile(r"weights/log_weight/q(\d+)$")
Role = Literal["sft", "grpo"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A logged metric as it is shown.

    `summary` is what stands for a whole run: the mean over its steps or over the last tenth of them, the last value, or
    a number of the run's manifest.
    """

    key: str
    title: str
    unit: str
    summary: Literal["mean", "last tenth", "last", "whole run"] = "mean"


REWARD = Metric(key="rl/reward", title="Reward in RL", unit="mean over a step's completions", summary="last tenth")
RL_METRICS = (
    REWARD,
    Metric(
        key="rl/groups_without_variance",
        title="Groups without variance",
        unit="share of groups with equal rewards: no gradient",
    ),
    Metric(key="rl/completion_length", title="Completion length", unit="tokens, mean", summary="last tenth"),
    Metric(key="rl/truncated", title="Truncated completions", unit="share cut at the length limit"),
    Metric(key="rl/entropy", title="Entropy", unit="mean nats a token", summary="last tenth"),
    Metric(key="rl/kl_to_start", title="KL to the start", unit="nats a token, to its own start", summary="last tenth"),
    Metric(key="rl/generated_tokens", title="Generated tokens", unit="completions alone, so far", summary="last"),
)
UPDATE_NORM = Metric(
    key="update/norm", title="Update norm", unit="L2 norm of the change of all parameters", summary="whole run"
)
_TOKENS = "share of the target tokens"
SFT_METRICS = (
    Metric(
        key="loss/nll",
        title="SFT loss, unweighted",
        unit="\N{MINUS SIGN}log p, nats a target token",
        summary="last tenth",
    ),
    Metric(key="weights/mean", title="Mean weight", unit="over target tokens"),
    Metric(key="weights/effective_sample_size", title="Effective sample size", unit=_TOKENS),
    Metric(
        key="weights/trajectory_effective_sample_size",
        title="ESS between trajectories",
        unit="share, at equal distance from the end",
    ),
    Metric(key="weights/tokens_with_90_percent", title="Tokens with 90% of the weight", unit=_TOKENS),
    Metric(
        key="weights/last_tokens_with_90_percent",
        title="Last tokens with 90% of the weight",
        unit=f"{_TOKENS}, from the end",
    ),
    Metric(key="weights/log_ratio/mean", title="Mean log-ratio", unit="target over behavior policy, nats, not clipped"),
    Metric(key="weights/clipped/log_ratio_low", title="Log-ratio clipped from below", unit=_TOKENS),
    Metric(key="weights/clipped/log_ratio_high", title="Log-ratio clipped from above", unit=_TOKENS),
    Metric(key="weights/clipped/log_weight_low", title="Log-weight at its lower bound", unit=_TOKENS),
    Metric(key="weights/clipped/log_weight_high", title="Log-weight at its upper bound", unit=_TOKENS),
)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One step of an arm's curve: mean, lowest and highest over the units that logged it."""

    metric: str
    arm: str
    step: int
    mean: float
    lowest: float
    highest: float
    units: int


def curve(study: Study, role: Role, arm: str, key: str) -> list[CurvePoint]:
    """An arm's curve; a run of many steps is averaged in bins, so that a page stays small."""
    by_unit = study.series(role, arm, key)
    steps = sorted({step for series in by_unit.values() for step, _ in series})
    width = -(-len(steps) // _MOST_POINTS)
    bins = {step: steps[min(index // width * width + width, len(steps)) - 1] for index, step in enumerate(steps)}
    values: dict[int, list[float]] = {}
    for series in by_unit.values():
        inside: dict[int, list[float]] = {}
        for step, value in series:
            inside.setdefault(bins[step], []).append(value)
        for step, group in inside.items():
            values.setdefault(step, []).append(sum(group) / len(group))
    return [
        CurvePoint(
            metric=key,
            arm=arm,
            step=step,
            mean=sum(group) / len(group),
            lowest=min(group),
            highest=max(group),
            units=len(group),
        )
        for step, group in sorted(values.items())
    ]


def _curve_data(name: str, title: str, curves: Mapping[str, Sequence[CurvePoint]], of: str = "arm") -> ExportTable:
    return ExportTable(
        name=name,
        title=title,
        columns=("metric", of, "step", "mean", "lowest", "highest", "units"),
        rows=[
            (point.metric, label, point.step, point.mean, point.lowest, point.highest, point.units)
            for label, points in curves.items()
            for point in points
        ],
    )


def curve_figure(study: Study, role: Role, metric: Metric) -> Picture | None:
    """One metric over the steps of every arm: mean over units, with the band of their range."""
    curves = {arm: curve(study, role, arm, metric.key) for arm in study.arms}
    curves = {arm: points for arm, points in curves.items() if points}
    if not curves:
        return None
    styles = arm_styles(study)
    most = max(point.units for points in curves.values() for point in points)
    band = "" if most == 1 else "; band: their range"
    panel = Panel(
        name=f"{role}_{metric.key.removeprefix('rl/').replace('/', '_')}",
        title=metric.title,
        subtitle=f"{metric.unit}\nmean over units (n = {most}){band}",
        x_label="RL step" if role == "grpo" else "SFT step",
        styles={arm: styles[arm] for arm in curves},
    )
    for index, arm in enumerate(muted_first(styles, curves)):
        points, muted = curves[arm], styles[arm].muted
        steps = [point.step for point in points]
        if most > 1 and not muted:
            lows, highs = [point.lowest for point in points], [point.highest for point in points]
            panel.axes.fill_between(steps, lows, highs, color=styles[arm].color, alpha=0.13, linewidth=0)
        gap = max(1, len(steps) // 5)
        line = styles[arm].line()
        # A gray line of many has no markers, unless it is a single point.
        marks = {"marker": ""} if muted and len(steps) > 1 else {"markersize": 5}
        line |= {**marks, "markevery": (index * gap // len(curves) % gap, gap)}
        panel.axes.plot(steps, [point.mean for point in points], **line)
    _settle_axes(panel, zero=metric.unit.startswith("share"))
    return panel.finish(_curve_data(panel.name, metric.title, curves))


def quantile_figures(study: Study) -> tuple[list[Picture], list[str]]:
    """One fan of log-weight quantiles for each arm, and the arms whose weights are all 1.

    A crowded study has fans of the arms in color alone; the quantiles of the others are in its table of SFT.
    """
    quantiles = sorted(
        (int(found.group(1)), key) for key in study.logged_keys("sft") if (found := _QUANTILE.match(key)) is not None
    )
    pictures, constant = [], []
    styles = arm_styles(study)
    for index, arm in enumerate(study.arms):
        curves = {level: curve(study, "sft", arm, key) for level, key in quantiles}
        curves = {level: points for level, points in curves.items() if points}
        if not curves or styles[arm].muted:
            continue
        if all(point.mean == 0 for points in curves.values() for point in points):
            constant.append(arm)
            continue
        levels = sorted(curves)
        shares = ", ".join(f"{level}%" for level in levels)
        most = max(point.units for points in curves.values() for point in points)
        panel = Panel(
            name=f"sft_log_weights_{index}",
            title=f"Log-weights of {shown(arm)}",
            subtitle=f"below them lie {shares} of the target tokens\nmean over units (n = {most})",
            x_label="SFT step",
            styles={},
        )
        for low, high in zip(levels, reversed(levels), strict=True):
            if low < high and len(curves[low]) == len(curves[high]):
                steps = [point.step for point in curves[low]]
                floor, ceiling = ([point.mean for point in curves[level]] for level in (low, high))
                panel.axes.fill_between(steps, floor, ceiling, color=styles[arm].color, alpha=0.16, linewidth=0)
        for level in levels:
            steps, means = [point.step for point in curves[level]], [point.mean for point in curves[level]]
            width, alpha = (1.6, 1.0) if level == 50 else (0.6, 0.7)
            # A line of one point would not be seen.
            dot = "o" if len(steps) == 1 else ""
            panel.axes.plot(steps, means, color=styles[arm].color, linewidth=width, alpha=alpha, marker=dot)
        panel.axes.axhline(0, color=LIGHT["muted"], linewidth=0.8, linestyle=":")
        _settle_axes(panel, zero=False)
        by_level = {f"{level}%": curves[level] for level in levels}
        pictures.append(panel.finish(_curve_data(panel.name, panel.title, by_level, of="tokens below")))
    return pictures, constant


def sft_warnings(study: Study) -> list[str]:
    """What is wrong with an arm's weights, averaged over a run, in sentences; each with the units that show it."""
    keys = [key for key in study.logged_keys("sft") if key.startswith("weights/")]
    sentences = []
    for arm in study.arms:
        logged = {key: study.series("sft", arm, key) for key in keys}
        units = [unit for unit in study.units if any(unit in by_unit for by_unit in logged.values())]
        found: dict[str, list[str]] = {}
        for unit in units:
            means = {
                key: sum(value for _, value in by_unit[unit]) / len(by_unit[unit])
                for key, by_unit in logged.items()
                if unit in by_unit
            }
            for kind, sentence in weight_warnings(means).items():
                found.setdefault(kind, []).append(sentence)
        for same in found.values():
            where = "" if len(units) == 1 else f", {len(same)} of {len(units)} units"
            sentences.append(f"{arm}{where}: {same[0]}")
    return sentences


def _settle_axes(panel: Panel, *, zero: bool) -> None:
    left, right = panel.axes.dataLim.intervalx
    pad = 0.02 * (right - left) if right > left else 1
    panel.axes.set_xlim(left - pad, right + pad)
    few_ticks(panel.axes.xaxis, integer=True)
    few_ticks(panel.axes.yaxis)
    low, high = panel.axes.get_ylim()
    if zero:
        panel.axes.set_ylim(max(low, -0.03 * max(high, 0.02)), max(high, 0.02))


def run_summary(study: Study, role: Role, arm: str, metric: Metric) -> Interval | None:
    """A metric over a whole run, its mean over units with a 95% t interval."""
    if metric.summary == "whole run":
        found = [study.result(role, arm, unit, metric.key) for unit in study.units]
        return interval_over([value for value in found if value is not None])
    return interval_over([_summed_up(series, metric) for series in study.series(role, arm, metric.key).values()])


def _summed_up(series: Series, metric: Metric) -> float:
    values = [value for _, value in series]
    if metric.summary == "last":
        return values[-1]
    if metric.summary == "last tenth":
        values = values[-max(1, len(values) // 10) :]
    return sum(values) / len(values)


def summed_up_metrics(study: Study, role: Role) -> list[Metric]:
    """What a role's summary table has: the shown metrics that were logged, and the update's norm."""
    logged = study.logged_keys(role)
    shown_metrics = SFT_METRICS if role == "sft" else RL_METRICS
    return [*(metric for metric in shown_metrics if metric.key in logged), UPDATE_NORM]


def summary_table(study: Study, role: Role, name: str, metrics: Sequence[Metric]) -> ExportTable:
    """Run summaries of every arm."""
    rows = []
    for metric in metrics:
        for arm in study.arms:
            value = run_summary(study, role, arm, metric)
            if value is not None:
                rows.append((metric.key, metric.unit, metric.summary, arm, value))
    return ExportTable(
        name=name,
        title="RL in numbers" if role == "grpo" else "SFT in numbers",
        columns=("metric", "unit", "over the run", "arm", "mean"),
        rows=rows,
        note="Means over units.",
    )
