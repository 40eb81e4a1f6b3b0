"""Random tiny models of several architectures, and requests of mixed lengths."""

import random
from typing import Any

import pytest
import torch
import transformers

VOCABULARY = 48
STOP = 1
_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
    # Far from uniform, so that top-k and top-p have something to cut.
    "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": STOP, "bos_token_id": None,
}  # fmt: skip


def build(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**_SIZES, **settings})
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def requests(count: int, seed: int = 0, longest: int = 24) -> tuple[list[list[int]], list[list[int]]]:
    draw = random.Random(seed)
    prompts = [[draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(1, 12))] for _ in range(count)]
    completions = [[draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(1, longest))] for _ in range(count)]
    return prompts, completions


@pytest.fixture(scope="session")
def qwen3() -> Any:
    return build("Qwen3", tie_word_embeddings=True)
