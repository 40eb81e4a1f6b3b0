"""`pear score`: adds a model's log-probs to trajectories from elsewhere, or scores a buffer again."""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from pear.configuration import NotHashed, StrictModel
from pear.engines.settings import EngineName, checked_engine_kwargs, hashed_engine
from pear.errors import UserError
from pear.models import resolve_model
from pear.runs import input_fingerprint, is_finished, note, open_run
from pear.stages.collect import model_label
from pear.tasks.problems import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pear.data.buffer import BufferManifest
    from pear.engines import Engine

NAME = "score"
VERSION = 1


class ScoreConfig(StrictModel):
    """Scores trajectories with a model and writes them as a buffer.

    A row has `messages` (ending with the assistant's turn), or `prompt` (text or messages) and `completion` (text or
    one assistant message), or `completion_ids` in place of the text; and, where known, `correct`, `reward`,
    `problem_id`, `task` and `split`. Prompts are rendered in the model's chat template. Text is encoded once, with EOS
    at its end. Nothing is verified here: rows without `correct` or `reward` count as correct.

    Args:
        model: the behavior policy: the model that made the trajectories, or one that stands for it.
        inputs: .jsonl, .json, .csv or .parquet files, directories written by `datasets.save_to_disk`, or buffers.
        shard_rows: trajectories per file of the buffer, which is what a kill can cost.
        teacher_top_k: also write this many of the model's likeliest tokens at each position, with their log-probs: what
            distillation without a live teacher learns from. 0 writes none; 8 bytes each for a token.
        memory_gib: what scoring may take beside the model's weights, about.
        engine: what samples and scores: transformers, vllm, server or ray; and `engine_kwargs`, its settings.
        engine_kwargs: settings of the engine, such as {endpoints: [...]} of a server.
        device: auto (the first CUDA device, or the CPU), cpu, cuda or cuda:N.
        dtype: auto is float32 on a CPU and bfloat16 elsewhere.
        output_dir: where the buffer goes.
    """

    model: Annotated[str, NotHashed()]
    inputs: Annotated[list[str], Field(min_length=1), NotHashed()]
    shard_rows: Annotated[int, Field(gt=0)] = 4096
    teacher_top_k: Annotated[int, Field(ge=0)] = 0
    memory_gib: Annotated[float, Field(gt=0)] = 1.0
    engine: EngineName = "transformers"
    engine_kwargs: dict[str, Any] = {}
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    output_dir: Annotated[Path, NotHashed()]

    _engine_kwargs = field_validator("engine_kwargs")(checked_engine_kwargs)

    def hashed(self) -> dict[str, Any]:
        """As every stage's; `teacher_top_k` where it is used."""
        found = hashed_engine(super().hashed())
        return {name: value for name, value in found.items() if name != "teacher_top_k" or value}


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a run needs, checked."""

    engine: "Engine"
    rows: list[dict[str, Any]]
    manifest: "BufferManifest"


@dataclass(frozen=True, kw_only=True)
class _Source:
    """One input, read: its rows, and its manifest where it is a buffer."""

    name: str
    rows: Sequence[dict[str, Any]]
    manifest: "BufferManifest | None"


def run(config: ScoreConfig) -> Path:
    """Writes the buffer. A killed run goes on at the first file that is missing, and the result is the same.

    Raises:
        UserError: no such model or file, a row that cannot be read or does not fit into the model's context (names
            it), or a buffer of another tokenizer; before anything is written.
    """
    from pear.data.buffer import JOURNAL, BufferWriter

    model = resolve_model(config.model)
    _check_inputs(config.inputs)
    inputs = {"model": model, **{f"input_{index}": path for index, path in enumerate(config.inputs)}}
    prepared = None if is_finished(config.output_dir) else _prepare(config, model)
    engine = closing(prepared.engine) if prepared is not None else nullcontext()
    with engine, open_run(NAME, VERSION, config, config.output_dir, inputs=inputs) as run_dir:
        if run_dir.complete or prepared is None:
            note(f"{config.output_dir}: complete, nothing to do.")
            return run_dir.output_dir
        writer = BufferWriter(run_dir.work, prepared.manifest, run_dir.scratch / JOURNAL)
        starts = range(0, len(prepared.rows), config.shard_rows)
        for shard, start in enumerate(starts):
            run_dir.progress(start, len(prepared.rows), "trajectories")
            if not writer.has_shard(shard):
                rows = prepared.rows[start : start + config.shard_rows]
                writer.write_shard(shard, _scored(prepared.engine, rows, config.teacher_top_k))
        counts = writer.close(len(starts)).counts
        assert counts is not None
        return run_dir.finish(counts.model_dump())


def _check_inputs(inputs: Sequence[str]) -> None:
    for name in inputs:
        if not Path(name).exists():
            raise UserError(f"{name}: no such file or directory.")


def _prepare(config: ScoreConfig, model: str) -> _Prepared:
    """Everything that can be wrong with what the user gave, before anything is written."""
    from pear.data.buffer import TeacherTop, new_manifest
    from pear.data.rendering import load_tokenizer, stop_token_ids
    from pear.data.token_map import token_map, translate_stops
    from pear.data.trajectories import read_trajectories, tokenize
    from pear.engines import open_engine

    tokenizer = load_tokenizer(model)
    stops = stop_token_ids(tokenizer, model)
    sources = [_read(Path(name), tokenizer) for name in config.inputs]
    for source in sources:
        if source.manifest is not None:
            own = translate_stops(source.manifest.stop_token_ids, token_map(source.manifest, tokenizer))
            stops = sorted({*stops, *own})
    engine = open_engine(config, model, tokenizer)
    if config.teacher_top_k > engine.vocabulary:
        raise UserError(
            f"teacher_top_k: {config.teacher_top_k}, but the vocabulary of {config.model} has {engine.vocabulary} "
            "tokens. Use a smaller number, such as 20."
        )
    rows = []
    for source in sources:
        for trajectory in read_trajectories(source.rows, source.name):
            row = tokenize(trajectory, tokenizer, stops, engine.vocabulary)
            length = len(row["behavior_prompt_ids"]) + len(row["completion_ids"])
            engine.check_lengths(length, what=trajectory.place)
            rows.append({**row, "behavior_model": model_label(config.model)})
    samplings = [source.manifest.sampling if source.manifest is not None else None for source in sources]
    label, digest = model_label(config.model), input_fingerprint(model)
    manifest = new_manifest(
        tokenizer,
        stop_token_ids=stops,
        behavior_model=label,
        behavior_model_digest=digest,
        processed_log_probs=None,
        sampling=samplings[0] if all(sampling == samplings[0] for sampling in samplings) else None,
        engine=engine.name,
        verified=all(source.manifest is not None and source.manifest.verified for source in sources),
        teacher_top=TeacherTop(k=config.teacher_top_k, model=label, model_digest=digest)
        if config.teacher_top_k
        else None,
    )
    return _Prepared(engine=engine, rows=rows, manifest=manifest)


def _read(path: Path, tokenizer: "PreTrainedTokenizerBase") -> _Source:
    from pear.data.buffer import is_buffer, read_manifest, read_shards
    from pear.data.token_map import token_map, translate

    if not path.is_dir():
        return _Source(name=str(path), rows=read_rows(path), manifest=None)
    if is_buffer(path):
        manifest, tables = read_manifest(path), read_shards(path)
        if tokens := token_map(manifest, tokenizer):
            # Without the prompts' ids, so that they are rendered in this model's own template.
            tables = [translate(table, tokens).drop_columns("behavior_prompt_ids") for table in tables]
        rows = [row for table in tables for row in table.to_pylist()]
        return _Source(name=str(path), rows=rows, manifest=manifest)
    if (path / "dataset_dict.json").is_file():
        splits = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        raise UserError(f"{path}: several splits ({', '.join(splits)}). Name one, such as {path / splits[0]}.")
    if not (path / "state.json").is_file():
        raise UserError(
            f"{path}: neither a buffer nor written by `datasets.save_to_disk`. Name its files (.jsonl, .json, .csv or "
            ".parquet) instead."
        )
    from datasets import Dataset

    try:
        return _Source(name=str(path), rows=Dataset.load_from_disk(str(path)).to_list(), manifest=None)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not readable as a data set ({str(error).splitlines()[0]}).") from None


def _scored(engine: "Engine", rows: Sequence[dict[str, Any]], top_k: int) -> list[dict[str, Any]]:
    prompts, completions = [row["behavior_prompt_ids"] for row in rows], [row["completion_ids"] for row in rows]
    if not top_k:
        log_probs = engine.score(prompts, completions)
        return [{**row, "behavior_log_probs": values} for row, values in zip(rows, log_probs, strict=True)]
    log_probs, top = engine.score_top(prompts, completions, top_k)
    return [
        {**row, "behavior_log_probs": values, "teacher_top": tokens}
        for row, values, tokens in zip(rows, log_probs, top, strict=True)
    ]
