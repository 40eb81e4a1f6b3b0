"""Related tokenizers: equal pieces, other added tokens. What stands in the target's tokenizer for each of a buffer's.

Qwen2.5, Qwen3 and the Qwen models distilled from DeepSeek-R1 share their ordinary vocabulary, so ids and log-probs of
ordinary tokens carry over as they are. The added tokens (EOS, `<think>`) have other ids, other names, or are not there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy
import pyarrow
import pyarrow.compute

from pear.data.alignment import SPANS
from pear.data.teacher_top import TOP_IDS
from pear.errors import UserError
from pear.runs import canonical_json, sha256

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from pear.data.buffer import BufferManifest

_LOG_PROBS = ("behavior_log_probs", "behavior_processed_log_probs")
# For each id of the buffer that means something else in the target: the target's ids.
TokenMap = dict[int, tuple[int, ...]]


def token_map(manifest: "BufferManifest", tokenizer: "PreTrainedTokenizerBase") -> TokenMap:
    """What stands in a tokenizer for the added tokens that a buffer's completions use, where that is not the same id.

    The added token of the same name; else, for a stop token, the tokenizer's EOS; else the ordinary tokens of its text.
    Empty where all ids mean the same.

    Raises:
        UserError: the ordinary vocabularies differ, or a token has nothing that stands for it; names it.
    """
    from pear.data.rendering import added_tokens, vocabulary_digest

    name = tokenizer.name_or_path or "the tokenizer"
    if vocabulary_digest(tokenizer) != manifest.vocabulary_digest:
        raise UserError(
            f"{name}: its vocabulary is not the one of the buffer, which was made with {manifest.behavior_model}, so "
            f"the token ids mean other text. Carry it over: pear score --align {name} --model BEHAVIOR --inputs BUFFER "
            "gives the log-probs of spans of text that both tokenizers share; without --align, pear score gives this "
            "model's own log-probs to rows of text."
        )
    known = added_tokens(tokenizer)
    found: TokenMap = {}
    for piece in manifest.used_added_tokens:
        token = manifest.added_tokens[piece]
        if piece in known:
            ids: tuple[int, ...] = (known[piece],)
        elif token in manifest.stop_token_ids and tokenizer.eos_token_id is not None:
            ids = (int(tokenizer.eos_token_id),)
        else:
            ids = tuple(tokenizer(piece, add_special_tokens=False)["input_ids"])
            if tokenizer.decode(list(ids), clean_up_tokenization_spaces=False) != piece:
                raise UserError(
                    f"{name}: the token '{piece}', id {token} in the buffer's completions, is unknown here, and its "
                    "text cannot be written in other tokens. Use a tokenizer with the same added tokens."
                )
        if ids != (token,):
            found[token] = ids
    return found


def named(tokens: TokenMap, manifest: "BufferManifest", tokenizer: "PreTrainedTokenizerBase") -> dict[str, list[str]]:
    """A map as pieces of text, for manifests and people."""
    names = {token: piece for piece, token in manifest.added_tokens.items()}
    return {names[token]: list(tokenizer.convert_ids_to_tokens(list(ids))) for token, ids in tokens.items()}


def fit_tokenizer(dataset: "Dataset", manifest: "BufferManifest", tokenizer: "PreTrainedTokenizerBase") -> "Dataset":
    """A buffer's rows in a target's token ids; the rows as they are where every id means the same.

    Raises:
        UserError: as `token_map`; or ids differ, and the rows hold a teacher's likeliest tokens.
    """
    from datasets import Dataset

    tokens = token_map(manifest, tokenizer)
    if not tokens:
        return dataset
    if TOP_IDS in dataset.column_names:
        raise UserError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: its added tokens are not those of the buffer, whose "
            "teacher's likeliest tokens are ids of the other. Distill from a live teacher_model of this tokenizer."
        )
    rows = dataset if dataset._indices is None else dataset.flatten_indices()
    name = sha256(canonical_json([dataset._fingerprint, sorted(tokens.items())]))[:16]
    return Dataset(translate(rows.data.table, tokens), fingerprint=name)


def translate(table: pyarrow.Table, tokens: TokenMap) -> pyarrow.Table:
    """The rows of a buffer with their completions in other ids.

    Where several ids stand for one, the first has the log-prob of that one and the others have 0: the behavior policy
    chose them with it. So every sum of log-probs over a suffix that does not begin among them is as it was.
    """
    completions = table["completion_ids"].combine_chunks()
    ids = _flat(completions)
    counts = numpy.ones(len(ids), dtype=numpy.int64)
    for token, others in tokens.items():
        counts[ids == token] = len(others)
    ends = numpy.cumsum(counts)
    starts = ends - counts
    translated = numpy.repeat(ids, counts)
    for token, others in tokens.items():
        places = starts[ids == token]
        for step, other in enumerate(others):
            translated[places + step] = other
    lengths = pyarrow.compute.list_value_length(completions).to_numpy(zero_copy_only=False)
    old_ends = numpy.concatenate([[0], numpy.cumsum(lengths)])
    offsets = pyarrow.array(numpy.concatenate([[0], ends])[old_ends], type=pyarrow.int32())
    table = _with(table, "completion_ids", translated, offsets)
    for name in _LOG_PROBS:
        if name not in table.column_names or table[name].null_count == table.num_rows:
            continue
        column = table[name].combine_chunks()
        if column.null_count:
            raise UserError(f"{name}: some rows have none. Make the buffer with one `pear collect` or `pear score`.")
        values = numpy.zeros(len(translated), dtype=numpy.float32)
        values[starts] = _flat(column)
        table = _with(table, name, values, offsets)
    if SPANS in table.column_names:
        table = _with(table, SPANS, numpy.repeat(_flat(table[SPANS].combine_chunks()), counts), offsets)
    return table


def translate_stops(stop_token_ids: Sequence[int], tokens: TokenMap) -> list[int]:
    """A buffer's stop tokens in the target's ids."""
    return sorted({tokens.get(token, (token,))[-1] for token in stop_token_ids})


def _flat(column: pyarrow.Array) -> "numpy.ndarray[tuple[int], numpy.dtype[numpy.generic]]":
    if isinstance(column, pyarrow.ChunkedArray):
        column = pyarrow.concat_arrays(column.chunks)
    return column.flatten().to_numpy(zero_copy_only=False)


def _with(table: pyarrow.Table, name: str, values: object, offsets: pyarrow.Array) -> pyarrow.Table:
    place, kind = table.column_names.index(name), table.schema.field(name).type
    return table.set_column(place, name, pyarrow.ListArray.from_arrays(offsets, pyarrow.array(values)).cast(kind))
