"""Two tokenizers of one text: what a span is, what is carried, and what cannot be aligned."""

import math
import os
import random
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from pear.data.alignment import SPANS, align, check_decodable
from pear.data.buffer import SCHEMA, load_buffer, read_manifest, read_shards
from pear.data.rendering import load_tokenizer
from pear.data.token_map import fit_tokenizer, token_map, translate
from pear.errors import UserError
from tests.byte_pairs import byte_pair_tokenizer
from tests.data.conftest import row, write_buffer

TEXTS = [
    "Hello, world! 12345 + 678 = 13023\n\nSo \\boxed{13023}",
    "größer 数学 🙂👨\u200d👩\u200d👧 naïve",
    "<think>\nabc\n</think>\n\n   indent\t\ttab ",
    "",
    " ",
    "x" * 50,
    "வணக்கம்",
    "a \ufffd b",
]


@pytest.fixture(scope="module")
def coarse() -> Any:
    return byte_pair_tokenizer(400)


@pytest.fixture(scope="module")
def fine() -> Any:
    return byte_pair_tokenizer(280, eos="<|end|>")


def check_spans(behavior: Any, ids: list[int], target: Any, found: Any) -> None:
    """Both sides of every span decode to one text, and no span could be cut once more."""
    own = other = 0
    for own_count, other_count in zip(found.behavior_counts[:-1], found.target_counts[:-1], strict=True):
        left, right = ids[own : own + own_count], list(found.ids[other : other + other_count])
        text = behavior.decode(ids[:own] + left)
        assert text == target.decode(list(found.ids[:other]) + right)
        for cut in range(1, own_count):
            for further in range(1, other_count):
                begun = behavior.decode(ids[: own + cut])
                assert "\ufffd" in begun or begun != target.decode(list(found.ids[: other + further]))
        own, other = own + own_count, other + other_count
    assert (own, other) == (len(ids) - 1, len(found.ids) - 1)
    assert (found.behavior_counts[-1], found.target_counts[-1]) == (1, 1)
    assert found.ids[-1] == target.eos_token_id


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("swapped", [False, True])
def test_spans_are_the_finest_common_cut(text: str, swapped: bool, coarse: Any, fine: Any) -> None:
    behavior, target = (fine, coarse) if swapped else (coarse, fine)
    ids = [*behavior(text)["input_ids"], behavior.eos_token_id]
    found = align(behavior, ids, target, stopped=True)
    assert found is not None
    check_spans(behavior, ids, target, found)
    log_probs = [-(number + 1) / 8 for number in range(len(ids))]
    carried = found.carried(log_probs)
    assert len(carried["completion_ids"]) == len(carried["behavior_log_probs"]) == len(carried[SPANS])
    assert math.fsum(carried["behavior_log_probs"]) == math.fsum(log_probs)
    own = 0
    for number, count in enumerate(found.behavior_counts):
        inside = [
            value for value, span in zip(carried["behavior_log_probs"], carried[SPANS], strict=True) if span == number
        ]
        assert inside == [math.fsum(log_probs[own : own + count]), *[0.0] * (len(inside) - 1)]
        own += count


def test_ids_that_a_model_would_not_choose_are_aligned_as_they_are(coarse: Any, fine: Any) -> None:
    draw = random.Random(0)
    aligned = 0
    for _ in range(100):
        ids = [draw.randrange(len(coarse) - 1) for _ in range(12)]
        found = align(coarse, ids, fine, stopped=False)
        if found is not None:
            assert fine.decode(list(found.ids)) == coarse.decode(ids)
            assert sum(found.behavior_counts) == len(ids)
            aligned += 1
    # The others are no UTF-8, of which no text is the one that was meant.
    assert 0 < aligned < 100


def test_ids_that_the_target_has_are_kept(coarse: Any, fine: Any) -> None:
    """A buffer of the target's own, to be scored by a model of another tokenizer."""
    word = "hello there"
    target_ids = [*(fine(letter)["input_ids"][0] for letter in word), fine.eos_token_id]
    ids = [*coarse(word)["input_ids"], coarse.eos_token_id]
    found = align(coarse, ids, fine, stopped=True, target_ids=target_ids)
    assert found is not None
    assert list(found.ids) == target_ids != [*fine(word)["input_ids"], fine.eos_token_id]
    check_spans(coarse, ids, fine, found)
    assert align(coarse, ids, fine, stopped=True, target_ids=target_ids[1:]) is None


def test_a_character_that_is_cut_off_has_no_text(fine: Any, coarse: Any) -> None:
    ids = fine("so 🙂")["input_ids"]
    assert align(fine, ids, coarse, stopped=False) is not None
    assert align(fine, ids[:-1], coarse, stopped=False) is None


def test_a_tokenizer_that_changes_its_text_is_not_aligned(fine: Any) -> None:
    composing = byte_pair_tokenizer(300, normalize=True)
    assert align(fine, fine("cafe\u0301")["input_ids"], composing, stopped=False) is None
    assert align(fine, fine("café")["input_ids"], composing, stopped=False) is not None


def test_slow_tokenizers_are_refused() -> None:
    class Slow:
        is_fast = False
        name_or_path = "mine"

    with pytest.raises(UserError, match=r"mine: .*tokenizer.json"):
        check_decodable(Slow())  # type: ignore[arg-type]


# The buffer.


def aligned_row(**changes: Any) -> dict[str, Any]:
    return row(**{SPANS: [0, 0, 1], "behavior_log_probs": [-2.0, 0.0, -0.25], "behavior_prompt_ids": None, **changes})


def aligned_buffer(directory: Path, tokenizer: Any, *rows: dict[str, Any]) -> Path:
    return write_buffer(directory, tokenizer, list(rows), aligned_from="0" * 64)


def test_a_buffer_keeps_its_spans(tmp_path: Path, tokenizer: Any) -> None:
    directory = aligned_buffer(tmp_path / "b", tokenizer, aligned_row(), aligned_row(**{SPANS: [0, 1, 2]}))
    assert load_buffer(directory)[SPANS] == [[0, 0, 1], [0, 1, 2]]
    assert read_manifest(directory).aligned_from == "0" * 64
    assert fit_tokenizer(load_buffer(directory), read_manifest(directory), tokenizer)[SPANS] == [[0, 0, 1], [0, 1, 2]]


@pytest.mark.parametrize("spans", [[0, 0], [0, 0, 2], [1, 1, 2], [0, 1, 0], None, [0, -1, 0]])
def test_spans_that_do_not_count_up_are_refused(spans: Any, tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"row 1 \(problem 'q'\): span_ids"):
        aligned_buffer(tmp_path / "b", tokenizer, aligned_row(), aligned_row(problem_id="q", **{SPANS: spans}))


def test_spans_go_along_where_one_token_becomes_several() -> None:
    schema = SCHEMA.append(pyarrow.field(SPANS, pyarrow.list_(pyarrow.int32())))
    table = pyarrow.Table.from_pylist([aligned_row(), aligned_row(completion_ids=[8, 7, 1])], schema=schema)
    found = translate(table, {7: (4, 5)})
    assert found[SPANS].to_pylist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert found["behavior_log_probs"].to_pylist() == [[-2.0, 0.0, 0.0, -0.25], [-2.0, 0.0, 0.0, -0.25]]


def test_a_buffer_that_lost_its_spans_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    directory = aligned_buffer(tmp_path / "b", tokenizer, aligned_row())
    table = pyarrow.parquet.read_table(directory / "shard-00000.parquet").drop_columns(SPANS)
    pyarrow.parquet.write_table(table, directory / "shard-00000.parquet")
    with pytest.raises(UserError, match="its bytes are not those"):
        read_shards(directory)


def test_another_vocabulary_is_an_error_that_names_the_way(tmp_path: Path, coarse: Any, fine: Any) -> None:
    directory = tmp_path / "b"
    aligned_buffer(directory, coarse, aligned_row())
    with pytest.raises(UserError, match=r"the token ids mean other text.*pear score --align .* gives the log-probs of"):
        token_map(read_manifest(directory), fine)


# The two tokenizers that the field would meet here.


def real(variable: str) -> Any:
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    return load_tokenizer(os.environ[variable])


@pytest.mark.slow
@pytest.mark.parametrize("swapped", [False, True])
def test_smollm2_and_qwen3(swapped: bool) -> None:
    tokenizers = [real("PEAR_SMOLLM2_DIR"), real("PEAR_QWEN3_DIR")]
    behavior, target = tokenizers[::-1] if swapped else tokenizers
    whole = 0
    for text in [*TEXTS, *(path.read_text(encoding="utf-8") for path in sorted(Path("docs").glob("*.md")))]:
        ids = [*behavior(text, add_special_tokens=False)["input_ids"], behavior.eos_token_id]
        found = align(behavior, ids, target, stopped=True)
        assert found is not None, text[:80]
        if len(ids) < 200:
            check_spans(behavior, ids, target, found)
        assert target.decode(list(found.ids[:-1])) == text
        whole += len(found.behavior_counts)
        assert len(found.behavior_counts) > 0.5 * min(len(ids), len(found.ids)) or len(ids) < 30
    assert whole > 10_000
