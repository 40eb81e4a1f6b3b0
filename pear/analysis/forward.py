"""Two models over the same response tokens: log-probs and divergences token by token, in bounded memory.

One trajectory is worked on at a time, without padding, and its logits in chunks: each chunk is one forward pass that
goes on from the cached keys and values of the one before, so (tokens, vocabulary) never exists at once, whatever a
model does to its logits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pear.analysis.request import Request
from pear.data.buffer import load_buffer, read_manifest
from pear.data.rendering import added_tokens, load_tokenizer, render_prompt
from pear.data.token_map import fit_tokenizer, token_map
from pear.errors import UserError
from pear.models import load_causal_model, unreadable_model
from pear.runs import Files

Direction = Literal["before || after", "after || before"]
_SHARDS = "tokens"
_SHARD_ROWS = 64
_COLUMNS = ("problem_id", "task", "prompt", "completion_ids", "behavior_log_probs")
_FLOATS = pyarrow.list_(pyarrow.float64())
_SCHEMA = pyarrow.schema(
    [
        ("problem_id", pyarrow.string()),
        ("task", pyarrow.string()),
        ("divergence", _FLOATS),
        ("before_log_probs", _FLOATS),
        ("after_log_probs", _FLOATS),
        ("behavior_log_probs", _FLOATS),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A buffer's correct trajectories, those that SFT imitates, with each model's own prompt ids.

    Attributes:
        rows: problem_id, task, completion_ids and behavior_log_probs of each.
        before_prompts, after_prompts: the ids of each row's messages, rendered in the model's own chat template.
    """

    rows: Sequence[Mapping[str, Any]]
    before_prompts: Sequence[Sequence[int]]
    after_prompts: Sequence[Sequence[int]]


def read_calibration(request: Request) -> Calibration:
    """Reads the trajectories on which a request's two models are compared. Loads no weights.

    Raises:
        UserError: no such buffer or tokenizer, ids that do not mean the same to both models and the buffer, or a
            trajectory that does not fit into a model's context (names it).
    """
    before, after, buffer = request.before, request.after, request.buffer
    assert after is not None
    assert buffer is not None
    manifest = read_manifest(buffer)
    if manifest.aligned_from is not None:
        raise UserError(f"{buffer}: its log-probs are those of spans of text, and this analysis looks at tokens.")
    tokenizers = [load_tokenizer(name) for name in (before, after)]
    maps = [token_map(manifest, tokenizer) for tokenizer in tokenizers]
    if maps[0] != maps[1]:
        raise UserError(f"{before} and {after}: the buffer's added tokens have other ids in the one and the other.")
    configs = [_model_config(name) for name in (before, after)]
    _check_vocabularies((before, after), configs, [added_tokens(tokenizer) for tokenizer in tokenizers])
    rows = fit_tokenizer(load_buffer(buffer), manifest, tokenizers[0]).select_columns(list(_COLUMNS)).to_list()
    prompts = [[render_prompt(tokenizer, row["prompt"]) for row in rows] for tokenizer in tokenizers]
    for name, config, rendered in zip((before, after), configs, prompts, strict=True):
        _check_context(name, config, rendered, rows)
    return Calibration(rows=rows, before_prompts=prompts[0], after_prompts=prompts[1])


def token_table(request: Request, *, direction: Direction) -> pyarrow.Table:
    """One row per trajectory of the request's buffer, with one value per response token in each of its lists.

    Columns: problem_id, task, `divergence` (the KL in `direction`, full vocabulary, temperature 1, nats),
    `before_log_probs` and `after_log_probs` of the token that is there, and `behavior_log_probs`. Written in files of
    64 trajectories under `request.scratch`; those that are there and whole are not made again. `chunk_tokens` is among
    the settings.

    Raises:
        UserError: as `read_calibration`, and where a model cannot be loaded.
        ValueError: a value is not finite (names the trajectory).
    """
    calibration = read_calibration(request)
    assert request.after is not None
    names = (request.before, request.after)
    total = len(calibration.rows)
    shards = request.scratch / _SHARDS
    shards.mkdir(parents=True, exist_ok=True)
    files = Files(shards, request.scratch / f"{_SHARDS}.json")
    models: list[Any] = []
    tables = []
    for start in range(0, total, _SHARD_ROWS):
        name = f"{start:08d}.parquet"
        if not files.has(name):
            models = models or [load_causal_model(model, request.device, request.dtype) for model in names]
            records = []
            for place in range(start, min(start + _SHARD_ROWS, total)):
                values = _compared(models, calibration, place, direction, request.settings.chunk_tokens)
                records.append(values)
                request.progress(place + 1, total, "trajectories")
            with files.writing(name) as temporary:
                table = pyarrow.Table.from_pylist(records, schema=_SCHEMA)
                pyarrow.parquet.write_table(table, temporary, compression="zstd")
        tables.append(pyarrow.parquet.read_table(shards / name))
    return pyarrow.concat_tables(tables)


def _compared(
    models: Sequence[Any], calibration: Calibration, place: int, direction: Direction, chunk_tokens: int
) -> dict[str, Any]:
    row = calibration.rows[place]
    completion = row["completion_ids"]
    prompts = (calibration.before_prompts[place], calibration.after_prompts[place])
    before_chunks, after_chunks = (
        response_log_probs(model, prompt, completion, chunk_tokens=chunk_tokens)
        for model, prompt in zip(models, prompts, strict=True)
    )
    values: dict[str, list[float]] = {"divergence": [], "before_log_probs": [], "after_log_probs": []}
    for before, after in zip(before_chunks, after_chunks, strict=True):
        start = len(values["divergence"])
        tokens = torch.tensor(completion[start : start + len(before)], device=before.device)[:, None]
        divergence = kl_divergence(before, after) if direction == "before || after" else kl_divergence(after, before)
        values["divergence"] += divergence.tolist()
        values["before_log_probs"] += before.gather(-1, tokens)[:, 0].tolist()
        values["after_log_probs"] += after.gather(-1, tokens)[:, 0].tolist()
    for name, numbers in values.items():
        if not torch.tensor(numbers).isfinite().all():
            raise ValueError(f"Trajectory {place} (problem '{row['problem_id']}'): {name} is not finite.")
    kept = {name: row[name] for name in ("problem_id", "task", "behavior_log_probs")}
    return {**kept, **values}


def kl_divergence(
    log_p: Float[Tensor, "token vocab"], log_q: Float[Tensor, "token vocab"]
) -> Float64[Tensor, " token"]:
    """KL(p || q) of each token's distribution over the vocabulary, in nats, summed in float64.

        sum_v p(v) (log p(v) - log q(v)),  with 0 where p(v) = 0

    Source: arXiv 2602.01058, Appendix A.1.

    >>> halves, all_on_one = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()
    >>> round(kl_divergence(all_on_one, halves).item(), 6)
    0.693147
    """
    terms = torch.where(log_p == -torch.inf, 0.0, log_p.exp() * (log_p - log_q))
    return terms.sum(-1, dtype=torch.float64)


@torch.no_grad()
def response_log_probs(
    model: Any, prompt: Sequence[int], completion: Sequence[int], *, chunk_tokens: int
) -> Iterator[Float[Tensor, "token vocab"]]:
    """log pi(. | prompt, completion[<t]) over the whole vocabulary, for up to `chunk_tokens` tokens of a completion
    at a time, in order; float32 or, for a float64 model, float64.
    """
    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt, *completion]], device=device)
    cache = None
    for start in range(0, len(completion), chunk_tokens):
        size = min(chunk_tokens, len(completion) - start)
        # The only shift: the state at t - 1 gives the distribution of token t, and states before it are in the cache.
        first = 0 if start == 0 else len(prompt) + start - 1
        outputs = model(
            input_ids=ids[:, first : len(prompt) + start + size - 1],
            past_key_values=cache,
            use_cache=len(completion) > chunk_tokens,
            logits_to_keep=size,
        )
        cache = outputs.past_key_values
        logits = outputs.logits[0, -size:]
        yield torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)


def _model_config(model: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise unreadable_model(model, error) from None


def _check_vocabularies(names: tuple[str, str], configs: Sequence[Any], added: Sequence[Mapping[str, int]]) -> None:
    """Raises unless both distributions are over the same tokens: as many logits, and no id that means two things."""
    before, after = names
    advice = "so their distributions are over different vocabularies. Compare models of one vocabulary."
    sizes = [int(config.vocab_size) for config in configs]
    if sizes[0] != sizes[1]:
        raise UserError(f"{after}: has {sizes[1]} token embeddings and {before} has {sizes[0]}, {advice}")
    pieces = {token: piece for piece, token in added[0].items()}
    for piece, token in added[1].items():
        if pieces.get(token, piece) != piece:
            raise UserError(f"{after}: the token id {token} is '{piece}', in {before} '{pieces[token]}', {advice}")


def _check_context(name: str, config: Any, prompts: Sequence[Sequence[int]], rows: Sequence[Mapping[str, Any]]) -> None:
    context = getattr(config, "max_position_embeddings", None)
    for prompt, row in zip(prompts, rows, strict=True):
        length = len(prompt) + len(row["completion_ids"])
        if context is not None and length > context:
            raise UserError(
                f"{name}: the trajectory of problem '{row['problem_id']}' has {length} tokens with its prompt, and the "
                f"model a context of {context}. Leave it out of the buffer, or compare models of a longer context."
            )
