"""What training did to the models, arm by arm: drift of the weights, divergence, rotation of the gradients.

Figures 5, 7, 8, 9d and 10b of the paper (arXiv 2602.01058); 9a to 9c, which 10a repeats, are drawn among the signals.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pear.ops.statistics import Interval
from pear.report.export import ExportTable, ExportValue
from pear.report.figures.arm_panels import DotRow, arm_means, dot_panel, scatter_panel
from pear.report.figures.drawing import ArmStyle, arm_styles
from pear.report.figures.svg import Picture
from pear.report.figures.token_weights import token_weight_figures
from pear.report.results.signal_sources import analyzed
from pear.report.results.verdict import METRIC, interval_over
from pear.report.sources.rows import Study, Unit

AFTER_SFT = 0


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of an analysis: its key in `metrics.json` and its column in tables; `online`: of SFT to RL."""

    analysis: str
    key: str
    column: str
    online: bool = False


FORWARD_KL = Measure(analysis="divergence", key="divergence/forward_kl", column="forward_kl")
NLL = Measure(analysis="divergence", key="divergence/nll", column="nll")
SPARSITY = Measure(analysis="weight_drift", key="drift/sparsity", column="sparsity")
OFFLINE_SHIFT = Measure(analysis="weight_drift", key="drift/spectrum_shift", column="spectrum_shift")
ONLINE_SHIFT = Measure(analysis="weight_drift", key="drift/spectrum_shift", column="online_spectrum_shift", online=True)
DRIFT = (
    FORWARD_KL,
    NLL,
    SPARSITY,
    Measure(analysis="weight_drift", key="drift/sparsity_bf16", column="sparsity_bf16"),
    OFFLINE_SHIFT,
    Measure(analysis="weight_drift", key="drift/update_norm", column="update_norm"),
    Measure(analysis="weight_drift", key="drift/lm_head/spectrum_shift", column="lm_head_spectrum_shift"),
    Measure(analysis="weight_drift", key="drift/sparsity", column="online_sparsity", online=True),
    Measure(analysis="weight_drift", key="drift/sparsity_bf16", column="online_sparsity_bf16", online=True),
    ONLINE_SHIFT,
    Measure(analysis="weight_drift", key="drift/update_norm", column="online_update_norm", online=True),
)
ROTATION = Measure(analysis="gradient_rotation", key="gradients/rotation_degrees", column="rotation")
GRPO_FLOOR = Measure(analysis="gradient_rotation", key="gradients/floor_grpo_degrees", column="floor_grpo")
RANDOM_FLOOR = Measure(analysis="gradient_rotation", key="gradients/floor_random_degrees", column="floor_random")
SUBSPACE = Measure(analysis="gradient_rotation", key="gradients/k", column="k")

TOKEN_WEIGHTS = (
    Measure(analysis="token_weights", key="token_weights/rank_correlation", column="correlation_at_equal_distance"),
    Measure(analysis="token_weights", key="token_weights/rank_correlation_any_distance", column="correlation"),
    Measure(analysis="token_weights", key="token_weights/effective_sample_size", column="effective_sample_size"),
)


def measured(study: Study, measure: Measure) -> dict[tuple[str, Unit], float]:
    """A measure of every (arm, unit) that has it."""
    if measure.online and study.last_rl_step is None:
        return {}
    step = (study.last_rl_step or AFTER_SFT) if measure.online else AFTER_SFT
    places = [(arm, unit) for arm in study.arms for unit in study.units]
    found = {place: analyzed(study, measure.analysis, measure.key, *place, step) for place in places}
    return {place: value for place, value in found.items() if value is not None}


def analysis_figures(study: Study) -> list[Picture]:
    """Every figure of the analyses that the study has."""
    styles = arm_styles(study)
    shift = "normalized spectrum shift"
    drawn = [
        *token_weight_figures(study, styles),
        _rotation_figure(study, styles),
        _drift_figure(study, styles, OFFLINE_SHIFT, "offline_drift", "Offline drift, base to SFT (Figure 8a)", shift),
        _drift_figure(study, styles, ONLINE_SHIFT, "online_drift", "Online drift, SFT to RL (Figure 8b)", shift),
        *_scatters(study, styles),
    ]
    return [picture for picture in drawn if picture is not None]


def _rotation_figure(study: Study, styles: Mapping[str, ArmStyle]) -> Picture | None:
    """Each arm's angle between offline and GRPO gradients, with both floors (Figure 7)."""
    angles = _by_arm(study, ROTATION)
    floors = [_by_arm(study, floor) for floor in (GRPO_FLOOR, RANDOM_FLOOR)]
    if not angles:
        return None
    title = "Gradient rotation (Figure 7)"
    return dot_panel(
        [
            DotRow(
                label=arm,
                style=styles[arm],
                interval=_mean(found),
                dots=found,
                floors=[_mean(floor[arm]).value for floor in floors if arm in floor],
            )
            for arm, found in angles.items()
        ],
        name="gradient_rotation",
        title=title,
        subtitle=f"offline to GRPO; ticks: GRPO to GRPO, random matrices\n{_bars(angles)}",
        x_label="mean principal angle, degrees",
        data=_arm_table(study, (ROTATION, GRPO_FLOOR, RANDOM_FLOOR, SUBSPACE), name="gradient_rotation", title=title),
    )


def _drift_figure(
    study: Study, styles: Mapping[str, ArmStyle], measure: Measure, name: str, title: str, x_label: str
) -> Picture | None:
    values = _by_arm(study, measure)
    if not values:
        return None
    return dot_panel(
        [DotRow(label=arm, style=styles[arm], interval=_mean(found), dots=found) for arm, found in values.items()],
        name=name,
        title=title,
        subtitle=_bars(values),
        x_label=x_label,
        data=_arm_table(study, (measure,), name=name, title=title),
    )


def _scatters(study: Study, styles: Mapping[str, ArmStyle]) -> Iterable[Picture | None]:
    """Online drift against pass@1 (Figure 9d), and KL and sparsity against pass@k (Figure 10b)."""
    yield _scatter(study, styles, ONLINE_SHIFT, METRIC, "Online drift", "9d", "NSS, SFT to RL")
    larger = [metric for metric in study.pass_metrics if metric != METRIC]
    if larger:
        metric = "pass@8" if "pass@8" in larger else larger[-1]
        unit = "nats a token, KL(base || checkpoint)"
        yield _scatter(study, styles, FORWARD_KL, metric, "KL to the base", "10b", unit)
        unit = "share of weights moved by less than 1e-5"
        yield _scatter(study, styles, SPARSITY, metric, "Update sparsity", "10b", unit)


def _scatter(
    study: Study, styles: Mapping[str, ArmStyle], measure: Measure, metric: str, title: str, number: str, unit: str
) -> Picture | None:
    last = study.last_rl_step
    if last is None:
        return None
    pairs = {
        (arm, unit_): (value, outcome)
        for (arm, unit_), value in measured(study, measure).items()
        if (outcome := study.value(arm, unit_, last, metric)) is not None
    }
    if not pairs:
        return None
    means = arm_means(study, pairs)
    best = max(means, key=lambda arm: means[arm][1].value)
    return scatter_panel(
        study,
        styles,
        pairs,
        name=f"{measure.column}_{metric.replace('@', '_')}",
        title=f"{title} and {metric} (Figure {number})",
        subtitle=f"upwards: {metric} after {last} RL steps",
        x_label=unit,
        columns=(measure.column, f"{metric} after RL"),
        named=list(dict.fromkeys([study.reference, best])),
    )


def _by_arm(study: Study, measure: Measure) -> dict[str, list[float]]:
    """Each arm's values over its units, for the arms that have any."""
    values: dict[str, list[float]] = {}
    for (arm, _), value in measured(study, measure).items():
        values.setdefault(arm, []).append(value)
    return values


def _mean(values: list[float]) -> Interval:
    interval = interval_over(values)
    assert interval is not None
    return interval


def _bars(values: Mapping[str, list[float]]) -> str:
    sizes = sorted({len(found) for found in values.values()})
    span = "-".join(str(size) for size in dict.fromkeys([sizes[0], sizes[-1]]))
    return f"mean, 95% t interval; dots: the units (n = {span})"


def analysis_tables(study: Study) -> list[ExportTable]:
    """Drift and divergence arm by arm, and the rotation of the gradients with its floors."""
    drift = _arm_table(
        study,
        DRIFT,
        name="drift",
        title="How far training moved each arm's model",
        note=(
            "Base to SFT checkpoint: forward KL and held-out NLL in nats a token of the calibration trajectories, "
            "share of weights that stayed, normalized spectrum shift, L2 norm of the update; `online`: SFT to RL."
        ),
    )
    rotation = _arm_table(
        study,
        (ROTATION, GRPO_FLOOR, RANDOM_FLOOR, SUBSPACE),
        name="rotation",
        title="Angle between offline and GRPO gradients",
        note=(
            "Degrees, mean over k principal angles and linear layers. Two GRPO runs differ by floor_grpo, random "
            "matrices by floor_random: only what lies between says something."
        ),
    )
    tokens = _arm_table(
        study,
        TOKEN_WEIGHTS,
        name="token_weights",
        title="PEAR's weight of a token against how far training moved it",
        note=(
            "Spearman correlation over tokens between weight and KL(trained || start): among tokens at equal distances "
            "from the end, and among all, where position counts as weight; effective sample size of the weights."
        ),
    )
    return [table for table in (drift, rotation, tokens) if table.rows]


def _arm_table(study: Study, measures: Sequence[Measure], *, name: str, title: str, note: str = "") -> ExportTable:
    """A row for each arm and a column for each measure that any arm has."""
    columns = {measure.column: _by_arm(study, measure) for measure in measures}
    columns = {column: values for column, values in columns.items() if values}
    rows: list[Sequence[ExportValue]] = [
        (arm, *(_cell(column, values.get(arm, [])) for column, values in columns.items()))
        for arm in study.arms
        if any(arm in values for values in columns.values())
    ]
    return ExportTable(name=name, title=title, columns=("arm", *columns), rows=rows, note=note)


def _cell(column: str, values: list[float]) -> ExportValue:
    if column == SUBSPACE.column and len(set(values)) == 1:
        return int(values[0])
    return _mean(values) if values else None


def module_tables(study: Study) -> list[ExportTable]:
    """Drift and rotation layer by layer, for CSV: too long for a page."""
    tables = []
    for analysis, name, title in (
        ("weight_drift", "drift_modules", "Drift of each linear layer"),
        ("gradient_rotation", "rotation_modules", "Gradient rotation of each linear layer"),
    ):
        found = list(_modules(study, analysis))
        if found:
            columns = list(dict.fromkeys(column for *_, row in found for column in row))
            rows: list[Sequence[ExportValue]] = [
                (arm, base, seed, step, *(row.get(column) for column in columns))
                for arm, base, seed, step, row in found
            ]
            tables.append(
                ExportTable(name=name, title=title, columns=("arm", "base", "seed", "rl_step", *columns), rows=rows)
            )
    return tables


def _modules(study: Study, analysis: str) -> Iterable[tuple[str, str, int, int, Mapping[str, ExportValue]]]:
    for arm in study.arms:
        for unit in study.units:
            for step in dict.fromkeys([AFTER_SFT, study.last_rl_step or AFTER_SFT]):
                for row in study.analysis_table(analysis, arm, unit, step, "modules") or []:
                    yield arm, unit.base, unit.seed, step, row
