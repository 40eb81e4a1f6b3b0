"""Between text and ids."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import GenerationConfig, PreTrainedTokenizerFast

from pear.data.rendering import (
    decode_completion,
    encode_completion,
    load_tokenizer,
    render_prompt,
    stop_token_ids,
    tokenizer_digest,
    vocabulary_digest,
)
from pear.errors import UserError
from pear.training.tiny_models import build_tokenizer
from tests.data.conftest import WORDS

USER = [{"role": "user", "content": "one two"}]


def test_prompt_ends_where_the_assistant_begins(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = render_prompt(tokenizer, USER)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|user|>", "one", "two", "<|assistant|>"]
    assert all(type(token) is int for token in ids)


def test_tokenizer_without_chat_template_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"has no chat template.*chat_template.jinja"):
        render_prompt(tokenizer, USER)


def test_messages_that_the_template_refuses_are_named(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ raise_exception('only the user may speak') }}"
    with pytest.raises(UserError, match=r"roles \[user\]: only the user may speak"):
        render_prompt(tokenizer, USER)
    with pytest.raises(UserError, match="refuses messages"):
        render_prompt(build_tokenizer(WORDS), [])


def test_special_tokens_stay_and_one_stop_token_goes(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.add_tokens([AddedToken("<special>", special=True)])
    special, end, one = (tokenizer.convert_tokens_to_ids(piece) for piece in ("<special>", "<|end|>", "one"))
    assert decode_completion(tokenizer, [special, one, end]) == "<special> one"
    assert decode_completion(tokenizer, [one, end, end]) == "one <|end|>"
    assert decode_completion(tokenizer, [end, one]) == "<|end|> one"
    assert decode_completion(tokenizer, [one, special], stop_ids=[special]) == "one"
    assert decode_completion(tokenizer, [one, end], stop_ids=[special]) == "one <|end|>"
    assert decode_completion(tokenizer, []) == ""


def test_text_is_encoded_once_with_its_end(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "<think> one two </think> <answer> three </answer>"
    ids = encode_completion(tokenizer, text)
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    assert decode_completion(tokenizer, ids) == text
    assert encode_completion(tokenizer, f"{text} <|end|>") == ids


def test_completion_without_eos_token_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="has no EOS token"):
        encode_completion(tokenizer, "one")
    with pytest.raises(UserError, match="names an EOS token"):
        stop_token_ids(tokenizer, tmp_path)


@pytest.mark.parametrize(("stops", "wanted"), [(None, [1]), (7, [1, 7]), ([1, 9], [1, 9])])
def test_stop_ids_are_of_tokenizer_and_generation_config(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, stops: object, wanted: list[int]
) -> None:
    if stops is not None:
        GenerationConfig(eos_token_id=stops).save_pretrained(tmp_path)
    assert stop_token_ids(tokenizer, tmp_path) == wanted


def test_digest_is_of_what_ids_mean(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    digest, words = tokenizer_digest(tokenizer), vocabulary_digest(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    again.chat_template = "another"
    assert (tokenizer_digest(again), vocabulary_digest(again)) == (digest, words)
    again.add_tokens(["<|new|>"])
    assert tokenizer_digest(again) != digest
    assert vocabulary_digest(again) == words
    assert vocabulary_digest(build_tokenizer(WORDS[::-1])) != words


def test_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer can be loaded"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="no tokenizer can be loaded"):
        load_tokenizer(tmp_path)
