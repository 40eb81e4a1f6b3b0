"""What every engine that asks another program checks: that an answer is a completion, and its log-probs are such."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy

from pear.data.teacher_top import SLACK, TopTokens
from pear.engines.protocol import Sampling
from pear.errors import UserError

_TOKEN_ID = "token_id:"


def checked_log_probs(values: Sequence[float | None], count: int, source: str) -> tuple[float, ...]:
    """Log-probs, one for each of `count` tokens, nats; what float32 rounded to a little above 0 is 0.

    Raises:
        UserError: another number of them, or one that is not finite or positive; names the source.
    """
    if len(values) != count:
        raise UserError(f"{source}: gave {len(values)} log-probs for {count} tokens. Update it, or use another.")
    found = []
    for place, value in enumerate(values):
        if not isinstance(value, float | int) or not math.isfinite(value) or value > SLACK:
            raise UserError(
                f"{source}: gave {value} as the log-prob of token {place + 1} of {count}, and log-probs are finite and "
                "at most 0. Let it return log-probs, not logits."
            )
        found.append(min(float(value), 0.0))
    return tuple(found)


def checked_finish(
    token_ids: Sequence[int], sampling: Sampling, stop_token_ids: Sequence[int], vocabulary: int, source: str
) -> Literal["stop", "length"]:
    """How a completion ended, read off its ids.

    Raises:
        UserError: no id, one that the model lacks, more than `max_tokens`, or an end that is neither the first stop
            token nor `max_tokens`; names the source.
    """
    strange = next((token for token in token_ids if not 0 <= token < vocabulary), None)
    if strange is not None:
        raise UserError(
            f"{source}: sampled the token id {strange}, and the model has {vocabulary}. Serve the model that is named."
        )
    first_stop = next((place for place, token in enumerate(token_ids) if token in stop_token_ids), None)
    if first_stop is not None and first_stop == len(token_ids) - 1 < sampling.max_tokens:
        return "stop"
    if first_stop is None and len(token_ids) == sampling.max_tokens:
        return "length"
    raise UserError(
        f"{source}: a completion of {len(token_ids)} tokens ends neither with the first of the stop tokens "
        f"{list(stop_token_ids)} nor at {sampling.max_tokens} tokens. It must honor `stop_token_ids` and `ignore_eos` "
        "and keep the stop token."
    )


def token_ids(log_probs: Any, url: str) -> list[int]:
    """The ids of tokens that are written as `token_id:N`. Raises `UserError` where they are not."""
    tokens = getattr(log_probs, "tokens", None) or []
    return [token_id(token, url) for token in tokens]


def token_id(token: Any, url: str) -> int:
    """The id of a token that is written as `token_id:N`. Raises `UserError` where it is not."""
    number = str(token).removeprefix(_TOKEN_ID)
    if not str(token).startswith(_TOKEN_ID) or not number.isdecimal():
        raise UserError(
            f"{url}: returns tokens as text, which cannot be mapped back to ids. Use a server that honors "
            "`return_tokens_as_token_ids`, such as `vllm serve`."
        )
    return int(number)


def parsed_top(top: dict[str, float], url: str) -> dict[int, float]:
    """Log-probs by token id, nats. Raises `UserError` where they are none, or not written by id."""
    values = checked_log_probs(list(top.values()), len(top), url)
    return {token_id(token, url): value for token, value in zip(top, values, strict=True)}


def top_tokens(tops: Sequence[dict[int, float]], k: int) -> TopTokens:
    """The k likeliest of each position; a server also lists the token that was asked for, however unlikely."""
    best = [sorted(top.items(), key=lambda item: -item[1])[:k] for top in tops]
    return TopTokens(
        ids=numpy.array([[token for token, _ in row] for row in best], dtype=numpy.int32).reshape(-1, k),
        log_probs=numpy.array([[value for _, value in row] for row in best], dtype=numpy.float32).reshape(-1, k),
    )
