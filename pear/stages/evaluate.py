"""`pear evaluate`: samples a model on held-out problems and says how often it is right, and how sure that is."""

import itertools
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pear.configuration import NotHashed, StrictModel
from pear.engines.protocol import Sampling, derive_seed
from pear.engines.settings import EngineName, checked_engine_kwargs, hashed_engine
from pear.models import resolve_model
from pear.runs import Files, Run, file_digest, is_finished, note, open_run, replacing, write_json
from pear.stages.outcomes import outcome_metrics, outcome_row, outcome_schema
from pear.tasks import TASKS, Problem, Verdict
from pear.tasks.problems import ProblemSet, load_problems, task_files, task_versions
from pear.tasks.protocol import Tags

if TYPE_CHECKING:
    import pyarrow
    from transformers import PreTrainedTokenizerBase

    from pear.engines import Engine

NAME = "evaluate"
VERSION = 2
OUTCOMES = "outcomes.parquet"
METRICS = "metrics.json"
# Of outcomes.parquet, among the results in the manifest.
DIGEST = "outcomes_sha256"
_JOURNAL = "shards.json"


_Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class EvaluateConfig(StrictModel):
    """Samples a model on problems and writes every outcome, avg@n, pass@k and maj@n with intervals.

    Args:
        model: what is evaluated: a shipped model, a directory, or a hub id.
        problems: what it is asked; the `eval` split for what is reported.
        samples: completions per problem; the paper's 64.
        k: for which k pass@k is estimated, up to half of `samples`; pass@1 always is.
        temperature: of the sampling; 0 is greedy, with one sample. With several, everything is sampled at each, and
            the first is what is compared.
        top_p: nucleus mass kept, 1 keeps all.
        top_k: number of tokens kept, 0 keeps all.
        max_tokens: most tokens of a completion, EOS included.
        tags: strict counts right answers in the format alone; lenient, right answers wherever they are found.
        seed: decides every draw, and the resamples of the intervals.
        shard_problems: problems per file on the way, which is what a kill can cost.
        batch_tokens: most tokens, prompts and `max_tokens` together, that are sampled at once.
        engine: what samples and scores: transformers, vllm, server or ray; and `engine_kwargs`, its settings.
        engine_kwargs: settings of the engine, such as {endpoints: [...]} of a server.
        device: auto (the first CUDA device, or the CPU), cpu, cuda or cuda:N.
        dtype: auto is float32 on a CPU and bfloat16 elsewhere.
        output_dir: where the outcomes and metrics go.
    """

    model: Annotated[str, NotHashed()]
    problems: Annotated[list[ProblemSet], Field(min_length=1)]
    samples: Annotated[int, Field(gt=0)] = 64
    k: Annotated[list[Annotated[int, Field(gt=0)]], Field(validate_default=True)] = [1, 8]
    temperature: _Temperature | list[_Temperature] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(gt=0)] = 4096
    tags: Tags = "strict"
    seed: Annotated[int, Field(ge=0)] = 0
    shard_problems: Annotated[int, Field(gt=0)] = 512
    batch_tokens: Annotated[int, Field(gt=0)] = 32_768
    engine: EngineName = "transformers"
    engine_kwargs: dict[str, Any] = {}
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    output_dir: Annotated[Path, NotHashed()]

    _engine_kwargs = field_validator("engine_kwargs")(checked_engine_kwargs)

    @field_validator("k")
    @classmethod
    def _enough_samples(cls, value: list[int], info: ValidationInfo) -> list[int]:
        samples, largest = info.data.get("samples"), max(value, default=1)
        if samples is not None and largest > 1 and 2 * largest > samples:
            raise ValueError(
                f"pass@{largest} needs at least {2 * largest} samples, and `samples` is {samples}: with k near n a "
                f"problem's estimate has no spread left, and the interval does not cover. Raise `samples`, or lower `k`"
            )
        return sorted({1, *value})

    @field_validator("temperature")
    @classmethod
    def _distinct_temperatures(cls, value: float | list[float], info: ValidationInfo) -> float | list[float]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError("expected one temperature or several, such as 0.6 or [0.6, 1.0]")
        if len(set(values)) < len(values):
            raise ValueError("a temperature is named twice; leave one of them out")
        if 0 in values and info.data.get("samples", 1) > 1:
            raise ValueError("greedy samples are all the same; set `samples` to 1, or a temperature above 0")
        return value if len(values) > 1 else values[0]

    def hashed(self) -> dict[str, Any]:
        """Without `tags` where they are strict, as before there was a choice."""
        found = hashed_engine(super().hashed())
        return {name: value for name, value in found.items() if (name, value) != ("tags", "strict")}

    @property
    def samplings(self) -> list[Sampling]:
        """How completions are sampled, at each temperature."""
        fields = ("top_p", "top_k", "max_tokens", "samples", "seed")
        shared = {name: getattr(self, name) for name in fields}
        temperatures = self.temperature if isinstance(self.temperature, list) else [self.temperature]
        return [Sampling(temperature=temperature, **shared) for temperature in temperatures]


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What a run needs, checked."""

    engine: "Engine"
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
    import pyarrow.parquet

    model = resolve_model(config.model)
    inputs: dict[str, str | Path] = {"model": model, **task_files(config.problems)}
    parts = task_versions(config.problems)
    prepared = None if is_finished(config.output_dir) else _prepare(config, model)
    engine = closing(prepared.engine) if prepared is not None else nullcontext()
    with engine, open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run_dir:
        if run_dir.complete or prepared is None:
            note(f"{config.output_dir}: complete, nothing to do.")
            return run_dir.output_dir
        outcomes = _sample_all(config, prepared, run_dir)
        metrics = outcome_metrics(outcomes, config.samplings, config.k)
        write_json(run_dir.work / METRICS, metrics)
        with replacing(run_dir.work / OUTCOMES) as temporary:
            pyarrow.parquet.write_table(outcomes, temporary, compression="zstd")
        return run_dir.finish({**metrics, DIGEST: file_digest(run_dir.work / OUTCOMES)})


def _prepare(config: EvaluateConfig, model: str) -> _Prepared:
    """Everything that can be wrong with what the user gave, before anything is written."""
    from pear.data.rendering import load_tokenizer, render_prompt, stop_token_ids
    from pear.engines import open_engine

    problems = load_problems(config.problems)
    tokenizer = load_tokenizer(model)
    prompts = [render_prompt(tokenizer, problem.prompt) for problem in problems]
    stop_ids = stop_token_ids(tokenizer, model)
    engine = open_engine(config, model, tokenizer)
    engine.check_lengths(max(map(len, prompts)) + config.max_tokens, what="the longest prompt + max_tokens")
    return _Prepared(engine=engine, tokenizer=tokenizer, problems=problems, prompts=prompts, stop_ids=stop_ids)


def _sample_all(config: EvaluateConfig, prepared: _Prepared, run_dir: Run) -> "pyarrow.Table":
    """The outcomes of all shards at all temperatures; those that a killed run left whole are not made again."""
    import pyarrow
    import pyarrow.parquet

    files = Files(run_dir.scratch, run_dir.scratch / _JOURNAL)
    num_shards = -(-len(prepared.problems) // config.shard_problems)
    steps = list(itertools.product(config.samplings, range(num_shards)))
    tables = []
    for number, (sampling, shard) in enumerate(steps):
        run_dir.progress(number, len(steps), "shards")
        name = f"{number:05d}.parquet"
        if not files.has(name):
            outcomes = _sample_shard(config, prepared, sampling, shard)
            with files.writing(name) as temporary:
                pyarrow.parquet.write_table(outcomes, temporary, compression="zstd")
        tables.append(pyarrow.parquet.read_table(run_dir.scratch / name))
    return pyarrow.concat_tables(tables)


def _sample_shard(config: EvaluateConfig, prepared: _Prepared, sampling: Sampling, shard: int) -> "pyarrow.Table":
    """The outcomes of one shard's problems at one temperature, sampled with a seed of their own."""
    import pyarrow

    from pear.data.rendering import decode_completion

    chosen = slice(shard * config.shard_problems, (shard + 1) * config.shard_problems)
    # By its value, not by its place: asking for another temperature leaves the draws at this one alone.
    seed = derive_seed(config.seed, NAME, shard, f"temperature {sampling.temperature}")
    groups = prepared.engine.generate(
        prepared.prompts[chosen],
        sampling.model_copy(update={"seed": seed}),
        stop_token_ids=prepared.stop_ids,
        log_probs=False,
    )
    samples = [
        (problem, number, completion)
        for problem, group in zip(prepared.problems[chosen], groups, strict=True)
        for number, completion in enumerate(group)
    ]
    texts = [decode_completion(prepared.tokenizer, sample.token_ids, prepared.stop_ids) for _, _, sample in samples]
    verdicts = [verdict.by(config.tags) for verdict in _verify([problem for problem, _, _ in samples], texts)]
    rows = [
        outcome_row(problem, sampling.temperature, number, completion, text, verdict)
        for (problem, number, completion), text, verdict in zip(samples, texts, verdicts, strict=True)
    ]
    return pyarrow.Table.from_pylist(rows, schema=outcome_schema())


def _verify(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    """The verdicts, in order; each task gets its own completions at once."""
    verdicts: dict[int, Verdict] = {}
    for name in dict.fromkeys(problem.task for problem in problems):
        rows = [row for row, problem in enumerate(problems) if problem.task == name]
        found = TASKS[name].verify_many([problems[row] for row in rows], [texts[row] for row in rows])
        verdicts.update(zip(rows, found, strict=True))
    return [verdicts[row] for row in range(len(problems))]
