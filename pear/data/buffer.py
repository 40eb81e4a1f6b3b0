"""The offline buffer: trajectories with the behavior policy's log-probs, as Parquet shards and a manifest.

A directory holds `shard-00000.parquet`, `shard-00001.parquet`, ... (zstd) and `buffer.json`. One row is one
trajectory; right and wrong ones are both kept. `datasets.load_dataset("parquet", data_files="DIR/*.parquet")` opens
the shards too; `load_buffer` also checks them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy
import pyarrow
import pyarrow.parquet
from pydantic import Field, ValidationError

from pear.configuration import StrictModel
from pear.data.alignment import SPANS
from pear.data.teacher_top import TOP_COLUMNS, with_top_columns
from pear.data.validation import check_rows
from pear.errors import UserError
from pear.runs import Files, canonical_json, file_digest, read_json, sha256, write_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

BUFFER_FILE = "buffer.json"
JOURNAL = "shards.json"
FORMAT_VERSION = 1
_MESSAGE = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
SCHEMA = pyarrow.schema(
    [
        ("problem_id", pyarrow.string()),
        ("task", pyarrow.string()),
        ("split", pyarrow.string()),
        ("problem", pyarrow.string()),
        ("prompt", pyarrow.list_(_MESSAGE)),
        ("behavior_prompt_ids", pyarrow.list_(pyarrow.int32())),
        ("completion_ids", pyarrow.list_(pyarrow.int32())),
        ("behavior_log_probs", pyarrow.list_(pyarrow.float32())),
        ("behavior_processed_log_probs", pyarrow.list_(pyarrow.float32())),
        ("completion", pyarrow.string()),
        ("correct", pyarrow.bool_()),
        ("reward", pyarrow.float32()),
        ("reason", pyarrow.string()),
        ("finish", pyarrow.string()),
        ("behavior_model", pyarrow.string()),
        ("sampling", pyarrow.string()),
    ]
)

_SPANS_FIELD = pyarrow.field(SPANS, pyarrow.list_(pyarrow.int32()))


class ShardRecord(StrictModel):
    """One file of a buffer: its name, the sha256 of its bytes and what it holds."""

    name: str
    sha256: str
    rows: int
    correct: int
    tokens: int


class TaskCounts(StrictModel):
    """What a buffer holds of one task: right and wrong trajectories."""

    correct: int = 0
    wrong: int = 0


class BufferCounts(StrictModel):
    """What a buffer holds: trajectories, of them right and wrong, completion tokens, and cut by length; and the right
    and wrong ones of each task that rows name."""

    rows: int
    correct: int
    wrong: int
    tokens: int
    truncated: int
    tasks: dict[str, TaskCounts] = {}


class TeacherTop(StrictModel):
    """What `teacher_top_ids` and `teacher_top_log_probs` hold.

    Args:
        k: tokens at each position, the teacher's likeliest.
        model: the teacher, and `model_digest`, what identifies it.
        temperature: of the distribution, which is normalized over the full vocabulary.
    """

    k: Annotated[int, Field(gt=0)]
    model: str
    model_digest: str
    temperature: Literal[1] = 1


class Estimate(StrictModel):
    """Where log-probs come from that are no policy's but an estimate of it: cross-fitting on the trajectories.

    Args:
        model: what each fold's model was before it was fitted to the other folds.
        folds: how many there are; problems are dealt to them.
    """

    model: str
    folds: int

    @property
    def sentence(self) -> str:
        """What every report of the buffer says."""
        return (
            "Its log-probs are an estimate: the policy that made the trajectories was not at hand. They were dealt to "
            f"{self.folds} folds, and a model fitted, from {self.model}, to all others scored each. Ratios are as good "
            "as that."
        )


class BufferManifest(StrictModel):
    """What holds for every row of a buffer.

    Args:
        tokenizer_digest: what every id means (`rendering.tokenizer_digest`).
        vocabulary_digest: the same without the added tokens.
        added_tokens: the tokenizer's added tokens and their ids; those in `used_added_tokens` occur in completions.
        stop_token_ids: ids that ended a completion.
        behavior_model: whose log-probs these are, and `behavior_model_digest`, what identifies it.
        log_probs: what `behavior_log_probs` are: of the full vocabulary at temperature 1.
        processed_log_probs: "sampled" where `behavior_processed_log_probs` hold those of the sampled distribution
            (after temperature, top-k, top-p), None where the column is null.
        sampling: how the completions were sampled, None where that is unknown.
        engine: what computed the log-probs.
        verified: whether `correct` is the word of a verifier of this package, or the source's.
        teacher_top: what the columns of a teacher's likeliest tokens hold, None where there are none.
        estimate: how the log-probs were estimated; None where they are `behavior_model`'s own.
        aligned_from: the digest of the behavior policy's tokenizer, where that is another one. Then the log-probs are
            those of spans (`span_ids`), carried over as `pear.data.alignment` says.
        counts, shards: filled in by the writer.
    """

    format_version: int = FORMAT_VERSION
    tokenizer_digest: str
    vocabulary_digest: str
    added_tokens: dict[str, int]
    used_added_tokens: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...]
    behavior_model: str
    behavior_model_digest: str
    log_probs: Literal["raw"] = "raw"
    processed_log_probs: Literal["sampled"] | None
    sampling: dict[str, Any] | None
    engine: str
    verified: bool
    teacher_top: TeacherTop | None = None
    estimate: Estimate | None = None
    aligned_from: str | None = None
    counts: BufferCounts | None = None
    shards: tuple[ShardRecord, ...] = ()


def new_manifest(
    tokenizer: "PreTrainedTokenizerBase",
    *,
    stop_token_ids: Sequence[int],
    behavior_model: str,
    behavior_model_digest: str,
    processed_log_probs: Literal["sampled"] | None,
    sampling: dict[str, Any] | None,
    engine: str,
    verified: bool,
    teacher_top: TeacherTop | None = None,
    estimate: Estimate | None = None,
    aligned_from: str | None = None,
) -> BufferManifest:
    """The manifest of a buffer that is to be written, with the tokenizer's digests. See `BufferManifest`."""
    from pear.data.rendering import added_tokens, tokenizer_digest, vocabulary_digest

    return BufferManifest(
        tokenizer_digest=tokenizer_digest(tokenizer),
        vocabulary_digest=vocabulary_digest(tokenizer),
        added_tokens=added_tokens(tokenizer),
        stop_token_ids=tuple(stop_token_ids),
        behavior_model=behavior_model,
        behavior_model_digest=behavior_model_digest,
        processed_log_probs=processed_log_probs,
        sampling=sampling,
        engine=engine,
        verified=verified,
        teacher_top=teacher_top,
        estimate=estimate,
        aligned_from=aligned_from,
    )


class BufferWriter:
    """Writes a buffer shard by shard into a directory; goes on where a killed writer stopped.

    Args:
        directory: of the buffer.
        manifest: what holds for every row.
        journal: where the digests of finished shards are kept meanwhile, for a writer that goes on.
    """

    def __init__(self, directory: Path, manifest: BufferManifest, journal: Path | None = None) -> None:
        self.directory = directory
        self.manifest = manifest
        self._files = Files(directory, journal)

    def has_shard(self, index: int) -> bool:
        """Whether this shard is there, whole, and written by this writer or the one that it goes on for."""
        return self._files.has(shard_name(index))

    def write_shard(self, index: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes one shard. Equal rows give equal bytes.

        Args:
            index: of the shard.
            rows: with the columns of `SCHEMA`; where the manifest has `teacher_top`, also with a `TopTokens` of that
                name, and where it has `aligned_from`, also with `span_ids`.

        Raises:
            UserError: a row breaks the buffer's rules (see `validation.check_rows`).
        """
        schema = SCHEMA if self.manifest.aligned_from is None else SCHEMA.append(_SPANS_FIELD)
        table = pyarrow.Table.from_pylist([dict(row) for row in rows], schema=schema)
        top = self.manifest.teacher_top
        if top is not None:
            table = with_top_columns(table, [row["teacher_top"] for row in rows], top.k)
        table = check_rows(table, origin=shard_name(index), top_k=None if top is None else top.k)
        with self._files.writing(shard_name(index)) as temporary:
            pyarrow.parquet.write_table(table, temporary, compression="zstd")

    def close(self, num_shards: int) -> BufferManifest:
        """Counts what `num_shards` shards hold and writes the manifest: the buffer is complete."""
        records = []
        truncated = 0
        used: set[int] = set()
        verdicts: Counter[tuple[str | None, bool]] = Counter()
        for index in range(num_shards):
            path = self.directory / shard_name(index)
            table = pyarrow.parquet.read_table(path, columns=["completion_ids", "correct", "finish", "task"])
            verdicts.update(zip(table["task"].to_pylist(), table["correct"].to_pylist(), strict=True))
            ids = table["completion_ids"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            used.update(numpy.unique(ids).tolist())
            truncated += table["finish"].to_pylist().count("length")
            correct = table["correct"].to_pylist().count(True)
            records.append(
                ShardRecord(
                    name=path.name,
                    sha256=self._files.digests[path.name],
                    rows=table.num_rows,
                    correct=correct,
                    tokens=len(ids),
                )
            )
        rows = sum(record.rows for record in records)
        correct = sum(record.correct for record in records)
        tokens = sum(record.tokens for record in records)
        tasks = {
            task: TaskCounts(correct=verdicts[task, True], wrong=verdicts[task, False])
            for task in sorted({task for task, _ in verdicts if task is not None})
        }
        manifest = self.manifest.model_copy(
            update={
                "shards": tuple(records),
                "counts": BufferCounts(
                    rows=rows, correct=correct, wrong=rows - correct, tokens=tokens, truncated=truncated, tasks=tasks
                ),
                "used_added_tokens": tuple(
                    piece for piece, token in self.manifest.added_tokens.items() if token in used
                ),
            }
        )
        write_json(self.directory / BUFFER_FILE, manifest.model_dump(mode="json"))
        return manifest


def shard_name(index: int) -> str:
    """The file name of a shard."""
    return f"shard-{index:05d}.parquet"


def is_buffer(directory: Path) -> bool:
    """Whether a directory is a buffer."""
    return (directory / BUFFER_FILE).is_file()


def read_manifest(directory: str | Path) -> BufferManifest:
    """A buffer's manifest. Raises `UserError` where the directory is no buffer, or of another format."""
    directory = Path(directory)
    if not is_buffer(directory):
        raise UserError(
            f"{directory}: not a buffer (no {BUFFER_FILE} in it). `pear collect` makes one by sampling a model, "
            "`pear score` from trajectories that you have."
        )
    values = read_json(directory / BUFFER_FILE)
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{directory / BUFFER_FILE}: format version {version}, this version of pear reads {FORMAT_VERSION}. "
            "Make the buffer again."
        )
    try:
        return BufferManifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{directory / BUFFER_FILE}: {key}: {first['msg']}.") from None


def read_shards(directory: str | Path, *, teacher_top: bool = False) -> list[pyarrow.Table]:
    """The checked shards of a buffer, in order, with the columns of `SCHEMA`.

    Args:
        directory: a buffer.
        teacher_top: also read `teacher_top_ids` and `teacher_top_log_probs`, which take k times the memory.

    Raises:
        UserError: a shard is missing or not the one that the manifest names, or a row breaks the rules; names both. Or
            a teacher's top tokens are wanted and not there.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if teacher_top and manifest.teacher_top is None:
        raise UserError(
            f"{directory}: holds no log-probs of a teacher's likeliest tokens. Write them with `pear score --inputs "
            f"{directory} --teacher-top-k 20 ...`."
        )
    top_k = manifest.teacher_top.k if teacher_top and manifest.teacher_top is not None else None
    required = [*SCHEMA.names, *([] if manifest.aligned_from is None else [SPANS])]
    columns = [*required, *(TOP_COLUMNS if teacher_top else ())]
    tables = []
    for record in manifest.shards:
        path = directory / record.name
        if not path.is_file():
            raise UserError(f"{path}: missing; the manifest names it. Copy the whole directory, or make it again.")
        if file_digest(path) != record.sha256:
            raise UserError(f"{path}: its bytes are not those that {BUFFER_FILE} names. Make the buffer again.")
        try:
            there = pyarrow.parquet.read_schema(path).names
            table = pyarrow.parquet.read_table(path, columns=[name for name in columns if name in there])
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: not readable as Parquet ({error}). Make the buffer again.") from None
        tables.append(check_rows(table, origin=str(path), columns=required, top_k=top_k))
    return tables


def load_buffer(directory: str | Path, correct_only: bool = True, *, teacher_top: bool = False) -> "Dataset":
    """The checked rows of a buffer as a data set in memory, with the columns of `SCHEMA`.

    Log-probs up to 1e-4 above 0, a rounding of the scorer, are set to 0.

    Args:
        directory: a buffer.
        correct_only: leave the wrong trajectories out, as SFT does. The column `correct` tells them apart.
        teacher_top: also load `teacher_top_ids` and `teacher_top_log_probs`, k values for each completion id.

    Raises:
        UserError: the directory is no buffer, a row breaks the rules, no (correct) trajectory is in it, or a teacher's
            top tokens are wanted and not there.
    """
    from datasets import Dataset

    tables = read_shards(directory, teacher_top=teacher_top)
    if sum(table.num_rows for table in tables) == 0:
        raise UserError(f"{directory}: the buffer is empty.")
    table = pyarrow.concat_tables(tables)
    if correct_only:
        table = table.filter(table["correct"])
        if table.num_rows == 0:
            rows = sum(shard.num_rows for shard in tables)
            raise UserError(
                f"{directory}: none of its {rows} trajectories is correct, so there is nothing to imitate. "
                "Sample a stronger behavior model, easier problems or more samples."
            )
    # Without a name of its own, `datasets` gives it one by pickling every byte: several times the memory.
    shards = [record.sha256 for record in read_manifest(directory).shards]
    return Dataset(table, fingerprint=sha256(canonical_json([shards, correct_only, teacher_top]))[:16])
