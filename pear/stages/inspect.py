"""`pear inspect`: the weights that an objective gives to each token of a buffer, for a page to look at."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.models import resolve_model
from pear.runs import is_finished, note, open_run, replacing
from pear.stages.scoring_parts import Scorable, in_parts, open_scorable

if TYPE_CHECKING:
    from pear.objectives import Objective

NAME = "inspect"
VERSION = 1
WEIGHTS = "weights.parquet"
_JOURNAL = "shards.json"


class InspectConfig(StrictModel):
    """Scores trajectories of a buffer with a model and writes each token's log-probs and weight.

    Args:
        buffer: a buffer with behavior log-probs.
        model: the target policy pi_theta: the model that SFT starts from, or any checkpoint of it.
        objective: whose weights are looked at, and `objective_kwargs`, its fields.
        trajectories: how many are scored: the first correct ones of the buffer.
        memory_gib: what scoring may take beside the model's weights, about.
        device: auto (the first CUDA device, or the CPU), cpu, cuda or cuda:N.
        dtype: auto is float32 on a CPU and bfloat16 elsewhere.
        output_dir: where the numbers and the page go.
    """

    buffer: Annotated[str, NotHashed()]
    model: Annotated[str, NotHashed()]
    objective: str = "pear_token"
    objective_kwargs: dict[str, Any] = {}
    trajectories: Annotated[int, Field(gt=0)] = 500
    memory_gib: Annotated[float, Field(gt=0)] = 1.0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    output_dir: Annotated[Path, NotHashed()]


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a run needs, checked."""

    objective: "Objective"
    trajectories: Scorable
    tokens: list[list[str]]


def run(config: InspectConfig) -> Path:
    """Writes `weights.parquet`, a row for each trajectory.

    Raises:
        UserError: no such buffer, model or objective, an objective that needs more than behavior log-probs or weighs
            whole optimizer steps, or a buffer of another tokenizer; before anything is written.
    """
    import pyarrow.parquet

    from pear.objectives import OBJECTIVES, make_objective

    model = resolve_model(config.model)
    objective = make_objective(config.objective, config.objective_kwargs)
    lacking = sorted(objective.requires - {"behavior_log_probs"})
    if lacking:
        raise UserError(f"objective: {config.objective} needs {', '.join(lacking)}, which a buffer does not hold.")
    if objective.weighting().whole_step:
        raise UserError(
            f"objective: a weight of {config.objective} depends on its whole optimizer step, so that a trajectory has "
            "none alone. Look at the `weights/` metrics of a training run."
        )
    inputs = {"model": model, "buffer": config.buffer}
    parts = {f"objective:{config.objective}": OBJECTIVES[config.objective].version}
    prepared = None if is_finished(config.output_dir) else _prepare(config, model, objective)
    with open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run_dir:
        if run_dir.complete or prepared is None:
            note(f"{config.output_dir}: complete, the page is written again.")
            return run_dir.output_dir
        rows = in_parts(run_dir, _JOURNAL, len(prepared.tokens), partial(_weigh, prepared))
        with replacing(run_dir.work / WEIGHTS) as temporary:
            pyarrow.parquet.write_table(rows, temporary, compression="zstd")
        weighting = objective.weighting()
        bounds = {name: getattr(weighting, name, None) for name in ("log_ratio_clip", "log_weight_clip")}
        return run_dir.finish({"trajectories": len(rows), **bounds, **prepared.trajectories.of_estimate()})


def _prepare(config: InspectConfig, model: str, objective: "Objective") -> _Prepared:
    from pear.data.rendering import token_texts

    found = open_scorable(config, model)
    tokens = [token_texts(found.tokenizer, row["completion_ids"]) for row in found.rows]
    return _Prepared(objective=objective, trajectories=found, tokens=tokens)


def _weigh(prepared: _Prepared, chosen: slice) -> list[dict[str, Any]]:
    """The rows of some trajectories, each weighed alone."""
    import torch

    from pear.objectives import TokenBatch

    weighed = []
    for (row, log_probs), tokens in zip(prepared.trajectories.scored(chosen), prepared.tokens[chosen], strict=True):
        batch = TokenBatch(
            log_probs=torch.tensor([log_probs], dtype=torch.float64),
            response_mask=torch.ones(1, len(log_probs), dtype=torch.bool),
            behavior_log_probs=torch.tensor([row["behavior_log_probs"]], dtype=torch.float64),
        )
        metrics = prepared.objective.diagnostics(batch).metrics()
        weighed.append(
            {
                "problem_id": row["problem_id"],
                "task": row["task"],
                "prompt": "\n".join(message["content"] for message in row["prompt"]),
                "tokens": tokens,
                "log_probs": log_probs,
                "behavior_log_probs": row["behavior_log_probs"],
                "weights": prepared.objective(batch).weights[0].tolist(),
                "effective_sample_size": metrics["weights/effective_sample_size"],
                "clipped": sum(value for key, value in metrics.items() if key.startswith("weights/clipped/")),
            }
        )
    return weighed
