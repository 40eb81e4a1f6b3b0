"""`pear calibrate`: how strong PEAR's weights are on a buffer, over a grid of clips, levels and block sizes."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError, unknown_name
from pear.models import resolve_model
from pear.ops.weight_warnings import CONSTANT
from pear.runs import is_finished, note, open_run, replacing, write_json
from pear.stages.scoring_parts import Scorable, in_parts, open_scorable

if TYPE_CHECKING:
    from pear.objectives import TokenBatch
    from pear.ops.ratios import Level

NAME = "calibrate"
VERSION = 1
LOG_RATIOS = "log_ratios.parquet"
CALIBRATION = "calibration.json"
LEVELS = ("token", "block", "sequence")
HIGH = 0.3
"""The upper clip of the log-ratio, the paper's at every point of the grid: few tokens reach it."""

FEWEST = 16
"""Of fewer trajectories the sizes would say more about these than about the buffer."""

_ESS = "weights/effective_sample_size"
_JOURNAL = "parts.json"


class CalibrateConfig(StrictModel):
    """Scores trajectories of a buffer with a model once and weighs them at every point of a grid.

    Args:
        buffer: a buffer with behavior log-probs.
        model: the target policy pi_theta: the model that SFT starts from.
        levels: of token, block and sequence; each is the objective of that name.
        log_ratio_lows: lower clips of the log-ratio; the upper one stays at 0.3.
        block_sizes: for block level.
        ess: the wanted effective sample size, a share of the tokens.
        trajectories: how many are scored: the first correct ones of the buffer.
        memory_gib: what scoring may take beside the model's weights, about.
        device: auto (the first CUDA device, or the CPU), cpu, cuda or cuda:N.
        dtype: auto is float32 on a CPU and bfloat16 elsewhere.
        output_dir: where the numbers and the page go.
    """

    buffer: Annotated[str, NotHashed()]
    model: Annotated[str, NotHashed()]
    levels: tuple[str, ...] = LEVELS
    log_ratio_lows: tuple[Annotated[float, Field(le=0, allow_inf_nan=False)], ...] = (
        *(-0.02, -0.04, -0.08, -0.15),
        *(-0.25, -0.5, -1.0, -2.0),
    )
    block_sizes: tuple[Annotated[int, Field(gt=0)], ...] = (8, 32)
    ess: Annotated[float, Field(gt=0, lt=1)] = 0.7
    trajectories: Annotated[int, Field(ge=FEWEST)] = 500
    memory_gib: Annotated[float, Field(gt=0)] = 1.0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    output_dir: Annotated[Path, NotHashed()]


def run(config: CalibrateConfig) -> Path:
    """Writes `log_ratios.parquet`, a row for each trajectory, and `calibration.json`, the grid and what it recommends.

    Raises:
        UserError: no such buffer, model or level, an empty grid, a buffer of another tokenizer or with fewer than
            `FEWEST` correct trajectories; before anything is written.
    """
    import pyarrow.parquet

    from pear.objectives import OBJECTIVES

    model = resolve_model(config.model)
    grid = _grid(config)
    inputs = {"model": model, "buffer": config.buffer}
    parts = {f"objective:pear_{level}": OBJECTIVES[f"pear_{level}"].version for level in config.levels}
    prepared = None if is_finished(config.output_dir) else _prepare(config, model)
    with open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run_dir:
        if run_dir.complete or prepared is None:
            note(f"{config.output_dir}: complete, the page is written again.")
            return run_dir.output_dir
        rows = in_parts(run_dir, _JOURNAL, len(prepared.rows), partial(_score, prepared))
        with replacing(run_dir.work / LOG_RATIOS) as temporary:
            pyarrow.parquet.write_table(rows, temporary, compression="zstd")
        batch = _packed(rows.to_pylist())
        points = [_point(batch, config.ess, **place) for place in grid]
        counts = {"trajectories": len(rows), "tokens": batch.log_probs.numel()}
        recommended = recommend(points, config.ess)
        write_json(run_dir.work / CALIBRATION, {**counts, "points": points, "recommended": recommended})
        return run_dir.finish({**counts, "recommended": recommended, **prepared.of_estimate()})


def _grid(config: CalibrateConfig) -> list[dict[str, Any]]:
    """Level, block size (None but at block level) and lower clip of every point, the weakest clip first."""
    for level in config.levels:
        if level not in LEVELS:
            raise unknown_name("level", level, LEVELS)
    for name in ("levels", "log_ratio_lows"):
        if not getattr(config, name):
            raise UserError(f"{name}: name at least one.")
    if "block" in config.levels and not config.block_sizes:
        raise UserError("block_sizes: name at least one, or leave block out of levels.")
    sizes: dict[str, Sequence[int | None]] = {"block": sorted(set(config.block_sizes))}
    return [
        {"level": level, "block_size": size, "log_ratio_low": low}
        for level in dict.fromkeys(config.levels)
        for size in sizes.get(level, [None])
        for low in sorted(set(config.log_ratio_lows), reverse=True)
    ]


def _prepare(config: CalibrateConfig, model: str) -> Scorable:
    prepared = open_scorable(config, model)
    if len(prepared.rows) < FEWEST:
        raise UserError(
            f"{config.buffer}: has {len(prepared.rows)} correct trajectories, and a calibration needs at least "
            f"{FEWEST}."
        )
    return prepared


def _score(prepared: Scorable, chosen: slice) -> list[dict[str, Any]]:
    """Both log-probs of some trajectories."""
    return [
        {key: row[key] for key in ("problem_id", "task", "behavior_log_probs")} | {"log_probs": log_probs}
        for row, log_probs in prepared.scored(chosen)
    ]


def _packed(rows: Sequence[dict[str, Any]]) -> "TokenBatch":
    """All trajectories end to end in one row, which has no padding."""
    import torch

    from pear.objectives import TokenBatch

    lengths = torch.tensor([len(row["log_probs"]) for row in rows])
    return TokenBatch(
        log_probs=_row(rows, "log_probs"),
        response_mask=torch.ones(1, int(lengths.sum()), dtype=torch.bool),
        behavior_log_probs=_row(rows, "behavior_log_probs"),
        segment_ids=torch.arange(len(rows)).repeat_interleave(lengths)[None],
    )


def _row(rows: Sequence[dict[str, Any]], name: str) -> Any:
    import torch

    return torch.tensor([[value for row in rows for value in row[name]]], dtype=torch.float64)


def _point(
    batch: "TokenBatch", ess: float, *, level: "Level", block_size: int | None, log_ratio_low: float
) -> dict[str, Any]:
    """What the weights are at one point, where they lie, and the exponent by which `ess_target` would temper them."""
    from pear.objectives import make_objective
    from pear.objectives.batch import behavior_log_ratios
    from pear.ops.ratios import precise_log_weights
    from pear.ops.tempering import tempering_exponent

    clip = (log_ratio_low, HIGH)
    fields: dict[str, Any] = {"log_ratio_clip": clip} | ({} if block_size is None else {"block_size": block_size})
    objective = make_objective(f"pear_{level}", fields)
    sums = objective.diagnostics(batch)
    # Before the clip of log G, as tempering takes them.
    log_weights = precise_log_weights(
        behavior_log_ratios(batch),
        batch.response_mask,
        level=level,
        block_size=block_size or 1,
        gamma=getattr(objective, "gamma", 1.0),
        log_ratio_clip=clip,
        log_weight_clip=(-math.inf, math.inf),
        segment_ids=batch.segment_ids,
    )
    return {
        "objective": f"pear_{level}",
        "objective_kwargs": fields,
        "metrics": sums.metrics(),
        "exponent": tempering_exponent(log_weights, batch.response_mask, ess_target=ess),
        "tokens_by_distance": (sums.tokens_in_range / sums.num_tokens).tolist(),
        "weight_by_distance": (sums.weights_in_range / sums.sum_weights).tolist(),
    }


def recommend(points: Sequence[dict[str, Any]], ess: float) -> list[dict[str, Any]]:
    """For each objective the strongest weights that keep the wanted effective sample size, or else the nearest.

    Constant weights, such as those of blocks that are longer than the trajectories, are chosen only where all are.

    Args:
        points: of one calibration.
        ess: the wanted size, a share of the tokens.

    Returns:
        The chosen points, one for each objective in their order, with `reached`: whether the size is kept there.
    """
    chosen = []
    for name in dict.fromkeys(point["objective"] for point in points):
        every = [point for point in points if point["objective"] == name]
        of_objective = [point for point in every if point["metrics"][_ESS] <= CONSTANT] or every
        kept = [point for point in of_objective if point["metrics"][_ESS] >= ess]
        if kept:
            best = min(kept, key=lambda point: point["metrics"][_ESS])
        else:
            best = max(of_objective, key=lambda point: point["metrics"][_ESS])
        chosen.append({**best, "reached": bool(kept)})
    return chosen
