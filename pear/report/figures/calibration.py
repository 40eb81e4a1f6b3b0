"""Figures of a calibration: how strong weights are by lower clip, and where along the sequence they lie."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.report.export import ExportTable
from pear.report.figures.drawing import ArmStyle, Panel, distinct_styles, few_ticks, tick_text
from pear.report.figures.svg import LIGHT, Picture

Point = Mapping[str, Any]
Value = Callable[[Mapping[str, float]], float | None]

ALL_TOKENS = ArmStyle(hue="ink", marker="o", dash=":")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture and its legend, which the page writes itself."""

    picture: Picture
    styles: Mapping[str, ArmStyle]


def series_name(point: Point) -> str:
    """What a line of the figures is of: `token`, `block of 8`, `sequence`."""
    level = point["objective"].removeprefix("pear_")
    size = point["objective_kwargs"].get("block_size")
    return level if size is None else f"{level} of {size}"


def series_styles(points: Sequence[Point]) -> dict[str, ArmStyle]:
    """One look for each level and block size."""
    return distinct_styles(list(dict.fromkeys(series_name(point) for point in points)))


def lower_clip(point: Point) -> float:
    """The lower clip of a point's log-ratio."""
    return float(point["objective_kwargs"]["log_ratio_clip"][0])


def calibration_figures(
    points: Sequence[Point], recommended: Sequence[Point], *, ess: float, counts: str
) -> list[Drawn]:
    """All figures of a calibration.

    Args:
        points: of the grid.
        recommended: those whose weight is drawn along the sequence.
        ess: the wanted effective sample size, drawn as a line.
        counts: what was measured on, such as `n = 500 trajectories`.
    """
    of_tokens = f"share of the tokens, {counts}"
    return [
        _by_clip(
            points,
            _metric("weights/effective_sample_size"),
            name="effective_sample_size",
            title="Effective sample size",
            subtitle=f"{of_tokens}\ndashed: the wanted size, {ess:g}",
            wanted=ess,
        ),
        _by_clip(
            points,
            _metric("weights/trajectory_effective_sample_size"),
            name="trajectory_effective_sample_size",
            title="Effective sample size between trajectories",
            subtitle=f"share, at equal distance from the end\n{counts}",
        ),
        _by_clip(
            points,
            _metric("weights/tokens_with_90_percent"),
            name="tokens_with_90_percent",
            title="Tokens with 90% of the weight",
            subtitle=f"{of_tokens}\nheaviest first; 0.9 where all weights are equal",
        ),
        _along(points, recommended, counts),
        _clipped_ratios(points, of_tokens),
        _by_clip(
            points,
            lambda metrics: metrics["weights/clipped/log_weight_low"] + metrics["weights/clipped/log_weight_high"],
            name="clipped_log_weight",
            title="Log-weight beyond its bounds",
            subtitle=f"{of_tokens}\nbelow and above together",
        ),
    ]


def _metric(key: str) -> Value:
    return lambda metrics: metrics.get(key)


def _by_clip(
    points: Sequence[Point], value: Value, *, name: str, title: str, subtitle: str, wanted: float | None = None
) -> Drawn:
    """A line of each level and block size over the lower clips, which stand at equal distances."""
    styles = series_styles(points)
    panel = _clip_panel(points, name=name, title=title, subtitle=subtitle, styles=styles)
    lows = _lows(points)
    rows = []
    for series, style in styles.items():
        found = [(lower_clip(point), value(point["metrics"])) for point in points if series_name(point) == series]
        known = [(low, share) for low, share in found if share is not None]
        rows += [(series, low, share) for low, share in known]
        places = [lows.index(low) for low, _ in known]
        panel.axes.plot(places, [share for _, share in known], linewidth=1.2, **style.line())
    if wanted is not None:
        panel.axes.axhline(wanted, color=LIGHT["muted"], linewidth=1.0, linestyle="--")
    _from_zero(panel)
    columns = ("weights", "log_ratio_low", "value")
    return Drawn(picture=panel.finish(ExportTable(name=name, title=title, columns=columns, rows=rows)), styles=styles)


def _clipped_ratios(points: Sequence[Point], of_tokens: str) -> Drawn:
    """Log-ratios are the same at every level, so these lines are of the first one."""
    name, title = "clipped_log_ratio", "Log-ratio beyond its bounds"
    styles = {
        "below": ArmStyle(hue="vermillion", marker="v", dash="-"),
        "above": ArmStyle(hue="blue", marker="^", dash="-"),
    }
    panel = _clip_panel(points, name=name, title=title, subtitle=f"{of_tokens}\nequal at all levels", styles=styles)
    lows = _lows(points)
    first = [point for point in points if series_name(point) == series_name(points[0])]
    rows = []
    for side, end in (("below", "low"), ("above", "high")):
        shares = [point["metrics"][f"weights/clipped/log_ratio_{end}"] for point in first]
        rows += [(side, lower_clip(point), share) for point, share in zip(first, shares, strict=True)]
        places = [lows.index(lower_clip(point)) for point in first]
        panel.axes.plot(places, shares, linewidth=1.2, **styles[side].line())
    _from_zero(panel)
    columns = ("side", "log_ratio_low", "value")
    return Drawn(picture=panel.finish(ExportTable(name=name, title=title, columns=columns, rows=rows)), styles=styles)


def _along(points: Sequence[Point], recommended: Sequence[Point], counts: str) -> Drawn:
    """Where the weight lies at the recommended points, beside where the tokens lie."""
    name, title = "weight_by_distance", "Where the weight lies"
    looks = series_styles(points)
    styles = {"all tokens": ALL_TOKENS, **{series_name(point): looks[series_name(point)] for point in recommended}}
    shares = {
        "all tokens": recommended[0]["tokens_by_distance"],
        **{series_name(point): point["weight_by_distance"] for point in recommended},
    }
    last = max(place for place, share in enumerate(shares["all tokens"]) if share > 0)
    panel = Panel(
        name=name,
        title=title,
        subtitle=f"share of the weight, by how many tokens follow\nat the recommended settings, {counts}",
        x_label="tokens after it, from",
        styles=styles,
    )
    rows: list[tuple[str, int, float]] = []
    for series, style in styles.items():
        kept = shares[series][: last + 1]
        rows += [(series, 2**place // 2, share) for place, share in enumerate(kept)]
        panel.axes.plot(range(last + 1), kept, linewidth=1.2, **style.line())
    panel.axes.set_xticks(range(last + 1), [tick_text(2**place // 2) for place in range(last + 1)])
    if last > 10:
        panel.axes.tick_params(axis="x", labelsize=6)
    _from_zero(panel)
    columns = ("weights", "distance_from", "value")
    return Drawn(picture=panel.finish(ExportTable(name=name, title=title, columns=columns, rows=rows)), styles=styles)


def _lows(points: Sequence[Point]) -> list[float]:
    """The grid's lower clips, the weakest first."""
    return sorted({lower_clip(point) for point in points}, reverse=True)


def _clip_panel(
    points: Sequence[Point], *, name: str, title: str, subtitle: str, styles: Mapping[str, ArmStyle]
) -> Panel:
    panel = Panel(name=name, title=title, subtitle=subtitle, x_label="lower clip of the log-ratio", styles=styles)
    lows = _lows(points)
    panel.axes.set_xticks(range(len(lows)), [tick_text(low) for low in lows])
    if len(lows) > 9:
        panel.axes.tick_params(axis="x", labelsize=6)
    panel.axes.set_xlim(-0.3, len(lows) - 0.7)
    return panel


def _from_zero(panel: Panel) -> None:
    few_ticks(panel.axes.yaxis)
    high = max(panel.axes.get_ylim()[1], 0.02)
    panel.axes.set_ylim(-0.03 * high, high)
