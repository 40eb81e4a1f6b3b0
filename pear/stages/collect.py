"""`pear collect`: samples a behavior model on tasks, verifies, and writes an offline buffer with log-probs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pear.configuration import NotHashed, StrictModel
from pear.engines.protocol import Completion, Sampling, derive_seed
from pear.models import resolve_model
from pear.runs import canonical_json, input_fingerprint, is_finished, note, open_run
from pear.tasks import TASKS, Problem
from pear.tasks.problems import ProblemSet, load_problems, task_files, task_versions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pear.data.buffer import BufferManifest
    from pear.engines.transformers_engine import TransformersEngine

NAME = "collect"
VERSION = 1


class CollectConfig(StrictModel):
    """Samples a behavior model, verifies, and writes right and wrong trajectories with their log-probs.

    Args:
        model: the behavior model: a shipped model (`pear:affine_chain/behavior`), a directory, or a hub id.
        problems: what it is sampled on.
        sampling: how. Raw log-probs are stored beside those of this distribution.
        shard_problems: problems per file of the buffer, which is what a kill can cost.
        max_correct_per_problem: the first so many right completions of a problem are kept; all by default.
        max_wrong_per_problem: the same for wrong ones.
        batch_tokens: most tokens, prompts and `max_tokens` together, that are sampled at once.
        memory_gib: what scoring may take beside the model's weights, about.
        device: auto (the first CUDA device, or the CPU), cpu, cuda or cuda:N.
        dtype: auto is float32 on a CPU and bfloat16 elsewhere.
        output_dir: where the buffer goes.
    """

    model: Annotated[str, NotHashed()]
    problems: Annotated[list[ProblemSet], Field(min_length=1)]
    sampling: Sampling = Sampling()
    shard_problems: Annotated[int, Field(gt=0)] = 512
    max_correct_per_problem: Annotated[int | None, Field(ge=0)] = None
    max_wrong_per_problem: Annotated[int | None, Field(ge=0)] = None
    batch_tokens: Annotated[int, Field(gt=0)] = 32_768
    memory_gib: Annotated[float, Field(gt=0)] = 1.0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    output_dir: Annotated[Path, NotHashed()]


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a run needs, checked."""

    engine: "TransformersEngine"
    tokenizer: "PreTrainedTokenizerBase"
    problems: list[Problem]
    splits: list[str]
    prompts: list[list[int]]
    manifest: "BufferManifest"


def run(config: CollectConfig) -> Path:
    """Writes the buffer. A killed run goes on at the first file that is missing, and the result is the same.

    Raises:
        UserError: no such model or task, no problem, no chat template, or prompts that do not fit into the model's
            context; before anything is written.
    """
    from pear.data.buffer import JOURNAL, BufferWriter

    model = resolve_model(config.model)
    inputs: dict[str, str | Path] = {"model": model, **task_files(config.problems)}
    parts = task_versions(config.problems)
    prepared = None if is_finished(config.output_dir) else _prepare(config, model)
    with open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run_dir:
        if run_dir.complete or prepared is None:
            note(f"{config.output_dir}: complete, nothing to do.")
            return run_dir.output_dir
        writer = BufferWriter(run_dir.work, prepared.manifest, run_dir.scratch / JOURNAL)
        starts = range(0, len(prepared.problems), config.shard_problems)
        for shard, start in enumerate(starts):
            run_dir.progress(start, len(prepared.problems), "problems")
            if not writer.has_shard(shard):
                writer.write_shard(shard, _sample_shard(config, prepared, shard))
        counts = writer.close(len(starts)).counts
        assert counts is not None
        if counts.correct == 0:
            note(f"{config.output_dir}: none of {counts.rows} trajectories is correct, so SFT has nothing to imitate.")
        return run_dir.finish({"problems": len(prepared.problems), **counts.model_dump()})


def _prepare(config: CollectConfig, model: str) -> _Prepared:
    """Everything that can be wrong with what the user gave, before anything is written."""
    from pear.data.buffer import new_manifest
    from pear.data.rendering import load_tokenizer, render_prompt, stop_token_ids
    from pear.engines.transformers_engine import TransformersEngine

    problems = load_problems(config.problems)
    tokenizer = load_tokenizer(model)
    prompts = [render_prompt(tokenizer, problem.prompt) for problem in problems]
    stops = stop_token_ids(tokenizer, model)
    engine = TransformersEngine(
        model,
        tokenizer,
        config.device,
        dtype=config.dtype,
        batch_tokens=config.batch_tokens,
        memory_gib=config.memory_gib,
    )
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
    splits = _splits(config.problems, len(problems))
    return _Prepared(
        engine=engine, tokenizer=tokenizer, problems=problems, splits=splits, prompts=prompts, manifest=manifest
    )


def _sample_shard(config: CollectConfig, prepared: _Prepared, shard: int) -> list[dict[str, Any]]:
    """The rows of one shard: sampled with the shard's own seed, verified, and thinned out as the configuration asks."""
    chosen = slice(shard * config.shard_problems, (shard + 1) * config.shard_problems)
    problems, prompts = prepared.problems[chosen], prepared.prompts[chosen]
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
        for problem, prompt, group, name in zip(problems, prompts, groups, prepared.splits[chosen], strict=True)
        for completion in group
    ]
    _verify(problems, rows)
    return _thinned(rows, config)


def _splits(sets: Sequence[ProblemSet], count: int) -> list[str]:
    """The split of every problem, in the order of `load_problems`."""
    names: list[str] = []
    for place, item in enumerate(sets):
        if place == len(sets) - 1:
            size = count - len(names)
        else:
            size = item.size if item.size is not None else len(load_problems([item]))
        names += [item.split or ""] * size
    return names


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


def _verify(problems: Sequence[Problem], rows: list[dict[str, Any]]) -> None:
    """Adds the verifier's word to rows, task by task."""
    by_id = {problem.id: problem for problem in problems}
    for task in sorted({problem.task for problem in problems}):
        own = [row for row in rows if row["task"] == task]
        texts = [row["completion"] for row in own]
        verdicts = TASKS[task].verify_many([by_id[row["problem_id"]] for row in own], texts)
        for row, verdict in zip(own, verdicts, strict=True):
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
