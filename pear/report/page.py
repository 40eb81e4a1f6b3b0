"""The page: what `rows`, `verdict`, `summaries` and `curves` found, put into the template."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

import pear
from pear.ops.statistics import Interval
from pear.report import curves, figures, provenance
from pear.report.drawing import arm_styles, matplotlib_settings
from pear.report.rows import BASE_STAGE, Study, read_study
from pear.report.summaries import (
    Cell,
    Reversal,
    Table,
    UnitDifference,
    cell,
    evaluation_tables,
    reversals,
    stage_name,
    task_cell,
    task_names,
    unit_differences,
)
from pear.report.svg import Picture, theme_css
from pear.report.verdict import METRIC, Judgment, count, judge

_TEMPLATE = "template.html.j2"
_FIGURES, _TABLES = "figures", "tables"
_MINUS, _DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All pictures of the page, by section; None and empty where there is nothing to draw."""

    verdict: Picture | None
    comparison: list[Picture]
    rl: list[Picture]
    sft: list[Picture]
    log_weights: list[Picture]
    sampling: Picture | None

    def all(self) -> list[Picture]:
        """Every picture, in the page's order."""
        single = [self.verdict, *self.comparison, *self.rl, *self.sft, *self.log_weights, self.sampling]
        return [picture for picture in single if picture is not None]


def write_report(study_dir: Path) -> Path:
    """See `pear.report.write_report`."""
    study = read_study(study_dir)
    judgment = judge(study)
    differences = unit_differences(study)
    drawn, constant = _draw(study, judgment, differences)
    page = _render(study, judgment, differences, drawn, constant)
    tables = _tables(study, judgment, differences)
    _replace_files(study.directory / _FIGURES, ".svg", {picture.name: picture.file for picture in drawn.all()})
    _replace_files(study.directory / _TABLES, ".csv", {table.name: table.text() for table in tables})
    path = study.directory / "report.html"
    _write(path, page)
    return path


def _draw(study: Study, judgment: Judgment, differences: Sequence[UnitDifference]) -> tuple[Figures, list[str]]:
    with matplotlib_settings():
        log_weights, constant = curves.quantile_figures(study)
        drawn = Figures(
            verdict=figures.verdict_figure(study, judgment.verdicts),
            comparison=_drawn(
                figures.offline_online_figure(study), figures.slope_figure(study), figures.differences_figure(study)
            ),
            rl=_drawn(*(curves.curve_figure(study, "grpo", metric) for metric in curves.RL_METRICS)),
            sft=_drawn(*(curves.curve_figure(study, "sft", metric) for metric in curves.SFT_METRICS)),
            log_weights=log_weights,
            sampling=figures.sampling_figure(study, differences),
        )
    return drawn, constant


def _drawn(*pictures: Picture | None) -> list[Picture]:
    return [picture for picture in pictures if picture is not None]


def _tables(study: Study, judgment: Judgment, differences: Sequence[UnitDifference]) -> list[Table]:
    return [
        *evaluation_tables(study, judgment, differences),
        curves.curve_table(study, "grpo", "rl_curves", ("rl/", "loss", "entropy", "grad_norm")),
        curves.curve_table(study, "sft", "sft_curves", ("weights/", "loss", "grad_norm", "learning_rate")),
        curves.summary_table(study, "grpo", "rl_summary", curves.summed_up_metrics(study, "grpo")),
        curves.summary_table(study, "sft", "sft_summary", curves.summed_up_metrics(study, "sft")),
        provenance.stage_table(study),
    ]


def _render(
    study: Study,
    judgment: Judgment,
    differences: Sequence[UnitDifference],
    drawn: Figures,
    constant_arms: Sequence[str],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pear.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(_filters())
    missing = [node for node in study.nodes if node.status != "complete"]
    return environment.get_template(_TEMPLATE).render(
        study=study,
        pear_version=pear.__version__,
        styles=arm_styles(study),
        light_css=theme_css(dark=False),
        dark_css=theme_css(dark=True),
        judgment=judgment,
        results=[_result(study, metric) for metric in _shown_metrics(study)],
        stages=study.stages,
        coverage=_coverage(study),
        tasks=_task_rows(study),
        reversals=_reversal_words(study),
        figures=drawn,
        constant_arms=constant_arms,
        rl_summary=_summary(study, "grpo"),
        sft_summary=_summary(study, "sft"),
        not_logged=[metric.title for metric in curves.RL_METRICS if metric.key not in study.logged_keys("grpo")],
        evaluations=_evaluation_rows(study),
        missing=missing,
        failed=[node for node in missing if node.status == "failed"],
        buffers=provenance.buffers(study),
        rl_check=provenance.check_rl(study),
        kl_references=_kl_references(study),
        config_text=yaml.safe_dump(dict(study.config), sort_keys=False, allow_unicode=True, width=100),
        inputs=provenance.input_rows(study),
        environment=provenance.environment_rows(study),
        times=provenance.times_by_stage(study),
    )


@dataclass(frozen=True, kw_only=True)
class Result:
    """One metric's table: each arm's cells, stage by stage."""

    metric: str
    rows: list[tuple[str, list[Cell]]]


def _shown_metrics(study: Study) -> list[str]:
    """pass@1 and the pass@k of the largest k; the others are in results.csv."""
    return [METRIC, *[metric for metric in study.pass_metrics if metric != METRIC][-1:]]


def _result(study: Study, metric: str) -> Result:
    return Result(
        metric=metric,
        rows=[(arm, [cell(study, arm, stage, metric) for stage in study.stages]) for arm in study.arms],
    )


def _coverage(study: Study) -> list[tuple[str, Cell]]:
    """The size and health of the evaluations: the base once, then every arm at every stage."""
    rows: list[tuple[str, Cell]] = []
    for arm in study.arms:
        for stage in study.stages:
            if stage == BASE_STAGE and arm != study.arms[0]:
                continue
            rows.append(("" if stage == BASE_STAGE else arm, cell(study, arm, stage, METRIC)))
    return rows


def _task_rows(study: Study) -> list[tuple[str, list[tuple[str, Interval | None, Interval | None]]]]:
    """pass@1 after the last RL step, task by task, where there are several."""
    tasks, last = task_names(study), study.last_rl_step
    if len(tasks) < 2 or last is None:
        return []
    return [(task, [(arm, *task_cell(study, arm, last, task)) for arm in study.arms]) for task in tasks]


@dataclass(frozen=True, kw_only=True)
class ReversalWords:
    """The reversals with the sentence that counts them."""

    sentence: str
    rows: list[Reversal]


def _reversal_words(study: Study) -> ReversalWords | None:
    found, compared = reversals(study)
    if compared == 0:
        return None
    if not found:
        sentence = f"No pair of arms changes its order from after SFT to after RL ({count(compared, 'pair')} compared)."
    else:
        verb = "changes" if len(found) == 1 else "change"
        sentence = f"{len(found)} of {count(compared, 'pair')} of arms {verb} order from after SFT to after RL."
        sure = sum(row.established for row in found)
        sentence += (
            " In none of them do both intervals leave out 0, so chance may be behind each."
            if sure == 0
            else f" In {sure} of them both intervals leave out 0."
        )
    return ReversalWords(sentence=sentence, rows=found)


def _summary(study: Study, role: curves.Role) -> list[tuple[curves.Metric, list[Interval | None]]]:
    rows = []
    for metric in curves.summed_up_metrics(study, role):
        values = [curves.run_summary(study, role, arm, metric) for arm in study.arms]
        if any(value is not None for value in values):
            rows.append((metric, values))
    return rows


def _evaluation_rows(study: Study) -> list[dict[str, Any]]:
    rows = []
    metrics = _shown_metrics(study)
    for arm, unit, stage, node in study.evaluations():
        found = study.metrics(node)
        rows.append(
            {
                "arm": arm,
                "unit": unit,
                "stage": stage_name(stage),
                "status": node.status,
                "values": [None if found is None else found.get(metric) for metric in metrics],
                "metrics": found,
            }
        )
    return rows


def _kl_references(study: Study) -> int:
    """How many RL runs checked that the model their KL is taken to is the one that they start from."""
    nodes = [node for node in study.nodes if node.stage == "grpo" and node.manifest is not None]
    return sum(bool((node.manifest or {}).get("results", {}).get("kl_reference")) for node in nodes)


_NEGATIVE = re.compile(r"(?<=[\s\[(])-(?=\d)")
_OVER_RUN = {
    "mean": "mean over the run",
    "last tenth": "last tenth of the run",
    "last": "at the end",
    "whole run": "start to end",
}


def _filters() -> dict[str, Callable[..., str]]:
    return {
        "number": _number,
        "quantity": _quantity,
        "signed": _signed,
        "bounds": _bounds,
        "share": lambda value: _DASH if value is None else f"{100 * value:.1f}%",
        "minus": lambda text: _NEGATIVE.sub(_MINUS, text),
        "duration": provenance.duration,
        "stage_name": stage_name,
        "over_run": _OVER_RUN.__getitem__,
        "count": count,
        "slash": lambda values: "/".join(str(value) for value in values) or _DASH,
    }


def _number(value: float | None, digits: int = 3) -> str:
    return _DASH if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", _MINUS)


def _quantity(value: float) -> str:
    """A number of any size, with as many digits as it is worth."""
    size = abs(value)
    if size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    else:
        text = f"{value:.3f}" if size >= 0.01 or value == 0 else f"{value:.2g}"
    return text.replace("-", _MINUS)


def _bounds(interval: Interval, style: str = "number") -> str:
    if not math.isfinite(interval.low):
        return "one unit, no interval"
    show = {"number": _number, "signed": _signed, "quantity": _quantity}[style]
    return f"[{show(interval.low)}, {show(interval.high)}]"


def _replace_files(directory: Path, suffix: str, texts: dict[str, str]) -> None:
    """Writes a directory's files and removes those of an earlier report that this one does not have."""
    directory.mkdir(exist_ok=True)
    for name, text in texts.items():
        _write(directory / f"{name}{suffix}", text)
    for path in directory.glob(f"*{suffix}"):
        if path.stem not in texts:
            path.unlink()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)
