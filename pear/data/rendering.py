"""Between text and token ids: the only place that applies chat templates, renders prompts and decodes completions."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pear.errors import UserError
from pear.runs import canonical_json, sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(model: str | Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model directory or hub id. Remote code is never run.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{model}: no tokenizer can be loaded from it ({_first_line(error)}).") from None
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    # Where a directory has no tokenizer files, transformers makes up one that knows no words.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise UserError(f"{model}: no tokenizer is in it. Put the tokenizer's files beside the model's.")
    return tokenizer


def check_chat_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises `UserError` where the tokenizer has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: has no chat template, so messages cannot be rendered. "
            "Put a chat_template.jinja beside its tokenizer files (any template of a model with the same tokens)."
        )


def render_prompt(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The ids of a prompt: the messages in the tokenizer's own chat template, up to where the assistant begins.

    GRPO in TRL renders messages by the same call, so that SFT, sampling and RL see equal prompts.

    Args:
        tokenizer: with a chat template.
        messages: `{"role": ..., "content": ...}`, without the assistant's last turn.

    Raises:
        UserError: no chat template, or the template refuses the messages.
    """
    from jinja2 import TemplateError

    check_chat_template(tokenizer)
    conversation = [dict(message) for message in messages]
    try:
        ids: Any = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except (TemplateError, ValueError) as error:
        roles = ", ".join(message.get("role", "?") for message in conversation)
        raise UserError(f"The chat template refuses messages with the roles [{roles}]: {_first_line(error)}.") from None
    return [int(token) for token in ids]


def encode_completion(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The ids of an assistant's text, followed by the tokenizer's EOS: what a model that stops would have produced.

    For text from elsewhere only. Sampled ids are never decoded and encoded again.

    Raises:
        UserError: the tokenizer has no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: has no EOS token, so a completion cannot be ended. "
            "Set `eos_token` in its tokenizer_config.json."
        )
    ids = [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, int(tokenizer.eos_token_id)]


def decode_completion(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], stop_ids: Collection[int] | None = None
) -> str:
    """The text of a completion as a verifier reads it.

    Special tokens stay in the text, so that `<think>` is seen where it is one; only one trailing stop token goes.

    Args:
        tokenizer: the one that the ids are of.
        ids: token ids of a completion.
        stop_ids: ids that end a completion; the tokenizer's EOS where none are given.
    """
    stops = {tokenizer.eos_token_id} if stop_ids is None else set(stop_ids)
    kept = list(ids[:-1]) if len(ids) and ids[-1] in stops else list(ids)
    text = tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def token_texts(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[str]:
    """Each token's own text, special tokens included, for people: a piece of a character is shown as U+FFFD."""
    return [str(tokenizer.decode([token], clean_up_tokenization_spaces=False)) for token in ids]


def tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A sha256 over what every id means: the whole vocabulary, added tokens included.

    Neither the chat template nor which tokens count as special is in it: they do not change what an id means.
    """
    return sha256(canonical_json(tokenizer.get_vocab()))


def vocabulary_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """`tokenizer_digest` without the added tokens: equal for Qwen2.5 and Qwen3, whose added tokens differ."""
    added = tokenizer.get_added_vocab()
    ordinary = {piece: token for piece, token in tokenizer.get_vocab().items() if piece not in added}
    return sha256(canonical_json(ordinary))


def added_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """The tokens beside the ordinary vocabulary, such as EOS and tags, with their ids."""
    return {str(piece): int(token) for piece, token in sorted(tokenizer.get_added_vocab().items())}


def stop_token_ids(tokenizer: "PreTrainedTokenizerBase", model: str | Path) -> list[int]:
    """The ids that end a completion: the tokenizer's EOS and those of the model's generation configuration.

    Raises:
        UserError: neither names one.
    """
    from transformers import GenerationConfig

    found: set[int] = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    try:
        stops = GenerationConfig.from_pretrained(str(model)).eos_token_id
    except OSError:
        # A model needs no generation configuration; the tokenizer's EOS is enough.
        stops = None
    if stops is not None:
        found.update([int(stops)] if isinstance(stops, int) else [int(token) for token in stops])
    if not found:
        raise UserError(
            f"{model}: neither its tokenizer nor its generation_config.json names an EOS token. "
            "Set `eos_token` in tokenizer_config.json or `eos_token_id` in generation_config.json."
        )
    return sorted(found)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
