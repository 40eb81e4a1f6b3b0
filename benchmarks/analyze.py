"""Peak memory and time of weight_drift on a pair of 1B-parameter checkpoints, against loading both models.

    python -m benchmarks.analyze [--layers 14] [--hidden 2048] [--vocabulary 151936] [--threads 1] [--pairs 1]

It writes two bfloat16 checkpoints of random weights with Qwen3's shapes to a temporary directory (4 GB by default) and
compares them in processes of their own: once by `pear analyze`, once by loading both with transformers and calling
`torch.linalg.svdvals` in float32 on every linear layer. Peak memory is `ru_maxrss`; what importing the libraries takes
is shown beside it. Pairs run both ways in turn, and the median of their ratios comes with its range; one pair of 1B
parameters takes a quarter of an hour on one thread. The last line says how far both are from float64 `svdvals` on the
first block's layers.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.pairs import median_with_interval

# A weight moves by about one bfloat16 step, so that about half of them stay where they were.
RELATIVE_UPDATE = 2**-8
EPSILON = 1e-5


def write_checkpoints(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Writes `before` and `after`, a file for each block."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen3Config

    hidden = options.hidden
    config = Qwen3Config(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=max(2, hidden // 128),
        num_key_value_heads=max(1, hidden // 256),
        head_dim=min(128, hidden // 2),
        vocab_size=options.vocabulary,
        tie_word_embeddings=True,
        architectures=["Qwen3ForCausalLM"],
        dtype="bfloat16",
    )
    names = ("before", "after")
    weight_map: dict[str, str] = {}
    size = 0
    torch.manual_seed(0)
    for number in range(-1, options.layers):
        before = {name: 0.02 * torch.randn(shape) for name, shape in shapes(config, number).items()}
        before = {name: value.bfloat16() for name, value in before.items()}
        after = {
            name: (value * (1.0 + RELATIVE_UPDATE * torch.randn(value.shape))).bfloat16()
            for name, value in before.items()
        }
        file = f"model-{number + 1:03d}.safetensors"
        for name, tensors in zip(names, (before, after), strict=True):
            (folder / name).mkdir(exist_ok=True)
            save_file(tensors, folder / name / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(before, file))
        size += sum(value.numel() for value in before.values())
    for name in names:
        config.save_pretrained(folder / name)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / name / "model.safetensors.index.json").write_text(json.dumps(index))
    return {"parameters": size}


def shapes(config: Any, layer: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one block's parameters; layer -1 is what lies outside the blocks."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    if layer < 0:
        return {"model.embed_tokens.weight": (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    block = {
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}


def import_only(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    import torch
    import transformers

    assert torch.__version__
    assert transformers.AutoModelForCausalLM
    return {}


def by_streaming(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from pear.stages.analyze import AnalyzeConfig, run

    config = AnalyzeConfig(
        analysis="weight_drift",
        before=str(folder / "before"),
        after=str(folder / "after"),
        settings={"epsilon": EPSILON},
        device="cpu",
        output_dir=folder / "drift",
    )
    metrics = json.loads((run(config) / "metrics.json").read_text())
    return {"spectrum_shift": metrics["drift/spectrum_shift"], "sparsity": metrics["drift/sparsity"]}


def by_loading(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    models = [AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.bfloat16) for name in ("before", "after")]
    modules = [
        {name: module.weight.detach() for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        for model in models
    ]
    shifts, sparsities = [], []
    for name, before in modules[0].items():
        after = modules[1][name]
        if name == "lm_head":
            continue
        sigma_before, sigma_after = (torch.linalg.svdvals(matrix.float()) for matrix in (before, after))
        shifts.append(float((sigma_after - sigma_before).norm() / sigma_before.norm()))
        sparsities.append(float(((after - before).abs() < EPSILON).float().mean()))
    return {"spectrum_shift": sum(shifts) / len(shifts), "sparsity": sum(sparsities) / len(sparsities)}


def accuracy(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Worst relative error of one layer's spectrum shift, over the first block, against float64 `svdvals`."""
    import torch
    from safetensors.torch import load_file

    from pear.ops.geometry import singular_values, spectrum_shift

    before, after = (load_file(folder / name / "model-001.safetensors") for name in ("before", "after"))
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "pear": singular_values,
        "float32": lambda matrix: torch.linalg.svdvals(matrix.float()),
    }
    errors = dict.fromkeys(ways, 0.0)
    for name, matrix in before.items():
        if matrix.ndim == 2:
            exact = spectrum_shift(*(torch.linalg.svdvals(values.double()) for values in (matrix, after[name])))
            for way, singular in ways.items():
                found = spectrum_shift(singular(matrix), singular(after[name]))
                errors[way] = max(errors[way], abs(found - exact) / exact)
    return {"errors": errors}


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "write": write_checkpoints,
    "import": import_only,
    "streaming": by_streaming,
    "loading": by_loading,
    "accuracy": accuracy,
}


def measured(part: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs one part in this process and adds its seconds and peak memory."""
    import torch

    torch.set_num_threads(options.threads)
    wall, cpu = time.perf_counter(), time.process_time()
    found = PARTS[part](folder, options)
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {**found, **seconds, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def child(part: str, folder: str) -> dict[str, Any]:
    """The same in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.analyze", *sys.argv[1:], "--part", part, "--folder", folder]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measured(options.part, options.folder, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        written = child("write", folder)
        libraries = child("import", folder)["mib"]
        print(
            f"{written['parameters'] / 1e6:.1f}M parameters, {options.layers} blocks of width {options.hidden}, "
            f"{options.threads} threads; importing the libraries takes {libraries:.0f} MiB"
        )
        pairs = []
        for _ in range(options.pairs):
            pairs.append({part: child(part, folder) for part in ("streaming", "loading")})
            for part, found in pairs[-1].items():
                print(
                    f"{part:10} wall {found['wall']:7.1f} s  CPU {found['cpu']:7.1f} s  peak {found['mib']:7.0f} MiB  "
                    f"NSS {found['spectrum_shift']:.9f}  sparsity {found['sparsity']:.6f}",
                    flush=True,
                )
            shutil.rmtree(Path(folder) / "drift")
        for quantity in ("wall", "cpu", "mib"):
            ratios = [pair["streaming"][quantity] / pair["loading"][quantity] for pair in pairs]
            print(f"streaming / loading, {quantity:4}: {median_with_interval(ratios, digits=2)}, {len(pairs)} pairs")
        errors = child("accuracy", folder)["errors"]
        print(
            f"worst relative error of a layer's NSS: pear {errors['pear']:.1e}, float32 svdvals {errors['float32']:.1e}"
        )


if __name__ == "__main__":
    main()
