"""The page: what the report's other modules found, put into the template, and every file beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import yaml

import pear
from pear.errors import UserError
from pear.report.export import ExportTable, write_exports, write_file
from pear.report.figures import curves, evaluations
from pear.report.figures.analyses import analysis_figures, analysis_tables, module_tables
from pear.report.figures.crossings import offline_online_figure, slope_figures
from pear.report.figures.drawing import ArmStyle, arm_styles, matplotlib_settings
from pear.report.figures.signals import signal_figures
from pear.report.figures.svg import Picture, theme_css
from pear.report.results.confounds import confound_table
from pear.report.results.signals import SignalRow, signal_rows, signal_sentences, signal_tables
from pear.report.results.summaries import Reversal, UnitDifference, evaluation_tables, reversals, unit_differences
from pear.report.results.verdict import Judgment, Verdict, count, judge
from pear.report.sources import provenance
from pear.report.sources.rows import Study
from pear.report.tables import comparison_grids, evaluation_grids, grid
from pear.report.tables.paper_tables import PaperTable, offline_online_tables, paper_tables

_TEMPLATE = "study.html.j2"
_SIGNAL_OVERVIEWS = ("signals_spearman", "signals_regret")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is worked out once and shown in several places."""

    judgment: Judgment
    verdicts: Sequence[Verdict]
    differences: Sequence[UnitDifference]
    reversals: Sequence[Reversal]
    compared: int
    signals: Sequence[SignalRow]
    paper: Sequence[PaperTable]
    offline_online: Sequence[PaperTable]
    analyses: Sequence[ExportTable]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All pictures of the page, by section; None and empty where there is nothing to draw."""

    verdict: Picture | None
    bars: list[Picture]
    sampling: Picture | None
    comparison: list[Picture]
    signals: list[Picture]
    signal_scatters: list[Picture]
    rl: list[Picture]
    sft: list[Picture]
    log_weights: list[Picture]
    analyses: list[Picture]

    def all(self) -> list[Picture]:
        """Every picture, in the page's order."""
        single = [self.verdict, *self.bars, self.sampling, *self.comparison, *self.signals, *self.signal_scatters]
        pictures = [*single, *self.rl, *self.sft, *self.log_weights, *self.analyses]
        return [picture for picture in pictures if picture is not None]


def write_page(study: Study) -> Path:
    """Writes `report.html`, `figures/` and `tables/` into the study's directory, and returns the page's path.

    Raises:
        UserError: a file of a run cannot be read, before anything is written; or the directory cannot be written.
    """
    found = _find(study)
    drawn, constant = _draw(study, found)
    page = _render(study, found, drawn, constant)
    tables = _tables(study, found)
    try:
        study.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{study.directory}: cannot be written ({error.strerror}).") from None
    write_exports(study.directory, tables, drawn.all())
    path = study.directory / "report.html"
    write_file(path, page.encode("utf-8"))
    return path


def _find(study: Study) -> Found:
    judgment = judge(study)
    crossed, compared = reversals(study)
    means = {row.arm: float("-inf") if row.interval is None else row.interval.value for row in judgment.verdicts}
    return Found(
        judgment=judgment,
        verdicts=sorted(judgment.verdicts, key=lambda row: means[row.arm], reverse=True),
        differences=unit_differences(study),
        reversals=crossed,
        compared=compared,
        signals=signal_rows(study) if study.arms else [],
        paper=paper_tables(study),
        offline_online=offline_online_tables(study),
        analyses=analysis_tables(study),
    )


def _draw(study: Study, found: Found) -> tuple[Figures, list[str]]:
    with matplotlib_settings():
        log_weights, constant = curves.quantile_figures(study)
        signals = signal_figures(study, found.signals)
        drawn = Figures(
            verdict=evaluations.verdict_figure(study, found.verdicts),
            bars=evaluations.bar_figures(study),
            sampling=evaluations.sampling_figure(study, found.differences),
            comparison=_drawn(
                offline_online_figure(study), *slope_figures(study), evaluations.differences_figure(study)
            ),
            signals=[picture for picture in signals if picture.name in _SIGNAL_OVERVIEWS],
            signal_scatters=[picture for picture in signals if picture.name not in _SIGNAL_OVERVIEWS],
            rl=_drawn(*(curves.curve_figure(study, "grpo", metric) for metric in curves.RL_METRICS)),
            sft=_drawn(*(curves.curve_figure(study, "sft", metric) for metric in curves.SFT_METRICS)),
            log_weights=log_weights,
            analyses=analysis_figures(study),
        )
    return drawn, constant


def _drawn(*pictures: Picture | None) -> list[Picture]:
    return [picture for picture in pictures if picture is not None]


def _tables(study: Study, found: Found) -> list[ExportTable]:
    return [
        *evaluation_tables(study, found.judgment, found.differences),
        *(table.export for table in [*found.paper, *found.offline_online]),
        *(signal_tables(found.signals) if found.signals else []),
        curves.summary_table(study, "grpo", "rl_summary", curves.summed_up_metrics(study, "grpo")),
        curves.summary_table(study, "sft", "sft_summary", curves.summed_up_metrics(study, "sft")),
        confound_table(study),
        *found.analyses,
        *module_tables(study),
        provenance.stage_table(study),
    ]


def _render(study: Study, found: Found, drawn: Figures, constant_arms: Sequence[str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pear.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        {
            "signed": grid.signed,
            "bounds": grid.bounds,
            "minus": grid.minus,
            "duration": provenance.duration,
            "count": count,
            "breakable": _breakable,
            "code_spans": _code_spans,
        }
    )
    return environment.get_template(_TEMPLATE).render(
        study=study,
        pear_version=pear.__version__,
        light_css=theme_css(dark=False),
        dark_css=theme_css(dark=True),
        figures=drawn,
        constant_arms=constant_arms,
        **_looks(study),
        **_evaluated(study, found),
        **_signals(study, found),
        **_trained(study, found),
        **_made(study),
    )


def _breakable(name: str) -> markupsafe.Markup:
    """A name, escaped, that may wrap after a comma, a slash or an opening bracket."""
    escaped = markupsafe.escape(name)
    for letter in (",", "/", "["):
        escaped = escaped.replace(letter, letter + markupsafe.Markup("<wbr>"))
    return escaped


def _code_spans(text: str) -> markupsafe.Markup:
    """A sentence, escaped, with what stands in backticks as code."""
    parts = [markupsafe.escape(part) for part in text.split("`")]
    codes = [
        markupsafe.Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    ]
    return markupsafe.Markup("").join(codes)


def _looks(study: Study) -> dict[str, Any]:
    styles: Mapping[str, ArmStyle] = arm_styles(study)
    return {
        "styles": styles,
        "in_color": [arm for arm in study.arms if not styles[arm].muted],
        "in_gray": [arm for arm in study.arms if styles[arm].muted],
    }


def _evaluated(study: Study, found: Found) -> dict[str, Any]:
    return {
        "judgment": found.judgment,
        "verdict_table": comparison_grids.verdict_grid(study, found.verdicts) if found.verdicts else None,
        "paper_tables": [table.grid for table in found.paper],
        "result_tables": evaluation_grids.result_grids(study) if study.arms else [],
        "health_table": evaluation_grids.health_grid(study) if study.arms else None,
        "part_tables": evaluation_grids.part_grids(study) if study.arms else [],
        "evaluation_table": evaluation_grids.evaluation_grid(study),
        "many_solutions": study.parts("many_solutions"),
        "offline_online_tables": [table.grid for table in found.offline_online],
        "reversal_sentence": _reversal_sentence(found),
        "reversal_table": comparison_grids.reversal_grid(found.reversals),
    }


def _reversal_sentence(found: Found) -> str:
    """How many pairs change order, and in how many of them that is more than chance; empty where none is compared."""
    if found.compared == 0:
        return ""
    pairs = count(found.compared, "pair")
    if not found.reversals:
        return f"No pair of arms changes its order from after SFT to after RL ({pairs} compared)."
    verb = "changes" if len(found.reversals) == 1 else "change"
    sentence = f"{len(found.reversals)} of {pairs} of arms {verb} order from after SFT to after RL."
    sure = sum(row.established for row in found.reversals)
    if sure == 0:
        return f"{sentence} In none of them do both intervals leave out 0, so chance may be behind each."
    return f"{sentence} In {sure} of them both intervals leave out 0."


def _signals(study: Study, found: Found) -> dict[str, Any]:
    return {
        "signal_sentences": signal_sentences(study, found.signals) if found.signals else [],
        "signal_table": comparison_grids.signal_grid(found.signals),
        "signals_missing": [row for row in found.signals if row.missing],
        "probe_table": comparison_grids.probe_grid(study),
    }


def _trained(study: Study, found: Found) -> dict[str, Any]:
    return {
        "rl_table": comparison_grids.summary_grid(study, "grpo", "rl_summary"),
        "sft_warnings": curves.sft_warnings(study),
        "sft_table": comparison_grids.summary_grid(study, "sft", "sft_summary"),
        "not_logged": [metric.title for metric in curves.RL_METRICS if metric.key not in study.logged_keys("grpo")],
        "confound_table": comparison_grids.confound_grid(study),
        "analysis_tables": [grid.exported_grid(table, study.arms) for table in found.analyses],
    }


def _made(study: Study) -> dict[str, Any]:
    missing = [node for node in study.nodes if node.status != "complete"]
    return {
        "missing": missing,
        "failed": [node for node in missing if node.status == "failed"],
        "buffers": _distinct(provenance.buffers(study)),
        "calibration_buffers": _distinct(provenance.calibration_buffers(study)),
        "rl_check": provenance.check_rl(study),
        "kl_references": _kl_references(study),
        "config_text": yaml.safe_dump(dict(study.config), sort_keys=False, allow_unicode=True, width=100),
        "inputs": provenance.input_rows(study),
        "environment": provenance.environment_rows(study),
        "times": provenance.times_by_stage(study),
    }


def _distinct(buffers: Sequence[provenance.Buffer]) -> list[provenance.Buffer]:
    """Without the copies of one buffer that a study has when it was moved."""
    return [buffer for place, buffer in enumerate(buffers) if buffer not in buffers[:place]]


def _kl_references(study: Study) -> int:
    """How many RL runs checked that the model their KL is taken to is the one that they start from."""
    nodes = [node for node in study.nodes if node.stage == "grpo" and node.manifest is not None]
    return sum(bool((node.manifest or {}).get("results", {}).get("kl_reference")) for node in nodes)
