"""A buffer's correct trajectories, scored in parts that a kill leaves; for `pear inspect` and `pear calibrate`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pear.errors import UserError
from pear.runs import Files, Run

if TYPE_CHECKING:
    import pyarrow
    from transformers import PreTrainedTokenizerBase

    from pear.engines.transformers_engine import TransformersEngine

# Trajectories in a part, which is what a kill can cost.
_STEP = 64


class ScoringConfig(Protocol):
    """The fields of a configuration that say what is scored, and with what."""

    buffer: str
    trajectories: int
    memory_gib: float
    device: str
    dtype: Any


@dataclass(frozen=True, kw_only=True)
class Scorable:
    """A buffer's first correct trajectories, and the engine that scores them.

    Where the behavior policy's log-probs are an estimate, `estimate` is the sentence that says so.
    """

    engine: "TransformersEngine"
    tokenizer: "PreTrainedTokenizerBase"
    rows: list[dict[str, Any]]
    prompts: list[list[int]]
    estimate: str | None

    def of_estimate(self) -> dict[str, str]:
        """What a run's results say of it."""
        return {} if self.estimate is None else {"estimate": self.estimate}

    def scored(self, chosen: slice) -> list[tuple[dict[str, Any], list[float]]]:
        """Rows with the model's log-probs of their completions."""
        rows = self.rows[chosen]
        scores = self.engine.score(self.prompts[chosen], [row["completion_ids"] for row in rows])
        return [(row, list(log_probs)) for row, log_probs in zip(rows, scores, strict=True)]


def open_scorable(config: ScoringConfig, model: str) -> Scorable:
    """What a configuration names, checked. Raises `UserError` on a buffer that is none or of another tokenizer, and on
    trajectories that do not fit into the model's context."""
    from pear.data.buffer import load_buffer, read_manifest
    from pear.data.rendering import load_tokenizer, render_prompt
    from pear.data.token_map import fit_tokenizer
    from pear.engines.transformers_engine import TransformersEngine

    manifest = read_manifest(config.buffer)
    if manifest.aligned_from is not None:
        raise UserError(
            f"{config.buffer}: its log-probs are those of spans of text, since the behavior policy has another "
            "tokenizer, and not of tokens. Look at the `weights/` metrics of `pear sft`."
        )
    tokenizer = load_tokenizer(model)
    dataset = fit_tokenizer(load_buffer(config.buffer), manifest, tokenizer)
    rows = dataset.select(range(min(config.trajectories, len(dataset)))).to_list()
    prompts = [render_prompt(tokenizer, row["prompt"]) for row in rows]
    engine = TransformersEngine(model, tokenizer, config.device, dtype=config.dtype, memory_gib=config.memory_gib)
    for row, prompt in zip(rows, prompts, strict=True):
        engine.check_lengths(len(prompt) + len(row["completion_ids"]), what=row["problem_id"])
    estimate = None if manifest.estimate is None else manifest.estimate.sentence
    return Scorable(engine=engine, tokenizer=tokenizer, rows=rows, prompts=prompts, estimate=estimate)


def in_parts(run_dir: Run, journal: str, count: int, make: Callable[[slice], list[dict[str, Any]]]) -> "pyarrow.Table":
    """The rows that `make` gives for all of `count` trajectories; parts that a killed run left whole are not made
    again."""
    import pyarrow
    import pyarrow.parquet

    files = Files(run_dir.scratch, run_dir.scratch / journal)
    tables = []
    for start in range(0, count, _STEP):
        run_dir.progress(start, count, "trajectories")
        name = f"{start:08d}.parquet"
        if not files.has(name):
            rows = pyarrow.Table.from_pylist(make(slice(start, start + _STEP)))
            with files.writing(name) as temporary:
                pyarrow.parquet.write_table(rows, temporary, compression="zstd")
        tables.append(pyarrow.parquet.read_table(run_dir.scratch / name))
    return pyarrow.concat_tables(tables)
