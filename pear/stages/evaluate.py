"""`pear evaluate`: samples a model on held-out problems and says how often it is right, and how sure that is."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pear.configuration import NotHashed, StrictModel
from pear.engines.protocol import Completion, Sampling, derive_seed
from pear.models import resolve_model
from pear.runs import MANIFEST, note, open_run, write_json
from pear.tasks import TASKS, Problem, Verdict
from pear.tasks.problems import ProblemSet, load_problems, task_files, task_versions

if TYPE_CHECKING:
    import pyarrow
    from transformers import PreTrainedTokenizerBase

    from pear.engines.transformers_engine import TransformersEngine

NAME = "evaluate"
VERSION = 1
OUTCOMES = "outcomes.parquet"
METRICS = "metrics.json"
_SHARDS = "shards"


class EvaluateConfig(StrictModel):
    """Samples a model on problems and writes every outcome, avg@n and pass@k with intervals.

    Args:
        model: what is evaluated: a shipped model, a directory, or a hub id.
        problems: what it is asked; the `eval` split for what is reported.
        samples: completions per problem; the paper's 64.
        k: for which k pass@k is estimated; pass@1 always is. None above `samples`.
        temperature: of the sampling; 0 is greedy, with one sample.
        top_p: nucleus mass kept, 1 keeps all.
        top_k: number of tokens kept, 0 keeps all.
        max_tokens: most tokens of a completion, EOS included.
        seed: decides every draw, and the resamples of the intervals.
        shard_problems: problems per file on the way, which is what a kill can cost.
        batch_tokens: most tokens, prompts and `max_tokens` together, that are sampled at once.
        device: auto (the first CUDA device, or the CPU), cpu, cuda or cuda:N.
        dtype: auto is float32 on a CPU and bfloat16 elsewhere.
        output_dir: where the outcomes and metrics go.
    """

    model: Annotated[str, NotHashed()]
    problems: Annotated[list[ProblemSet], Field(min_length=1)]
    samples: Annotated[int, Field(gt=0)] = 64
    k: list[Annotated[int, Field(gt=0)]] = [1, 8]
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(gt=0)] = 4096
    seed: Annotated[int, Field(ge=0)] = 0
    shard_problems: Annotated[int, Field(gt=0)] = 512
    batch_tokens: Annotated[int, Field(gt=0)] = 32_768
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    output_dir: Annotated[Path, NotHashed()]

    @field_validator("k")
    @classmethod
    def _enough_samples(cls, value: list[int], info: ValidationInfo) -> list[int]:
        samples = info.data.get("samples")
        if samples is not None and value and max(value) > samples:
            raise ValueError(f"pass@{max(value)} needs as many samples, and `samples` is {samples}; raise it")
        return sorted({1, *value})

    @field_validator("temperature")
    @classmethod
    def _one_greedy_sample(cls, value: float, info: ValidationInfo) -> float:
        if value == 0 and info.data.get("samples", 1) > 1:
            raise ValueError("greedy samples are all the same; set `samples` to 1, or a temperature above 0")
        return value

    @property
    def sampling(self) -> Sampling:
        """How completions are sampled."""
        fields = ("temperature", "top_p", "top_k", "max_tokens", "samples", "seed")
        return Sampling(**{name: getattr(self, name) for name in fields})


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a run needs, checked."""

    engine: "TransformersEngine"
    tokenizer: "PreTrainedTokenizerBase"
    problems: list[Problem]
    prompts: list[list[int]]
    stop_ids: list[int]


def run(config: EvaluateConfig) -> Path:
    """Writes `outcomes.parquet` and `metrics.json`. A killed run goes on at the first file that is missing.

    Raises:
        UserError: no such model or task, no problem, no chat template, or prompts that do not fit into the model's
            context; before anything is written.
    """
    model = resolve_model(config.model)
    inputs: dict[str, str | Path] = {"model": model, **task_files(config.problems)}
    parts = task_versions(config.problems)
    prepared = None if (config.output_dir / MANIFEST).is_file() else _prepare(config, model)
    with open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run_dir:
        if run_dir.complete or prepared is None:
            note(f"{config.output_dir}: complete, nothing to do.")
            return run_dir.output_dir
        shards = run_dir.work / _SHARDS
        shards.mkdir(exist_ok=True)
        for shard, start in enumerate(range(0, len(prepared.problems), config.shard_problems)):
            run_dir.progress(start, len(prepared.problems), "problems")
            path = shards / f"{shard:05d}.parquet"
            if not path.is_file():
                _write(path, _sample_shard(config, prepared, shard))
        outcomes = _read_all(shards)
        _write(run_dir.work / OUTCOMES, outcomes)
        metrics = outcome_metrics(outcomes, config)
        write_json(run_dir.work / METRICS, metrics)
        shutil.rmtree(shards)
        return run_dir.finish(metrics)


def _prepare(config: EvaluateConfig, model: str) -> _Prepared:
    """Everything that can be wrong with what the user gave, before anything is written."""
    from pear.data.rendering import load_tokenizer, render_prompt, stop_token_ids
    from pear.engines.transformers_engine import TransformersEngine

    problems = load_problems(config.problems)
    tokenizer = load_tokenizer(model)
    prompts = [render_prompt(tokenizer, problem.prompt) for problem in problems]
    stop_ids = stop_token_ids(tokenizer, model)
    engine = TransformersEngine(model, tokenizer, config.device, dtype=config.dtype, batch_tokens=config.batch_tokens)
    engine.check_lengths(max(map(len, prompts)) + config.max_tokens, what="the longest prompt + max_tokens")
    if config.samples < 2 * max(config.k):
        note(
            f"pass@{max(config.k)} from {config.samples} samples is a rough estimate; "
            f"{2 * max(config.k)} samples or more make it steadier."
        )
    return _Prepared(engine=engine, tokenizer=tokenizer, problems=problems, prompts=prompts, stop_ids=stop_ids)


def _sample_shard(config: EvaluateConfig, prepared: _Prepared, shard: int) -> "pyarrow.Table":
    """The outcomes of one shard's problems, sampled with the shard's own seed."""
    import pyarrow

    from pear.data.rendering import decode_completion

    chosen = slice(shard * config.shard_problems, (shard + 1) * config.shard_problems)
    sampling = config.sampling.model_copy(update={"seed": derive_seed(config.seed, NAME, shard)})
    groups = prepared.engine.generate(
        prepared.prompts[chosen], sampling, stop_token_ids=prepared.stop_ids, log_probs=False
    )
    samples = [
        (problem, number, completion)
        for problem, group in zip(prepared.problems[chosen], groups, strict=True)
        for number, completion in enumerate(group)
    ]
    texts = [decode_completion(prepared.tokenizer, sample.token_ids, prepared.stop_ids) for _, _, sample in samples]
    verdicts = _verify([problem for problem, _, _ in samples], texts)
    rows = [_row(*sample, text, verdict) for sample, text, verdict in zip(samples, texts, verdicts, strict=True)]
    return pyarrow.Table.from_pylist(rows, schema=_schema())


def _verify(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    """The verdicts, in order; each task gets its own completions at once."""
    verdicts: dict[int, Verdict] = {}
    for name in dict.fromkeys(problem.task for problem in problems):
        rows = [row for row, problem in enumerate(problems) if problem.task == name]
        found = TASKS[name].verify_many([problems[row] for row in rows], [texts[row] for row in rows])
        verdicts.update(zip(rows, found, strict=True))
    return [verdicts[row] for row in range(len(problems))]


def _row(problem: Problem, number: int, completion: Completion, text: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "problem_id": problem.id,
        "task": problem.task,
        "level": problem.level,
        "sample": number,
        "correct": verdict.correct,
        "well_formed": verdict.well_formed,
        "reason": verdict.reason,
        "answer": verdict.answer,
        "finish": completion.finish,
        "num_tokens": len(completion.token_ids),
        "completion": text,
    }


def _schema() -> "pyarrow.Schema":
    import pyarrow

    text, boolean = pyarrow.string(), pyarrow.bool_()
    return pyarrow.schema(
        [
            ("problem_id", text),
            ("task", text),
            ("level", text),
            ("sample", pyarrow.int32()),
            ("correct", boolean),
            ("well_formed", boolean),
            ("reason", text),
            ("answer", text),
            ("finish", text),
            ("num_tokens", pyarrow.int32()),
            ("completion", text),
        ]
    )


def _write(path: Path, table: "pyarrow.Table") -> None:
    import pyarrow.parquet

    temporary = path.with_name(path.name + ".tmp")
    pyarrow.parquet.write_table(table, temporary, compression="zstd")
    temporary.rename(path)


def _read_all(shards: Path) -> "pyarrow.Table":
    import pyarrow
    import pyarrow.parquet

    return pyarrow.concat_tables([pyarrow.parquet.read_table(path) for path in sorted(shards.glob("*.parquet"))])


def outcome_metrics(outcomes: "pyarrow.Table", config: EvaluateConfig) -> dict[str, Any]:
    """What `metrics.json` holds, from the outcomes: over all problems, and for each task.

    Intervals are 95% bootstraps over whole problems, within tasks; they say nothing about training again.
    """
    import pyarrow.compute

    tasks = pyarrow.compute.unique(outcomes["task"]).to_pylist()
    return {
        **_summary(outcomes, config),
        "decoding": config.sampling.model_dump(mode="json"),
        "tasks": {
            task: _summary(outcomes.filter(pyarrow.compute.equal(outcomes["task"], task)), config)
            for task in sorted(tasks)
        },
    }


def _summary(outcomes: "pyarrow.Table", config: EvaluateConfig) -> dict[str, Any]:
    import numpy

    from pear.ops.pass_at_k import pass_at_k
    from pear.ops.statistics import bootstrap_interval

    correct = outcomes["correct"].to_numpy().reshape(-1, config.samples)
    strata = outcomes["task"].to_pylist()[:: config.samples]
    intervals = {}
    for k in config.k:
        found = bootstrap_interval(pass_at_k(correct, k), strata, seed=config.seed)
        intervals[f"pass@{k}"] = {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
    return {
        "num_problems": len(correct),
        "num_samples": config.samples,
        **intervals,
        # The mean over samples is the unbiased pass@1.
        "avg@n": intervals["pass@1"],
        "format": float(numpy.mean(outcomes["well_formed"].to_numpy())),
        "truncated": float(numpy.mean(outcomes["finish"].to_numpy() == "length")),
        "mean_tokens": float(numpy.mean(outcomes["num_tokens"].to_numpy())),
    }
