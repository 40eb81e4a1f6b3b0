"""`pear collect`: samples a behavior model on tasks, verifies, and writes an offline buffer with log-probs."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pear.configuration import NotHashed, StrictModel
from pear.data.decontamination import LeakWords
from pear.engines.protocol import Completion, Sampling, derive_seed
from pear.engines.settings import EngineName, checked_engine_kwargs, hashed_engine
from pear.models import resolve_model
from pear.runs import canonical_json, input_fingerprint, is_finished, note, open_run, write_json
from pear.stages.selection import REMOVED, Selection, select_problems, selection_versions
from pear.tasks import TASKS, Problem
from pear.tasks.problems import ProblemSet, task_files
from pear.tasks.protocol import Tags

if TYPE_CHECKING:
    import numpy
    from transformers import PreTrainedTokenizerBase

    from pear.data.buffer import BufferManifest
    from pear.engines import Engine

NAME = "collect"
VERSION = 1


class CollectConfig(StrictModel):
    """Samples a behavior model, verifies, and writes right and wrong trajectories with their log-probs.

    Args:
        model: the behavior model: a shipped model (`pear:affine_chain/behavior`), a directory, or a hub id.
        problems: what it is sampled on. Duplicates are left out, and near-duplicates among problems in free text.
        size: of a mix: how many problems all sets give together, by the `weight` that each has in place of its own
            `size`.
        evaluation: problems that the result is evaluated on; what occurs in them is left out of the buffer.
        leak_words: for problems in free text, any so many words in a row that an evaluation problem has too: 8 or 13.
        near_duplicates: for problems in free text, the Jaccard similarity of their three-word shingles from which the
            later one is left out; 1 for equal ones only.
        sampling: how. Raw log-probs are stored beside those of this distribution.
        tags: strict calls right what is right and in the format; lenient, what is right wherever it is found.
        shard_problems: problems per file of the buffer, which is what a kill can cost.
        max_correct_per_problem: the first so many right completions of a problem are kept; all by default.
        max_wrong_per_problem: the same for wrong ones.
        batch_tokens: most tokens, prompts and `max_tokens` together, that are sampled at once.
        memory_gib: what scoring may take beside the model's weights, about.
        engine: what samples and scores: transformers, vllm, server or ray; and `engine_kwargs`, its settings.
        engine_kwargs: settings of the engine, such as {endpoints: [...]} of a server.
        device: auto (the first CUDA device, or the CPU), cpu, cuda or cuda:N.
        dtype: auto is float32 on a CPU and bfloat16 elsewhere.
        output_dir: where the buffer goes.
    """

    model: Annotated[str, NotHashed()]
    problems: Annotated[list[ProblemSet], Field(min_length=1)]
    size: Annotated[int | None, Field(gt=0, validate_default=True)] = None
    evaluation: list[ProblemSet] = []
    leak_words: LeakWords = 8
    near_duplicates: Annotated[float, Field(gt=0, le=1)] = 0.8
    sampling: Sampling = Sampling()
    tags: Tags = "strict"
    shard_problems: Annotated[int, Field(gt=0)] = 512
    max_correct_per_problem: Annotated[int | None, Field(ge=0)] = None
    max_wrong_per_problem: Annotated[int | None, Field(ge=0)] = None
    batch_tokens: Annotated[int, Field(gt=0)] = 32_768
    memory_gib: Annotated[float, Field(gt=0)] = 1.0
    engine: EngineName = "transformers"
    engine_kwargs: dict[str, Any] = {}
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    output_dir: Annotated[Path, NotHashed()]

    _engine_kwargs = field_validator("engine_kwargs")(checked_engine_kwargs)

    @field_validator("size")
    @classmethod
    def _weights_fit(cls, value: int | None, info: ValidationInfo) -> int | None:
        sets: list[ProblemSet] = info.data.get("problems", [])
        weighted = [item.weight is not None for item in sets]
        if value is None and any(weighted):
            raise ValueError("sets of problems have a `weight`; set `size`, how many problems they give together")
        if value is not None and not all(weighted):
            raise ValueError("a mix needs a `weight` in every set of problems; set them, or leave `size` out")
        if value is not None and any(item.size is not None for item in sets):
            raise ValueError(
                "in a mix the weights decide how many problems a set gives; leave the sets' own `size` out"
            )
        return value

    def hashed(self) -> dict[str, Any]:
        """As every stage's; what was added later where it is not the default."""
        later = ("size", "evaluation", "leak_words", "near_duplicates", "tags")
        defaults = {name: type(self).model_fields[name].default for name in later}
        found = hashed_engine(super().hashed())
        return {name: value for name, value in found.items() if name not in defaults or value != defaults[name]}

    def inputs(self) -> dict[str, Path]:
        """The files that the problems come from."""
        return {**task_files(self.problems), **task_files(self.evaluation, "evaluation")}

    def versions(self) -> dict[str, int]:
        """The versions of what decides the problems, for fingerprints."""
        return selection_versions(self.problems, self.evaluation)

    def select(self) -> Selection:
        """The problems, and what was left out. Raises `UserError` on what cannot be had."""
        return select_problems(
            self.problems,
            size=self.size,
            evaluation=self.evaluation,
            leak_words=self.leak_words,
            near_duplicates=self.near_duplicates,
        )


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a run needs, checked."""

    engine: "Engine"
    tokenizer: "PreTrainedTokenizerBase"
    selection: Selection
    prompts: list["numpy.ndarray[Any, Any]"]
    manifest: "BufferManifest"


def run(config: CollectConfig) -> Path:
    """Writes the buffer. A killed run goes on at the first file that is missing, and the result is the same.

    Raises:
        UserError: no such model or task, no problem, no chat template, or prompts that do not fit into the model's
            context; before anything is written.
    """
    from pear.data.buffer import JOURNAL, BufferWriter

    model = resolve_model(config.model)
    inputs: dict[str, str | Path] = {"model": model, **config.inputs()}
    parts = config.versions()
    prepared = None if is_finished(config.output_dir) else _prepare(config, model)
    engine = closing(prepared.engine) if prepared is not None else nullcontext()
    with engine, open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run_dir:
        if run_dir.complete or prepared is None:
            note(f"{config.output_dir}: complete, nothing to do.")
            return run_dir.output_dir
        writer = BufferWriter(run_dir.work, prepared.manifest, run_dir.scratch / JOURNAL)
        selection = prepared.selection
        if selection.removed:
            note(f"{config.output_dir}: {selection.sentence()}")
        starts = range(0, len(selection.problems), config.shard_problems)
        for shard, start in enumerate(starts):
            run_dir.progress(start, len(selection.problems), "problems")
            if not writer.has_shard(shard):
                writer.write_shard(shard, _sample_shard(config, prepared, shard))
        write_json(run_dir.work / REMOVED, selection.report())
        counts = writer.close(len(starts)).counts
        assert counts is not None
        if counts.correct == 0:
            note(f"{config.output_dir}: none of {counts.rows} trajectories is correct, so SFT has nothing to imitate.")
        results = {"problems": len(selection.problems), **selection.counts(), **counts.model_dump()}
        return run_dir.finish(results)


def _prepare(config: CollectConfig, model: str) -> _Prepared:
    """Everything that can be wrong with what the user gave, before anything is written."""
    import numpy

    from pear.data.buffer import new_manifest
    from pear.data.rendering import load_tokenizer, render_prompt, stop_token_ids
    from pear.engines import open_engine

    selection = config.select()
    tokenizer = load_tokenizer(model)
    # As arrays: lists of a hundred thousand prompts would take a gigabyte.
    prompts = [
        numpy.array(render_prompt(tokenizer, problem.prompt), dtype=numpy.int32) for problem in selection.problems
    ]
    stops = stop_token_ids(tokenizer, model)
    engine = open_engine(config, model, tokenizer)
    longest = max(len(prompt) for prompt in prompts)
    engine.check_lengths(longest + config.sampling.max_tokens, what="the longest prompt + sampling.max_tokens")
    manifest = new_manifest(
        tokenizer,
        stop_token_ids=stops,
        behavior_model=model_label(config.model),
        behavior_model_digest=input_fingerprint(model),
        processed_log_probs="sampled",
        sampling=config.sampling.model_dump(mode="json"),
        engine=engine.name,
        verified=True,
    )
    return _Prepared(engine=engine, tokenizer=tokenizer, selection=selection, prompts=prompts, manifest=manifest)


def _sample_shard(config: CollectConfig, prepared: _Prepared, shard: int) -> list[dict[str, Any]]:
    """The rows of one shard: sampled with the shard's own seed, verified, and thinned out as the configuration asks."""
    chosen = slice(shard * config.shard_problems, (shard + 1) * config.shard_problems)
    problems, splits = prepared.selection.problems[chosen], prepared.selection.splits[chosen]
    prompts = [prompt.tolist() for prompt in prepared.prompts[chosen]]
    seed = derive_seed(config.sampling.seed, NAME, shard)
    stops = prepared.manifest.stop_token_ids
    groups = prepared.engine.generate(prompts, config.sampling.model_copy(update={"seed": seed}), stop_token_ids=stops)
    shared = {
        "behavior_model": prepared.manifest.behavior_model,
        "sampling": canonical_json(
            {
                **config.sampling.model_dump(mode="json"),
                "engine": prepared.engine.name,
                "shard": shard,
                "stop_token_ids": list(stops),
            }
        ),
    }
    rows = [
        {**_row(problem, prompt, completion, prepared), "split": name, **shared}
        for problem, prompt, group, name in zip(problems, prompts, groups, splits, strict=True)
        for completion in group
    ]
    _verify(problems, rows, config.tags)
    return _thinned(rows, config)


def _row(problem: Problem, prompt: list[int], completion: Completion, prepared: _Prepared) -> dict[str, Any]:
    from pear.data.rendering import decode_completion

    ids = list(completion.token_ids)
    return {
        "problem_id": problem.id,
        "task": problem.task,
        "problem": problem.to_json(),
        "prompt": list(problem.prompt),
        "behavior_prompt_ids": prompt,
        "completion_ids": ids,
        "behavior_log_probs": list(completion.log_probs),
        "behavior_processed_log_probs": list(completion.processed_log_probs),
        "completion": decode_completion(prepared.tokenizer, ids, prepared.manifest.stop_token_ids),
        "finish": completion.finish,
    }


def _verify(problems: Sequence[Problem], rows: list[dict[str, Any]], tags: Tags) -> None:
    """Adds the verifier's word to rows, task by task."""
    by_id = {problem.id: problem for problem in problems}
    for task in sorted({problem.task for problem in problems}):
        own = [row for row in rows if row["task"] == task]
        texts = [row["completion"] for row in own]
        verdicts = TASKS[task].verify_many([by_id[row["problem_id"]] for row in own], texts)
        for row, verdict in zip(own, (verdict.by(tags) for verdict in verdicts), strict=True):
            row.update(correct=verdict.correct, reward=float(verdict.correct), reason=verdict.reason)


def _thinned(rows: list[dict[str, Any]], config: CollectConfig) -> list[dict[str, Any]]:
    most = {True: config.max_correct_per_problem, False: config.max_wrong_per_problem}
    seen: Counter[tuple[str, bool]] = Counter()
    kept = []
    for row in rows:
        key = (row["problem_id"], row["correct"])
        limit = most[row["correct"]]
        if limit is None or seen[key] < limit:
            kept.append(row)
        seen[key] += 1
    return kept


def model_label(model: str) -> str:
    """How a buffer calls a model: its name; for a directory the last part, since paths differ between machines."""
    return Path(model).resolve().name if Path(model).is_dir() else model
