"""Figures of evaluations: the verdict's differences, arms after RL as bars, stage by stage, sampling error apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pear.ops.statistics import Interval
from pear.report.export import ExportTable
from pear.report.figures.drawing import LABEL_SIZE, ArmStyle, Panel, arm_styles, few_ticks, muted_first, shown
from pear.report.figures.svg import LIGHT, Picture
from pear.report.results.summaries import BaseGroup, UnitDifference, base_groups, mean_and_change, reader, stage_name
from pear.report.results.verdict import METRIC, Verdict, interval_over, interval_text
from pear.report.sources.rows import BASE_STAGE, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TALL = (3.9, 3.3)
_FOREST_WIDTH = 4.2
_MANY_ROWS = 12
_NAME_WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class _ForestRow:
    label: str
    style: ArmStyle
    interval: Interval
    dots: Sequence[float]


def verdict_figure(study: Study, verdicts: Sequence[Verdict]) -> Picture | None:
    """Every arm's difference to the reference after the last RL step: its mean, interval and units."""
    styles = arm_styles(study)
    found = [(verdict, verdict.interval) for verdict in verdicts if verdict.interval is not None]
    if not found:
        return None
    units = {verdict.arm: study.paired(verdict.arm, verdict.rl_step, METRIC) for verdict, _ in found}
    most = max(interval.n for _, interval in found)
    return _forest(
        [
            _ForestRow(
                label=shown(verdict.arm, _NAME_WIDTH),
                style=styles[verdict.arm],
                interval=interval,
                dots=list(units[verdict.arm].values()),
            )
            for verdict, interval in found
        ],
        name="verdict",
        title=f"{METRIC} after RL, difference to {study.reference}",
        subtitle=f"bar: paired 95% t interval of the mean; dots: the units (n = {most})",
        x_label=f"difference in {METRIC} after {study.last_rl_step} RL steps",
        data=ExportTable(
            name="verdict",
            title=f"{METRIC} after RL, difference to {study.reference}",
            columns=("arm", "mean", *(unit.name for unit in study.units)),
            rows=[
                (verdict.arm, interval, *(units[verdict.arm].get(unit) for unit in study.units))
                for verdict, interval in found
            ],
        ),
    )


def sampling_figure(study: Study, differences: Sequence[UnitDifference]) -> Picture | None:
    """The same differences unit by unit, with the sampling error over problems alone."""
    styles = arm_styles(study)
    if not differences:
        return None
    problems = sorted({row.interval.n for row in differences})
    span = f"{problems[0]}" if len(problems) == 1 else f"{problems[0]} to {problems[-1]}"
    title = f"Unit by unit, difference to {study.reference} after RL"
    return _forest(
        [
            _ForestRow(
                label=f"{shown(row.arm, 24)}: {shown(row.unit.name, 20)}",
                style=styles[row.arm],
                interval=row.interval,
                dots=(),
            )
            for row in differences
        ],
        name="sampling_error",
        title=title,
        subtitle=f"bar: paired 95% bootstrap interval over problems (n = {span}):\nsampling error alone",
        x_label=f"difference in {METRIC} after {study.last_rl_step} RL steps",
        data=ExportTable(
            name="sampling_error",
            title=title,
            columns=("arm", "base", "seed", "difference"),
            rows=[(row.arm, row.unit.base, row.unit.seed, row.interval) for row in differences],
        ),
        row_inches=0.33,
    )


def _forest(
    rows: Sequence[_ForestRow],
    *,
    name: str,
    title: str,
    subtitle: str,
    x_label: str,
    data: ExportTable,
    row_inches: float = 0.42,
) -> Picture:
    row_inches = min(row_inches, 0.36) if len(rows) > _MANY_ROWS else row_inches
    longest = max(len(row.label) for row in rows)
    size = (_FOREST_WIDTH + 0.07 * max(0, longest - _NAME_WIDTH), 1.1 + row_inches * len(rows))
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
        mark = {**row.style.line(), "markersize": 7.5, "linestyle": "none", "alpha": 1}
        axes.plot([row.interval.value], [y], **mark)
        # A name keeps its hyphens.
        text = f"{row.label}   " + interval_text(row.interval).replace("-", "\N{MINUS SIGN}")
        over_lines = {"facecolor": LIGHT["paper"], "edgecolor": "none", "pad": 1}
        axes.text(-reach, y + 0.24, text, fontsize=LABEL_SIZE, va="bottom", bbox=over_lines)
    axes.axvline(0, color=LIGHT["muted"], linewidth=0.9)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-0.45, len(rows) - 0.3)
    axes.set_yticks([])
    few_ticks(axes.xaxis)
    return panel.finish(data)


def bar_figures(study: Study) -> list[Picture]:
    """After RL, every arm's pass@1 as a bar and pass@k as a dot, base by base (the paper's Figures 4a and 6)."""
    last = study.last_rl_step
    if last is None:
        return []
    groups = base_groups(study)
    found = [_bar_figure(study, group, last, index, len(groups)) for index, group in enumerate(groups)]
    return [picture for picture in found if picture is not None]


def _bar_figure(study: Study, group: BaseGroup, last: int, index: int, of: int) -> Picture | None:
    larger = study.pass_metrics[-1:] if study.pass_metrics[-1:] != [METRIC] else []
    rows = []
    for arm in study.arms:
        bar, *dots = (
            mean_and_change(study, arm, reader(study, last, metric), group.units)[0] for metric in [METRIC, *larger]
        )
        if bar is not None:
            rows.append((arm, bar, dots[0] if dots else None))
    if not rows:
        return None
    rows.sort(key=lambda row: row[1].value, reverse=True)
    where = f", {group.label}" if of > 1 else ""
    title = f"After RL{where}"
    units = sorted({bar.n for _, bar, _ in rows})
    span = f"{units[0]}" if len(units) == 1 else f"{units[0]} to {units[-1]}"
    what = f"bar: {METRIC}" + (f", dot: {larger[0]}" if larger else "")
    size = (_FOREST_WIDTH, 1.1 + (0.36 if len(rows) > _MANY_ROWS else 0.42) * len(rows))
    panel = Panel(
        name="after_rl" if of == 1 else f"after_rl_{index}",
        title=title,
        subtitle=f"{what}, after {last} RL steps\nmeans with 95% t intervals over units (n = {span})",
        x_label="share of problems",
        styles={},
        size=size,
        left=0.14,
    )
    _draw_bars(panel.axes, study, rows)
    return panel.finish(
        ExportTable(
            name=panel.name,
            title=title,
            columns=("arm", METRIC, *larger),
            rows=[(arm, bar, *([dot] if larger else [])) for arm, bar, dot in rows],
        )
    )


def _draw_bars(axes: "Axes", study: Study, rows: Sequence[tuple[str, Interval, Interval | None]]) -> None:
    styles = arm_styles(study)
    for index, (arm, bar, dot) in enumerate(rows):
        y, style = len(rows) - 1 - index, styles[arm]
        axes.barh([y], [bar.value], height=0.34, color=style.color, alpha=0.5, linewidth=0)
        for interval, place in ((bar, y), (dot, y)):
            if interval is not None and math.isfinite(interval.low):
                ends = [max(0.0, interval.low), min(1.0, interval.high)]
                axes.plot(ends, [place, place], color=style.color, linewidth=1.4)
        if dot is not None:
            mark = {**style.line(), "linestyle": "none", "markersize": 6.5, "alpha": 1}
            axes.plot([dot.value], [y], **mark)
        numbers = f"{bar.value:.3f}" + (f", {dot.value:.3f}" if dot is not None else "")
        axes.text(0, y + 0.24, f"{shown(arm, _NAME_WIDTH)}   {numbers}", fontsize=LABEL_SIZE, va="bottom")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.45, len(rows) - 0.3)
    axes.set_yticks([])
    few_ticks(axes.xaxis)


def differences_figure(study: Study) -> Picture | None:
    """Every arm's difference to the reference at every stage: a line through 0 is a reversal against the reference."""
    stages = [stage for stage in study.stages if stage != BASE_STAGE]
    styles = arm_styles(study)
    others = [arm for arm in study.arms if arm != study.reference]
    lines = {
        arm: [interval_over(list(study.paired(arm, stage, METRIC).values())) for stage in stages] for arm in others
    }
    found = {arm: [(place, item) for place, item in enumerate(line) if item is not None] for arm, line in lines.items()}
    found = {arm: found[arm] for arm in muted_first(styles, found) if found[arm]}
    if not found:
        return None
    most = max(item.n for line in found.values() for _, item in line)
    title = f"Difference to {study.reference}, stage by stage"
    panel = Panel(
        name="differences",
        title=title,
        subtitle=f"{METRIC}, paired 95% t intervals over units (n = {most})",
        x_label="",
        styles={arm: styles[arm] for arm in found},
        size=TALL,
        left=0.55,
    )
    axes = panel.axes
    in_color = [arm for arm in found if not styles[arm].muted]
    width = min(0.5, 0.12 * len(in_color))
    for arm, line in found.items():
        index = in_color.index(arm) if arm in in_color else 0
        shift = width * (index / (len(in_color) - 1) - 0.5) if arm in in_color and len(in_color) > 1 else 0.0
        places = [place + shift for place, _ in line]
        for x, (_, interval) in zip(places, line, strict=True):
            if math.isfinite(interval.low) and not styles[arm].muted:
                axes.plot([x, x], [interval.low, interval.high], color=styles[arm].color, linewidth=1.6, alpha=0.7)
        look = styles[arm].line() if styles[arm].muted else {**styles[arm].line(), "linewidth": 1.0, "markersize": 7}
        axes.plot(places, [item.value for _, item in line], **look)
    axes.axhline(0, color=LIGHT["muted"], linewidth=0.9)
    axes.set_xlim(-0.5, len(stages) - 0.5)
    axes.set_xticks(range(len(stages)), [stage_name(stage) for stage in stages])
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -1.05), min(high, 1.05))
    few_ticks(axes.yaxis)
    return panel.finish(
        ExportTable(
            name="differences",
            title=title,
            columns=("arm", *(stage_name(stage) for stage in stages)),
            rows=[(arm, *lines[arm]) for arm in others if arm in found],
        )
    )
