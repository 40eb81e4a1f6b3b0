"""The files of a table in the paper's layout: LaTeX with column groups, CSV with every number behind a cell."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from pear.report.export import ExportTable, latex_text
from pear.report.tables.grid import Grid, GridCell, plain_text

_ENDS = ("", " low", " high", " n")


@final
@dataclass(frozen=True, kw_only=True)
class PaperExport(ExportTable):
    """An exported table whose cells show a mean and its change, `55.0% (+5.0)`.

    Args:
        cells: the cells beside each row's heading, with their numbers.
        groups: (name, number of columns) of the header row above `columns`, without a name where there is none.
        heads: the names of `columns` as they stand under their groups.
    """

    cells: Sequence[Sequence[GridCell]]
    groups: Sequence[tuple[str, int]]
    heads: Sequence[str]

    def csv(self) -> str:
        """Every number as it is, with its interval and n, and the change to the reference beside it."""
        kinds = [_kinds(column) for column in self._by_column()]
        header = [self.columns[0]]
        for name, found in zip(self.columns[1:], kinds, strict=True):
            header += [f"{name}{kind}{end}" for kind in found for end in _ENDS] or [name]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(header)
        for row, cells in zip(self.rows, self.cells, strict=True):
            fields: list[str | float | int] = [str(row[0])]
            for cell, found in zip(cells, kinds, strict=True):
                fields += _fields(cell, found)
            writer.writerow(fields)
        return buffer.getvalue()

    def latex(self) -> str:
        """The table as a LaTeX float in the paper's layout; its preamble needs `\\usepackage{booktabs}`."""
        columns = "l" + "".join(map(_alignment, self._by_column()))
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(self.caption)}}}",
            rf"\label{{tab:{self.name.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *self._group_lines(),
            _row(self.heads),
            r"\midrule",
        ]
        above = ""
        for row in self.rows:
            # A heading that spans rows is printed once.
            heading = str(row[0])
            lines.append(_row(["" if heading == above else heading, *map(str, row[1:])]))
            above = heading
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"

    def _by_column(self) -> list[list[GridCell]]:
        return [[row[place] for row in self.cells] for place in range(len(self.columns) - 1)]

    def _group_lines(self) -> list[str]:
        if not self.groups:
            return []
        names, rules, start = [], [], 1
        for name, span in self.groups:
            names.append(rf"\multicolumn{{{span}}}{{c}}{{{latex_text(name)}}}")
            if name:
                rules.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
            start += span
        return [rf"{' & '.join(names)} \\", " ".join(rules)]


def _alignment(column: Sequence[GridCell]) -> str:
    if any(cell.wrap for cell in column):
        return r"p{0.3\linewidth}"
    return "l" if all(cell.left for cell in column) else "r"


def _kinds(column: Sequence[GridCell]) -> list[str]:
    """Which numbers a column has: none, means, or means with changes."""
    if any(cell.paired is not None for cell in column):
        return ["", " change"]
    return [""] if any(cell.mean is not None for cell in column) else []


def _fields(cell: GridCell, kinds: Sequence[str]) -> list[str | float | int]:
    """A cell's numbers, four for each kind; its text where the column has none."""
    if not kinds:
        return ["" if cell.missing else cell.text]
    fields: list[str | float | int] = []
    for number in (cell.mean, cell.paired)[: len(kinds)]:
        fields += ["", "", "", ""] if number is None else [number.value, number.low, number.high, number.n]
    return fields


def _row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(latex_text(cell) for cell in cells)} \\"


def paper_export(grid: Grid, *, name: str, title: str, note: str) -> PaperExport:
    """A grid's files: where names stand alone, groups become a part of them, and spanned headings repeat."""
    above = [heading.text for heading in grid.groups for _ in range(heading.span)] or [""] * (len(grid.columns) + 1)
    heads, columns = [grid.corner], [grid.corner]
    for heading, group in zip(grid.columns, above[1:], strict=True):
        text = f"{heading.text} {heading.why}" if heading.arm and heading.why else heading.text
        heads.append(text)
        columns.append(f"{group}: {text}" if group else text)
    rows, label = [], ""
    for row in grid.rows:
        label = row.heading.text if row.heading is not None else label
        rows.append((label, *(plain_text(cell) for cell in row.cells)))
    return PaperExport(
        name=name,
        title=title,
        columns=columns,
        rows=rows,
        note=note,
        cells=[row.cells for row in grid.rows],
        groups=[(heading.text, heading.span) for heading in grid.groups],
        heads=heads,
    )
