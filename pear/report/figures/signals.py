"""Figures of the signals: how well each predicts the rank after RL, what choosing by it costs, each against pass@1."""

from collections.abc import Mapping, Sequence

from pear.ops.ranks import RankAgreement
from pear.report.export import ExportTable, ExportValue
from pear.report.figures.arm_panels import DotRow, Line, arm_means, dot_panel, scatter_panel
from pear.report.figures.drawing import ArmStyle, arm_styles
from pear.report.figures.svg import Picture
from pear.report.results.signals import SignalRow, chance_of, correlation_text, regret_of_a_random_pick
from pear.report.results.verdict import METRIC, count
from pear.report.sources.rows import Study


def signal_figures(study: Study, rows: Sequence[SignalRow]) -> list[Picture]:
    """How well each signal predicts, what choosing by it costs, and each signal against pass@1 after RL."""
    judged = [(row, row.agreement) for row in rows if row.agreement is not None]
    if not judged:
        return []
    judged.sort(key=lambda entry: (-entry[1].spearman.value, entry[1].regret.value))
    styles = arm_styles(study)
    scatters = [_scatter(study, styles, row, found) for row, found in judged]
    return [_spearman_figure(study, judged), _regret_figure(study, judged), *scatters]


_Judged = Sequence[tuple[SignalRow, RankAgreement]]
# The paper's figures of the same two numbers.
_PAPER = {
    "pass_at_1": "Figure 11a",
    "pass_at_large_k": "Figure 11c",
    "majority_vote": "Figure 11d",
    "forward_kl": "Figure 9a",
    "sparsity": "Figure 9b",
    "spectrum_shift": "Figure 9c",
}
_SIGNAL_LOOK = ArmStyle(hue="ink", marker="o", dash="-")


def _spearman_figure(study: Study, judged: _Judged) -> Picture:
    chance = chance_of(study, [row for row, _ in judged])
    by_chance = [] if chance is None else [Line(place=chance.median, label="best by chance, median")]
    title = "Which signal predicts the rank after RL"
    return dot_panel(
        [DotRow(label=row.title, style=_SIGNAL_LOOK, interval=found.spearman) for row, found in judged],
        name="signals_spearman",
        title=title,
        subtitle=f"rank correlation with {METRIC} after RL, mean over units\n{_sizes(judged)}",
        x_label="Spearman correlation",
        bounds=(-1.05, 1.05),
        lines=[Line(place=0.0), *by_chance],
        data=ExportTable(
            name="signals_spearman",
            title=title,
            columns=("signal", "spearman", "arms", "units"),
            rows=[(row.title, found.spearman, found.arms, found.units) for row, found in judged],
        ),
    )


def _regret_figure(study: Study, judged: _Judged) -> Picture:
    title, blind = "What choosing by a signal costs", regret_of_a_random_pick(study)
    rows: list[Sequence[ExportValue]] = [(row.title, found.regret, found.arms, found.units) for row, found in judged]
    rows += [] if blind is None else [("a blind pick", blind, None, None)]
    return dot_panel(
        [DotRow(label=row.title, style=_SIGNAL_LOOK, interval=found.regret) for row, found in judged],
        name="signals_regret",
        title=title,
        subtitle=f"{METRIC} after RL below the best arm in hindsight, mean over units\n{_sizes(judged)}",
        x_label=f"regret in {METRIC}",
        lines=[] if blind is None else [Line(place=blind.value, label="a blind pick")],
        data=ExportTable(name="signals_regret", title=title, columns=("signal", "regret", "arms", "units"), rows=rows),
    )


def _sizes(judged: _Judged) -> str:
    """The subtitle's last line: what the bar is, and n."""
    spans = []
    for noun, found in (("arm", [item.arms for _, item in judged]), ("unit", [item.units for _, item in judged])):
        low, high = min(found), max(found)
        spans.append(count(high, noun) if low == high else f"{low} to {count(high, noun)}")
    return f"bar: 95% interval over bases and seeds ({', '.join(spans)})"


def _scatter(study: Study, styles: Mapping[str, ArmStyle], row: SignalRow, found: RankAgreement) -> Picture:
    means = arm_means(study, row.values)
    sign = 1 if row.higher_is_better else -1
    pick = max(means, key=lambda arm: sign * means[arm][0].value)
    best = max(means, key=lambda arm: means[arm][1].value)
    arrow = "\N{RIGHTWARDS ARROW}" if row.higher_is_better else "\N{LEFTWARDS ARROW}"
    return scatter_panel(
        study,
        styles,
        row.values,
        name=f"signal_{row.name}",
        title=f"{row.title} ({_PAPER[row.name]})" if row.name in _PAPER else row.title,
        subtitle=f"upwards: {METRIC} after RL; Spearman {correlation_text(found.spearman)}",
        x_label=f"{row.unit} ({arrow} better)",
        columns=(row.name, f"{METRIC} after RL"),
        named=list(dict.fromkeys([study.reference, best, pick])),
    )
