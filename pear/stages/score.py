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
from pear.runs import Run, input_fingerprint, is_finished, note, open_run
from pear.stages.collect import model_label
from pear.tasks.problems import read_rows

if TYPE_CHECKING:
    from array import array

    from transformers import PreTrainedTokenizerBase

    from pear.data.buffer import BufferManifest
    from pear.engines import Engine

NAME = "score"
VERSION = 1
# Fields that only an estimate reads.
_OF_ESTIMATE = ("folds", "fit", "seed")


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
        behavior: whose log-probs are written: "model", or "estimate", where the policy that made the trajectories is
            not at hand (people, a closed API): of models fitted to the trajectories, each to all folds but the one that
            it scores. `model` is what they are fitted from.
        folds: for an estimate: how many. Problems are dealt to them, so that no model has seen the problem it scores.
        fit: for an estimate: fields of `PearConfig`, such as {num_train_epochs: 2}; `seed` deals and orders.
        seed: for an estimate.
        align: a model, or a directory with a tokenizer, of another vocabulary: the buffer is written in its tokens,
            with the log-prob of each span of text between places where both tokenizers meet (docs/buffer.md).
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
    behavior: Literal["model", "estimate"] = "model"
    folds: Annotated[int, Field(ge=2)] = 5
    fit: dict[str, Any] = {}
    seed: Annotated[int, Field(ge=0)] = 0
    align: Annotated[str | None, NotHashed()] = None
    teacher_top_k: Annotated[int, Field(ge=0)] = 0
    memory_gib: Annotated[float, Field(gt=0)] = 1.0
    engine: EngineName = "transformers"
    engine_kwargs: dict[str, Any] = {}
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    output_dir: Annotated[Path, NotHashed()]

    _engine_kwargs = field_validator("engine_kwargs")(checked_engine_kwargs)

    def hashed(self) -> dict[str, Any]:
        """As every stage's; `teacher_top_k`, and what is about an estimate, where they are used."""
        from pear.training.trainer_arguments import hashed_trainer_values

        found = {**hashed_engine(super().hashed()), "fit": hashed_trainer_values(self.fit)}
        unused = {"teacher_top_k"} if not self.teacher_top_k else set()
        if self.behavior == "model":
            unused |= {"behavior", *_OF_ESTIMATE}
        return {name: value for name, value in found.items() if name not in unused}


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a run needs, checked.

    `engine` is None for an estimate, whose models have engines of their own. `unaligned` is how many trajectories are
    left out since the tokenizers differ.
    """

    engine: "Engine | None"
    tokenizer: "PreTrainedTokenizerBase"
    rows: list[dict[str, Any]]
    manifest: "BufferManifest"
    unaligned: int


@dataclass(frozen=True, kw_only=True)
class _Source:
    """One input, read: its rows, and where it is a buffer its manifest, and its stop tokens in the model's ids.

    Where a buffer's ids are those of `align`, the rows have them as `target_ids`, and their text to be tokenized; those
    without text are left out. Its stop tokens are `target_stops` then.
    """

    name: str
    rows: Sequence[dict[str, Any]]
    manifest: "BufferManifest | None" = None
    stops: Sequence[int] = ()
    target_stops: Sequence[int] = ()
    left_out: int = 0


def run(config: ScoreConfig) -> Path:
    """Writes the buffer. A killed run goes on at the first file that is missing, and the result is the same.

    Raises:
        UserError: no such model or file, a row that cannot be read or does not fit into the model's context (names
            it), or a buffer of another tokenizer; before anything is written.
    """
    from pear.data.buffer import JOURNAL, BufferWriter

    model = resolve_model(config.model)
    _check_inputs(config.inputs)
    _check_estimate(config)
    inputs = {"model": model, **{f"input_{index}": path for index, path in enumerate(config.inputs)}}
    if config.align is not None:
        inputs["align"] = _tokenizer_source(config.align)
    prepared = None if is_finished(config.output_dir) else _prepare(config, model)
    engine = nullcontext() if prepared is None or prepared.engine is None else closing(prepared.engine)
    parts = {}
    if config.behavior == "estimate":
        from pear.objectives import OBJECTIVES

        parts["objective:nll"] = OBJECTIVES["nll"].version
    with engine, open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run_dir:
        if run_dir.complete or prepared is None:
            note(f"{config.output_dir}: complete, nothing to do.")
            return run_dir.output_dir
        writer = BufferWriter(run_dir.work, prepared.manifest, run_dir.scratch / JOURNAL)
        estimates = _estimates(config, model, prepared, run_dir) if prepared.engine is None else []
        starts = range(0, len(prepared.rows), config.shard_rows)
        for shard, start in enumerate(starts):
            run_dir.progress(start, len(prepared.rows), "trajectories")
            if not writer.has_shard(shard):
                chosen = slice(start, start + config.shard_rows)
                if prepared.engine is None:
                    rows = _with_log_probs(prepared.rows[chosen], estimates[chosen])
                else:
                    rows = _scored(prepared.engine, prepared.rows[chosen], config.teacher_top_k)
                writer.write_shard(shard, rows)
        counts = writer.close(len(starts)).counts
        assert counts is not None
        return run_dir.finish({**counts.model_dump(), **({"unaligned": prepared.unaligned} if config.align else {})})


def _check_inputs(inputs: Sequence[str]) -> None:
    for name in inputs:
        if not Path(name).exists():
            raise UserError(f"{name}: no such file or directory.")


def _check_estimate(config: ScoreConfig) -> None:
    if config.behavior == "model":
        for name in _OF_ESTIMATE:
            if getattr(config, name) != ScoreConfig.model_fields[name].default:
                raise UserError(f"{name}: only read with `--behavior estimate`. Leave it out.")
        return
    if config.align is not None:
        raise UserError("align: an estimate can be fitted from a model with the wanted tokenizer. Name that as model.")
    if config.teacher_top_k:
        raise UserError("teacher_top_k: an estimate of the behavior policy is no teacher. Leave it out.")
    if config.engine == "server":
        raise UserError("engine: a server cannot load the models that are fitted. Use transformers, vllm or ray.")


def _prepare(config: ScoreConfig, model: str) -> _Prepared:
    """Everything that can be wrong with what the user gave, before anything is written."""
    from pear.data.buffer import Estimate, TeacherTop, new_manifest
    from pear.data.rendering import load_tokenizer, stop_token_ids, tokenizer_digest
    from pear.engines import open_engine
    from pear.stages.cross_fitting import check_fit

    tokenizer = load_tokenizer(model)
    target = None if config.align is None else _target(config, tokenizer)
    sources = [_read(Path(name), tokenizer, target) for name in config.inputs]
    stops = sorted({*stop_token_ids(tokenizer, model), *(stop for source in sources for stop in source.stops)})
    engine = open_engine(config, model, tokenizer)
    if config.teacher_top_k > engine.vocabulary:
        raise UserError(
            f"teacher_top_k: {config.teacher_top_k}, but the vocabulary of {config.model} has {engine.vocabulary} "
            "tokens. Use a smaller number, such as 20."
        )
    rows = [row for source in sources for row in _tokenized(source, tokenizer, stops, engine)]
    unaligned = 0
    if target is not None:
        aligned = [row for row in (_aligned(row, tokenizer, target) for row in rows) if row is not None]
        unaligned = len(rows) - len(aligned) + sum(source.left_out for source in sources)
        rows = aligned
        if not rows:
            raise UserError(
                f"align: none of the trajectories is one text in both tokenizers, {model} and {config.align}."
            )
        if unaligned:
            note(f"{unaligned} trajectories are not one text in both tokenizers, and are left out.")
        own = stop_token_ids(target, _tokenizer_source(str(config.align)))
        stops = sorted({*own, *(stop for source in sources for stop in source.target_stops)})
    samplings = [source.manifest.sampling if source.manifest is not None else None for source in sources]
    label, digest = model_label(config.model), input_fingerprint(model)
    estimate = None
    if config.behavior == "estimate":
        check_fit(rows, tokenizer, folds=config.folds, fit=config.fit, seed=config.seed, where=config.output_dir)
        estimate = Estimate(model=label, folds=config.folds)
        label = f"an estimate, fitted from {label}"
    rows = [{**row, "behavior_model": label} for row in rows]
    manifest = new_manifest(
        tokenizer if target is None else target,
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
        estimate=estimate,
        aligned_from=None if target is None else tokenizer_digest(tokenizer),
    )
    if estimate is not None:
        engine.close()
    return _Prepared(
        engine=engine if estimate is None else None,
        tokenizer=tokenizer,
        rows=rows,
        manifest=manifest,
        unaligned=unaligned,
    )


def _tokenizer_source(name: str) -> str:
    """Where the tokenizer of `align` is: in a model, or in a directory, which needs no model."""
    return name if Path(name).is_dir() else resolve_model(name)


def _target(config: ScoreConfig, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """The tokenizer of `align`, checked."""
    from pear.data.alignment import check_decodable
    from pear.data.rendering import load_tokenizer, vocabulary_digest

    target = load_tokenizer(_tokenizer_source(str(config.align)))
    if vocabulary_digest(target) == vocabulary_digest(tokenizer):
        raise UserError(
            f"align: {config.align} and {config.model} have the same ordinary tokens, so every token keeps its own "
            "log-prob, and `pear sft` translates the others. Leave it out."
        )
    if target.eos_token_id is None:
        raise UserError(f"align: the tokenizer of {config.align} has no EOS token. Set `eos_token` in its files.")
    if config.teacher_top_k:
        raise UserError("teacher_top_k: the likeliest tokens of another tokenizer are no targets. Leave it out.")
    for one in (tokenizer, target):
        check_decodable(one)
    return target


def _tokenized(
    source: _Source, tokenizer: "PreTrainedTokenizerBase", stops: Sequence[int], engine: "Engine"
) -> list[dict[str, Any]]:
    """The rows of an input in the model's tokens, without log-probs."""
    from pear.data.trajectories import read_trajectories, tokenize

    rows = []
    for given, trajectory in zip(source.rows, read_trajectories(source.rows, source.name), strict=True):
        row = tokenize(trajectory, tokenizer, stops, engine.vocabulary)
        if "target_ids" in given:
            row["target_ids"] = given["target_ids"]
            if given["finish"] != "stop":
                # Text is encoded with EOS at its end, and this one was cut.
                row |= {"completion_ids": row["completion_ids"][:-1], "finish": given["finish"]}
        engine.check_lengths(len(row["behavior_prompt_ids"]) + len(row["completion_ids"]), what=trajectory.place)
        rows.append(row)
    return rows


def _aligned(
    row: dict[str, Any], tokenizer: "PreTrainedTokenizerBase", target: "PreTrainedTokenizerBase"
) -> dict[str, Any] | None:
    from pear.data.alignment import align

    ids, stopped = row["completion_ids"], row["finish"] == "stop"
    found = align(tokenizer, ids, target, stopped=stopped, target_ids=row.get("target_ids"))
    return None if found is None else {**row, "alignment": found}


def _estimates(config: ScoreConfig, model: str, prepared: _Prepared, run_dir: Run) -> "list[array[float]]":
    """The log-probs of every row under the model that was fitted to the other folds."""
    from pear.engines import open_engine
    from pear.stages.cross_fitting import cross_fitted_log_probs

    return cross_fitted_log_probs(
        prepared.rows,
        model,
        prepared.tokenizer,
        run_dir,
        folds=config.folds,
        fit=config.fit,
        seed=config.seed,
        open_model=lambda fitted: open_engine(config, fitted, prepared.tokenizer),
    )


def _read(path: Path, tokenizer: "PreTrainedTokenizerBase", target: "PreTrainedTokenizerBase | None") -> _Source:
    from pear.data.buffer import is_buffer, read_manifest, read_shards
    from pear.data.rendering import vocabulary_digest
    from pear.data.token_map import token_map, translate, translate_stops

    if not path.is_dir():
        return _Source(name=str(path), rows=read_rows(path))
    if is_buffer(path):
        manifest, tables = read_manifest(path), read_shards(path)
        if target is not None and manifest.vocabulary_digest == vocabulary_digest(target):
            tokens = token_map(manifest, target)
            rows = [row for table in tables for row in translate(table, tokens).to_pylist()]
            # Without ids, so that the text is tokenized for the model.
            texts = [
                {**row, "target_ids": row["completion_ids"], "completion_ids": None, "behavior_prompt_ids": None}
                for row in rows
                if row["completion"].strip()
            ]
            return _Source(
                name=str(path),
                rows=texts,
                manifest=manifest,
                target_stops=translate_stops(manifest.stop_token_ids, tokens),
                left_out=len(rows) - len(texts),
            )
        if tokens := token_map(manifest, tokenizer):
            # Without the prompts' ids, so that they are rendered in this model's own template.
            tables = [translate(table, tokens).drop_columns("behavior_prompt_ids") for table in tables]
        rows = [row for table in tables for row in table.to_pylist()]
        stops = translate_stops(manifest.stop_token_ids, tokens)
        return _Source(name=str(path), rows=rows, manifest=manifest, stops=stops)
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
        return _Source(name=str(path), rows=Dataset.load_from_disk(str(path)).to_list())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not readable as a data set ({str(error).splitlines()[0]}).") from None


def _scored(engine: "Engine", rows: Sequence[dict[str, Any]], top_k: int) -> list[dict[str, Any]]:
    prompts, completions = [row["behavior_prompt_ids"] for row in rows], [row["completion_ids"] for row in rows]
    if not top_k:
        return _with_log_probs(rows, engine.score(prompts, completions))
    log_probs, top = engine.score_top(prompts, completions, top_k)
    return [
        {**row, "behavior_log_probs": values, "teacher_top": tokens}
        for row, values, tokens in zip(rows, log_probs, top, strict=True)
    ]


def _with_log_probs(rows: Sequence[dict[str, Any]], log_probs: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """The rows with the log-probs of their tokens, in the tokens of the target where that has others."""
    scored = []
    for row, values in zip(rows, log_probs, strict=True):
        if "alignment" in row:
            scored.append({**row, **row["alignment"].carried(values)})
        else:
            scored.append({**row, "behavior_log_probs": values})
    return scored
