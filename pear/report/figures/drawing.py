"""What all figures share: an arm's look, a titled panel with a legend strip, and labels that do not overlap."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pear.report.figures.svg import LIGHT, SETTINGS, Picture, picture
from pear.report.results.summaries import ranked
from pear.report.sources.rows import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from pear.report.export import ExportTable

_HUES = ("blue", "vermillion", "green", "purple", "orange", "sky")
_MARKERS = ("s", "^", "D", "v", "P", "X", "p")
_DASHES = ("-", "--", ":")
_LEGEND_ROW = 0.19
_KEY = re.compile(r"([A-Za-z]\w*)=")
LABEL_SIZE = 8
MOST_LOOKS = 8
"""Of more arms than this, figures single out some and draw the others in gray."""


@dataclass(frozen=True, kw_only=True)
class ArmStyle:
    """How an arm looks in every figure and table: a color of the theme, a marker and a line style."""

    hue: str
    marker: str
    dash: str
    muted: bool = False

    @property
    def color(self) -> str:
        """The color as drawn."""
        return LIGHT[self.hue]

    def line(self) -> dict[str, Any]:
        """Keyword arguments for a line with markers."""
        look: dict[str, Any] = {
            "color": self.color,
            "linestyle": self.dash,
            "marker": self.marker,
            "markeredgecolor": LIGHT["paper"],
            "markeredgewidth": 0.6,
            "markersize": 6,
        }
        return {**look, "markersize": 3.5, "linewidth": 0.7, "alpha": 0.55} if self.muted else look


_Entry = tuple[str, ArmStyle]


def arm_styles(study: Study) -> dict[str, ArmStyle]:
    """One look per arm: the reference in ink, the others by hue and marker, from the seventh on by dashes too.

    Of more than `MOST_LOOKS` arms only the `singled_out` ones have a look of their own.
    """
    chosen = study.arms if len(study.arms) <= MOST_LOOKS else singled_out(study)
    styles = {arm: ArmStyle(hue="muted", marker="o", dash="-", muted=True) for arm in study.arms}
    others = [arm for arm in study.arms if arm in chosen and arm != study.reference]
    if study.reference in study.arms:
        styles[study.reference] = ArmStyle(hue="ink", marker="o", dash="-")
    styles.update(distinct_styles(others))
    return styles


def distinct_styles(names: Sequence[str]) -> dict[str, ArmStyle]:
    """A look for each name, none of them the reference's: by hue and marker, from the seventh on by dashes too."""
    return {
        name: ArmStyle(
            hue=_HUES[index % len(_HUES)],
            marker=_MARKERS[index % len(_MARKERS)],
            dash=_DASHES[index // len(_HUES) % len(_DASHES)],
        )
        for index, name in enumerate(names)
    }


def singled_out(study: Study) -> list[str]:
    """The arms that a crowded figure shows in color: the reference, the best after SFT, and the best after RL."""
    online, offline = ranked(study, study.last_rl_step), ranked(study, 0)
    order = [study.reference, *online[:1], *offline[:1], *online, *offline]
    return list(dict.fromkeys(order))[: len(_HUES) + 1]


def muted_first(styles: Mapping[str, ArmStyle], arms: Iterable[str]) -> list[str]:
    """Arms in the order of drawing: what is singled out lies on top."""
    return sorted(arms, key=lambda arm: not styles[arm].muted)


def shown(name: str, width: int = 30) -> str:
    """A name fit for a figure: without control characters, and no longer than `width`.

    Of a sweep's arm the keys become initials first and then its objective is cut, since the values tell arms apart.

    >>> shown("pear_token[gamma=0.99,learning_rate=3e-05]"), shown("pear_token[gamma=0.99,learning_rate=3e-05]", 22)
    ('pear_token[g=0.99,lr=3e-05]', 'pear…[g=0.99,lr=3e-05]')
    >>> shown("a_name_without_any_brackets", 15)
    'a_name_…rackets'
    """
    name = "".join(letter if unicodedata.category(letter)[0] != "C" else "?" for letter in name)
    if len(name) <= width:
        return name
    objective, bracket, settings = name.partition("[")
    settings = _KEY.sub(lambda found: "".join(word[:1] for word in found.group(1).split("_")) + "=", settings)
    name = objective + bracket + settings
    if len(name) <= width:
        return name
    kept = width - len(bracket + settings) - 1
    if bracket and kept > 0:
        return f"{objective[:kept]}…{bracket}{settings}"
    head = (width - 1) // 2
    return f"{name[:head]}…{name[head + 1 - width :]}"


@contextmanager
def matplotlib_settings() -> Iterator[None]:
    """matplotlib with our settings alone, whatever the user's own are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # matplotlib types its keys as literals.
        settings: Any = SETTINGS
        matplotlib.rcParams.update(settings)
        yield


class Panel:
    """One pair of axes with a title, a subtitle that says unit, interval and n, and a legend strip below.

    Sizes are in inches of the drawing, which the page scales to its column.
    """

    def __init__(
        self,
        *,
        name: str,
        title: str,
        subtitle: str,
        x_label: str,
        styles: Mapping[str, ArmStyle],
        size: tuple[float, float] = (3.9, 2.7),
        left: float = 0.48,
        right: float = 0.14,
    ) -> None:
        from matplotlib.figure import Figure

        self.name, self.title = name, title
        width, height = size
        rows = _legend_rows(_legend_entries(styles), width - 0.2)
        self._legend_inches = len(rows) * _LEGEND_ROW + 0.06 if rows else 0.0
        total = height + self._legend_inches
        lines = subtitle.split("\n")
        top = 0.36 + 0.155 * len(lines)
        self.figure = Figure(figsize=(width, total))
        bottom = self._legend_inches + 0.44
        self.axes: Axes = self.figure.add_axes(
            (left / width, bottom / total, 1 - (left + right) / width, (total - top - bottom) / total)
        )
        self.axes.set_xlabel(x_label, fontsize=LABEL_SIZE, labelpad=3)
        self.axes.tick_params(labelsize=LABEL_SIZE)
        self.figure.text(0.08 / width, 1 - 0.2 / total, shown(title, 60), fontsize=10, fontweight="bold")
        for index, line in enumerate(lines):
            y = 1 - (0.37 + 0.155 * index) / total
            self.figure.text(0.08 / width, y, line, fontsize=LABEL_SIZE, color=LIGHT["muted"])
        self._draw_legend(rows, width, total)

    def _draw_legend(self, rows: list[list[_Entry]], width: float, total: float) -> None:
        from matplotlib.lines import Line2D

        for number, row in enumerate(rows):
            y = (self._legend_inches - 0.02 - (number + 0.5) * _LEGEND_ROW) / total
            x = 0.1
            for index, (name, style) in enumerate(row):
                gid = f"legend-{number}-{index}"
                ends = [x / width, (x + 0.14) / width, (x + 0.28) / width]
                line = Line2D(ends, [y] * 3, transform=self.figure.transFigure, markevery=[1], **style.line())
                line.set_gid(gid)
                self.figure.add_artist(line)
                label = self.figure.text((x + 0.34) / width, y, name, fontsize=LABEL_SIZE, va="center_baseline")
                label.set_gid(f"{gid}-text")
                x += _entry_width(name)

    def finish(self, data: "ExportTable") -> Picture:
        """The panel as files and for the page, with the numbers that were drawn in it."""
        return picture(self.figure, name=self.name, title=self.title, legend_inches=self._legend_inches, data=data)


def _legend_entries(styles: Mapping[str, ArmStyle]) -> list[_Entry]:
    entries = [(shown(arm), style) for arm, style in styles.items() if not style.muted]
    muted = [style for style in styles.values() if style.muted]
    return [*entries, (f"{len(muted)} more", muted[0])] if muted else entries


def _entry_width(name: str) -> float:
    return 0.48 + 0.072 * len(name)


def _legend_rows(entries: Sequence[_Entry], width: float) -> list[list[_Entry]]:
    rows: list[list[_Entry]] = []
    used = width
    for entry in entries:
        if used + _entry_width(entry[0]) > width:
            rows.append([])
            used = 0.0
        rows[-1].append(entry)
        used += _entry_width(entry[0])
    return rows


def spread(positions: Sequence[float], gap: float, highest: float) -> list[float]:
    """Moves label positions apart until neighbors are at least `gap` apart, keeping their order, none above `highest`.

    >>> spread([0.0, 0.1, 5.0], gap=1.0, highest=9.0)
    [-0.45, 0.55, 5.0]
    >>> spread([0.0, 0.1, 5.0], gap=1.0, highest=0.5)
    [-1.5, -0.5, 0.5]
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    clusters: list[tuple[float, list[int]]] = []
    for index in order:
        clusters.append((positions[index], [index]))
        while len(clusters) > 1:
            (below, first), (above, second) = clusters[-2:]
            if above - below >= gap * (len(first) + len(second)) / 2:
                break
            members = first + second
            center = sum(positions[member] for member in members) / len(members)
            clusters[-2:] = [(center, members)]
    result = [0.0] * len(positions)
    for center, members in clusters:
        for rank, member in enumerate(members):
            result[member] = round(center + gap * (rank - (len(members) - 1) / 2), 6)
    for index in reversed(order):
        result[index] = min(result[index], highest)
        highest = round(result[index] - gap, 6)
    return result


def tick_text(value: float, _position: int | None = None) -> str:
    """A short tick label: `0.25`, `1.5k`, `2M`."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{suffix}"
    return f"{round(value, 10):g}".replace("-", "\N{MINUS SIGN}")


def few_ticks(axis: "Axis", *, integer: bool = False) -> None:
    """About five round ticks with short labels."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=integer))
    axis.set_major_formatter(FuncFormatter(tick_text))
