"""The rules that every row of a buffer keeps, checked a shard at a time without a loop over tokens."""

from collections.abc import Sequence

import numpy
import pyarrow
import pyarrow.compute

from pear.data.alignment import SPANS
from pear.data.teacher_top import TOP_COLUMNS, top_fault
from pear.errors import UserError

# A log-prob is at most 0; logsumexp in float32 may round it to a little more.
POSITIVE_SLACK = 1e-4
_REQUIRED_LISTS = ("completion_ids", "behavior_log_probs")
_LOG_PROBS = ("behavior_log_probs", "behavior_processed_log_probs")


def check_rows(
    table: pyarrow.Table, *, origin: str, columns: Sequence[str] = (), top_k: int | None = None
) -> pyarrow.Table:
    """Checks a shard and returns it with log-probs in (0, 1e-4] set to 0.

    One log-prob per completion id, all finite, none above 1e-4; at least one completion token; `correct` known. The
    processed log-probs may be null, but not of the wrong length.

    Args:
        table: rows with the buffer's columns.
        origin: the file, named in errors.
        columns: columns that must be there.
        top_k: how many of a teacher's likeliest tokens each token has; None where those columns are not looked at.

    Raises:
        UserError: names the file, the row and its problem.
    """
    wanted = (*columns, *_REQUIRED_LISTS, "correct", "problem_id", *(() if top_k is None else TOP_COLUMNS))
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise UserError(f"{origin}: the column '{missing[0]}' is missing. Make the buffer with pear collect or score.")
    for name in (*_REQUIRED_LISTS, "correct"):
        _refuse(table, table[name].is_null(), origin, f"{name} is missing")
    lengths = pyarrow.compute.list_value_length(table["completion_ids"])
    _refuse(table, pyarrow.compute.equal(lengths, 0), origin, "completion_ids is empty")
    if SPANS in table.column_names:
        _check_spans(table, lengths, origin)
    for name in _LOG_PROBS:
        if name in table.column_names:
            table = _checked_log_probs(table, name, lengths, origin)
    fault = None if top_k is None else top_fault(table, k=top_k)
    if fault is not None:
        raise UserError(f"{_place(table, fault[0], origin)}: {fault[1]}. Score the trajectory again.")
    return table


def _check_spans(table: pyarrow.Table, lengths: pyarrow.ChunkedArray, origin: str) -> None:
    """Spans are numbered from 0 along each completion, one number for each token."""
    _refuse(table, table[SPANS].is_null(), origin, f"{SPANS} is missing")
    own_lengths = pyarrow.compute.list_value_length(table[SPANS])
    _refuse(table, pyarrow.compute.not_equal(own_lengths, lengths), origin, f"{SPANS} has another length than the ids")
    if table.num_rows == 0:
        return
    values = pyarrow.concat_arrays(table[SPANS].chunks).flatten().to_numpy(zero_copy_only=False)
    ends = numpy.cumsum(own_lengths.to_numpy())
    steps = numpy.diff(values, prepend=0)
    starts = numpy.concatenate([[0], ends[:-1]])
    # The first of a completion is 0 itself; there the step from the completion before it says nothing.
    steps[starts] = values[starts] * 2
    wrong = numpy.flatnonzero((steps != 0) & (steps != 1))
    if len(wrong):
        row = int(numpy.searchsorted(ends, wrong[0], side="right"))
        raise UserError(f"{_place(table, row, origin)}: {SPANS} must count up from 0. Score the trajectory again.")


def _checked_log_probs(table: pyarrow.Table, name: str, lengths: pyarrow.ChunkedArray, origin: str) -> pyarrow.Table:
    own_lengths = pyarrow.compute.list_value_length(table[name])
    differs = pyarrow.compute.fill_null(pyarrow.compute.not_equal(own_lengths, lengths), False)
    row = _first(differs)
    if row is not None:
        raise UserError(
            f"{_place(table, row, origin)}: {own_lengths[row]} values in {name} for {lengths[row]} completion_ids. "
            "Each token, EOS included, needs its own."
        )
    array = table[name].combine_chunks()
    if isinstance(array, pyarrow.ChunkedArray):
        array = pyarrow.concat_arrays(array.chunks) if array.num_chunks else pyarrow.array([], type=array.type)
    flat = array.flatten()
    parents = pyarrow.compute.list_parent_indices(array)
    if flat.null_count:
        row = parents[int(numpy.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0])].as_py()
        raise UserError(f"{_place(table, row, origin)}: a value of {name} is missing.")
    values = flat.to_numpy(zero_copy_only=False)
    wrong = ~numpy.isfinite(values) | (values > POSITIVE_SLACK)
    if wrong.any():
        position = int(numpy.flatnonzero(wrong)[0])
        raise UserError(
            f"{_place(table, parents[position].as_py(), origin)}: {name} holds {values[position]:g}; "
            "log-probs are finite and at most 0. Score the trajectory again."
        )
    if not (values > 0).any():
        return table
    clamped = pyarrow.array(numpy.minimum(values, 0), type=array.type.value_type)
    rebuilt = pyarrow.ListArray.from_arrays(_offsets(own_lengths), clamped, mask=array.is_null())
    return table.set_column(table.column_names.index(name), name, rebuilt.cast(array.type))


def _offsets(lengths: pyarrow.ChunkedArray) -> pyarrow.Array:
    counts = pyarrow.compute.fill_null(lengths, 0).to_numpy()
    return pyarrow.array(numpy.concatenate([[0], numpy.cumsum(counts)]), type=pyarrow.int32())


def _refuse(table: pyarrow.Table, wrong: pyarrow.ChunkedArray, origin: str, message: str) -> None:
    row = _first(pyarrow.compute.fill_null(wrong, False))
    if row is not None:
        raise UserError(f"{_place(table, row, origin)}: {message}.")


def _first(flags: pyarrow.ChunkedArray) -> int | None:
    found = pyarrow.compute.index(flags, pyarrow.scalar(True)).as_py()
    return None if found < 0 else int(found)


def _place(table: pyarrow.Table, row: int, origin: str) -> str:
    return f"{origin}, row {row} (problem '{table['problem_id'][row].as_py()}')"
