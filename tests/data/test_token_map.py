"""Equal pieces, other added tokens: ids and log-probs carry over, and what cannot is refused."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pear.data.buffer import SCHEMA, load_buffer, read_manifest
from pear.data.token_map import TokenMap, fit_tokenizer, named, token_map, translate, translate_stops
from pear.errors import UserError
from pear.training.tiny_models import build_tokenizer
from tests.data.conftest import WORDS, row, write_buffer

QWEN3 = os.environ.get("PEAR_QWEN3_DIR", "")
THINKS = "<think>\n2 + 2 is 4, größer als 3.\n</think>\n\nSo \\boxed{4}"


def naive(ids: list[int], values: list[float], tokens: TokenMap) -> tuple[list[int], list[float]]:
    new_ids: list[int] = []
    new_values: list[float] = []
    for token, value in zip(ids, values, strict=True):
        others = tokens.get(token, (token,))
        new_ids += others
        new_values += [value] + [0.0] * (len(others) - 1)
    return new_ids, new_values


@pytest.mark.parametrize("chunks", [1, 3])
def test_translation_is_what_a_loop_gives(chunks: int) -> None:
    draw = random.Random(0)
    tokens: TokenMap = {3: (4,), 4: (3,), 7: (1, 2, 7), 9: (8, 8)}
    rows = []
    for _ in range(60):
        ids = [draw.randrange(12) for _ in range(draw.randint(1, 20))]
        # Of float32, as the buffer holds them.
        values = [-draw.randrange(64) / 8 for _ in ids]
        rows.append(row(completion_ids=ids, behavior_log_probs=values, behavior_processed_log_probs=values[::-1]))
    size = len(rows) // chunks
    table = pyarrow.concat_tables(
        [pyarrow.Table.from_pylist(rows[start : start + size], schema=SCHEMA) for start in range(0, len(rows), size)]
    )
    found = translate(table, tokens)
    assert found.schema == table.schema
    for old, new in zip(rows, found.to_pylist(), strict=True):
        ids, values = naive(old["completion_ids"], old["behavior_log_probs"], tokens)
        assert (new["completion_ids"], new["behavior_log_probs"]) == (ids, values)
        assert (
            new["behavior_processed_log_probs"]
            == naive(old["completion_ids"], old["behavior_processed_log_probs"], tokens)[1]
        )
        assert {**old, **new, "prompt": old["prompt"]}.keys() == new.keys()
    assert translate_stops([3, 7, 11], tokens) == [4, 7, 11]


def test_equal_tokens_leave_the_rows_as_they_are(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    directory = write_buffer(tmp_path / "b", tokenizer, [row()])
    dataset = load_buffer(directory)
    assert fit_tokenizer(dataset, read_manifest(directory), tokenizer) is dataset


def test_a_stop_token_becomes_the_targets_own(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    directory = write_buffer(tmp_path / "b", tokenizer, [row()])
    manifest = read_manifest(directory)
    (stop,) = manifest.used_added_tokens
    target = build_tokenizer(WORDS)
    target._tokenizer = type(target._tokenizer).from_str(target._tokenizer.to_str().replace(stop, "<|done|>"))
    think = target.convert_tokens_to_ids("<think>")
    target.eos_token = "<think>"
    assert token_map(manifest, target) == {1: (think,)}
    assert named(token_map(manifest, target), manifest, target) == {stop: ["<think>"]}
    fitted = fit_tokenizer(load_buffer(directory), manifest, target)
    assert fitted[0]["completion_ids"] == [7, 8, think]
    assert fitted[0]["behavior_log_probs"] == [-0.5, -1.5, -0.25]
    again = fit_tokenizer(load_buffer(directory), manifest, target)
    assert fitted._fingerprint == again._fingerprint != load_buffer(directory)._fingerprint


def test_rows_that_were_chosen_are_the_rows_that_are_translated(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [row(problem_id=str(number), completion_ids=[5 + number, 6, 1]) for number in range(4)]
    directory = write_buffer(tmp_path / "b", tokenizer, rows)
    target = build_tokenizer(WORDS)
    (stop,) = read_manifest(directory).used_added_tokens
    target._tokenizer = type(target._tokenizer).from_str(target._tokenizer.to_str().replace(stop, "<|done|>"))
    target.eos_token = "<think>"
    chosen = load_buffer(directory).select([3, 1])
    fitted = fit_tokenizer(chosen, read_manifest(directory), target)
    assert fitted["problem_id"] == ["3", "1"]
    assert [ids[0] for ids in fitted["completion_ids"]] == [8, 6]


def test_some_log_probs_missing_is_an_error() -> None:
    rows = [row(behavior_processed_log_probs=[-1.0, -1.0, -1.0]), row()]
    with pytest.raises(UserError, match="some rows have none"):
        translate(pyarrow.Table.from_pylist(rows, schema=SCHEMA), {7: (8,)})


# The real tokenizer of Qwen3, and relatives of it with other added tokens.


def relative(directory: Path, added: list[str], eos: str) -> Any:
    """Qwen3's tokenizer with these added tokens in place of its own."""
    shutil.copytree(QWEN3, directory)
    file = directory / "tokenizer.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    like = values["added_tokens"][0]
    values["added_tokens"] = [
        {**like, "id": token, "content": piece.join("<>") if len(piece) == 1 else piece}
        for token, piece in enumerate(added, 151643)
    ]
    file.write_text(json.dumps(values), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "chat_template": "x"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return AutoTokenizer.from_pretrained(str(directory))


needs_qwen3 = pytest.mark.skipif(not QWEN3, reason="PEAR_QWEN3_DIR is not set")


@pytest.fixture
def qwen3() -> Any:
    return AutoTokenizer.from_pretrained(QWEN3)


def collected(directory: Path, tokenizer: Any) -> tuple[Path, list[int], list[float]]:
    """A buffer with one completion of Qwen3."""

    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = [*tokenizer(THINKS, add_special_tokens=False)["input_ids"], stop]
    values = [-number / 8 for number in range(1, len(ids) + 1)]
    rows = [row(completion_ids=ids, behavior_log_probs=values, completion=THINKS)]
    write_buffer(directory, tokenizer, rows, stop_token_ids=[stop], behavior_model="Qwen3")
    return directory, ids, values


@pytest.mark.slow
@needs_qwen3
def test_qwen3_to_a_relative_with_other_ids(tmp_path: Path, qwen3: Any) -> None:
    directory, ids, values = collected(tmp_path / "b", qwen3)
    manifest = read_manifest(directory)
    assert manifest.used_added_tokens == ("</think>", "<think>", "<|im_end|>")
    # As in DeepSeek-R1-Distill-Qwen.
    end = "<\uff5cend\u2581of\u2581sentence\uff5c>"
    distilled = relative(tmp_path / "d", [end, *"ABCD", "<think>", "</think>"], end)
    dataset = fit_tokenizer(load_buffer(directory), manifest, distilled)
    new = dataset[0]["completion_ids"]
    assert distilled.decode(new) == THINKS + end
    assert new[:-1] == distilled(THINKS, add_special_tokens=False)["input_ids"]
    assert dataset[0]["behavior_log_probs"] == values
    assert sum(a != b for a, b in zip(ids, new, strict=True)) == 3
    assert named(token_map(manifest, distilled), manifest, distilled) == {
        "<think>": ["<think>"],
        "</think>": ["</think>"],
        "<|im_end|>": [end],
    }


@pytest.mark.slow
@needs_qwen3
def test_qwen3_to_a_relative_without_its_thinking_tokens(tmp_path: Path, qwen3: Any) -> None:
    directory, _, values = collected(tmp_path / "b", qwen3)
    manifest = read_manifest(directory)
    # As in Qwen2.5.
    older = relative(tmp_path / "d", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|endoftext|>")
    found = fit_tokenizer(load_buffer(directory), manifest, older)[0]
    assert older.decode(found["completion_ids"]) == THINKS + "<|im_end|>"
    assert found["completion_ids"][-1] == 151645
    assert len(found["completion_ids"]) == len(found["behavior_log_probs"]) > len(values)
    assert sum(found["behavior_log_probs"]) == sum(values)
    # Every suffix that begins at a token of Qwen3 has its own sum.
    suffixes = {sum(found["behavior_log_probs"][place:]) for place in range(len(found["behavior_log_probs"]))}
    assert {sum(values[place:]) for place in range(len(values))} <= suffixes


@pytest.mark.slow
@needs_qwen3
def test_qwen3_and_a_tokenizer_with_other_pieces(tmp_path: Path, qwen3: Any) -> None:
    directory, _, _ = collected(tmp_path / "b", qwen3)
    with pytest.raises(UserError, match="the token ids mean other text"):
        token_map(read_manifest(directory), build_tokenizer(WORDS))
