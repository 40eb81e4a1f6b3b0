"""Shapes of models, as far as a dry run needs them: from a `config.json` on this machine, or of well-known public ones.

The public shapes are those of the `config.json` that each repository on the hub has; a test holds their numbers of
parameters equal to what `transformers` builds from them, and to the numbers that the model cards name.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pear.errors import UserError
from pear.models import resolve_model

# Families whose blocks are as `Shape.parameters` counts them: (bias of q, k and v; norms of q and k).
_FAMILIES = {"qwen2": (True, False), "qwen3": (False, True), "llama": (False, False)}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder with gated feed-forward blocks and grouped-query attention.

    Args:
        family: a `model_type` of `transformers`: qwen2, qwen3 or llama.
        hidden, feed_forward, layers, heads, key_value_heads, head_size, vocabulary: as in `config.json`.
        tied: whether the output head is the embedding.
        weight_bytes: of a stored weight; 2 for bfloat16.
    """

    family: str
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    weight_bytes: int = 2

    @property
    def parameters(self) -> int:
        """The number of weights."""
        bias, head_norms = _FAMILIES[self.family]
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        attention = self.hidden * (2 * queries + 2 * keys)
        attention += (queries + 2 * keys if bias else 0) + (2 * self.head_size if head_norms else 0)
        block = attention + 3 * self.hidden * self.feed_forward + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * block + self.hidden

    @property
    def cache_values(self) -> int:
        """Values that the KV cache holds for one token."""
        return 2 * self.layers * self.key_value_heads * self.head_size


def _qwen3(hidden: int, feed_forward: int, layers: int, heads: int, *, tied: bool) -> Shape:
    return Shape(
        family="qwen3", hidden=hidden, feed_forward=feed_forward, layers=layers, heads=heads, key_value_heads=8,
        head_size=128, vocabulary=151_936, tied=tied,
    )  # fmt: skip


def _qwen2_1_5b(*, tied: bool) -> Shape:
    return Shape(
        family="qwen2", hidden=1536, feed_forward=8960, layers=28, heads=12, key_value_heads=2, head_size=128,
        vocabulary=151_936, tied=tied,
    )  # fmt: skip


_QWEN3 = {
    "0.6B": _qwen3(1024, 3072, 28, 16, tied=True),
    "1.7B": _qwen3(2048, 6144, 28, 16, tied=True),
    "4B": _qwen3(2560, 9728, 36, 32, tied=True),
    "8B": _qwen3(4096, 12_288, 36, 32, tied=False),
}
# The models of the paper (Section 4), by hub id. A base model and its chat model have one shape.
SHAPES: dict[str, Shape] = {
    **{f"Qwen/Qwen3-{size}{kind}": shape for size, shape in _QWEN3.items() for kind in ("", "-Base")},
    "Qwen/Qwen2.5-Math-1.5B": _qwen2_1_5b(tied=True),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _qwen2_1_5b(tied=False),
}


def shape_of(model: str) -> Shape | None:
    """The shape of a public, shipped or local model; None where it is not known. Nothing is downloaded.

    >>> shape_of("Qwen/Qwen3-0.6B-Base").parameters
    596049920
    >>> shape_of("somebody/else") is None
    True
    """
    if model in SHAPES:
        return SHAPES[model]
    try:
        file = Path(resolve_model(model)) / "config.json"
    except UserError:
        return None
    return read_shape(file) if file.is_file() else None


def read_shape(file: Path) -> Shape | None:
    """The shape that a `config.json` names; None for another family, or where a number is missing."""
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        family = values["model_type"]
        if family not in _FAMILIES:
            return None
        heads = values["num_attention_heads"]
        return Shape(
            family=family,
            hidden=values["hidden_size"],
            feed_forward=values["intermediate_size"],
            layers=values["num_hidden_layers"],
            heads=heads,
            key_value_heads=values.get("num_key_value_heads") or heads,
            head_size=values.get("head_dim") or values["hidden_size"] // heads,
            vocabulary=values["vocab_size"],
            tied=bool(values.get("tie_word_embeddings", False)),
            weight_bytes=_BYTES[str(values.get("dtype") or values.get("torch_dtype") or "float32")],
        )
    except (ValueError, KeyError, TypeError):
        return None
