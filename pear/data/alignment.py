"""Two tokenizers: a completion's log-probs under one, carried over to the tokens of the other by spans of text.

Both tokenisations of a completion are decoded token by token. Where both are at the same place of the text, and no
character is half done, is a common boundary, and the tokens between two of them are a span: the finest cut at which
both models have said the same. The stop token is a span of its own, and stands for the target's EOS. The behavior
policy's log-prob of a span is the sum over its own tokens there; the first of the target's tokens holds it and the
others 0, as where one token becomes several (`pear.data.token_map`). So the sum over every suffix that begins with a
span is exact: of the completion as the behavior policy wrote it, token by token, as every ratio is.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy

from pear.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPANS = "span_ids"


@final
@dataclass(frozen=True, kw_only=True)
class Alignment:
    """A completion in the target's tokens.

    Attributes:
        ids: the target's token ids.
        behavior_counts: the behavior policy's tokens in each span, and `target_counts`, the target's. All are above 0.
    """

    ids: "array[int]"
    behavior_counts: "array[int]"
    target_counts: "array[int]"

    def carried(self, log_probs: Sequence[float]) -> dict[str, Any]:
        """The columns of a buffer that are about the target's tokens.

        Args:
            log_probs: of the behavior policy's tokens, nats.

        Returns:
            `completion_ids`; `behavior_log_probs`, a span's at its first token and 0 at the others; and `span_ids`,
            the number of each token's span, from 0. `behavior_prompt_ids` are none of the target's, and None.
        """
        values: list[float] = []
        spans: list[int] = []
        start = 0
        for number, (own, other) in enumerate(zip(self.behavior_counts, self.target_counts, strict=True)):
            values += [math.fsum(log_probs[start : start + own]), *[0.0] * (other - 1)]
            spans += [number] * other
            start += own
        assert start == len(log_probs)
        return {
            "completion_ids": self.ids,
            "behavior_log_probs": values,
            SPANS: spans,
            "behavior_prompt_ids": None,
        }


def check_decodable(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises `UserError` for a tokenizer that cannot tell which text its tokens are."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: a tokenizer without tokenizer.json cannot be aligned. Save "
            "it as a fast one (AutoTokenizer.from_pretrained(...).save_pretrained(...))."
        )


def align(
    behavior: "PreTrainedTokenizerBase",
    behavior_ids: Sequence[int],
    target: "PreTrainedTokenizerBase",
    *,
    stopped: bool,
    target_ids: Sequence[int] | None = None,
) -> Alignment | None:
    """A completion of one tokenizer in the tokens of another.

    Args:
        behavior: the behavior policy's tokenizer, and `behavior_ids`, the completion.
        target: the target's tokenizer, with an EOS token.
        stopped: whether the last of `behavior_ids`, and of `target_ids`, is a stop token. EOS is the target's.
        target_ids: the completion in the target's tokens, where it is known; else its text is tokenized.

    Returns:
        None where the two are not one text: a character is cut off at the end, or a tokenizer changes what it reads.
    """
    own = list(behavior_ids[:-1] if stopped else behavior_ids)
    text, own_ends = _ends(behavior, own)
    if target_ids is None:
        other = [int(token) for token in target(text, add_special_tokens=False)["input_ids"]]
    else:
        other = list(target_ids[:-1] if stopped else target_ids)
    other_text, other_ends = _ends(target, other)
    complete = own_ends.get(len(text), 0) == len(own) and other_ends.get(len(text), 0) == len(other)
    if text != other_text or not complete or bool(own) != bool(other):
        return None
    common = sorted(own_ends.keys() & other_ends.keys())
    last = [1] if stopped else []
    stop = target.eos_token_id if target_ids is None else target_ids[-1]
    assert stop is not None
    return Alignment(
        ids=array("i", [*other, *([int(stop)] if stopped else [])]),
        behavior_counts=array("i", [*numpy.diff([own_ends[place] for place in common], prepend=0), *last]),
        target_counts=array("i", [*numpy.diff([other_ends[place] for place in common], prepend=0), *last]),
    )


def _ends(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> tuple[str, dict[int, int]]:
    """The text of tokens, and for each place of it where whole characters end with a token: how many tokens that took.

    Tokens without text belong to what is before them.
    """
    from tokenizers.decoders import DecodeStream

    backend: Any = tokenizer.backend_tokenizer
    stream = DecodeStream(skip_special_tokens=False)
    pieces: list[str] = []
    ends: dict[int, int] = {}
    place = 0
    for count, token in enumerate(ids, 1):
        piece = stream.step(backend, token)
        if piece is not None:
            pieces.append(piece)
            place += len(piece)
            ends[place] = count
    return "".join(pieces), ends
