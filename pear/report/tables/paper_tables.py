"""The tables of the paper (arXiv 2602.01058) in its own layout, each where a study has what it needs.

Numbers are percentages, changes to the reference arm are percentage points in parentheses. Intervals and n are on
hover and in the CSV.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pear.ops.statistics import Interval
from pear.report.results.summaries import (
    MAJORITY,
    BaseGroup,
    base_groups,
    mean_and_change,
    ranked,
    reader,
    task_average,
)
from pear.report.results.verdict import METRIC, count
from pear.report.sources.reading import Scope
from pear.report.sources.rows import Study, Unit
from pear.report.tables.grid import Grid, GridCell, GridRow, Heading, percent_cell, text_cell
from pear.report.tables.paper_export import PaperExport, paper_export

MOST_CONTRASTS = 3
"""A table with column groups sets at most so many arms beside the reference: those that are best after RL."""

Read = Callable[[str, Unit], float | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table for the page and for its files."""

    grid: Grid
    export: PaperExport


def paper_tables(study: Study) -> list[PaperTable]:
    """Tables 3, 4, 2 and 5, in this order: from the overview to the detail."""
    found = [average_table(study), start_table(study), benchmark_table(study), objective_table(study)]
    return [table for table in found if table is not None]


def contrasts(study: Study) -> list[str]:
    """The arms that are set beside the reference: trained by SFT, best after RL first, then in the study's order."""
    others = [arm for arm in study.arms if arm != study.reference and not study.is_direct(arm)]
    best = [arm for arm in ranked(study, study.last_rl_step) if arm in others][:MOST_CONTRASTS]
    return [arm for arm in others if arm in best]


def average_table(study: Study) -> PaperTable | None:
    """Table 3: every arm after RL, averaged over tasks, base by base."""
    last, groups = study.last_rl_step, base_groups(study)
    if last is None or study.reference not in study.arms or len(study.arms) < 2:
        return None
    rows = [
        GridRow(
            heading=Heading(text=arm, arm=True),
            cells=[percent_cell(*mean_and_change(study, arm, _average(study, last), group.units)) for group in groups],
        )
        for arm in study.arms
    ]
    return _table(
        study,
        rows,
        name="table_average",
        title=f"{METRIC} after RL, mean over {count(len(study.parts('tasks')), 'task')}",
        corner="SFT, then GRPO",
        columns=[Heading(text=group.label, why=_units_of(group)) for group in groups],
        layout="Table 3",
    )


def start_table(study: Study) -> PaperTable | None:
    """Table 4: RL from the base directly, after plain SFT, and after the best of the other arms."""
    last, groups = study.last_rl_step, base_groups(study)
    direct = [arm for arm in study.arms if study.is_direct(arm)]
    if last is None or not direct or study.reference not in study.arms:
        return None
    arms = [*direct, study.reference, *contrasts(study)]
    rows = []
    for group in groups:
        found = {arm: mean_and_change(study, arm, _average(study, last), group.units) for arm in arms}
        # As in the paper, the change is that of SFT's arms: RL without SFT is the column beside.
        cells = [percent_cell(found[arm][0], None if arm in direct else found[arm][1]) for arm in arms]
        rows.append(GridRow(heading=Heading(text=group.label, why=_units_of(group)), cells=cells))
    return _table(
        study,
        rows,
        name="table_start",
        title=f"{METRIC} after RL by where RL starts",
        corner="Base model",
        columns=[_arm_heading(study, arm) for arm in arms],
        layout="Table 4",
    )


def benchmark_table(study: Study) -> PaperTable | None:
    """Table 2: tasks and pass@k in rows, base models in column groups, the reference against the best other arms."""
    last, groups, arms = study.last_rl_step, base_groups(study), [study.reference, *contrasts(study)]
    tasks = study.parts("tasks")
    if last is None or len(arms) < 2 or study.reference not in study.arms or not tasks:
        return None
    rows: list[GridRow] = []
    for task in tasks:
        for place, metric in enumerate(study.pass_metrics):
            heading = Heading(text=task, span=len(study.pass_metrics)) if place == 0 else None
            read = reader(study, last, metric, Scope(task=task))
            cells = _group_cells(study, arms, groups, read)
            rows.append(
                GridRow(heading=heading, cells=[text_cell(_pass_label(study, metric)), *cells], rule=place == 0)
            )
    for place, metric in enumerate(study.pass_metrics if len(tasks) > 1 else []):
        heading = Heading(text=f"{metric} avg.")
        cells = _group_cells(study, arms, groups, _average(study, last, metric))
        rows.append(GridRow(heading=heading, cells=[text_cell(""), *cells], rule=place == 0))
    above = [Heading(text="", span=2), *(Heading(text=group.label, span=len(arms)) for group in groups)]
    return _table(
        study,
        rows,
        name="table_benchmarks",
        title="After RL, benchmark by benchmark",
        corner="Benchmark",
        columns=[Heading(text="pass@", left=True), *(_arm_heading(study, arm) for _ in groups for arm in arms)],
        groups=above,
        layout="Table 2",
        more=_left_out(study),
    )


def _group_cells(study: Study, arms: Sequence[str], groups: Sequence[BaseGroup], read: Read) -> list[GridCell]:
    return [percent_cell(*mean_and_change(study, arm, read, group.units)) for group in groups for arm in arms]


def _pass_label(study: Study, metric: str) -> str:
    """`8` for pass@8, and for pass@1 how many samples are averaged."""
    if metric != METRIC:
        return metric.removeprefix("pass@")
    sizes = {int((study.metrics(node) or {}).get("num_samples") or 0) for _, _, _, node in study.evaluations()} - {0}
    return f"avg. {sizes.pop()}" if len(sizes) == 1 else "avg."


def offline_online_tables(study: Study) -> list[PaperTable]:
    """Tables 6 and 7, one for each base: every objective offline and online."""
    last, groups = study.last_rl_step, base_groups(study)
    if last is None or not study.arms or not study.pass_metrics:
        return []
    return [_offline_online(study, group, last, place, len(groups)) for place, group in enumerate(groups)]


def _offline_online(study: Study, group: BaseGroup, last: int, place: int, of: int) -> PaperTable:
    online = list(dict.fromkeys([METRIC, *study.pass_metrics[1:2]]))
    offline = list(dict.fromkeys([*online, *study.pass_metrics[-1:], MAJORITY]))
    stages = [(0, metric) for metric in offline] + [(last, metric) for metric in online]
    means = {
        (arm, column): mean_and_change(study, arm, reader(study, *column), group.units)[0]
        for arm in study.arms
        for column in stages
    }
    largest = {column: _largest([means[arm, column] for arm in study.arms]) for column in stages}
    rows = []
    for arm in study.arms:
        cells = []
        for column in stages:
            mean = means[arm, column]
            best = mean is not None and len(study.arms) > 1 and mean.value == largest[column]
            cells.append(dataclasses.replace(percent_cell(mean), strong=best))
        rows.append(GridRow(heading=Heading(text=arm, arm=True), cells=cells))
    names = ["maj. vote" if metric == MAJORITY else metric for _, metric in stages]
    return _table(
        study,
        rows,
        name="table_offline_online" if of == 1 else f"table_offline_online_{place}",
        title="Offline and online pass rates" + (f" of {group.label}" if of > 1 else ""),
        corner="Objective",
        columns=[Heading(text=name) for name in names],
        groups=[
            Heading(text=""),
            Heading(text="Offline: after SFT", span=len(offline)),
            Heading(text=f"Online: after {last} RL steps", span=len(online)),
        ],
        layout="Tables 6 and 7",
        units=group.units,
        changes=False,
    )


def _largest(means: Sequence[Interval | None]) -> float:
    return max((mean.value for mean in means if mean is not None), default=0.0)


def objective_table(study: Study) -> PaperTable | None:
    """Table 5: what each arm minimizes, with every hyper-parameter."""
    if not study.arms:
        return None
    rows = []
    for arm in study.arms:
        key, loss, settings = _objective(study, arm)
        cells = [text_cell(key), *(dataclasses.replace(text_cell(text), wrap=True) for text in (loss, settings))]
        rows.append(GridRow(heading=Heading(text=arm, arm=True), cells=cells))
    columns = [Heading(text=name, left=True) for name in ("Objective", "Loss of a token", "Hyper-parameters")]
    grid = Grid(
        label="Objectives",
        corner="Arm",
        columns=columns,
        rows=rows,
        file="table_objectives",
        caption="The arms' objectives (layout of the paper's Table 5)",
    )
    files = paper_export(grid, name="table_objectives", title="The arms' objectives", note="")
    return PaperTable(grid=grid, export=files)


def _objective(study: Study, arm: str) -> tuple[str, str, str]:
    """(key, per-token loss, hyper-parameters) of an arm, as its SFT ran or as the study file has it."""
    if study.is_direct(arm):
        return "\N{EN DASH}", "no SFT: RL starts at the base", "\N{EN DASH}"
    from pear.objectives import OBJECTIVES

    nodes = [study.node("sft", arm, unit) for unit in study.units]
    configs = [node.manifest.get("config") or {} for node in nodes if node is not None and node.manifest is not None]
    found: Mapping[str, Any] = (configs or [(study.config.get("arms") or {}).get(arm) or {}])[0]
    key = str(found.get("objective", ""))
    scaled = _scaled(study, arm)
    given = dict(found.get("objective_kwargs") or {})
    if key not in OBJECTIVES:
        return key or "\N{EN DASH}", f"not an objective of this version{scaled}", _settings(given)
    fields = dataclasses.fields(OBJECTIVES[key])
    values = {field.name: given.get(field.name, field.default) for field in fields}
    summary = (inspect.getdoc(OBJECTIVES[key]) or "\N{EN DASH}").splitlines()[0].removesuffix(".")
    settings = {name: value for name, value in values.items() if value not in (None, dataclasses.MISSING)}
    return key, f"{summary}{scaled}", _settings(settings)


def _scaled(study: Study, arm: str) -> str:
    """What was done to the model after SFT."""
    other = ((study.config.get("arms") or {}).get(arm) or {}).get("match_update_norm")
    return f"; then its update is scaled to the norm of that of {other}" if other else ""


def _settings(values: Mapping[str, Any]) -> str:
    """`gamma = 0.999, log_ratio_clip = [-0.08, 0.3]`."""
    parts = [f"{name} = {list(value) if isinstance(value, tuple) else value}" for name, value in values.items()]
    return ", ".join(parts) or "none"


def _average(study: Study, stage: int, metric: str = METRIC) -> Read:
    return lambda arm, unit: task_average(study, arm, unit, stage, metric)


def _arm_heading(study: Study, arm: str) -> Heading:
    return Heading(text=arm, arm=True, why="GRPO alone" if study.is_direct(arm) else "+ GRPO")


def _units_of(group: BaseGroup) -> str:
    return count(len(group.units), "unit" if len({unit.base for unit in group.units}) > 1 else "seed")


def _left_out(study: Study) -> str:
    """Which arms a table does not show."""
    others = [arm for arm in study.arms if arm != study.reference and not study.is_direct(arm)]
    shown = len(contrasts(study))
    if shown == len(others):
        return ""
    best = "the best" if shown == 1 else f"the {shown} best"
    return f"Beside {study.reference} stand {best} after RL of {count(len(others), 'arm')}."


def _table(
    study: Study,
    rows: Sequence[GridRow],
    *,
    name: str,
    title: str,
    corner: str,
    columns: Sequence[Heading],
    layout: str,
    groups: Sequence[Heading] = (),
    more: str = "",
    units: Sequence[Unit] | None = None,
    changes: bool = True,
) -> PaperTable:
    """Puts caption, note and files to the rows."""
    shared = f"Means of {_sizes(study, study.units if units is None else units)}."
    if changes:
        shared += f" In parentheses the change to {study.reference} in percentage points, paired."
    marks = []
    if any(cell.falls for row in rows for cell in row.cells):
        marks.append("\N{BLACK DOWN-POINTING SMALL TRIANGLE} marks a loss.")
    if any(cell.strong for row in rows for cell in row.cells):
        marks.append("In bold: the largest of its column, whatever its interval.")
    missing = any(cell.missing for row in rows for cell in row.cells)
    note = " ".join(part for part in (shared, "A dash is a number that is missing." if missing else "", more) if part)
    grid = Grid(
        label=title,
        corner=corner,
        columns=columns,
        rows=rows,
        groups=groups,
        file=name,
        caption=f"{title} (layout of the paper's {layout})",
        note=" ".join([note, *marks]),
    )
    return PaperTable(grid=grid, export=paper_export(grid, name=name, title=title, note=note))


def _sizes(study: Study, units: Sequence[Unit]) -> str:
    """`3 units (3 bases, 3 seeds), 300 problems, 8 samples each`."""
    bases, seeds = len({unit.base for unit in units}), len({unit.seed for unit in units})
    metrics = [study.metrics(node) or {} for _, unit, _, node in study.evaluations() if unit in units]
    sizes = []
    for key, noun in (("num_problems", "problem"), ("num_samples", "sample")):
        found = sorted({int(entry[key]) for entry in metrics if key in entry})
        if found:
            sizes.append(count(found[0], noun) if len(found) == 1 else f"{found[0]} to {count(found[-1], noun)}")
    text = f"{count(len(units), 'unit')} ({count(bases, 'base')}, {count(seeds, 'seed')})"
    return ", ".join([text, *sizes]) + (" each" if len(sizes) == 2 else "")
