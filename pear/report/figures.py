"""Figures of evaluations: the verdict's differences, offline against online, and sampling error apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pear.ops.statistics import Interval
from pear.report.drawing import LABEL_SIZE, ArmStyle, Panel, arm_styles, few_ticks, shown, spread
from pear.report.rows import BASE_STAGE, Study
from pear.report.summaries import UnitDifference, stage_name
from pear.report.svg import LIGHT, Picture
from pear.report.verdict import METRIC, Verdict, interval_over, interval_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TALL = (3.9, 3.3)
_FOREST_WIDTH = 4.2


@dataclass(frozen=True, kw_only=True)
class _ForestRow:
    label: str
    style: ArmStyle
    interval: Interval
    dots: Sequence[float]


def verdict_figure(study: Study, verdicts: Sequence[Verdict]) -> Picture | None:
    """Every arm's difference to the reference after the last RL step: its mean, interval and units."""
    styles = arm_styles(study)
    rows = [
        _ForestRow(
            label=verdict.arm,
            style=styles[verdict.arm],
            interval=verdict.interval,
            dots=list(study.paired(verdict.arm, verdict.rl_step, METRIC).values()),
        )
        for verdict in verdicts
        if verdict.interval is not None
    ]
    if not rows:
        return None
    most = max(row.interval.n for row in rows)
    return _forest(
        rows,
        name="verdict",
        title=f"{METRIC} after RL, difference to {study.reference}",
        subtitle=f"bar: paired 95% t interval of the mean; dots: the units (n = {most})",
        x_label=f"difference in {METRIC} after {study.last_rl_step} RL steps",
    )


def sampling_figure(study: Study, differences: Sequence[UnitDifference]) -> Picture | None:
    """The same differences unit by unit, with the sampling error over problems alone."""
    styles = arm_styles(study)
    rows = [
        _ForestRow(label=f"{row.arm}: {row.unit.name}", style=styles[row.arm], interval=row.interval, dots=())
        for row in differences
    ]
    if not rows:
        return None
    problems = sorted({row.interval.n for row in rows})
    span = f"{problems[0]}" if len(problems) == 1 else f"{problems[0]} to {problems[-1]}"
    return _forest(
        rows,
        name="sampling_error",
        title=f"Unit by unit, difference to {study.reference} after RL",
        subtitle=f"bar: paired 95% bootstrap interval over problems (n = {span}):\nsampling error alone",
        x_label=f"difference in {METRIC} after {study.last_rl_step} RL steps",
        row_inches=0.33,
    )


def _forest(
    rows: Sequence[_ForestRow], *, name: str, title: str, subtitle: str, x_label: str, row_inches: float = 0.42
) -> Picture:
    size = (_FOREST_WIDTH, 1.1 + row_inches * len(rows))
    panel = Panel(name=name, title=title, subtitle=subtitle, x_label=x_label, styles={}, size=size, left=0.14)
    axes = panel.axes
    ends = [value for row in rows for value in (row.interval.value, row.interval.low, row.interval.high, *row.dots)]
    reach = max([min(1.0, abs(value)) for value in ends if math.isfinite(value)] + [0.01]) * 1.08
    for index, row in enumerate(rows):
        y = len(rows) - 1 - index
        low, high = (max(-reach, min(reach, end)) for end in (row.interval.low, row.interval.high))
        if math.isfinite(row.interval.low):
            axes.plot([low, high], [y, y], color=row.style.color, linewidth=2.2)
        if row.dots:
            axes.plot(row.dots, [y] * len(row.dots), "o", color=row.style.color, markersize=3, alpha=0.55)
        axes.plot([row.interval.value], [y], **{**row.style.line(), "markersize": 7.5, "linestyle": "none"})
        label = f"{shown(row.label, 40)}   {interval_text(row.interval)}".replace("-", "\N{MINUS SIGN}")
        over_lines = {"facecolor": LIGHT["paper"], "edgecolor": "none", "pad": 1}
        text = _hyphens_kept(row.label, label)
        axes.text(-reach, y + 0.24, text, fontsize=LABEL_SIZE, va="bottom", bbox=over_lines)
    axes.axvline(0, color=LIGHT["muted"], linewidth=0.9)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-0.45, len(rows) - 0.3)
    axes.set_yticks([])
    few_ticks(axes.xaxis)
    return panel.finish()


def _hyphens_kept(name: str, text: str) -> str:
    """The minus signs are for numbers: a name keeps its hyphens."""
    return shown(name, 40) + text[len(shown(name, 40)) :]


def offline_online_figure(study: Study) -> Picture | None:
    """pass@1 after SFT against pass@1 after RL: units small, the mean of each arm large (the paper's Figure 1)."""
    last = study.last_rl_step
    if last is None:
        return None
    points = {arm: _stage_pairs(study, arm, last) for arm in study.arms}
    points = {arm: pairs for arm, pairs in points.items() if pairs}
    if not points:
        return None
    styles = arm_styles(study)
    panel = Panel(
        name="offline_online",
        title=f"Offline against online {METRIC}",
        subtitle=(
            f"upwards: {METRIC} after {last} RL steps\nlarge: mean, 95% t intervals; small: units (n = {_span(points)})"
        ),
        x_label=f"{METRIC} after SFT",
        styles={arm: styles[arm] for arm in points},
        size=_TALL,
    )
    axes = panel.axes
    for arm, pairs in points.items():
        offline, online = zip(*pairs, strict=True)
        line = styles[arm].line()
        axes.plot(offline, online, **{**line, "linestyle": "none", "markersize": 4.5, "alpha": 0.6})
    axes.autoscale(False)
    _padded(axes, [pair for pairs in points.values() for pair in pairs])
    for arm, pairs in points.items():
        across, up = (interval_over(list(values)) for values in zip(*pairs, strict=True))
        assert across is not None
        assert up is not None
        for horizontal, interval in ((True, across), (False, up)):
            if math.isfinite(interval.low):
                x = [interval.low, interval.high] if horizontal else [across.value] * 2
                y = [up.value] * 2 if horizontal else [interval.low, interval.high]
                axes.plot(x, y, color=styles[arm].color, linewidth=0.9, alpha=0.4)
        axes.plot([across.value], [up.value], **{**styles[arm].line(), "linestyle": "none", "markersize": 9}, zorder=5)
    few_ticks(axes.xaxis)
    few_ticks(axes.yaxis)
    return panel.finish()


def slope_figure(study: Study) -> Picture | None:
    """Each arm's mean from after SFT to after RL: lines that cross are ranks that change (the paper's Figure 11)."""
    last = study.last_rl_step
    if last is None:
        return None
    points = {arm: _stage_pairs(study, arm, last) for arm in study.arms}
    points = {arm: pairs for arm, pairs in points.items() if pairs}
    if not points:
        return None
    styles = arm_styles(study)
    panel = Panel(
        name="slope",
        title="From offline to online",
        subtitle=f"mean {METRIC}; thin: the units (n = {_span(points)})",
        x_label="",
        styles={arm: styles[arm] for arm in points},
        size=_TALL,
        left=0.42,
        right=1.38,
    )
    axes = panel.axes
    ends = []
    for arm, pairs in points.items():
        style = styles[arm]
        for pair in pairs:
            axes.plot([0, 1], pair, color=style.color, linestyle=style.dash, linewidth=0.8, alpha=0.35)
        means = [sum(values) / len(values) for values in zip(*pairs, strict=True)]
        axes.plot([0, 1], means, **{**style.line(), "markersize": 7}, linewidth=1.8, zorder=4)
        ends.append((arm, means[1]))
    axes.set_xlim(-0.12, 1.06)
    axes.set_xticks([0, 1], ["after SFT", f"RL {last}"])
    low, high = axes.get_ylim()
    inches = axes.get_position().height * panel.figure.get_figheight()
    heights = spread([mean for _, mean in ends], gap=(high - low) * 0.13 / inches, highest=high)
    for (arm, mean), height in zip(ends, heights, strict=True):
        text = f"{mean:.3f}  {shown(arm, 15)}"
        axes.text(1.09, height, text, fontsize=LABEL_SIZE, color=styles[arm].color, va="center_baseline")
    axes.set_ylim(low, high)
    few_ticks(axes.yaxis)
    return panel.finish()


def differences_figure(study: Study) -> Picture | None:
    """Every arm's difference to the reference at every stage: a line through 0 is a reversal against the reference."""
    stages = [stage for stage in study.stages if stage != BASE_STAGE]
    styles = arm_styles(study)
    others = [arm for arm in study.arms if arm != study.reference]
    lines = {
        arm: [interval_over(list(study.paired(arm, stage, METRIC).values())) for stage in stages] for arm in others
    }
    found = {arm: [(place, item) for place, item in enumerate(line) if item is not None] for arm, line in lines.items()}
    found = {arm: line for arm, line in found.items() if line}
    if not found:
        return None
    most = max(item.n for line in found.values() for _, item in line)
    panel = Panel(
        name="differences",
        title=f"Difference to {study.reference}, stage by stage",
        subtitle=f"{METRIC}, paired 95% t intervals over units (n = {most})",
        x_label="",
        styles={arm: styles[arm] for arm in found},
        size=_TALL,
        left=0.55,
    )
    axes = panel.axes
    width = min(0.5, 0.12 * len(found))
    for index, (arm, line) in enumerate(found.items()):
        shift = 0.0 if len(found) == 1 else width * (index / (len(found) - 1) - 0.5)
        places = [place + shift for place, _ in line]
        for x, (_, interval) in zip(places, line, strict=True):
            if math.isfinite(interval.low):
                axes.plot([x, x], [interval.low, interval.high], color=styles[arm].color, linewidth=1.6, alpha=0.7)
        axes.plot(places, [item.value for _, item in line], **{**styles[arm].line(), "linewidth": 1.0, "markersize": 7})
    axes.axhline(0, color=LIGHT["muted"], linewidth=0.9)
    axes.set_xlim(-0.5, len(stages) - 0.5)
    axes.set_xticks(range(len(stages)), [stage_name(stage) for stage in stages])
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -1.05), min(high, 1.05))
    few_ticks(axes.yaxis)
    return panel.finish()


def _stage_pairs(study: Study, arm: str, last: int) -> list[tuple[float, float]]:
    """(after SFT, after RL) of the units that have both."""
    pairs = []
    for unit in study.units:
        offline, online = (study.value(arm, unit, stage, METRIC) for stage in (0, last))
        if offline is not None and online is not None:
            pairs.append((offline, online))
    return pairs


def _span(points: dict[str, list[tuple[float, float]]]) -> str:
    sizes = sorted({len(pairs) for pairs in points.values()})
    return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def _padded(axes: "Axes", points: Sequence[tuple[float, float]]) -> None:
    across, up = zip(*points, strict=True)
    axes.set_xlim(*_with_margin(across))
    axes.set_ylim(*_with_margin(up))


def _with_margin(values: Sequence[float]) -> tuple[float, float]:
    margin = max(0.2 * (max(values) - min(values)), 0.02)
    return min(values) - margin, max(values) + margin
