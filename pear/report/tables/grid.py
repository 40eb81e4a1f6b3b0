"""Tables as the page shows them: headings with arms' marks, cells with their interval beside or on hover, links."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pear.ops.statistics import Interval
from pear.report.export import ExportTable, ExportValue, cell_text

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
Style = Literal["number", "signed", "quantity", "percent"]
MOST_COLUMNS = 6
"""With more arms than this a table has them in its rows."""
_NEGATIVE = re.compile(r"(?<![\w.)-])-(?=\.?\d)")


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What heads a column or a row: text, or an arm with its mark; `why` explains below, `span` covers several."""

    text: str
    arm: bool = False
    why: str = ""
    span: int = 1
    left: bool = False


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """One cell: its text, a small second line, and what is shown on hover.

    `change` stands in parentheses after the text; `falls` says that it is below 0, which a mark shows beside the color.
    `mean` and `paired` are the numbers of a paper's cell: the text's and the change's.
    """

    text: str
    note: str = ""
    warning: str = ""
    hover: str = ""
    change: str = ""
    falls: bool = False
    left: bool = False
    missing: bool = False
    arm: bool = False
    strong: bool = False
    wrap: bool = False
    mean: Interval | None = None
    paired: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """A row; `heading` is None where the heading above spans it. A row without cells is a heading of what follows."""

    heading: Heading | None
    cells: Sequence[GridCell] = ()
    rule: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table on the page. `groups` is a header row above `columns`; `file` names what is linked below."""

    label: str
    corner: str
    columns: Sequence[Heading]
    rows: Sequence[GridRow]
    groups: Sequence[Heading] = ()
    file: str = ""
    caption: str = ""
    note: str = ""


def number(value: float | None, digits: int = 3) -> str:
    """`0.512`, with a real minus sign, and a dash for what is missing."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """A number that always shows its sign."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def quantity(value: float, beside: float | None = None) -> str:
    """A number of any size with as many digits as it is worth, or as the number is worth that it stands beside.

    >>> quantity(12345.6), quantity(41.52), quantity(0.5), quantity(0.00012), quantity(0.00345, beside=0.5)
    ('12,346', '41.5', '0.500', '0.00012', '0.003')
    """
    size = abs(value if beside is None else beside)
    if size >= 10:
        digits = 0 if size >= 1000 else 1
    else:
        digits = 3 if size >= 0.01 or size == 0 else 1 - math.floor(math.log10(size))
    return f"{value:,.{digits}f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """A share in percent with one decimal."""
    return DASH if value is None else f"{100 * value:.1f}%".replace("-", MINUS)


_STYLES: dict[str, Callable[[float], str]] = {
    "number": number,
    "signed": signed,
    "quantity": quantity,
    "percent": percent,
}


def bounds(interval: Interval, style: Style = "number") -> str:
    """`[0.490, 0.534]`, or that one unit gives none."""
    if not math.isfinite(interval.low):
        return "one unit, no interval"
    ends = (interval.low, interval.high)
    if style == "quantity":
        low, high = (quantity(end, beside=interval.value) for end in ends)
    else:
        low, high = (_STYLES[style](end) for end in ends)
    return f"[{low}, {high}]"


def minus(text: str) -> str:
    """The minus signs of numbers in a sentence as such; names keep their hyphens."""
    return _NEGATIVE.sub(MINUS, text)


def missing_cell(text: str = "missing") -> GridCell:
    """A cell that says that there is nothing."""
    return GridCell(text=text, missing=True)


def text_cell(text: str, *, arm: bool = False) -> GridCell:
    """A cell of words, flush left."""
    return GridCell(text=text, left=True, arm=arm)


def interval_cell(
    interval: Interval | None, *, style: Style = "number", planned: int | None = None, absent: str = "missing"
) -> GridCell:
    """A mean with its interval below; `planned` units more than there are stand as a warning."""
    if interval is None:
        return missing_cell(absent)
    few = planned is not None and interval.n < planned
    return GridCell(
        text=_STYLES[style](interval.value),
        note=bounds(interval, style),
        warning=f"{interval.n} of {planned} units" if few else "",
    )


def percent_cell(mean: Interval | None, change: Interval | None = None) -> GridCell:
    """The paper's cell, `38.3% (+25.2)`: a mean in percent, its change in points, intervals and n on hover."""
    if mean is None:
        return GridCell(text=DASH, missing=True, hover="missing")
    hover = f"{percent(mean.value)} {bounds(mean, 'percent')}, n = {mean.n}"
    if change is None:
        return GridCell(text=percent(mean.value), hover=hover, mean=mean)
    points = _points(change.value)
    if math.isfinite(change.low):
        hover += f"; change {points} [{_points(change.low)}, {_points(change.high)}] points, paired, n = {change.n}"
    falls = points.startswith(MINUS)
    return GridCell(text=percent(mean.value), change=points, falls=falls, hover=hover, mean=mean, paired=change)


def crossed(
    arm_names: Iterable[str],
    headings: Sequence[Heading],
    cells: Mapping[tuple[Heading, str], GridCell],
    *,
    label: str,
    corner: str,
    file: str,
    caption: str = "",
    note: str = "",
) -> Grid:
    """Headings by arms: the arms are columns where they are few, else rows."""
    arms = [Heading(text=arm, arm=True) for arm in arm_names]
    if len(arms) <= MOST_COLUMNS:
        rows = [GridRow(heading=head, cells=[cells[head, arm.text] for arm in arms]) for head in headings]
        return Grid(label=label, corner=corner, columns=arms, rows=rows, file=file, caption=caption, note=note)
    rows = [GridRow(heading=arm, cells=[cells[head, arm.text] for head in headings]) for arm in arms]
    return Grid(label=label, corner="Arm", columns=headings, rows=rows, file=file, caption=caption, note=note)


def plain_text(cell: GridCell) -> str:
    """A cell as exported text: `38.3% (+25.2)`."""
    return f"{cell.text} ({cell.change})" if cell.change else cell.text


def _points(share: float) -> str:
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def exported_grid(table: ExportTable, arms: Iterable[str] = ()) -> Grid:
    """Any exported table for the page; a text that is an arm's name gets the arm's mark."""
    known = frozenset(arms)
    texts = [any(isinstance(row[place], str) for row in table.rows) for place in range(len(table.columns))]
    rows = []
    for row in table.rows:
        first, *others = row
        name = cell_text(first)
        cells = [_exported_cell(value, left, known) for value, left in zip(others, texts[1:], strict=True)]
        rows.append(GridRow(heading=Heading(text=name, arm=name in known), cells=cells))
    return Grid(
        label=table.title,
        corner=_heading(table.columns[0]),
        columns=[
            Heading(text=_heading(name), left=left) for name, left in zip(table.columns[1:], texts[1:], strict=True)
        ],
        rows=rows,
        file=table.name,
        caption=table.title,
        note=table.note,
    )


def _heading(name: str) -> str:
    """A column's name in words."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _exported_cell(value: ExportValue, left: bool, arms: frozenset[str]) -> GridCell:
    if value is None:
        return GridCell(text=DASH, missing=True, left=left)
    if isinstance(value, Interval):
        return interval_cell(value, style="quantity")
    if isinstance(value, str):
        return text_cell(value, arm=value in arms)
    return GridCell(text=quantity(value) if isinstance(value, float) else cell_text(value), left=left)
