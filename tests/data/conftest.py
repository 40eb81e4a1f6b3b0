"""A word-level tokenizer with a chat template, and rows of a buffer."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from pear.data.buffer import BufferManifest, BufferWriter, new_manifest
from pear.training.tiny_models import build_tokenizer

WORDS = ["one", "two", "three", "four", "five"]


def row(**changes: Any) -> dict[str, Any]:
    return {
        "problem_id": "p",
        "task": "tiny/affine_chain",
        "split": "sft",
        "problem": "",
        "prompt": [{"role": "user", "content": "one two"}],
        "behavior_prompt_ids": [2, 5, 6, 3],
        "completion_ids": [7, 8, 1],
        "behavior_log_probs": [-0.5, -1.5, -0.25],
        "behavior_processed_log_probs": None,
        "completion": "three four",
        "correct": True,
        "reward": 1.0,
        "reason": "",
        "finish": "stop",
        "behavior_model": "model",
        "sampling": "{}",
        **changes,
    }


def manifest_of(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> BufferManifest:
    values: dict[str, Any] = {
        "stop_token_ids": [1],
        "behavior_model": "model",
        "behavior_model_digest": "sha256:0",
        "processed_log_probs": None,
        "sampling": None,
        "engine": "transformers",
        "verified": True,
    }
    return new_manifest(tokenizer, **{**values, **changes})


def write_buffer(
    directory: Path, tokenizer: PreTrainedTokenizerFast, *shards: list[dict[str, Any]], **changes: Any
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    writer = BufferWriter(directory, manifest_of(tokenizer, **changes))
    for index, rows in enumerate(shards):
        writer.write_shard(index, rows)
    writer.close(len(shards))
    return directory


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(WORDS)
