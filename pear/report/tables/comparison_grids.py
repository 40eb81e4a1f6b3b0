"""Arms side by side on the page: verdicts, reversals, confounds, logs in numbers, signals, the probe."""

from collections.abc import Sequence

from pear.ops.statistics import Interval
from pear.report.figures import curves
from pear.report.results.confounds import confound_rows
from pear.report.results.signals import SignalRow, correlation_text
from pear.report.results.summaries import Reversal
from pear.report.results.verdict import METRIC, Verdict, p_text
from pear.report.sources.rows import Study
from pear.report.tables.grid import (
    DASH,
    Grid,
    GridCell,
    GridRow,
    Heading,
    crossed,
    interval_cell,
    number,
    percent,
    text_cell,
)


def verdict_grid(study: Study, verdicts: Sequence[Verdict]) -> Grid:
    """Every arm against the reference."""
    rows = []
    for verdict in verdicts:
        found = 0 if verdict.interval is None else verdict.interval.n
        units = GridCell(
            text=str(found), warning=f"of {verdict.planned_units}" if found < verdict.planned_units else ""
        )
        cells = [
            _outcome_cell(verdict),
            interval_cell(verdict.interval, style="signed", absent=DASH),
            units,
            _settle_cell(verdict),
        ]
        rows.append(GridRow(heading=Heading(text=verdict.arm, arm=True), cells=cells))
    return Grid(
        label="Verdict of each arm",
        corner="Arm",
        columns=[
            Heading(text="Verdict", left=True),
            Heading(text="Difference"),
            Heading(text="Units"),
            Heading(text="Would settle it", left=True),
        ],
        rows=rows,
        file="verdict",
        caption=(
            f"{METRIC} after {study.last_rl_step} RL steps, arm minus {study.reference}, over the (base, seed) units "
            "that have both: mean and paired 95% t interval"
        ),
    )


def _outcome_cell(verdict: Verdict) -> GridCell:
    if verdict.adjusted_p is None or verdict.p_value is None:
        return GridCell(text=verdict.outcome, left=True, strong=True)
    alone = f"by itself {p_text(verdict.p_value)}" if verdict.comparisons > 1 else ""
    return GridCell(text=verdict.outcome, note=p_text(verdict.adjusted_p), hover=alone, left=True, strong=True)


def _settle_cell(verdict: Verdict) -> GridCell:
    """How many units, problems or samples, each by itself."""
    if verdict.outcome != "undecided" or verdict.needed is None:
        return GridCell(text="", left=True)
    ways = [
        f"{wanted:,} {noun}"
        for wanted, noun in (
            (verdict.needed.units, "units"),
            (verdict.needed.problems, "problems"),
            (verdict.needed.samples, "samples"),
        )
        if wanted is not None
    ]
    if not ways:
        return GridCell(text="nothing", left=True, hover=verdict.settle_text)
    return GridCell(text=f"about {ways[0]}", note="".join(f"or {way} " for way in ways[1:]), left=True, wrap=True)


def reversal_grid(found: Sequence[Reversal]) -> Grid | None:
    """The pairs of arms that change order, the clearest first."""
    ordered = sorted(found, key=lambda row: (not row.established, -min(-row.offline.value, row.online.value)))
    rows = [
        GridRow(
            heading=Heading(text=row.arm, arm=True),
            cells=[
                text_cell(row.other, arm=True),
                interval_cell(row.offline, style="signed"),
                interval_cell(row.online, style="signed"),
                GridCell(text="yes" if row.established else "no"),
                GridCell(text=str(row.online.n)),
            ],
        )
        for row in ordered
    ]
    names = ("After SFT", "After RL", "Both leave out 0", "Units")
    grid = Grid(
        label="Rank reversals",
        corner="Behind after SFT, ahead after RL",
        columns=[Heading(text="Compared with", left=True), *(Heading(text=name) for name in names)],
        rows=rows,
        file="reversals",
        note="" if len(rows) < 2 else "Each interval stands for itself, not corrected for the number of pairs.",
    )
    return grid if rows else None


def confound_grid(study: Study) -> Grid | None:
    """What may stand behind a difference between arms, side by side."""
    found = confound_rows(study)
    if not found:
        return None
    headings = [Heading(text=row.title, why=row.unit) for row in found]
    cells = {
        (heading, arm): interval_cell(value, style="quantity", planned=len(study.units), absent=DASH)
        for heading, row in zip(headings, found, strict=True)
        for arm, value in row.values.items()
    }
    return crossed(study.arms, headings, cells, label="Confounds", corner="Quantity", file="confounds")


_OVER_RUN = {
    "mean": "mean over the run",
    "last tenth": "last tenth of the run",
    "last": "at the end",
    "whole run": "start to end",
}


def summary_grid(study: Study, role: curves.Role, name: str) -> Grid | None:
    """What the runs of a role logged, in numbers."""
    headings, cells = [], {}
    for metric in curves.summed_up_metrics(study, role):
        values = {arm: curves.run_summary(study, role, arm, metric) for arm in study.arms}
        if any(value is not None for value in values.values()):
            heading = Heading(text=metric.title, why=f"{metric.unit}; {_OVER_RUN[metric.summary]}")
            headings.append(heading)
            for arm, value in values.items():
                planned = len(study.units)
                cells[heading, arm] = interval_cell(value, style="quantity", planned=planned, absent=DASH)
    label = "RL in numbers" if role == "grpo" else "SFT in numbers"
    return crossed(study.arms, headings, cells, label=label, corner="Quantity", file=name) if headings else None


def signal_grid(rows: Sequence[SignalRow]) -> Grid | None:
    """How well each signal predicts the rank after RL, best first."""
    judged = [(row, row.agreement) for row in rows if row.agreement is not None]
    judged.sort(key=lambda entry: (-entry[1].spearman.value, entry[1].regret.value))
    table = []
    for row, found in judged:
        ranks = [_correlation_cell(value) for value in (found.spearman, found.kendall)]
        why = "; ".join(part for part in (row.unit, f"{row.direction} counts as better", row.cost) if part)
        cells = [
            *ranks,
            GridCell(text=f"{found.reversals} of {found.pairs}"),
            interval_cell(found.regret),
            GridCell(text=str(found.arms)),
            GridCell(text=str(found.units)),
        ]
        table.append(GridRow(heading=Heading(text=row.title, why=why), cells=cells))
    names = ("Spearman", "Kendall", "Pairs reversed", f"Regret in {METRIC}", "Arms", "Units")
    grid = Grid(
        label="Signals",
        corner="Signal",
        columns=[Heading(text=name) for name in names],
        rows=table,
        file="signals",
        note=(
            f"Rank correlation with {METRIC} after RL within each unit, averaged over units; positive: the signal "
            "points to the better arm. Regret: the best arm after RL minus the arm that the signal picks. In brackets "
            "95% intervals that resample bases, then seeds within a base."
        ),
    )
    return grid if table else None


def _correlation_cell(value: Interval) -> GridCell:
    mean, _, interval = correlation_text(value).partition(" ")
    return GridCell(text=mean, note=interval)


def probe_grid(study: Study) -> Grid | None:
    """What `pear study --probe` saw and decided."""
    if study.probe is None:
        return None
    scores, metric = study.probe.get("scores") or {}, str(study.probe.get("metric") or METRIC)
    kept = study.probe.get("kept") or ()
    rows = [
        GridRow(
            heading=Heading(text=arm, arm=arm in study.arms),
            cells=[GridCell(text=number(scores[arm])), text_cell("kept" if arm in kept else "left behind")],
        )
        for arm in sorted(scores, key=lambda arm: scores[arm], reverse=True)
    ]
    return Grid(
        label="The probe",
        corner="Arm",
        columns=[Heading(text=f"{metric} after {study.probe['steps']} RL steps"), Heading(text="", left=True)],
        rows=rows,
        caption=f"Means over units; the probe spent {percent(study.probe.get('share'))} of RL's steps on every arm",
    )
