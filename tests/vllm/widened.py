"""A shipped tiny model with attention heads twice as wide, which computes the same.

vLLM's attention on a CPU takes heads of 32 and more; the shipped models have narrower ones. Zeros are added such that
every rotated pair keeps its frequency, and the query's norm makes up for the other scale.
"""

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pear.models import resolve_model


def save_widened(name: str, path: Path) -> str:
    """Writes the model; returns the path."""
    source = Path(resolve_model(name))
    shutil.copytree(source, path, ignore=shutil.ignore_patterns("manifest.json"))
    config = json.loads((path / "config.json").read_text())
    heads, width = config["num_attention_heads"], config["head_dim"]
    assert heads == config["num_key_value_heads"]
    pairs = torch.arange(width // 2)
    # Dimension i turns with i + width / 2, at the frequency that 2i of twice the width has.
    places = torch.cat([2 * pairs, 2 * pairs + width])
    rows = (torch.arange(heads)[:, None] * 2 * width + places).flatten()
    weights = load_file(path / "model.safetensors")
    for key, value in weights.items():
        if key.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            weights[key] = torch.zeros(2 * len(value), value.shape[1]).index_copy(0, rows, value)
        elif key.endswith("o_proj.weight"):
            weights[key] = torch.zeros(value.shape[0], 2 * value.shape[1]).index_copy(1, rows, value)
        elif key.endswith(("q_norm.weight", "k_norm.weight")):
            # The mean square over twice the width is half, so both norms give more by sqrt(2); the scale is 1/sqrt(2).
            scale = 1 / math.sqrt(2) if "q_norm" in key else 1.0
            weights[key] = torch.zeros(2 * width).index_copy(0, places, scale * value)
    save_file({key: value.contiguous() for key, value in weights.items()}, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps({**config, "head_dim": 2 * width}))
    return str(path)
