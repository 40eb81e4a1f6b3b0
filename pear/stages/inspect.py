"""`pear inspect`: the weights that an objective gives to each token of a buffer, for a page to look at."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.models import resolve_model
from pear.runs import Files, Run, is_finished, note, open_run, replacing

if TYPE_CHECKING:
    import pyarrow

    from pear.engines.transformers_engine import TransformersEngine
    from pear.objectives import Objective

NAME = "inspect"
VERSION = 1
WEIGHTS = "weights.parquet"
# Trajectories in a file on the way, which is what a kill can cost.
_STEP = 64
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
    engine: "TransformersEngine"
    rows: list[dict[str, Any]]
    prompts: list[list[int]]
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
        rows = _weigh_all(prepared, run_dir)
        with replacing(run_dir.work / WEIGHTS) as temporary:
            pyarrow.parquet.write_table(rows, temporary, compression="zstd")
        weighting = objective.weighting()
        bounds = {name: getattr(weighting, name, None) for name in ("log_ratio_clip", "log_weight_clip")}
        return run_dir.finish({"trajectories": len(rows), **bounds})


def _prepare(config: InspectConfig, model: str, objective: "Objective") -> _Prepared:
    from pear.data.buffer import check_tokenizer, load_buffer, read_manifest
    from pear.data.rendering import load_tokenizer, render_prompt, token_texts
    from pear.engines.transformers_engine import TransformersEngine

    manifest = read_manifest(config.buffer)
    tokenizer = load_tokenizer(model)
    check_tokenizer(manifest, tokenizer)
    dataset = load_buffer(config.buffer)
    rows = dataset.select(range(min(config.trajectories, len(dataset)))).to_list()
    prompts = [render_prompt(tokenizer, row["prompt"]) for row in rows]
    engine = TransformersEngine(model, tokenizer, config.device, dtype=config.dtype, memory_gib=config.memory_gib)
    for row, prompt in zip(rows, prompts, strict=True):
        engine.check_lengths(len(prompt) + len(row["completion_ids"]), what=row["problem_id"])
    tokens = [token_texts(tokenizer, row["completion_ids"]) for row in rows]
    return _Prepared(objective=objective, engine=engine, rows=rows, prompts=prompts, tokens=tokens)


def _weigh_all(prepared: _Prepared, run_dir: Run) -> "pyarrow.Table":
    """The rows of all trajectories; files of them that a killed run left whole are not made again."""
    import pyarrow
    import pyarrow.parquet

    files = Files(run_dir.scratch, run_dir.scratch / _JOURNAL)
    tables = []
    for start in range(0, len(prepared.rows), _STEP):
        run_dir.progress(start, len(prepared.rows), "trajectories")
        name = f"{start:08d}.parquet"
        if not files.has(name):
            rows = pyarrow.Table.from_pylist(_weigh(prepared, slice(start, start + _STEP)))
            with files.writing(name) as temporary:
                pyarrow.parquet.write_table(rows, temporary, compression="zstd")
        tables.append(pyarrow.parquet.read_table(run_dir.scratch / name))
    return pyarrow.concat_tables(tables)


def _weigh(prepared: _Prepared, chosen: slice) -> list[dict[str, Any]]:
    """The rows of some trajectories, each weighed alone."""
    import torch

    from pear.objectives import TokenBatch

    rows = prepared.rows[chosen]
    scores = prepared.engine.score(prepared.prompts[chosen], [row["completion_ids"] for row in rows])
    weighed = []
    for row, tokens, log_probs in zip(rows, prepared.tokens[chosen], scores, strict=True):
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
