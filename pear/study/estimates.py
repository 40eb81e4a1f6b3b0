"""What a stage will take: tokens at most, and memory per device, from its configuration and the model's shape alone.

With P weights of w bytes (w = 2 in bfloat16, 4 in float32), training holds on each device

    weights       w P                    over the devices under FSDP and ZeRO-3
    gradients     w P                    likewise, and under ZeRO-2
    Adam          2 w P                  likewise, and under ZeRO-1 and ZeRO-2
    reference     w P                    where GRPO's beta or a reference model asks for one
    activations   a t (L h + 2 c)        with gradient checkpointing; a t (L + 1) c without
    head          4 (V h + 4 m v)        the fused head's float32 gradient, and tiles, m <= 4,096 by v <= 32,768
    KV cache      2 w L n_kv d s         where the trainer samples by itself

for t tokens of a micro-batch, s tokens sampled at once, L layers, width h, vocabulary V and activations of a bytes (2
under bfloat16 or autocast). c = 13 h + 5 (n + 2 n_kv) d + 5 f counts the values that the backward pass of one block
needs for a token: norms and residuals, queries, keys and values before and after norm and rotation, the attention's
output, and the gated feed-forward part of width f. The factors in c and of the tiles were set to what processes took on
a CPU; a test holds estimate and measured peak within a factor of 2 of each other.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pear.study.shapes import Shape

Sharding = Literal["none", "adam", "gradients", "all"]
GIB = 1 << 30
# What a prompt is taken to have where only completions are bounded.
PROMPT_TOKENS = 512
_TILE = (4096, 32_768)
_SHARDINGS: dict[str, Sharding] = {
    "fsdp1": "all",
    "fsdp2": "all",
    "zero1": "adam",
    "zero2": "gradients",
    "zero3": "all",
}
_DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each device at the peak, by what they are for."""

    parts: dict[str, float]

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.parts.values())

    def sentence(self) -> str:
        """In GiB, largest parts named."""
        named = " + ".join(f"{name} {_gib(size)}" for name, size in self.parts.items() if size)
        return f"{_gib(self.total)} GiB per device ({named})"


def _gib(size: float) -> str:
    value = size / GIB
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"


def sharding_of(accelerate_config: str | None) -> Sharding | None:
    """What an `accelerate` configuration that TRL ships splits over the devices; None for a file of the user's own."""
    if accelerate_config in (None, "multi_gpu"):
        return "none"
    return _SHARDINGS.get(str(accelerate_config))


def training_memory(
    shape: Shape,
    *,
    tokens: int,
    checkpointing: bool,
    weight_bytes: int | None = None,
    autocast: bool = True,
    references: int = 0,
    processes: int = 1,
    sharding: Sharding = "none",
    cached_tokens: int = 0,
    adapter: bool = False,
) -> Memory:
    """The peak of one process that trains all weights with Adam.

    Args:
        shape: the model's.
        tokens: of one micro-batch, padding included.
        checkpointing: whether blocks are computed again in the backward pass.
        weight_bytes: of a weight while it is trained; as stored by default.
        autocast: whether float32 weights are multiplied in bfloat16.
        references: further models of the same shape that are held and not trained.
        processes: devices, over which `sharding` splits.
        cached_tokens: tokens in the KV cache while the trainer samples; that and the backward pass never coincide.
        adapter: LoRA: gradients and Adam states of the weights are not held (and the adapter's own are not counted).
    """
    width = shape.weight_bytes if weight_bytes is None else weight_bytes
    all_weights, of = float(shape.parameters * width), float(processes)
    trained = 0.0 if adapter else all_weights
    held = {
        "weights": all_weights / (of if sharding == "all" else 1),
        "gradients": trained / (of if sharding in ("gradients", "all") else 1),
        "Adam": 2 * trained / (of if sharding != "none" else 1),
        "reference": references * all_weights / (of if sharding == "all" else 1),
    }
    activation_bytes = 2 if autocast else width
    projected = (shape.heads + 2 * shape.key_value_heads) * shape.head_size
    block = 13 * shape.hidden + 5 * projected + 5 * shape.feed_forward
    values = shape.layers * shape.hidden + 2 * block if checkpointing else (shape.layers + 1) * block
    tile = min(tokens, _TILE[0]) * min(shape.vocabulary, _TILE[1])
    step = {
        "activations": float(activation_bytes * tokens * values),
        "head": 4.0 * (shape.vocabulary * shape.hidden + 4 * tile),
    }
    cache = {"KV cache": float(cached_tokens * shape.cache_values * width)}
    return Memory(parts={**held, **(step if sum(step.values()) >= sum(cache.values()) else cache)})


def sampling_memory(shape: Shape, *, tokens: int, weight_bytes: int) -> Memory:
    """The peak of an engine that holds the model, and the KV cache of `tokens` tokens that are sampled at once."""
    return Memory(
        parts={
            "weights": float(shape.parameters * weight_bytes),
            "KV cache": float(tokens * shape.cache_values * weight_bytes),
        }
    )


def trained_weight_bytes(shape: Shape, trainer: dict[str, Any]) -> int:
    """Bytes of a weight in training: `trainer.model_init_kwargs.dtype`, or as stored."""
    named = (trainer.get("model_init_kwargs") or {}).get("dtype")
    return _DTYPES.get(str(named), shape.weight_bytes)


def dtype_bytes(dtype: str, shape: Shape) -> int:
    """Bytes of a weight in an engine: "auto" is bfloat16 for what is stored so, as it is on GPUs."""
    return _DTYPES.get(dtype, shape.weight_bytes)
