"""Panels that many arms fit into: one number an arm in rows, or two numbers of each arm against each other.

Both stay readable with dozens of arms: rows are named at their left, and a scatter names only the arms that matter.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pear.ops.statistics import Interval
from pear.report.export import ExportTable, ExportValue
from pear.report.figures.drawing import LABEL_SIZE, MOST_LOOKS, ArmStyle, Panel, few_ticks, shown, spread
from pear.report.figures.svg import LIGHT, Picture
from pear.report.results.verdict import interval_over
from pear.report.sources.rows import Study, Unit

Pairs = Mapping[tuple[str, Unit], tuple[float, float]]
_WIDTH = 3.9
_ROW_INCHES = 0.2
_LABEL_WIDTH = 24


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """A row of `dot_panel`: a mean with its interval, the numbers behind it, and what it is to be compared with."""

    label: str
    style: ArmStyle
    interval: Interval
    dots: Sequence[float] = ()
    floors: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class Line:
    """A vertical line through all rows, with its name at the upper end."""

    place: float
    label: str = ""


def dot_panel(
    rows: Sequence[DotRow],
    *,
    name: str,
    title: str,
    subtitle: str,
    x_label: str,
    data: ExportTable,
    lines: Sequence[Line] = (),
    bounds: tuple[float, float] | None = None,
) -> Picture:
    """Rows from top to bottom, each with a mean, an interval and dots; `bounds` of the axis are the rows' if None."""
    labels = short_labels([row.label for row in rows], _LABEL_WIDTH)
    left = 0.2 + 0.068 * max(len(label) for label in labels)
    top = 0.36 + 0.155 * len(subtitle.split("\n"))
    named = any(line.label for line in lines)
    height = top + 0.44 + _ROW_INCHES * (len(rows) + (1.0 if named else 0.3))
    panel = Panel(
        name=name, title=title, subtitle=subtitle, x_label=x_label, styles={}, size=(_WIDTH, height), left=left
    )
    axes = panel.axes
    low, high = bounds or _range_of(rows, lines)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.65, len(rows) - (0.0 if named else 0.35))
    for index, row in enumerate(rows):
        y = len(rows) - 1 - index
        style = replace(row.style, muted=False)
        if math.isfinite(row.interval.low):
            axes.plot([row.interval.low, row.interval.high], [y, y], color=style.color, linewidth=1.8, alpha=0.75)
        if row.dots:
            axes.plot(row.dots, [y] * len(row.dots), "o", color=style.color, markersize=2.8, alpha=0.5)
        if row.floors:
            axes.plot(row.floors, [y] * len(row.floors), "|", color=LIGHT["muted"], markersize=8, markeredgewidth=1.1)
        axes.plot([row.interval.value], [y], **{**style.line(), "markersize": 6.5, "linestyle": "none"}, zorder=5)
    for line in lines:
        axes.axvline(line.place, color=LIGHT["muted"], linewidth=0.9, zorder=1)
        side, shift = ("right", -4) if line.place > (low + high) / 2 else ("left", 4)
        axes.annotate(
            line.label,
            (line.place, len(rows) - 0.42),
            xytext=(shift, 0),
            textcoords="offset points",
            fontsize=LABEL_SIZE,
            color=LIGHT["muted"],
            ha=side,
            va="center",
            bbox={"facecolor": LIGHT["paper"], "edgecolor": "none", "pad": 0.6},
        )
    axes.set_yticks([len(rows) - 1 - index for index in range(len(rows))], labels)
    for tick in axes.get_yticklabels():
        tick.set_color(LIGHT["ink"])
    axes.grid(visible=False, axis="y")
    few_ticks(axes.xaxis)
    return panel.finish(data)


def _range_of(rows: Sequence[DotRow], lines: Sequence[Line]) -> tuple[float, float]:
    """Of all means, dots, floors and lines, and of intervals as far as three times that."""
    points = [value for row in rows for value in (row.interval.value, *row.dots, *row.floors)]
    points += [line.place for line in lines]
    low, high = min(points), max(points)
    reach = (high - low) or abs(high) or 1.0
    ends = [end for row in rows for end in (row.interval.low, row.interval.high) if math.isfinite(end)]
    low, high = max(min([low, *ends]), low - reach), min(max([high, *ends]), high + reach)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def short_labels(names: Sequence[str], width: int) -> list[str]:
    """Names fit for a figure, each another: a sweep's loses the names of its axes first, then all lose their middle.

    >>> short_labels(["nll", "pear[gamma=0.9,rate=1e-5]"], 24)
    ['nll', 'pear[0.9,1e-5]']
    >>> short_labels(["a_long_name_1_of_two", "a_long_name_2_of_two"], 12)
    ['1: a_lo…_two', '2: a_lo…_two']
    """
    labels = [shown(name if len(name) <= width else _AXIS.sub("", name), width) for name in names]
    if len(set(labels)) == len(labels):
        return labels
    numbered = [f"{place}: " for place in range(1, len(names) + 1)]
    return [
        number + shown(name, width - len(number)) if labels.count(label) > 1 else label
        for number, name, label in zip(numbered, names, labels, strict=True)
    ]


_AXIS = re.compile(r"(?<=[\[,])[\w.]+=")


def arm_means(study: Study, pairs: Pairs) -> dict[str, tuple[Interval, Interval]]:
    """Each arm's means of both numbers over its units, with 95% t intervals."""
    means = {}
    for arm in study.arms:
        found = [pair for (name, _), pair in pairs.items() if name == arm]
        if found:
            across, up = (interval_over(list(values)) for values in zip(*found, strict=True))
            assert across is not None
            assert up is not None
            means[arm] = (across, up)
    return means


def scatter_panel(
    study: Study,
    styles: Mapping[str, ArmStyle],
    pairs: Pairs,
    *,
    name: str,
    title: str,
    subtitle: str,
    x_label: str,
    columns: tuple[str, str],
    named: Sequence[str],
) -> Picture:
    """Two numbers of each arm against each other: means large, units small, and `named` arms by name.

    Args:
        pairs: both numbers of every (arm, unit); at least one.
        subtitle: its first lines; a line on n, sizes and intervals is added.
        columns: what the two numbers are called in the data.
    """
    means = arm_means(study, pairs)
    few = len(means) <= MOST_LOOKS
    whose = "" if few else " if named"
    sizes = sorted({across.n for across, _ in means.values()})
    span = "-".join(str(size) for size in {sizes[0]: 0, sizes[-1]: 0})
    panel = Panel(
        name=name,
        title=title,
        subtitle=f"{subtitle}\nlarge: mean of {span} units, 95% t interval{whose}; small: units",
        x_label=x_label,
        styles={arm: styles[arm] for arm in means},
        size=(_WIDTH, 3.1),
    )
    axes = panel.axes
    looks = {arm: replace(styles[arm], muted=styles[arm].muted and arm not in named) for arm in means}
    small = {"linestyle": "none", "markersize": 4 if few else 3, "markeredgewidth": 0.3, "alpha": 0.55 if few else 0.35}
    for arm in means:
        units = zip(*(pair for (name, _), pair in pairs.items() if name == arm), strict=True)
        axes.plot(*units, **{**looks[arm].line(), **small})
    across_all, up_all = zip(*pairs.values(), strict=True)
    axes.set_xlim(*_with_margin(across_all))
    axes.set_ylim(*_with_margin(up_all))
    for arm, (across, up) in means.items():
        if few or arm in named:
            _draw_intervals(panel, looks[arm], across, up)
        large = {"linestyle": "none", "markersize": 5 if looks[arm].muted else 8, "zorder": 6 if arm in named else 5}
        axes.plot([across.value], [up.value], **{**looks[arm].line(), **large})
    _name_points(panel, looks, {arm: means[arm] for arm in named if arm in means}, study.arms)
    few_ticks(axes.xaxis)
    few_ticks(axes.yaxis)
    return panel.finish(_scatter_data(name, title, columns, pairs, means))


def _draw_intervals(panel: Panel, style: ArmStyle, across: Interval, up: Interval) -> None:
    if math.isfinite(across.low):
        panel.axes.plot([across.low, across.high], [up.value] * 2, color=style.color, linewidth=0.9, alpha=0.4)
    if math.isfinite(up.low):
        panel.axes.plot([across.value] * 2, [up.low, up.high], color=style.color, linewidth=0.9, alpha=0.4)


def _name_points(
    panel: Panel, styles: Mapping[str, ArmStyle], means: Mapping[str, tuple[Interval, Interval]], arms: Sequence[str]
) -> None:
    """Each name beside its point, on the side with more room; names of one side are moved apart."""
    names = dict(zip(arms, short_labels(arms, _LABEL_WIDTH), strict=True))
    axes = panel.axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    box = axes.get_position()
    gap = (high - low) * 0.14 / (box.height * panel.figure.get_figheight())
    shift = (right - left) * 0.09 / (box.width * panel.figure.get_figwidth())
    for to_right in (True, False):
        side = [arm for arm, (across, _) in means.items() if (across.value < (left + right) / 2) == to_right]
        heights = spread([means[arm][1].value for arm in side], gap=gap, highest=high - gap / 2)
        for arm, height in zip(side, heights, strict=True):
            axes.text(
                means[arm][0].value + (shift if to_right else -shift),
                height,
                names[arm],
                fontsize=LABEL_SIZE,
                color=styles[arm].color,
                ha="left" if to_right else "right",
                va="center_baseline",
                zorder=7,
                bbox={"facecolor": LIGHT["paper"], "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            )


def _with_margin(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _scatter_data(
    name: str, title: str, columns: tuple[str, str], pairs: Pairs, means: Mapping[str, tuple[Interval, Interval]]
) -> ExportTable:
    rows: list[Sequence[ExportValue]] = [(arm, "mean", None, across, up) for arm, (across, up) in means.items()]
    rows += [(arm, unit.base, unit.seed, across, up) for (arm, unit), (across, up) in pairs.items()]
    return ExportTable(name=name, title=title, columns=("arm", "base", "seed", *columns), rows=rows)
