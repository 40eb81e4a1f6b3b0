"""Tables as CSV, Markdown and LaTeX, and figures as SVG, PDF and CSV: the files beside the page."""

import csv
import io
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pear.ops.statistics import Interval

if TYPE_CHECKING:
    from pear.report.figures.svg import Picture

ExportValue = str | float | int | Interval | None

TABLES, FIGURES = "tables", "figures"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_ENDS = ("", "_low", "_high", "_n")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{EN DASH}": "--",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{ALMOST EQUAL TO}": r"$\approx$",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{BLACK UP-POINTING SMALL TRIANGLE}": r"$\uparrow$",
    "\N{BLACK DOWN-POINTING SMALL TRIANGLE}": r"$\downarrow$",
}
_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{letter: f"\\{letter}" for letter in "\\`*|~[]"}}
# A minus sign stands before a number, and not within a name or a range such as 2024-11.
_MINUS = re.compile(r"(?<![\w.)-])-(?=\.?\d)")
# Numbers that come as text, such as `88.4% (+0.2)`; their columns are set like those of numbers.
_NUMBER = re.compile(r"[+\-\N{MINUS SIGN}]?[\d.,]+%?( [(\[].*[)\]].*)?|\N{EN DASH}")


@dataclass(frozen=True, kw_only=True)
class ExportTable:
    """A table to be written as `tables/NAME.csv`, `.md` and `.tex`.

    An `Interval` is one cell on paper, `0.512 [0.490, 0.534]`, and four fields in CSV: value, low, high, n. A missing
    value is an empty field, and a dash on paper.

    Args:
        name: the files' name.
        title: the caption's first words.
        columns: one name for each value of a row.
        rows: the values.
        note: the rest of the caption: n, what an interval means, units. Of `Interval` cells the caption says these by
            itself.
        bold: (row, column) of the cells that are bold on paper.

    Raises:
        ValueError: a name that is no file name, or a row of another length than `columns`.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[ExportValue]]
    note: str = ""
    bold: Collection[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        """Checks the name and the rows' lengths."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"'{self.name}' is no name for a file.")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name}: {len(row)} values for {len(self.columns)} columns")

    @property
    def caption(self) -> str:
        """The title, the note, and what the brackets of `Interval` cells mean."""
        parts = [_sentence(self.title), _sentence(self.note)]
        intervals = [value for row in self.rows for value in row if isinstance(value, Interval)]
        if intervals:
            methods = " or ".join(sorted({interval.method for interval in intervals}))
            counts = sorted({interval.n for interval in intervals})
            span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            parts.append(f"In brackets: 95% interval ({methods}), n = {span}.")
        return " ".join(part for part in parts if part)

    def csv(self) -> str:
        """The table as CSV, every number as it is."""
        wide = [any(isinstance(row[place], Interval) for row in self.rows) for place in range(len(self.columns))]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(
            [name + end for name, ends in zip(self.columns, wide, strict=True) for end in (_ENDS if ends else ("",))]
        )
        for row in self.rows:
            fields: list[ExportValue] = []
            for value, ends in zip(row, wide, strict=True):
                fields += _four_fields(value) if ends else ["" if value is None else value]
            writer.writerow(fields)
        return buffer.getvalue()

    def markdown(self) -> str:
        """The table as Markdown's pipe table, with its caption above."""
        lines = [
            f"**{_markdown(self.caption)}**",
            "",
            _pipes([_markdown(name) for name in self.columns]),
            _pipes(["---:" if number else "---" for number in self._numeric()]),
            *(_pipes(cells) for cells in self._cells(_markdown, "**", "**")),
        ]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """The table as a LaTeX float; its preamble needs `\\usepackage{booktabs}`."""
        columns = "".join("r" if number else "l" for number in self._numeric())
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(self.caption)}}}",
            rf"\label{{tab:{self.name.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _ampersands([latex_text(name) for name in self.columns]),
            r"\midrule",
            *(_ampersands(cells) for cells in self._cells(latex_text, r"\textbf{", "}")),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def _cells(self, escaped: Callable[[str], str], before: str, after: str) -> list[list[str]]:
        return [
            [
                f"{before}{escaped(cell_text(value))}{after}"
                if (place, column) in self.bold
                else escaped(cell_text(value))
                for column, value in enumerate(row)
            ]
            for place, row in enumerate(self.rows)
        ]

    def _numeric(self) -> list[bool]:
        """Which columns hold numbers alone, and are set flush right."""
        columns = [[row[place] for row in self.rows if row[place] is not None] for place in range(len(self.columns))]
        return [bool(values) and all(_is_number(value) for value in values) for values in columns]


def cell_text(value: ExportValue) -> str:
    """A value as it stands on paper.

    >>> cell_text(0.5), cell_text(12), cell_text(0.000139), cell_text(1.5e-7), cell_text(None)
    ('0.500', '12', '0.000139', '1.5e-07', '\N{EN DASH}')
    """
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, Interval):
        form = _form(value.value)
        if not math.isfinite(value.low):
            return format(value.value, form)
        return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"
    return format(value, _form(value)) if isinstance(value, float) else str(value)


def _form(value: float) -> str:
    """Three decimals, or three significant digits of what is very large or small."""
    size = abs(value)
    if size >= 1000:
        return ",.0f"
    if size == 0 or size >= 0.001:
        return ".3f"
    return f".{2 - math.floor(math.log10(size))}f" if size >= 1e-6 else ".3g"


def _is_number(value: ExportValue) -> bool:
    return not isinstance(value, str) or _NUMBER.fullmatch(value) is not None


def latex_text(text: str) -> str:
    r"""Any text as LaTeX that prints it: special characters escaped, line breaks as spaces, minus signs as such.

    >>> print(latex_text("50% of pear_token: -0.1"))
    50\% of pear\_token: $-$0.1
    """
    text = _MINUS.sub("\N{MINUS SIGN}", _one_line(text))
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _markdown(text: str) -> str:
    text = "".join(_MARKDOWN.get(letter, letter) for letter in _one_line(text))
    # Within a word, as in pear_token, an underscore is no emphasis.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".?!" else f"{text}."


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ampersands(cells: Sequence[str]) -> str:
    # LaTeX reads a [ or * that follows the \\ of the row above as that command's argument.
    guard = "{}" if cells and cells[0].startswith(("[", "*")) else ""
    return f"{guard}{' & '.join(cells)} \\\\"


def _four_fields(value: ExportValue) -> list[ExportValue]:
    if isinstance(value, Interval):
        return [value.value, value.low, value.high, value.n]
    return ["" if value is None else value, "", "", ""]


def write_exports(directory: Path, tables: Sequence[ExportTable], figures: Sequence["Picture"]) -> None:
    """Writes `tables/` and `figures/` under a directory, and removes the files of an earlier report there.

    Raises:
        ValueError: two tables or two figures have one name.
    """
    for kind, names in (("tables", [table.name for table in tables]), ("figures", [item.name for item in figures])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two {kind} have the name {', '.join(twice)}")
    forms: Mapping[str, Callable[[ExportTable], str]] = {
        ".csv": lambda table: table.csv(),
        ".md": lambda table: table.markdown(),
        ".tex": lambda table: table.latex(),
    }
    files = {table.name + end: form(table).encode() for table in tables for end, form in forms.items()}
    _replace_files(directory / TABLES, tuple(forms), files)
    drawn: dict[str, bytes] = {}
    for item in figures:
        drawn[f"{item.name}.svg"] = item.file.encode()
        drawn[f"{item.name}.pdf"] = item.pdf
        drawn[f"{item.name}.csv"] = item.data.csv().encode()
    _replace_files(directory / FIGURES, (".svg", ".pdf", ".csv"), drawn)


def _replace_files(directory: Path, suffixes: tuple[str, ...], files: Mapping[str, bytes]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(directory / name, content)
    for path in directory.iterdir():
        if path.suffix in suffixes and path.name not in files:
            path.unlink()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.rename(path)
