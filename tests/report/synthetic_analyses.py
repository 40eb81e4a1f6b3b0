"""The files of analyses and of the RL signal, with numbers that an arm's name and its unit decide."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

MODULES = [f"model.layers.{layer}.{name}" for layer in range(2) for name in ("self_attn.q_proj", "mlp.up_proj")]


def write_analysis(directory: Path, analysis: str, arm: str, unit: int, rl_step: int) -> dict[str, Any]:
    """Writes an analysis' metrics and tables, and returns the metrics."""
    generator = numpy.random.default_rng(int(hashlib.sha256(f"{arm} {unit} {rl_step}".encode()).hexdigest()[:8], 16))
    metrics, tables = _WRITERS[analysis](generator, 0.4 if rl_step else 1.0)
    (directory / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    for name, rows in tables.items():
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), directory / f"{name}.parquet")
    return metrics


def write_signal(directory: Path, share: float) -> None:
    """Outcomes on RL's prompts: 40 prompts x 8 samples, of which this share is right, with mixed groups among them."""
    generator = numpy.random.default_rng(3)
    chances = numpy.clip(generator.normal(share, 0.3, size=40), 0, 1)
    correct = generator.random((40, 8)) < chances[:, None]
    rows = [
        {"problem_id": f"rl{problem}", "task": "tiny/affine_chain", "level": "n8", "sample": sample,
         "correct": bool(correct[problem, sample]), "temperature": 1.0}
        for problem in range(40) for sample in range(8)
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), directory / "outcomes.parquet")
    metrics = {"num_problems": 40, "num_samples": 8, "pass@1": _interval(float(correct.mean()), 0.05, 40)}
    (directory / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


Found = tuple[dict[str, Any], Mapping[str, Sequence[Mapping[str, Any]]]]


def _weight_drift(generator: Any, scale: float) -> Found:
    rows = [
        {
            "module": module, "rows": 64, "columns": 64, "sparsity": generator.uniform(0.3, 0.6) / scale**0.5,
            "sparsity_bf16": generator.uniform(0.2, 0.4) / scale**0.5, "update_norm": scale * generator.uniform(0.5, 1),
            "spectrum_shift": scale * generator.uniform(0.01, 0.03),
        }
        for module in MODULES
    ]  # fmt: skip
    names = ("sparsity", "sparsity_bf16", "spectrum_shift")
    metrics: dict[str, Any] = {f"drift/{name}": float(numpy.mean([row[name] for row in rows])) for name in names}
    metrics["drift/update_norm"] = float(math.sqrt(sum(row["update_norm"] ** 2 for row in rows)))
    return metrics | {"modules": len(rows)}, {"modules": rows}


def _divergence(generator: Any, scale: float) -> Found:
    rows = [
        {
            "problem_id": f"c{index}", "num_tokens": 30 + index % 9,
            "forward_kl": scale * generator.gamma(2.0, 0.1), "nll": generator.uniform(0.3, 0.6), "nll_before": 0.9,
        }
        for index in range(50)
    ]  # fmt: skip
    metrics: dict[str, Any] = {"n": len(rows)}
    for name in ("forward_kl", "nll", "nll_before"):
        metrics[f"divergence/{name}"] = _interval(float(numpy.mean([row[name] for row in rows])), 0.02, len(rows))
    return metrics, {"trajectories": rows}


def _token_weights(generator: Any, scale: float) -> Found:
    rows = []
    for by in ("weight", "distance"):
        for level in range(8):
            for low in (0, 8, 16):
                kl = scale * (0.2 + 0.05 * level + 0.01 * low) * generator.uniform(0.9, 1.1)
                rows.append(
                    {
                        "by": by, "level": level, "low": math.exp(-4 + level), "high": math.exp(-3 + level),
                        "distance_low": low, "distance_high": low + 8, "tokens": 400, "kl": kl, "kl_low": 0.9 * kl,
                        "kl_high": 1.1 * kl, "nll": 0.5,
                    }
                )  # fmt: skip
    metrics = {
        "token_weights/rank_correlation": float(generator.uniform(0.1, 0.5)),
        "token_weights/tokens": 400 * len(rows),
        "token_weights/effective_sample_size": float(generator.uniform(0.3, 0.9)),
    }
    return metrics, {"bins": rows}


def _gradient_rotation(generator: Any, scale: float) -> Found:
    rows = [
        {"module": module, "rows": 64, "columns": 64, "k": 8, "rotation": scale * generator.uniform(50, 65),
         "floor_random": 70.0, "floor_grpo": 35.0}
        for module in MODULES
    ]  # fmt: skip
    rotation = float(numpy.mean([row["rotation"] for row in rows]))
    metrics = {"gradients/rotation_degrees": rotation, "gradients/floor_random_degrees": 70.0,
               "gradients/floor_grpo_degrees": 35.0, "gradients/k": 8}  # fmt: skip
    return metrics, {"modules": rows}


_WRITERS = {
    "weight_drift": _weight_drift,
    "divergence": _divergence,
    "token_weights": _token_weights,
    "gradient_rotation": _gradient_rotation,
}


def _interval(value: float, half: float, count: int) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "n": count}
