"""Trajectories for SFT: what a data set must hold, its checks, and the token rows that TRL trains on."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy
import pyarrow
import pyarrow.compute
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from pear.data.rendering import render_prompt
from pear.errors import UserError
from pear.runs import canonical_json, sha256

# A log-prob is at most 0; logsumexp in float32 may round it to a little more.
POSITIVE_SLACK = 1e-4
BEHAVIOR = "behavior_log_probs"
_IDS = ("prompt_ids", "completion_ids")
_BATCH = 1000


def checked_trajectories(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    needs_behavior: bool,
    max_length: int | None,
    overflow: str,
    name: str,
    num_proc: int | None = None,
) -> tuple[Dataset, int]:
    """The checked trajectories of a data set, with rendered prompts.

    Args:
        dataset: a buffer's (`pear.data.buffer.load_buffer`) or any with `completion_ids` and either `prompt` (messages)
            or `prompt_ids`, which are taken as they are and come before `prompt`. `behavior_log_probs`, one for
            each completion id, EOS included, are log pi_beta(token) under the full vocabulary at temperature 1.
        tokenizer: the target's; `prompt` is rendered in its chat template.
        needs_behavior: whether the objective requires `behavior_log_probs`.
        max_length: most tokens of prompt and completion together; None for no limit.
        overflow: "error" or "drop", for trajectories longer than that.
        name: of the data set, for errors.

    Returns:
        A data set of `prompt_ids`, `completion_ids` and, if given, `behavior_log_probs`; and how many rows it dropped.

    Raises:
        UserError: a column is missing, a row breaks a rule (names it), or rows are too long (counts them).
    """
    check_dataset(dataset, name)
    _check_columns(dataset, needs_behavior, name)
    _refuse_failures(dataset, name)
    if "prompt_ids" not in dataset.column_names:
        dataset = dataset.map(
            _render, fn_kwargs={"tokenizer": tokenizer}, num_proc=num_proc, load_from_cache_file=False, desc="Prompts"
        )
    columns = [*_IDS, *([BEHAVIOR] if _has_values(dataset, BEHAVIOR) else [])]
    for start, table in _tables(dataset):
        _check_rows(table, start, columns, len(tokenizer), name)
    kept, dropped = _without_overflow(dataset, max_length, overflow, name)
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
    """A sha256 over the lengths and the values of a data set's columns of lists, in the order of the rows."""
    digests = {column: (hashlib.sha256(), hashlib.sha256()) for column in sorted(trajectories.column_names)}
    for _, table in _tables(trajectories):
        for column, (lengths, values) in digests.items():
            lengths.update(_lengths(table, column).astype(numpy.int64).tobytes())
            kind = numpy.float32 if column == BEHAVIOR else numpy.int64
            values.update(_flat(table, column)[0].astype(kind).tobytes())
    return sha256(canonical_json({name: [part.hexdigest() for part in parts] for name, parts in digests.items()}))


def training_rows(trajectories: Dataset, *, num_proc: int | None = None) -> Dataset:
    """Token rows: `input_ids`, `labels` (-100 on prompts) and, if given, `behavior_log_probs` (0 on prompts).

    All three have the length of the row, and index t is about token t.
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
    if BEHAVIOR in row:
        columns[BEHAVIOR] = [*[0.0] * len(prompt), *row[BEHAVIOR]]
    return columns


def _check_columns(dataset: Dataset, needs_behavior: bool, name: str) -> None:
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
    if needs_behavior and not _has_values(dataset, BEHAVIOR):
        raise UserError(
            f"{name}: the objective needs the column '{BEHAVIOR}', one log-prob of the behavior policy for each "
            "completion id. Add it with `pear score`, or use the objective nll."
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


def _check_rows(table: pyarrow.Table, start: int, columns: list[str], vocabulary: int, name: str) -> None:
    def refuse(wrong: Any, sentence: str, parents: Any = None) -> None:
        """Raises for the first True of `wrong`; `parents` maps values of a flattened column to rows."""
        found = numpy.flatnonzero(wrong)
        if len(found):
            row = int(found[0] if parents is None else parents[found[0]])
            identity = f" (problem '{table['problem_id'][row].as_py()}')" if "problem_id" in table.column_names else ""
            raise UserError(f"{name}, row {start + row}{identity}: {sentence}.")

    for column in columns:
        refuse(table[column].is_null().to_numpy(), f"{column} is missing")
        refuse(_lengths(table, column) == 0, f"{column} is empty, and a token needs one before it to be predicted from")
        values, parents = _flat(table, column)
        if column in _IDS:
            if not numpy.issubdtype(values.dtype, numpy.integer):
                raise UserError(f"{name}: {column} must hold whole numbers, not {values.dtype} or missing values.")
            sentence = f"{column} holds an id outside the target's vocabulary of {vocabulary} tokens"
            refuse((values < 0) | (values >= vocabulary), sentence, parents)
    if BEHAVIOR in columns:
        given, wanted = _lengths(table, BEHAVIOR), _lengths(table, "completion_ids")
        differs = given != wanted
        first = int(numpy.argmax(differs))
        sentence = f"{given[first]} {BEHAVIOR} for {wanted[first]} completion_ids; each id, EOS included, needs its own"
        refuse(differs, sentence)
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
