"""The page of a calibration: which setting to take for a wanted effective sample size, and the grid behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

import pear
from pear.ops.weight_warnings import weight_warnings
from pear.report.export import ExportTable, ExportValue, cell_text, write_exports, write_file
from pear.report.figures.calibration import Point, calibration_figures, lower_clip, series_name
from pear.report.figures.drawing import matplotlib_settings
from pear.report.figures.svg import theme_css
from pear.runs import read_json, read_manifest

_ESS = "weights/effective_sample_size"
_COLUMNS = {
    _ESS: "ESS",
    "weights/trajectory_effective_sample_size": "ESS between trajectories",
    "weights/tokens_with_90_percent": "tokens with 90%",
    "weights/last_tokens_with_90_percent": "last tokens with 90%",
    "weights/mean": "mean weight",
    "weights/log_weight/q05": "log G 5%",
    "weights/log_weight/q50": "log G 50%",
    "weights/log_weight/q95": "log G 95%",
    "weights/clipped/log_ratio_low": "log-ratio below",
    "weights/clipped/log_ratio_high": "log-ratio above",
    "weights/clipped/log_weight_low": "log-weight below",
    "weights/clipped/log_weight_high": "log-weight above",
}


def write_calibration_page(run_dir: Path) -> Path:
    """Writes RUN/calibration.html, `figures/` and `tables/` from what `pear calibrate` measured.

    Raises:
        UserError: no such run.
    """
    manifest = read_manifest(run_dir)
    found = read_json(run_dir / "calibration.json")
    points, recommended, ess = found["points"], found["recommended"], manifest["config"]["ess"]
    counts = f"n = {found['trajectories']:,} trajectories"
    with matplotlib_settings():
        figures = calibration_figures(points, recommended, ess=ess, counts=counts)
    chosen = [(point["objective"], point["objective_kwargs"]) for point in recommended]
    table = ExportTable(
        name="calibration",
        title="Weights by level and lower clip",
        columns=("weights", "lower clip", "exponent", *_COLUMNS.values()),
        rows=[_row(point) for point in points],
        note=f"ESS: effective sample size, a share. Exponent: what ess_target {ess:g} takes. {counts}.",
    )
    page = (
        jinja2.Environment(
            loader=jinja2.PackageLoader("pear.report", "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        .get_template("calibration.html.j2")
        .render(
            sentences=recommendations(recommended, ess=ess),
            warnings=[list(weight_warnings(point["metrics"]).values()) for point in recommended],
            recipes=[_recipe(point, ess) for point in recommended],
            reached=[point["reached"] for point in recommended],
            figures=figures,
            table=table,
            cells=[[cell_text(value) for value in row] for row in table.rows],
            chosen=[(point["objective"], point["objective_kwargs"]) in chosen for point in points],
            counts=f"{counts}, {found['tokens']:,} tokens",
            config=manifest["config"],
            estimate=manifest.get("results", {}).get("estimate"),
            fingerprint=manifest["fingerprint"],
            pear_version=pear.__version__,
            light_css=theme_css(dark=False),
            dark_css=theme_css(dark=True),
        )
    )
    write_exports(run_dir, [table], [figure.picture for figure in figures])
    path = run_dir / "calibration.html"
    write_file(path, page.encode())
    return path


def recommendations(recommended: Sequence[Point], *, ess: float) -> list[str]:
    """Which setting to take for each objective, and what it gives, in a sentence or two.

    Args:
        recommended: points with `reached`, as `pear calibrate` chose them.
        ess: the wanted effective sample size.
    """
    return [_recommendation(point, ess) for point in recommended]


def _recommendation(point: Point, ess: float) -> str:
    name, settings = point["objective"], _settings(point["objective_kwargs"])
    size = point["metrics"][_ESS]
    if point["reached"]:
        return (
            f"{name} with {settings} has the strongest weights of this grid that keep an effective sample size of "
            f"{ess:g}: theirs is {size:.2f}."
        )
    return (
        f"No setting of {name} in this grid keeps an effective sample size of {ess:g}; the nearest is {settings}, with "
        f"{size:.2f}. Set ess_target to {ess:g}, which tempers the weights to that size: at this setting with the "
        f"exponent {point['exponent']:.2f}."
    )


def _settings(fields: Mapping[str, Any]) -> str:
    low, high = fields["log_ratio_clip"]
    size = f"block_size {fields['block_size']} and " if "block_size" in fields else ""
    return f"{size}log_ratio_clip [{low:g}, {high:g}]"


def _recipe(point: Point, ess: float) -> str:
    """The lines for a recipe, with `ess_target` where the clip alone does not keep the size."""
    fields = {**point["objective_kwargs"], **({} if point["reached"] else {"ess_target": ess})}
    lines = {"objective": point["objective"], "objective_kwargs": fields}
    return yaml.safe_dump(lines, sort_keys=False, default_flow_style=None)


def _row(point: Point) -> list[ExportValue]:
    metrics = point["metrics"]
    return [series_name(point), lower_clip(point), point["exponent"], *(metrics.get(key) for key in _COLUMNS)]
