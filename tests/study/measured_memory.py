"""Two steps of SFT on a model made on the spot: prints the bytes that they took at the peak, and the estimate."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from transformers import Qwen3Config, Qwen3ForCausalLM

from pear.study.estimates import training_memory
from pear.study.shapes import Shape
from tests.training.sft_fixtures import pear_trainer


def train(shape: Shape, batch: int, length: int, *, checkpointing: bool) -> None:
    """Two steps, each of one full micro-batch."""
    config = Qwen3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_size, tie_word_embeddings=True, eos_token_id=1, pad_token_id=0, bos_token_id=None,
        use_cache=False,
    )  # fmt: skip
    size = length - 2
    row: dict[str, Any] = {"prompt_ids": [2, 3], "completion_ids": [4] * size, "behavior_log_probs": [-1.0] * size}
    pear_trainer(
        Path(tempfile.mkdtemp()), [row] * (2 * batch), model=Qwen3ForCausalLM(config), objective="nll", max_steps=2,
        per_device_train_batch_size=batch, max_length=length, gradient_checkpointing=checkpointing or None,
        save_strategy="no",
    ).train()  # fmt: skip


def shape(hidden: int, layers: int, vocabulary: int) -> Shape:
    return Shape(
        family="qwen3", hidden=hidden, feed_forward=3 * hidden, layers=layers, heads=hidden // 32,
        key_value_heads=hidden // 32, head_size=32, vocabulary=vocabulary, tied=True, weight_bytes=4,
    )  # fmt: skip


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    checkpointing = sys.argv[1] == "checkpointing"
    batch, length, layers = map(int, sys.argv[2:])
    # What libraries take is there before.
    train(shape(32, 1, 64), 2, 16, checkpointing=checkpointing)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    large = shape(256, layers, 8192)
    train(large, batch, length, checkpointing=checkpointing)
    estimate = training_memory(large, tokens=batch * length, checkpointing=checkpointing, autocast=False)
    print(status("VmHWM") - before, estimate.total)
