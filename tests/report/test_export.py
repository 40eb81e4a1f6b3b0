"""Tables and figures as files: what is special in LaTeX, Markdown and CSV comes out as text."""

import csv
import io
import re
from pathlib import Path

import pytest

from pear.ops.statistics import Interval
from pear.report.export import ExportTable, ExportValue, cell_text, latex_text, write_exports
from pear.report.figures.drawing import Panel, matplotlib_settings
from pear.report.figures.svg import Picture

SPECIAL = "%_&#$\\{}~^"
HOSTILE = "a|b <script>alert(1)</script> *x* `y` [z](javascript:0) 100% \\alpha"


def table(name: str = "scores", *, rows: list[tuple[ExportValue, ...]] | None = None, note: str = "") -> ExportTable:
    found = rows if rows is not None else [("nll", 0.5), ("pear_token", None)]
    columns = [f"c{place}" for place in range(len(found[0]))]
    return ExportTable(name=name, title="Scores", columns=columns, rows=found, note=note)


def interval(value: float, n: int = 3, method: str = "paired t") -> Interval:
    return Interval(value=value, low=value - 0.1, high=value + 0.2, n=n, method=method)


def unescaped(text: str) -> str:
    """What LaTeX prints for the commands that stand for one character."""
    for command, letter in (
        (r"\textbackslash{}", "\0"), (r"\textasciitilde{}", "~"), (r"\textasciicircum{}", "^"),
        (r"\textless{}", "<"), (r"\textgreater{}", ">"), (r"\textbar{}", "|"),
    ):  # fmt: skip
        text = text.replace(command, letter)
    return re.sub(r"\\([%_&#${}])", r"\1", text).replace("\0", "\\")


def test_latex_escapes_every_special_character() -> None:
    assert latex_text(SPECIAL) == (r"\%\_\&\#\$\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}")
    assert unescaped(latex_text(HOSTILE)) == HOSTILE
    # Nothing is left that LaTeX would act on.
    assert not re.search(r"(?<!\\)[%&#$_^~]", latex_text(HOSTILE).replace("$-$", ""))
    assert latex_text("two\nlines\x07") == "two lines"


def test_latex_has_a_minus_before_numbers_alone() -> None:
    assert latex_text("-0.5 [-.1, 0.2] 2024-11-23 pear-1 (-3)") == "$-$0.5 [$-$.1, 0.2] 2024-11-23 pear-1 ($-$3)"


def test_a_latex_table_is_a_booktabs_table() -> None:
    text = table(rows=[("nll", 0.5, 1), ("50%", -0.25, None)], note="n = 3 units").latex()
    lines = text.splitlines()
    assert lines[2:4] == [r"\caption{Scores. n = 3 units.}", r"\label{tab:scores}"]
    assert lines[4:] == [
        r"\begin{tabular}{lrr}", r"\toprule", r"c0 & c1 & c2 \\", r"\midrule", r"nll & 0.500 & 1 \\",
        r"50\% & $-$0.250 & -- \\", r"\bottomrule", r"\end{tabular}", r"\end{table}",
    ]  # fmt: skip


def test_a_row_that_begins_with_a_bracket_is_no_argument_of_the_row_before() -> None:
    lines = table(rows=[("a",), ("[b]",), ("*c",)]).latex().splitlines()
    assert r"{}[b] \\" in lines
    assert r"{}*c \\" in lines


def test_markdown_keeps_cells_apart_and_text_as_text() -> None:
    lines = table(rows=[(HOSTILE, 1.0), ("pear_token _x_\nb", -2)]).markdown().splitlines()
    assert lines[0] == "**Scores.**"
    assert lines[2:4] == ["| c0 | c1 |", "| --- | ---: |"]
    assert lines[4] == (
        r"| a\|b &lt;script&gt;alert(1)&lt;/script&gt; \*x\* \`y\` \[z\](javascript:0) 100% \\alpha | 1.000 |"
    )
    assert lines[5] == r"| pear_token \_x\_ b | -2 |"
    # As many cells as columns, where a backslash takes a pipe out.
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:]] == [3] * 4


def test_csv_parses_back() -> None:
    rows: list[tuple[ExportValue, ...]] = [('a,"b"\nc', 0.1 + 0.2, 3), ("=1+1", None, -1)]
    found = list(csv.reader(io.StringIO(table(rows=rows).csv())))
    assert found == [["c0", "c1", "c2"], ['a,"b"\nc', "0.30000000000000004", "3"], ["=1+1", "", "-1"]]
    assert float(found[1][1]) == 0.1 + 0.2


def test_intervals_are_four_fields_in_csv_and_one_cell_on_paper() -> None:
    found = table(rows=[("nll", interval(0.5)), ("direct", None), ("dft", interval(-0.25, n=2))], note="In words")
    assert (
        found.csv()
        == "c0,c1,c1_low,c1_high,c1_n\nnll,0.5,0.4,0.7,3\ndirect,,,,\ndft,-0.25,-0.35,-0.04999999999999999,2\n"
    )
    assert r"dft & $-$0.250 [$-$0.350, $-$0.050] \\" in found.latex()
    assert "| nll | 0.500 \\[0.400, 0.700\\] |" in found.markdown()
    assert found.caption == "Scores. In words. In brackets: 95% interval (paired t), n = 2 to 3."
    assert r"95\% interval" in found.latex()
    alone = Interval(value=0.5, low=float("-inf"), high=float("inf"), n=1, method="paired t")
    assert cell_text(alone) == "0.500"


def test_what_is_very_small_keeps_its_digits() -> None:
    small = Interval(value=0.0001389, low=-0.0004587, high=0.0017368, n=3, method="paired t")
    assert cell_text(small) == "0.000139 [-0.000459, 0.001737]"
    assert [cell_text(value) for value in (0.0, 0.001, 999.5, 155992.0, 3.2e-9)] == [
        "0.000", "0.001", "999.500", "155,992", "3.2e-09",
    ]  # fmt: skip


def test_bold_cells_are_bold_on_paper_alone() -> None:
    found = ExportTable(
        name="x", title="X", columns=["arm", "score"], rows=[("a_b", "1%"), ("c", "-2% (+0.5)")], bold={(0, 1), (1, 0)}
    )
    assert r"a\_b & \textbf{1\%} \\" in found.latex()
    assert r"\textbf{c} & $-$2\% (+0.5) \\" in found.latex()
    assert "| **c** | -2% (+0.5) |" in found.markdown()
    assert found.csv() == "arm,score\na_b,1%\nc,-2% (+0.5)\n"
    # Numbers that come as text are set like numbers.
    assert r"\begin{tabular}{lr}" in found.latex()


def test_names_and_lengths_are_checked() -> None:
    with pytest.raises(ValueError, match="no name for a file"):
        table("../x")
    with pytest.raises(ValueError, match="1 values for 2 columns"):
        ExportTable(name="x", title="", columns=["a", "b"], rows=[("a",)])


def drawn(name: str) -> Picture:
    with matplotlib_settings():
        panel = Panel(name=name, title="Reward", subtitle="n = 3", x_label="step", styles={})
        panel.axes.plot([1, 2, 3], [0.1, 0.4, 0.9])
        return panel.finish(table(rows=[(1, 0.1), (2, 0.4), (3, 0.9)]))


def test_files_are_written_and_those_of_an_earlier_report_removed(tmp_path: Path) -> None:
    for name in ("tables/old.csv", "tables/old.tex", "figures/old.pdf", "figures/old.csv", "figures/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    write_exports(tmp_path, [table("one"), table("two")], [drawn("reward")])
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        "one.csv", "one.md", "one.tex", "two.csv", "two.md", "two.tex",
    ]  # fmt: skip
    found = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert found == ["notes.txt", "reward.csv", "reward.pdf", "reward.svg"]
    assert (tmp_path / "figures" / "reward.csv").read_text() == "c0,c1\n1,0.1\n2,0.4\n3,0.9\n"
    assert (tmp_path / "figures" / "reward.pdf").read_bytes().startswith(b"%PDF-1.")
    with pytest.raises(ValueError, match="two tables have the name one"):
        write_exports(tmp_path, [table("one"), table("one")], [])


def test_a_figure_is_the_same_bytes_again_and_holds_no_date() -> None:
    first, second = drawn("reward"), drawn("reward")
    assert (first.pdf, first.file) == (second.pdf, second.file)
    assert b"CreationDate" not in first.pdf
    assert b"/Producer" not in first.pdf
