"""Where PEAR's weight lies against where training moved the model, by weight and by distance from the end (Figure 5).

The weights are those of the start of SFT, so the arms of a unit share them, and the NLL beside them is the start's too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pear.ops.statistics import Interval
from pear.report.export import ExportTable, ExportValue
from pear.report.figures.arm_panels import short_labels
from pear.report.figures.drawing import MOST_LOOKS, ArmStyle, Panel, few_ticks, muted_first, singled_out, tick_text
from pear.report.figures.svg import Picture
from pear.report.results.verdict import count, interval_over
from pear.report.sources.reading import number
from pear.report.sources.rows import Study

ANALYSIS = "token_weights"
MOST_MAPS = 4
"""So many arms get a map of KL by weight and distance, and intervals among many: the reference and the best."""

MOST_NUMBERED = 8
"""Columns of a map whose cells have room for their numbers."""

_TITLE_WIDTH = 30

By = Literal["weight", "distance", "weight_and_distance"]
Place = tuple[int, int]
_TITLES = {"weight": "weight", "distance": "distance from the end"}
_UPWARDS = {"weight": "log-weight, log G", "distance": "tokens after it"}


@dataclass(frozen=True, kw_only=True)
class Bin:
    """A bin of one arm over its units: what it holds, and mean KL and NLL. `place` is (weight level, distance bin)."""

    place: Place
    low: float
    high: float
    distance_low: int
    distance_high: int
    tokens: int
    kl: Interval
    nll: Interval


def bins_of(study: Study, arm: str, by: By) -> dict[Place, Bin]:
    """An arm's bins over its units; those of one unit alone keep its interval over trajectories."""
    found: dict[Place, list[Mapping[str, Any]]] = {}
    for unit in study.units:
        trajectories = (study.analysis(ANALYSIS, arm, unit, 0) or {}).get("token_weights/trajectories")
        for row in study.analysis_table(ANALYSIS, arm, unit, 0, "bins") or []:
            if row["by"] == by:
                found.setdefault(_place(by, row), []).append({**row, "trajectories": trajectories})
    return {place: _bin(place, found[place]) for place in sorted(found)}


def _place(by: By, row: Mapping[str, Any]) -> Place:
    """Levels count the weight's bins, or the distance's; with both, the doubling bin that the distances lie in."""
    if by == "weight":
        return row["level"], 0
    return (row["level"] if by == "weight_and_distance" else 0), math.frexp(row["distance_low"])[1]


def _bin(place: Place, rows: Sequence[Mapping[str, Any]]) -> Bin:
    kl, nll = (interval_over([row[name] for row in rows]) for name in ("kl", "nll"))
    assert kl is not None
    assert nll is not None
    only = rows[0]
    if len(rows) == 1 and number(only["kl_low"]) is not None:
        count = int(only["trajectories"] or 0)
        method = "bootstrap over trajectories"
        kl = Interval(value=only["kl"], low=only["kl_low"], high=only["kl_high"], n=count, method=method)
    return Bin(
        place=place,
        low=sum(row["low"] for row in rows) / len(rows),
        high=sum(row["high"] for row in rows) / len(rows),
        distance_low=min(row["distance_low"] for row in rows),
        distance_high=max(row["distance_high"] for row in rows),
        tokens=sum(row["tokens"] for row in rows),
        kl=kl,
        nll=nll,
    )


def token_weight_figures(study: Study, styles: Mapping[str, ArmStyle]) -> list[Picture]:
    """KL by weight with the NLL beside it, both by distance from the end, and KL by both for a few arms."""
    singled = singled_out(study)
    crowded = len(study.arms) > MOST_LOOKS
    quiet = {
        arm: replace(style, muted=True) if crowded and arm not in singled[:MOST_MAPS] else style
        for arm, style in styles.items()
    }
    pictures = []
    sides: tuple[By, ...] = ("weight", "distance")
    for by in sides:
        bins = {arm: found for arm in study.arms if (found := bins_of(study, arm, by))}
        if bins:
            pictures.append(_kl_figure(quiet, by, bins))
            pictures.append(_nll_figure(by, bins))
    maps = {arm: found for arm in study.arms if (found := bins_of(study, arm, "weight_and_distance"))}
    chosen = [arm for arm in singled if arm in maps][:MOST_MAPS]
    labels = dict(zip(study.arms, short_labels(study.arms, _TITLE_WIDTH), strict=True))
    drawn = [_map_figure(styles[arm], arm, labels[arm], index, maps[arm]) for index, arm in enumerate(chosen)]
    return [*pictures, *drawn]


_Bins = Mapping[str, Mapping[Place, Bin]]


def _kl_figure(styles: Mapping[str, ArmStyle], by: By, bins: _Bins) -> Picture:
    title = f"KL by {_TITLES[by]} (Figure 5)"
    places = sorted({place for found in bins.values() for place in found})
    panel = _level_panel(
        by,
        bins,
        places,
        name=f"kl_by_{by}",
        title=title,
        subtitle=f"KL(trained || start) at a token; {_counts(bins)}",
        x_label="mean KL, nats a token",
        styles={arm: styles[arm] for arm in bins},
    )
    vivid = [arm for arm in bins if not styles[arm].muted]
    for arm in muted_first(styles, bins):
        shift = 0.0 if styles[arm].muted else 0.4 * ((vivid.index(arm) + 0.5) / len(vivid) - 0.5)
        heights = [places.index(place) - shift for place in bins[arm]]
        _draw_line(panel, styles[arm], [item.kl for item in bins[arm].values()], heights)
    few_ticks(panel.axes.xaxis)
    return panel.finish(_data(f"kl_by_{by}", title, bins))


def _nll_figure(by: By, bins: _Bins) -> Picture:
    """The arms of a unit share their start, so one arm that has every unit stands for all."""
    arm = max(bins, key=lambda name: sum(item.nll.n for item in bins[name].values()))
    found = bins[arm]
    title = f"NLL by {_TITLES[by]}"
    panel = _level_panel(
        by,
        {arm: found},
        list(found),
        name=f"nll_by_{by}",
        title=title,
        subtitle=f"at the start of SFT, which arms share; {_counts({arm: found})}",
        x_label="mean NLL, nats a token",
        styles={},
    )
    look = ArmStyle(hue="ink", marker="o", dash="-")
    _draw_line(panel, look, [item.nll for item in found.values()], [float(height) for height in range(len(found))])
    few_ticks(panel.axes.xaxis)
    return panel.finish(_data(f"nll_by_{by}", title, {arm: found}))


def _level_panel(
    by: By,
    bins: _Bins,
    places: Sequence[Place],
    *,
    name: str,
    title: str,
    subtitle: str,
    x_label: str,
    styles: Mapping[str, ArmStyle],
) -> Panel:
    """Axes with a row for each bin, low weights and tokens near the end below."""
    one_of = {place: item for found in bins.values() for place, item in found.items()}
    labels = [_label(by, one_of[place]) for place in places]
    panel = Panel(
        name=name,
        title=title,
        subtitle=f"{subtitle}\nupwards: {_UPWARDS[by]}; bar: 95% interval over {_drawn_over(bins)}",
        x_label=x_label,
        styles=styles,
        size=(3.9, 1.3 + 0.23 * len(places)),
        left=0.2 + 0.066 * max(len(label) for label in labels),
    )
    panel.axes.set_yticks(range(len(places)), labels)
    panel.axes.set_ylim(-0.6, len(places) - 0.4)
    return panel


def _draw_line(panel: Panel, style: ArmStyle, across: Sequence[Interval], heights: Sequence[float]) -> None:
    if not style.muted:
        for height, interval in zip(heights, across, strict=True):
            if math.isfinite(interval.low):
                ends = [interval.low, interval.high]
                panel.axes.plot(ends, [height] * 2, color=style.color, linewidth=1.4, alpha=0.45)
    panel.axes.plot([interval.value for interval in across], heights, **{"linewidth": 1.0, **style.line()})


def _map_figure(style: ArmStyle, arm: str, label: str, index: int, bins: Mapping[Place, Bin]) -> Picture:
    """KL by weight within equal distance: a column is one distance, so that what rises in it is not position."""
    from matplotlib.patches import Rectangle

    weights, distances = (sorted({place[axis] for place in bins}) for axis in (0, 1))
    labels = [_label("weight", _nearest(bins, weight)) for weight in weights]
    title = f"KL map: {label}"
    strongest = max(item.kl.value for item in bins.values()) or 1.0
    roomy = len(distances) <= MOST_NUMBERED
    upwards = f"upwards: {_UPWARDS['weight']}" + ("" if roomy else f"; darkest: {strongest:.2g}")
    panel = Panel(
        name=f"kl_map_{index}",
        title=title,
        subtitle=f"mean KL(trained || start), nats a token; {_counts({arm: bins})}\n{upwards}",
        x_label=_UPWARDS["distance"] + ("" if roomy else ", from"),
        styles={},
        size=(3.9, 1.3 + 0.26 * len(weights)),
        left=0.2 + 0.066 * max(len(label) for label in labels),
    )
    axes = panel.axes
    for place, item in bins.items():
        x, y = distances.index(place[1]), weights.index(place[0])
        shade = 0.4 * max(item.kl.value, 0.0) / strongest
        axes.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, facecolor=style.color, alpha=shade, linewidth=0))
        if roomy:
            number = f"{item.kl.value:.2g}" if item.kl.value >= 0.005 else "<.01"
            axes.text(x, y, number, fontsize=6.5, ha="center", va="center_baseline")
    axes.set_xlim(-0.5, len(distances) - 0.5)
    axes.set_ylim(-0.5, len(weights) - 0.5)
    columns = [_distance_label(distance) if roomy else tick_text(2**distance // 2) for distance in distances]
    axes.set_xticks(range(len(distances)), columns, fontsize=6.5)
    axes.set_yticks(range(len(weights)), labels)
    axes.grid(visible=False)
    return panel.finish(_data(f"kl_map_{index}", title, {arm: bins}))


def _nearest(bins: Mapping[Place, Bin], weight: int) -> Bin:
    """The bin of a weight level with the most tokens, for the level's bounds."""
    return max((item for place, item in bins.items() if place[0] == weight), key=lambda item: item.tokens)


def _label(by: By, item: Bin) -> str:
    if by == "distance":
        return _distance_label(item.place[1])
    low, high = f"{item.low:.2f}", f"{item.high:.2f}"
    return (low if low == high else f"{low} to {high}").replace("-", "\N{MINUS SIGN}")


def _distance_label(place: int) -> str:
    """Of the bins 0, 1, 2-3, 4-7, ...

    >>> _distance_label(0), _distance_label(1), _distance_label(3)
    ('0', '1', '4\N{EN DASH}7')
    """
    low, high = 2**place // 2, 2**place - 1
    return f"{low}" if low == high else f"{low}\N{EN DASH}{high}"


def _counts(bins: _Bins) -> str:
    """`n = 3 units, 1,200 tokens`: of the arm that has the most."""
    units = max(item.nll.n for found in bins.values() for item in found.values())
    tokens = max(sum(item.tokens for item in found.values()) for found in bins.values())
    return f"n = {count(units, 'unit')}, {tokens:,} tokens"


def _drawn_over(bins: _Bins) -> str:
    one = any("trajectories" in item.kl.method for found in bins.values() for item in found.values())
    return "trajectories" if one else "units"


def _data(name: str, title: str, bins: _Bins) -> ExportTable:
    rows: list[Sequence[ExportValue]] = [
        (arm, item.low, item.high, item.distance_low, item.distance_high, item.tokens, item.kl, item.nll)
        for arm, found in bins.items()
        for item in found.values()
    ]
    bounds = ("log_weight_low", "log_weight_high", "distance_low", "distance_high")
    return ExportTable(name=name, title=title, columns=("arm", *bounds, "tokens", "kl", "nll"), rows=rows)
