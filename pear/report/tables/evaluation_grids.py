"""Evaluations as the page shows them: results stage by stage, their health, tasks, levels and temperatures."""

from collections.abc import Sequence

from pear.ops.statistics import Interval
from pear.report.results.summaries import (
    MAJORITY,
    Cell,
    cell,
    has_majority,
    mean_and_change,
    read_interval,
    reader,
    stage_name,
)
from pear.report.results.verdict import METRIC
from pear.report.sources.reading import Scope
from pear.report.sources.rows import BASE_STAGE, Study
from pear.report.tables.grid import (
    DASH,
    Grid,
    GridCell,
    GridRow,
    Heading,
    crossed,
    interval_cell,
    missing_cell,
    number,
    percent,
    signed,
    text_cell,
)


def result_grids(study: Study) -> list[Grid]:
    """Every arm at every stage: pass@1, pass@k of the largest k, and the majority vote."""
    metrics = list(dict.fromkeys([METRIC, *study.pass_metrics[-1:]]))
    return [_result_grid(study, metric) for metric in [*metrics, *([MAJORITY] if has_majority(study) else [])]]


def _result_grid(study: Study, metric: str) -> Grid:
    cells = {arm: [cell(study, arm, stage, metric) for stage in study.stages] for arm in study.arms}
    rows = [
        GridRow(
            heading=Heading(text=arm, arm=True),
            cells=[interval_cell(entry.mean, planned=entry.planned) for entry in entries],
        )
        for arm, entries in cells.items()
    ]
    if len(cells) > 1 and study.reference in cells:
        rows.append(GridRow(heading=Heading(text=f"Difference to {study.reference}, paired")))
        rows += [
            GridRow(heading=Heading(text=arm, arm=True), cells=[_difference_cell(entry) for entry in entries])
            for arm, entries in cells.items()
            if arm != study.reference
        ]
    return Grid(
        label=f"Results, {metric}",
        corner="Arm",
        columns=[Heading(text=stage_name(stage)) for stage in study.stages],
        rows=rows,
        file="results",
        caption="maj@n: the majority vote over all samples of a problem" if metric == MAJORITY else metric,
    )


def _difference_cell(entry: Cell) -> GridCell:
    if entry.stage == BASE_STAGE:
        return missing_cell("same base")
    return interval_cell(entry.difference, style="signed")


def health_grid(study: Study) -> Grid:
    """Size and health of the evaluations: the base once, then every arm at every stage."""
    rows = []
    for arm in study.arms:
        for stage in study.stages:
            if stage == BASE_STAGE and arm != study.arms[0]:
                continue
            entry = cell(study, arm, stage, METRIC)
            heading = Heading(text="base") if stage == BASE_STAGE else Heading(text=arm, arm=True)
            short = entry.units < entry.planned
            rows.append(
                GridRow(
                    heading=heading,
                    cells=[
                        text_cell(stage_name(stage)),
                        GridCell(text=str(entry.units), warning=f"of {entry.planned}" if short else ""),
                        *(_sizes_cell(sizes) for sizes in (entry.problems, entry.samples)),
                        *(_share_cell(share) for share in _shares(entry)),
                        _plain_cell(entry.tokens, digits=1),
                    ],
                )
            )
    names = ("Units", "Problems", "Samples", "Micro", "Macro", "Accuracy", "Format")
    columns = [Heading(text="Stage", left=True), *(Heading(text=name) for name in names)]
    columns += [Heading(text=name) for name in ("Truncated", "Unparsable", "Mean tokens")]
    return Grid(
        label="Size and health of the evaluations",
        corner="Arm",
        columns=columns,
        groups=[Heading(text="", span=5), Heading(text=METRIC, span=2), Heading(text="", span=5)],
        rows=rows,
        file="results",
        note=(
            "Samples: of each problem. Micro: the mean over problems; macro: the mean of the tasks' means. Accuracy "
            "counts right answers whatever their format, where the task can tell; format is the share of completions "
            "in the asked form; pass@1 asks for both. Means over units; a dash was not recorded."
        ),
    )


def _shares(entry: Cell) -> list[float | None]:
    well_formed = None if entry.malformed is None else 1 - entry.malformed
    means = [None if mean is None else mean.value for mean in (entry.mean, entry.macro)]
    return [*means, entry.accuracy, well_formed, entry.truncated, entry.unparsable]


def _sizes_cell(sizes: Sequence[int]) -> GridCell:
    return GridCell(text="/".join(map(str, sizes))) if sizes else missing_cell(DASH)


def _share_cell(share: float | None) -> GridCell:
    return missing_cell(DASH) if share is None else GridCell(text=percent(share))


def _plain_cell(value: float | None, digits: int = 3) -> GridCell:
    return missing_cell(DASH) if value is None else GridCell(text=number(value, digits))


def part_grids(study: Study) -> list[Grid]:
    """pass@1 after RL by task, by level and by temperature, each where the evaluations tell several apart."""
    grids = []
    levels = study.parts("levels")
    if len(study.parts("tasks")) > 1 or len(levels) > 1:
        rows = []
        for task in study.parts("tasks"):
            rows.append((Heading(text=task), Scope(task=task)))
            own = [level for level in levels if level.startswith(f"{task} ")]
            rows += [
                (Heading(text=level.removeprefix(task).strip(), why=task), Scope(level=level))
                for level in (own if len(own) > 1 else [])
            ]
        grids.append(_part_grid(study, rows, label="By task and level", corner="Task, level"))
    temperatures = study.parts("temperatures")
    if len(temperatures) > 1:
        scopes = [(Heading(text=f"temperature {name}"), Scope(temperature=name)) for name in temperatures]
        grids.append(_part_grid(study, scopes, label="By temperature", corner="Sampled at"))
    return grids


def _part_grid(study: Study, parts: Sequence[tuple[Heading, Scope]], *, label: str, corner: str) -> Grid:
    """Parts in rows and arms in columns, or the other way round where there are many arms."""
    stages = [stage for stage in study.rl_steps if stage == study.last_rl_step] or study.rl_steps[-1:] or [BASE_STAGE]
    stage = stages[0]
    when = {BASE_STAGE: "of the bases", 0: "after SFT"}.get(stage, f"after {stage} RL steps")
    found = {
        (heading, arm): _changed_cell(*mean_and_change(study, arm, reader(study, stage, METRIC, scope)))
        for heading, scope in parts
        for arm in study.arms
    }
    headings = [heading for heading, _ in parts]
    return crossed(
        study.arms,
        headings,
        found,
        label=label,
        corner=corner,
        file="parts",
        caption=f"{METRIC} {when}: mean over units with its 95% t interval, paired difference to {study.reference}",
    )


def _changed_cell(mean: Interval | None, change: Interval | None) -> GridCell:
    found = interval_cell(mean)
    if mean is None or change is None:
        return found
    text = signed(change.value)
    shown = interval_cell(change, style="signed")
    return GridCell(
        text=found.text,
        note=found.note,
        change=text,
        falls=text.startswith("\N{MINUS SIGN}"),
        hover=f"difference {shown.text} {shown.note}",
    )


def evaluation_grid(study: Study) -> Grid:
    """Every evaluation with its sampling error."""
    metrics = list(dict.fromkeys([METRIC, *study.pass_metrics[-1:]]))
    rows = []
    for arm, unit, stage, node in study.evaluations():
        found = study.metrics(node)
        absent = node.status if node.status != "complete" else "missing"
        values = [interval_cell(read_interval((found or {}).get(metric)), absent=absent) for metric in metrics]
        sizes = [GridCell(text=str((found or {}).get(key, DASH))) for key in ("num_problems", "num_samples")]
        if study.arms:
            heading = Heading(text="base") if arm is None else Heading(text=arm, arm=True)
            place = [text_cell(unit.name), text_cell(stage_name(stage))]
        else:
            heading, place = Heading(text=unit.name), []
        rows.append(GridRow(heading=heading, cells=[*place, *values, *sizes]))
    place_columns = [Heading(text="Unit", left=True), Heading(text="Stage", left=True)] if study.arms else []
    columns = [*place_columns, *(Heading(text=name) for name in [*metrics, "Problems", "Samples"])]
    return Grid(
        label="Every evaluation",
        corner="Arm" if study.arms else "Unit",
        columns=columns,
        rows=rows,
        file="evaluations",
    )
