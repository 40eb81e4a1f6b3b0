"""Trajectories for SFT: what a data set must hold, its checks, and the token rows that TRL trains on."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy
import pyarrow
import pyarrow.compute
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from pear.data.alignment import SPANS
from pear.data.rendering import render_prompt
from pear.data.teacher_top import TOP_COLUMNS, TOP_IDS, TOP_LOG_PROBS, top_fault
from pear.errors import UserError
from pear.runs import canonical_json, sha256

# A log-prob is at most 0; logsumexp in float32 may round it to a little more.
POSITIVE_SLACK = 1e-4
BEHAVIOR = "behavior_log_probs"
PROCESSED = "behavior_processed_log_probs"
NEGATIVE = "is_negative"
REWARD = "reward"
# What a token row may hold beside `input_ids` and `labels`, and what stands on the prompt.
TOKEN_COLUMNS: dict[str, Any] = {
    BEHAVIOR: 0.0,
    SPANS: 0,
    NEGATIVE: False,
    REWARD: 0.0,
    TOP_IDS: 0,
    TOP_LOG_PROBS: 0.0,
}
_OF_TRAJECTORY = (NEGATIVE, REWARD)
_IDS = ("prompt_ids", "completion_ids")
_BATCH = 1000
_LISTS = (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list)
# Beside the user's seed, so that failures are not drawn with the numbers of another draw.
_FAILURES = 36


@final
@dataclass(frozen=True, kw_only=True)
class DataNeeds:
    """What training takes from a data set, beyond prompts and completions.

    Attributes:
        columns: of `TOKEN_COLUMNS`, those that must be there. With `is_negative`, which is made from the column
            `correct`, failures are trained on; without it they are refused.
        token_ratios: whether the objective reads the log-prob of each token, so that the sums over spans that an
            aligned buffer has (`span_ids`) are not enough.
        behavior: which log-probs of the behavior policy are used: "raw" of the full vocabulary at temperature 1, or
            "processed" of the distribution that was sampled.
        max_negative_share: most failures, as a share of all trajectories (arXiv 2602.01058, Section 4.5: half).
        seed: which failures are left out where there are more.
    """

    columns: frozenset[str] = frozenset()
    token_ratios: bool = False
    behavior: str = "raw"
    max_negative_share: float = 0.5
    seed: int = 0


def checked_trajectories(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    needs: DataNeeds,
    max_length: int | None,
    overflow: str,
    name: str,
    num_proc: int | None = None,
) -> tuple[Dataset, int]:
    """The checked trajectories of a data set, with rendered prompts.

    Args:
        dataset: a buffer's (`pear.data.buffer.load_buffer`) or any with `completion_ids` and either `prompt` (messages)
            or `prompt_ids`, which are taken as they are and come before `prompt`. `behavior_log_probs`, one for
            each completion id, EOS included, are log pi_beta(token) under the full vocabulary at temperature 1; with
            `span_ids`, their sums over spans are (`pear.data.alignment`).
            `correct` and `reward` are one value for each trajectory.
        tokenizer: the target's; `prompt` is rendered in its chat template.
        needs: what the objective requires of the data.
        max_length: most tokens of prompt and completion together; None for no limit.
        overflow: "error" or "drop", for trajectories longer than that.
        name: of the data set, for errors.

    Returns:
        A data set of `prompt_ids`, `completion_ids` and, if given, `behavior_log_probs`, and of the other columns that
        are needed; and how many rows it dropped. Failures beyond their share are left out after that, in all
        processes and for all objectives the same ones.

    Raises:
        UserError: a column is missing, a row breaks a rule (names it), or rows are too long (counts them).
    """
    check_dataset(dataset, name)
    dataset = _with_behavior(dataset, needs.behavior, name)
    _check_columns(dataset, needs, name)
    if NEGATIVE not in needs.columns:
        _refuse_failures(dataset, name)
    if "prompt_ids" not in dataset.column_names:
        dataset = dataset.map(
            _render, fn_kwargs={"tokenizer": tokenizer}, num_proc=num_proc, load_from_cache_file=False, desc="Prompts"
        )
    if NEGATIVE in needs.columns:
        dataset = _with_negatives(dataset, name)
    needed = [column for column in TOKEN_COLUMNS if column in needs.columns and column != BEHAVIOR]
    columns = [*_IDS, *([BEHAVIOR] if _has_values(dataset, BEHAVIOR) else []), *needed]
    if BEHAVIOR in needs.columns and _has_values(dataset, SPANS):
        columns.append(SPANS)
    # One k for all tables; None where the first token's list is missing, which the check names.
    top_k = next((len(top) for top in dataset[0][TOP_IDS] or [] if top), None) if TOP_IDS in columns else None
    for start, table in _tables(dataset):
        _check_rows(table, start, columns, len(tokenizer), name, top_k)
    kept, dropped = _without_overflow(dataset, max_length, overflow, name)
    if NEGATIVE in needs.columns:
        kept = _with_share_of_negatives(kept, needs, name)
    return kept.select_columns(columns), dropped


def check_dataset(dataset: Any, name: str) -> None:
    """Raises `UserError` unless this is a `datasets.Dataset` that has rows and no transform."""
    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        raise UserError(f"{name}: a {kind} cannot be checked before the first step. Give a datasets.Dataset.")
    if dataset.format["type"] == "custom":
        raise UserError(f"{name}: a data set with a transform cannot be prepared. Apply it with Dataset.map first.")
    if len(dataset) == 0:
        raise UserError(f"{name}: the data set is empty.")


def rows_digest(trajectories: Dataset) -> str:
    """A sha256 over the lengths and the values of a data set's columns, in the order of the rows."""
    digests = {column: (hashlib.sha256(), hashlib.sha256()) for column in sorted(trajectories.column_names)}
    for _, table in _tables(trajectories):
        for column, (lengths, values) in digests.items():
            array = table[column].combine_chunks()
            while any(is_kind(array.type) for is_kind in _LISTS):
                lengths.update(pyarrow.compute.list_value_length(array).to_numpy().astype(numpy.int64).tobytes())
                array = array.flatten()
            kind = numpy.float32 if pyarrow.types.is_floating(array.type) else numpy.int64
            values.update(array.to_numpy(zero_copy_only=False).astype(kind).tobytes())
    return sha256(canonical_json({name: [part.hexdigest() for part in parts] for name, parts in digests.items()}))


def training_rows(trajectories: Dataset, *, num_proc: int | None = None) -> Dataset:
    """Token rows: `input_ids`, `labels` (-100 on prompts) and those of `TOKEN_COLUMNS` that are given.

    All have the length of the row, and index t is about token t.
    """
    return trajectories.map(
        _row,
        remove_columns=trajectories.column_names,
        num_proc=num_proc,
        load_from_cache_file=False,
        desc="Trajectories",
    )


def _render(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    return {"prompt_ids": render_prompt(tokenizer, row["prompt"])}


def _row(row: dict[str, Any]) -> dict[str, list[Any]]:
    prompt, completion = row["prompt_ids"], row["completion_ids"]
    columns = {"input_ids": [*prompt, *completion], "labels": [*[-100] * len(prompt), *completion]}
    for name, blank in TOKEN_COLUMNS.items():
        if name in row:
            values = [row[name]] * len(completion) if name in _OF_TRAJECTORY else row[name]
            filling = [blank] * len(values[0]) if name in TOP_COLUMNS else blank
            columns[name] = [*[filling] * len(prompt), *values]
    return columns


def _with_behavior(dataset: Dataset, behavior: str, name: str) -> Dataset:
    """The data set with the wanted log-probs under the name `behavior_log_probs`."""
    if behavior == "raw":
        return dataset
    if not _has_values(dataset, PROCESSED):
        raise UserError(
            f"{name}: behavior 'processed' needs the column '{PROCESSED}', which `pear collect` writes. "
            "Sample the buffer with it, or use behavior 'raw'."
        )
    if BEHAVIOR in dataset.column_names:
        dataset = dataset.remove_columns(BEHAVIOR)
    return dataset.rename_column(PROCESSED, BEHAVIOR)


def _with_negatives(dataset: Dataset, name: str) -> Dataset:
    """The data set with `is_negative` from `correct`."""
    for row, correct in enumerate(dataset["correct"]):
        if not isinstance(correct, bool):
            raise UserError(f"{name}, row {row}: correct must be true or false, got {correct!r}.")
    negative = [not correct for correct in dataset["correct"]]
    if all(negative):
        raise UserError(f"{name}: none of its {len(dataset)} trajectories is correct, so there is nothing to imitate.")
    if NEGATIVE in dataset.column_names:
        dataset = dataset.remove_columns(NEGATIVE)
    return dataset.add_column(NEGATIVE, negative)


def _with_share_of_negatives(dataset: Dataset, needs: DataNeeds, name: str) -> Dataset:
    """The data set in its order, without the failures that a seeded draw leaves out."""
    negative = numpy.asarray(dataset[NEGATIVE], dtype=bool)
    positives = int((~negative).sum())
    if positives == 0:
        raise UserError(f"{name}: all its correct trajectories are too long, so nothing is left to imitate.")
    # The slack keeps 0.1 of 10 trajectories at 1 in floating point.
    limit = int(positives * needs.max_negative_share / (1 - needs.max_negative_share) + 1e-9)
    failures = numpy.flatnonzero(negative)
    if len(failures) <= limit:
        return dataset
    drawn = numpy.random.default_rng([needs.seed, _FAILURES]).choice(failures, size=limit, replace=False)
    return dataset.select(numpy.sort(numpy.concatenate([numpy.flatnonzero(~negative), drawn])))


def _check_columns(dataset: Dataset, needs: DataNeeds, name: str) -> None:
    columns = dataset.column_names
    if "completion_ids" not in columns:
        raise UserError(
            f"{name}: the column 'completion_ids' is missing (found: {', '.join(columns)}). "
            "`pear collect` and `pear score` make buffers that have it."
        )
    if "prompt_ids" not in columns and "prompt" not in columns:
        raise UserError(f"{name}: has neither 'prompt' (messages) nor 'prompt_ids'. Its columns: {', '.join(columns)}.")
    if "prompt_ids" not in columns and not _is_messages(dataset[0]["prompt"]):
        raise UserError(
            f"{name}: 'prompt' must be a list of messages such as [{{'role': 'user', 'content': '...'}}]. "
            "For text that is ready as it is, give its token ids as 'prompt_ids'."
        )
    if BEHAVIOR in needs.columns and not _has_values(dataset, BEHAVIOR):
        raise UserError(
            f"{name}: the objective needs the column '{BEHAVIOR}', one log-prob of the behavior policy for each "
            "completion id. Add it with `pear score`, or use the objective nll."
        )
    if BEHAVIOR in needs.columns and needs.token_ratios and _has_values(dataset, SPANS):
        raise UserError(
            f"{name}: its log-probs come from a behavior policy with another tokenizer and are known for spans of "
            "text alone, and the objective reads those of each token. Use pear_block or pear_sequence."
        )
    if NEGATIVE in needs.columns and "correct" not in columns:
        raise UserError(f"{name}: the objective needs the column 'correct', true or false for each trajectory.")
    if REWARD in needs.columns and not _has_values(dataset, REWARD):
        raise UserError(f"{name}: the objective needs the column 'reward', a number for each trajectory.")
    for column in TOP_COLUMNS:
        if column in needs.columns and not _has_values(dataset, column):
            raise UserError(
                f"{name}: the objective needs a live teacher, or the column '{column}'. Name a teacher_model, or make "
                "the column with `pear score`."
            )


def _is_messages(prompt: Any) -> bool:
    return isinstance(prompt, list) and len(prompt) > 0 and isinstance(prompt[0], dict) and "role" in prompt[0]


def _has_values(dataset: Dataset, column: str) -> bool:
    """Whether a column is there and holds anything: a column of nulls is one that was left out."""
    if column not in dataset.column_names:
        return False
    return any(table[column].null_count < table.num_rows for _, table in _tables(dataset.select_columns([column])))


def _refuse_failures(dataset: Dataset, name: str) -> None:
    if "correct" in dataset.column_names:
        wrong = sum(not correct for correct in dataset["correct"])
        if wrong:
            raise UserError(
                f"{name}: {wrong} of {len(dataset)} trajectories are marked as not correct, and would be imitated. "
                "Filter them out (load_buffer does), or remove the column 'correct'."
            )


def _tables(dataset: Dataset) -> Iterator[tuple[int, pyarrow.Table]]:
    """Arrow tables of up to 1,000 rows with the number of their first row."""
    start = 0
    for table in dataset.with_format("arrow").iter(batch_size=_BATCH):
        yield start, table
        start += table.num_rows


def _check_rows(
    table: pyarrow.Table, start: int, columns: list[str], vocabulary: int, name: str, top_k: int | None
) -> None:
    def refuse(wrong: Any, sentence: str, parents: Any = None) -> None:
        """Raises for the first True of `wrong`; `parents` maps values of a flattened column to rows."""
        found = numpy.flatnonzero(wrong)
        if len(found):
            row = int(found[0] if parents is None else parents[found[0]])
            identity = f" (problem '{table['problem_id'][row].as_py()}')" if "problem_id" in table.column_names else ""
            raise UserError(f"{name}, row {start + row}{identity}: {sentence}.")

    if TOP_IDS in columns:
        fault = top_fault(table, k=top_k)
        if fault is not None:
            refuse(numpy.arange(table.num_rows) == fault[0], fault[1])
    for column in columns:
        refuse(table[column].is_null().to_numpy(), f"{column} is missing")
        if column == REWARD:
            refuse(~numpy.isfinite(table[column].to_numpy().astype(float)), "reward is not finite")
        if column in (*_OF_TRAJECTORY, *TOP_COLUMNS):
            continue
        refuse(_lengths(table, column) == 0, f"{column} is empty, and a token needs one before it to be predicted from")
        values, parents = _flat(table, column)
        if column in _IDS:
            if not numpy.issubdtype(values.dtype, numpy.integer):
                raise UserError(f"{name}: {column} must hold whole numbers, not {values.dtype} or missing values.")
            sentence = f"{column} holds an id outside the target's vocabulary of {vocabulary} tokens"
            refuse((values < 0) | (values >= vocabulary), sentence, parents)
    for column in (BEHAVIOR, SPANS):
        if column not in columns:
            continue
        given, wanted = _lengths(table, column), _lengths(table, "completion_ids")
        differs = given != wanted
        first = int(numpy.argmax(differs))
        sentence = f"{given[first]} {column} for {wanted[first]} completion_ids; each id, EOS included, needs its own"
        refuse(differs, sentence)
    if BEHAVIOR in columns:
        values, parents = _flat(table, BEHAVIOR)
        refuse(~numpy.isfinite(values), f"{BEHAVIOR} holds a value that is not finite", parents)
        refuse(values > POSITIVE_SLACK, f"{BEHAVIOR} holds a value above 0, which no log-prob is", parents)


def _lengths(table: pyarrow.Table, column: str) -> Any:
    return pyarrow.compute.list_value_length(table[column]).to_numpy()


def _flat(table: pyarrow.Table, column: str) -> tuple[Any, Any]:
    """All values of a list column, and the row of each."""
    values = pyarrow.compute.list_flatten(table[column]).to_numpy()
    return values, pyarrow.compute.list_parent_indices(table[column]).to_numpy()


def _without_overflow(dataset: Dataset, max_length: int | None, overflow: str, name: str) -> tuple[Dataset, int]:
    if max_length is None:
        return dataset, 0
    lengths = numpy.concatenate(
        [sum(_lengths(table, column) for column in _IDS) for _, table in _tables(dataset.select_columns(list(_IDS)))]
    )
    fits = lengths <= max_length
    dropped = int((~fits).sum())
    if dropped == 0:
        return dataset, 0
    count = f"{name}: {dropped} of {len(dataset)} trajectories are longer than max_length={max_length}"
    if overflow == "error":
        raise UserError(
            f"{count} (the longest has {lengths.max()} tokens with its prompt). They are never cut: raise max_length, "
            "or leave them out with overflow 'drop'."
        )
    if not fits.any():
        raise UserError(f"{count}, so nothing is left to train on. Raise max_length.")
    return dataset.select(numpy.flatnonzero(fits)), dropped
