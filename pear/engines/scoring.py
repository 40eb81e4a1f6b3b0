"""Teacher-forced log-probs in bounded memory.

Sequences are batched by length; the backbone gives hidden states; the head is applied to chunks of completion tokens
only, so that (tokens, vocabulary) never exists at once. Chunks and batches are sized from a memory budget.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pear.data.teacher_top import TopTokens
from pear.engines.protocol import Sampling
from pear.errors import UserError

# Values that live at once per token of the backbone (residual, attention and MLP inputs), and per logit of a chunk
# (logits, their float32 copy, exponentials, and the sorted copy that top-p needs). Estimates on the safe side.
_HIDDEN_COPIES = 12
_INTERMEDIATE_COPIES = 4
_LOGIT_COPIES = 4
_TRUNCATED_LOGIT_COPIES = 8
# A CPU is as fast with so many as with more, and mixed lengths are padded less.
_MOST_BATCH_TOKENS = 1 << 10
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Log-probs of completions, one per token: `raw` of the full vocabulary at temperature 1, `processed` of the
    sampled distribution (None where none was asked for); and `top`, the likeliest tokens at each (None likewise)."""

    raw: list[list[float]]
    processed: list[list[float]] | None
    top: list[TopTokens] | None


class TokenScorer:
    """Scores completions under one model.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        memory_gib: what activations and logits may take beside the weights, about.
    """

    def __init__(self, model: Any, memory_gib: float) -> None:
        self.model = model
        self.memory_bytes = memory_gib * _GIB
        self.device = next(model.parameters()).device
        config = model.config.get_text_config()
        self.vocabulary = int(config.vocab_size)
        hidden = int(config.hidden_size)
        intermediate = int(getattr(config, "intermediate_size", None) or 4 * hidden)
        itemsize = next(model.parameters()).dtype.itemsize
        self._bytes_per_token = (_HIDDEN_COPIES * hidden + _INTERMEDIATE_COPIES * intermediate) * itemsize
        self.head = plain_head(model)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        *,
        sampled_with: Sampling | None = None,
        top_k: int = 0,
    ) -> Scores:
        """log pi(completion[t] | prompt, completion[<t]) for every completion, in order.

        Args:
            prompts: ids, at least one each.
            completions: ids, at least one each.
            sampled_with: also gives the log-probs under the distribution that this sampling draws from.
            top_k: also gives this many of the likeliest tokens at each position.
        """
        lengths = [len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True)]
        raw: list[list[float]] = [[] for _ in lengths]
        processed: list[list[float]] = [[] for _ in lengths]
        top: dict[int, TopTokens] = {}
        for rows in self._batches(lengths):
            chosen = [completions[row] for row in rows]
            scored = self._score_batch([prompts[row] for row in rows], chosen, sampled_with, top_k)
            counts = [len(completion) for completion in chosen]
            for values, target in ((scored.raw, raw), (scored.processed, processed)):
                for row, part in zip(rows, values.cpu().split(counts), strict=True):
                    target[row] = part.tolist()
            pairs = zip(scored.top_ids.cpu().split(counts), scored.top_log_probs.cpu().split(counts), strict=True)
            for row, (ids, log_probs) in zip(rows, pairs, strict=True):
                top[row] = TopTokens(ids=ids.numpy(), log_probs=log_probs.numpy())
        return Scores(
            raw=raw,
            processed=processed if sampled_with is not None else None,
            top=[top[row] for row in range(len(lengths))] if top_k else None,
        )

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Rows of about equal length, longest first, so that a budget that is too small shows at once."""
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self._batch_tokens(lengths[batch[0]]):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _batch_tokens(self, longest: int) -> int:
        # A float attention mask has one value per token and earlier token.
        per_token = self._bytes_per_token + 4 * longest
        if self.head is None:
            per_token += _LOGIT_COPIES * 4 * self.vocabulary
        budget = int(self.memory_bytes / 2 / per_token)
        return min(budget, _MOST_BATCH_TOKENS) if self.device.type == "cpu" else budget

    def _score_batch(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        sampled_with: Sampling | None,
        top_k: int,
    ) -> "_TokenScores":
        """The scores of all completion tokens of a batch, one row after another."""
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        positions = torch.arange(longest, device=self.device)
        ends = torch.tensor([len(row) for row in rows], device=self.device)[:, None]
        starts = torch.tensor([len(prompt) for prompt in prompts], device=self.device)[:, None]
        inside = {"input_ids": ids, "attention_mask": (positions < ends).long(), "use_cache": False}
        # The only shift: the state at t - 1 gives the distribution of token t.
        is_target = (positions >= starts) & (positions < ends)
        targets = ids[is_target]
        before = torch.roll(is_target, -1, dims=1)
        if self.head is None:
            states = self.model(**inside).logits[before]
        else:
            states = self.model.base_model(**inside).last_hidden_state[before]
        return self._score_states(states, targets, sampled_with, top_k)

    def _score_states(
        self,
        states: Float[Tensor, "token width"],
        targets: Int[Tensor, " token"],
        sampled_with: Sampling | None,
        top_k: int,
    ) -> "_TokenScores":
        is_raw = sampled_with is None or sampled_with.is_raw
        copies = _LOGIT_COPIES if is_raw and not top_k else _TRUNCATED_LOGIT_COPIES
        # Batches have half of the budget, logits a quarter; the rest is what the allocator keeps between them.
        size = max(1, int(self.memory_bytes / 4 / (copies * 4 * self.vocabulary)))
        # Written in place: small results between large buffers would fragment the heap.
        raw = torch.empty(len(targets), device=self.device)
        processed = raw if is_raw else torch.empty_like(raw)
        top_ids = torch.empty(len(targets), top_k, device=self.device, dtype=torch.int32)
        top_log_probs = torch.empty(len(targets), top_k, device=self.device)
        for start in range(0, len(targets), size):
            chunk = slice(start, start + size)
            logits = (states[chunk] if self.head is None else self.head(states[chunk])).float()
            if sampled_with is not None and not is_raw:
                processed[chunk] = sampled_log_probs(logits, targets[chunk], sampled_with)
            if top_k:
                top_ids[chunk], top_log_probs[chunk] = top_tokens(logits, top_k)
            raw[chunk] = chosen_log_probs(logits, targets[chunk])
            del logits  # or they would be there beside the next chunk's
        return _TokenScores(raw=raw, processed=processed, top_ids=top_ids, top_log_probs=top_log_probs)


@dataclass(frozen=True, kw_only=True)
class _TokenScores:
    """`Scores` of a batch's completion tokens, in one tensor each."""

    raw: Float[Tensor, " token"]
    processed: Float[Tensor, " token"]
    top_ids: Int[Tensor, "token k"]
    top_log_probs: Float[Tensor, "token k"]


def chosen_log_probs(logits: Float[Tensor, "token vocab"], tokens: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """log softmax(logits)[token]. Overwrites `logits`: what is `torch.logsumexp`, to the bit, takes no more memory."""
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    largest = logits.amax(-1, keepdim=True)
    return chosen - logits.sub_(largest).exp_().sum(-1).log_().add_(largest[:, 0])


def top_tokens(logits: Float[Tensor, "token vocab"], k: int) -> tuple[Int[Tensor, "token k"], Float[Tensor, "token k"]]:
    """The k likeliest tokens, the likeliest first, and their log softmax over the whole vocabulary."""
    values, ids = torch.topk(logits, k, dim=-1)
    # logsumexp in float32 may round to a little less than the largest logit.
    return ids, (values - torch.logsumexp(logits, -1, keepdim=True)).clamp(max=0)


def sampled_log_probs(
    logits: Float[Tensor, "token vocab"], tokens: Int[Tensor, " token"], sampling: Sampling
) -> Float[Tensor, " token"]:
    """Log-probs under the distribution that was sampled: temperature, then top-k, then top-p, as transformers does.

    `sampling` is not raw. Greedy decoding is a point mass: 0. A token on the edge of the truncated set that rounding
    puts outside it was sampled all the same, so it counts as kept.
    """
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return torch.zeros_like(logits[:, 0])
    assert not sampling.is_raw
    scores = logits
    if sampling.temperature != 1:
        scores = TemperatureLogitsWarper(sampling.temperature)(None, scores)
    tempered = scores.gather(-1, tokens[:, None])
    if sampling.top_k > 0:
        scores = TopKLogitsWarper(top_k=sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(top_p=sampling.top_p)(None, scores)
    return chosen_log_probs(scores.scatter(-1, tokens[:, None], tempered), tokens)


@torch.no_grad()
def plain_head(model: Any) -> Any | None:
    """The model's output layer, if logits are exactly that layer applied to the backbone's last hidden state.

    Tried on the model itself: what the layer is given must be the backbone's output, and what it returns (made large,
    so that a soft cap shows) must be the logits. None where not (soft-capped or scaled logits, adapters around the
    model); then full logits of small batches are used, which is right for every model, and slower.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    backbone = getattr(model, "base_model", None)
    if head is None or backbone is None or backbone is model:
        return None
    seen: dict[str, Tensor] = {}

    def spy(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["states"], seen["logits"] = inputs[0], output * 1000
        return seen["logits"]

    inside = {"input_ids": torch.arange(1, 5, device=next(model.parameters()).device)[None], "use_cache": False}
    handle = head.register_forward_hook(spy)
    try:
        logits = model(**inside).logits
    finally:
        handle.remove()
    states = getattr(backbone(**inside), "last_hidden_state", None)
    if states is None or "states" not in seen:
        return None
    same = torch.equal(seen["states"], states) and torch.equal(seen["logits"].float(), logits.float())
    return head if same else None


def check_causal(model: Any, name: str) -> None:
    """Raises `UserError` where a model is no decoder-only language model."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"{name}: an encoder-decoder model. Only decoder-only language models can be scored.")
