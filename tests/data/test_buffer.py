"""The buffer: what it keeps, and what it refuses by name of file, row and problem."""

import json
import math
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from pear.data.buffer import (
    BUFFER_FILE,
    SCHEMA,
    BufferWriter,
    load_buffer,
    read_manifest,
    read_shards,
)
from pear.data.token_map import token_map
from pear.errors import UserError
from pear.training.tiny_models import build_tokenizer
from tests.data.conftest import WORDS, manifest_of, row, write_buffer


def test_rows_come_back_as_written(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [row(problem_id=str(number), behavior_processed_log_probs=[-0.25, -1.0, 0.0]) for number in range(5)]
    write_buffer(tmp_path / "b", tokenizer, rows[:3], rows[3:])
    assert load_buffer(tmp_path / "b").to_list() == rows
    assert load_buffer(str(tmp_path / "b")).column_names == SCHEMA.names


def test_wrong_trajectories_are_kept_and_left_out_of_sft(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [row(problem_id="right"), row(problem_id="wrong", correct=False, reward=0.0, finish="length")]
    write_buffer(tmp_path / "b", tokenizer, rows)
    assert load_buffer(tmp_path / "b")["problem_id"] == ["right"]
    assert load_buffer(tmp_path / "b", correct_only=False)["problem_id"] == ["right", "wrong"]


def test_manifest_counts_and_names_every_shard(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    shards = [[row(), row(correct=False, finish="length")], [row(completion_ids=[62, 1], behavior_log_probs=[-1, -1])]]
    write_buffer(tmp_path / "b", tokenizer, *shards)
    manifest = read_manifest(tmp_path / "b")
    assert manifest.counts is not None
    counts = {"rows": 3, "correct": 2, "wrong": 1, "tokens": 8, "truncated": 1}
    assert manifest.counts.model_dump(exclude={"tasks"}) == counts
    assert [shard.name for shard in manifest.shards] == ["shard-00000.parquet", "shard-00001.parquet"]
    assert [shard.rows for shard in manifest.shards] == [2, 1]
    # Only the added tokens that occur decide whether another tokenizer fits.
    assert manifest.used_added_tokens == ("<|end|>",)


def test_equal_rows_give_equal_bytes(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    first = write_buffer(tmp_path / "a", tokenizer, [row(), row(correct=False)])
    second = write_buffer(tmp_path / "b", tokenizer, [row(), row(correct=False)])
    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_datasets_opens_the_shards(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    directory = write_buffer(tmp_path / "b", tokenizer, [row()], [row(correct=False)])
    files = str(directory / "*.parquet")
    opened = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert opened.to_list() == load_buffer(directory, correct_only=False).to_list()
    metadata = pyarrow.parquet.ParquetFile(directory / "shard-00000.parquet").metadata
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_rounding_above_zero_is_set_to_zero(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tiny = row(behavior_log_probs=[-1.0, 9e-5, 0.0], behavior_processed_log_probs=[1e-5, -2.0, 0.0])
    write_buffer(tmp_path / "b", tokenizer, [row(), tiny, row()])
    loaded = load_buffer(tmp_path / "b").to_list()
    assert loaded[1]["behavior_log_probs"] == [-1.0, 0.0, 0.0]
    assert loaded[1]["behavior_processed_log_probs"] == [0.0, -2.0, 0.0]
    assert loaded[0] == loaded[2] == row()


BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "one too few": ({"behavior_log_probs": [-1.0, -1.0]}, "2 values in behavior_log_probs for 3 completion_ids"),
    "one too many": ({"behavior_log_probs": [-1.0] * 4}, "4 values in behavior_log_probs for 3 completion_ids"),
    "missing": ({"behavior_log_probs": None}, "behavior_log_probs is missing"),
    "one missing": ({"behavior_log_probs": [-1.0, None, -1.0]}, "a value of behavior_log_probs is missing"),
    "nan": ({"behavior_log_probs": [-1.0, math.nan, -1.0]}, "behavior_log_probs holds nan"),
    "minus infinity": ({"behavior_log_probs": [-1.0, -1.0, -math.inf]}, "behavior_log_probs holds -inf"),
    "positive": ({"behavior_log_probs": [-1.0, -1.0, 2e-4]}, "behavior_log_probs holds 0.0002"),
    "processed nan": ({"behavior_processed_log_probs": [-1, math.nan, -1]}, "behavior_processed_log_probs holds nan"),
    "processed short": ({"behavior_processed_log_probs": [-1.0]}, "1 values in behavior_processed_log_probs for 3"),
    "no token": ({"completion_ids": [], "behavior_log_probs": []}, "completion_ids is empty"),
    "not verified": ({"correct": None}, "correct is missing"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_refused_by_name(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    changes, message = BAD_ROWS[name]
    rows = [row(), row(behavior_processed_log_probs=[-1.0] * 3), row(problem_id="the bad one", **changes)]
    with pytest.raises(UserError, match=r"shard-00000.parquet, row 2 \(problem 'the bad one'\): ") as error:
        BufferWriter(tmp_path, manifest_of(tokenizer)).write_shard(0, rows)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_in_a_file_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """A buffer made by something else, with a manifest that fits it."""
    changes, message = BAD_ROWS[name]
    directory = write_buffer(tmp_path / "b", tokenizer, [row()])
    table = pyarrow.Table.from_pylist([row(), row(problem_id="the bad one", **changes)], schema=SCHEMA)
    replace_shard(directory, table)
    with pytest.raises(UserError, match=r"row 1 \(problem 'the bad one'\): ") as error:
        load_buffer(directory)
    assert message in str(error.value)


def replace_shard(directory: Path, table: pyarrow.Table) -> None:
    import hashlib

    path = directory / "shard-00000.parquet"
    pyarrow.parquet.write_table(table, path)
    manifest = json.loads((directory / BUFFER_FILE).read_text())
    manifest["shards"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (directory / BUFFER_FILE).write_text(json.dumps(manifest))


def test_missing_column_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    directory = write_buffer(tmp_path / "b", tokenizer, [row()])
    replace_shard(directory, pyarrow.Table.from_pylist([row()], schema=SCHEMA).drop_columns(["behavior_log_probs"]))
    with pytest.raises(UserError, match="the column 'behavior_log_probs' is missing"):
        load_buffer(directory)


def test_buffer_without_rows_or_without_correct_ones_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError, match="the buffer is empty"):
        load_buffer(write_buffer(tmp_path / "empty", tokenizer, []))
    with pytest.raises(UserError, match="none of its 2 trajectories is correct"):
        load_buffer(write_buffer(tmp_path / "wrong", tokenizer, [row(correct=False)] * 2))


def test_directory_that_is_no_buffer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a buffer"):
        load_buffer(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format_version": 7}, "format version 7"), ({"verified": "perhaps"}, "verified"), ({"extra": 1}, "extra")],
)
def test_manifest_that_cannot_be_read_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, change: dict[str, Any], message: str
) -> None:
    directory = write_buffer(tmp_path / "b", tokenizer, [row()])
    values = json.loads((directory / BUFFER_FILE).read_text())
    (directory / BUFFER_FILE).write_text(json.dumps({**values, **change}))
    with pytest.raises(UserError, match=message):
        read_manifest(directory)


def test_shard_that_is_gone_or_changed_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    directory = write_buffer(tmp_path / "b", tokenizer, [row()], [row()])
    (directory / "shard-00001.parquet").write_bytes((directory / "shard-00000.parquet").read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"shard-00001.parquet: its bytes are not those"):
        read_shards(directory)
    (directory / "shard-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"shard-00001.parquet: missing"):
        read_shards(directory)


def test_tokenizer_of_the_buffer_fits(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    manifest = read_manifest(write_buffer(tmp_path / "b", tokenizer, [row()]))
    assert token_map(manifest, tokenizer) == {}
    tokenizer.chat_template = "another"
    assert token_map(manifest, tokenizer) == {}
    tokenizer.add_tokens([AddedToken("<|new|>", special=True)])
    assert token_map(manifest, tokenizer) == {}


def test_tokenizer_of_other_words_is_foreign(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    manifest = read_manifest(write_buffer(tmp_path / "b", tokenizer, [row()]))
    with pytest.raises(UserError, match="its vocabulary is not the one of the buffer"):
        token_map(manifest, build_tokenizer(WORDS[::-1]))


def test_added_tokens_matter_where_they_occur(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Qwen2.5 and Qwen3 have equal words; a buffer with `<think>` fits only the one that knows it by the same id."""
    think = tokenizer.convert_tokens_to_ids("<think>")
    used = row(completion_ids=[think, 1], behavior_log_probs=[-1.0, -1.0])
    other = build_tokenizer(WORDS)
    other._tokenizer = type(other._tokenizer).from_str(other._tokenizer.to_str().replace("<think>", "<reason>"))
    token_map(read_manifest(write_buffer(tmp_path / "plain", tokenizer, [row()])), other)
    with pytest.raises(UserError, match=rf"'<think>', id {think} in the buffer's completions, is unknown here"):
        token_map(read_manifest(write_buffer(tmp_path / "thinks", tokenizer, [used])), other)
