"""Offline against online (the paper's Figures 1 and 11): where the lines of two arms cross, their ranks change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pear.report.export import ExportTable
from pear.report.figures.drawing import (
    LABEL_SIZE,
    ArmStyle,
    Panel,
    arm_styles,
    few_ticks,
    muted_first,
    shown,
    spread,
    tick_text,
)
from pear.report.figures.evaluations import TALL
from pear.report.figures.svg import Picture
from pear.report.results.summaries import MAJORITY, base_groups, has_majority
from pear.report.results.verdict import METRIC, interval_over
from pear.report.sources.rows import Study, Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pairs = Mapping[str, Mapping[Unit, tuple[float, float]]]


def offline_online_figure(study: Study) -> Picture | None:
    """pass@1 after SFT against pass@1 after RL: units small, the mean of each arm large (the paper's Figure 1)."""
    last = study.last_rl_step
    points = {} if last is None else _pairs(study, METRIC, last, study.units)
    if not points:
        return None
    styles = arm_styles(study)
    title = f"Offline against online {METRIC}"
    panel = Panel(
        name="offline_online",
        title=title,
        subtitle=(
            f"upwards: {METRIC} after {last} RL steps\nlarge: mean, 95% t intervals; small: units (n = {_span(points)})"
        ),
        x_label=f"{METRIC} after SFT",
        styles={arm: styles[arm] for arm in points},
        size=TALL,
    )
    axes = panel.axes
    for arm in muted_first(styles, points):
        if not styles[arm].muted:
            offline, online = zip(*points[arm].values(), strict=True)
            axes.plot(offline, online, **{**styles[arm].line(), "linestyle": "none", "markersize": 4.5, "alpha": 0.6})
    axes.autoscale(False)
    everything = [pair for pairs in points.values() for pair in pairs.values()]
    axes.set_xlim(*_with_margin([pair[0] for pair in everything]))
    axes.set_ylim(*_with_margin([pair[1] for pair in everything]))
    for arm in muted_first(styles, points):
        _draw_mean(axes, list(points[arm].values()), styles[arm])
    few_ticks(axes.xaxis)
    few_ticks(axes.yaxis)
    return panel.finish(_data(panel.name, title, points, ("offline", "online")))


def _draw_mean(axes: "Axes", pairs: Sequence[tuple[float, float]], style: ArmStyle) -> None:
    across, up = (interval_over(list(values)) for values in zip(*pairs, strict=True))
    assert across is not None
    assert up is not None
    for horizontal, interval in ((True, across), (False, up)):
        if math.isfinite(interval.low) and not style.muted:
            x = [interval.low, interval.high] if horizontal else [across.value] * 2
            y = [up.value] * 2 if horizontal else [interval.low, interval.high]
            axes.plot(x, y, color=style.color, linewidth=0.9, alpha=0.4)
    look = {**style.line(), "linestyle": "none", "markersize": 5.5 if style.muted else 9}
    axes.plot([across.value], [up.value], **look, zorder=4 if style.muted else 5)


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Where a value of the left side lies on the axis of the right side."""

    start: float
    end: float
    bottom: float
    top: float

    @classmethod
    def same(cls) -> Self:
        """Both sides on one axis."""
        return cls(start=0, end=1, bottom=0, top=1)

    @classmethod
    def of(cls, points: Pairs) -> Self:
        """The left side's range over the right side's."""
        left, right = zip(*(pair for pairs in points.values() for pair in pairs.values()), strict=True)
        return cls(start=min(left), end=max(left), bottom=min(right), top=max(right))

    def at(self, value: float) -> float:
        """The height of a value of the left side."""
        share = (value - self.start) / (self.end - self.start) if self.end > self.start else 0.5
        return self.bottom + share * (self.top - self.bottom)

    def ticks(self) -> list[float]:
        """About four round values of the left side."""
        from matplotlib.ticker import MaxNLocator

        span = (self.end - self.start) or 0.02
        values = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.start - span / 4, self.end + span / 4)
        return [float(value) for value in values]


def slope_figures(study: Study) -> list[Picture]:
    """From offline to online, each arm a line (the paper's Figure 11).

    (a), (b): pass@1 after SFT to pass@1 after RL, base by base; (c): pass@k of the largest k, and (d) the majority vote
    after SFT, to pass@1 after RL.
    """
    last = study.last_rl_step
    if last is None:
        return []
    groups = base_groups(study)
    found = []
    for index, group in enumerate(groups):
        several = len(groups) > 1
        title = f"From offline to online, {group.label}" if several else "From offline to online"
        points = _pairs(study, METRIC, last, group.units)
        found.append(_slopes(study, points, f"slope_{index}" if several else "slope", title, METRIC, last))
    signals = [metric for metric in study.pass_metrics[-1:] if metric != METRIC]
    for metric in [*signals, *([MAJORITY] if has_majority(study) else [])]:
        what = "Majority vote" if metric == MAJORITY else metric
        name = "slope_majority" if metric == MAJORITY else "slope_large_k"
        points = _pairs(study, metric, last, study.units)
        found.append(_slopes(study, points, name, f"{what} offline to {METRIC} online", metric, last))
    return [picture for picture in found if picture is not None]


def _slopes(study: Study, points: Pairs, name: str, title: str, metric: str, last: int) -> Picture | None:
    if not points:
        return None
    styles = arm_styles(study)
    same = metric == METRIC
    offline = {MAJORITY: "majority vote"}.get(metric, metric)
    kind = f"mean {METRIC}" if same else f"left: {offline}, right: {METRIC}, each on its own scale"
    thin = f"{'' if same else 'thick: means; '}thin: the units (n = {_span(points)})"
    panel = Panel(
        name=name,
        title=title,
        subtitle=f"{kind}; {thin}" if same else f"{kind}\n{thin}",
        x_label="",
        styles={arm: styles[arm] for arm in points},
        size=TALL,
        left=0.42,
        right=1.48,
    )
    axes = panel.axes
    scale = _Scale.same() if same else _Scale.of(points)
    ends = []
    for arm in muted_first(styles, points):
        style = styles[arm]
        drawn = [(scale.at(left), right) for left, right in points[arm].values()]
        for pair in [] if style.muted else drawn:
            axes.plot([0, 1], pair, color=style.color, linestyle=style.dash, linewidth=0.8, alpha=0.35)
        means = [sum(values) / len(values) for values in zip(*drawn, strict=True)]
        look = style.line() if style.muted else {**style.line(), "markersize": 7, "linewidth": 1.8}
        axes.plot([0, 1], means, **look, zorder=3 if style.muted else 4)
        if not style.muted:
            ends.append((arm, means[1]))
    axes.set_xlim(-0.12, 1.06)
    axes.set_xticks([0, 1], ["after SFT", f"RL {last}"])
    low, high = axes.get_ylim()
    inches = axes.get_position().height * panel.figure.get_figheight()
    heights = spread([mean for _, mean in ends], gap=(high - low) * 0.13 / inches, highest=high)
    for (arm, mean), height in zip(ends, heights, strict=True):
        text = f"{mean:.3f}  {shown(arm, 14)}"
        axes.text(1.09, height, text, fontsize=LABEL_SIZE, color=styles[arm].color, va="center_baseline")
    axes.set_ylim(low, high)
    few_ticks(axes.yaxis)
    if not same:
        values = [value for value in scale.ticks() if low <= scale.at(value) <= high]
        axes.set_yticks([scale.at(value) for value in values], [tick_text(value) for value in values])
    return panel.finish(_data(name, title, points, (f"offline {metric}", f"online {METRIC}")))


def _pairs(study: Study, metric: str, last: int, units: Sequence[Unit]) -> dict[str, dict[Unit, tuple[float, float]]]:
    """By arm, (the metric after SFT, pass@1 after RL) of the units that have both."""
    found: dict[str, dict[Unit, tuple[float, float]]] = {}
    for arm in study.arms:
        for unit in units:
            offline, online = study.value(arm, unit, 0, metric), study.value(arm, unit, last, METRIC)
            if offline is not None and online is not None:
                found.setdefault(arm, {})[unit] = (offline, online)
    return found


def _data(name: str, title: str, points: Pairs, sides: tuple[str, str]) -> ExportTable:
    return ExportTable(
        name=name,
        title=title,
        columns=("arm", "base", "seed", *sides),
        rows=[(arm, unit.base, unit.seed, *pair) for arm, pairs in points.items() for unit, pair in pairs.items()],
    )


def _span(points: Pairs) -> str:
    sizes = sorted({len(pairs) for pairs in points.values()})
    return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def _with_margin(values: Sequence[float]) -> tuple[float, float]:
    margin = max(0.2 * (max(values) - min(values)), 0.02)
    return min(values) - margin, max(values) + margin
