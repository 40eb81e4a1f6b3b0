"""weight_drift against a loaded model and the naive twin, known answers, killed runs, and what it refuses."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3Config

from pear.analysis import weight_drift
from pear.analysis.checkpoints import StoredTensor, open_checkpoint
from pear.analysis.request import Request
from pear.analysis.weight_drift import Settings, analyze, check
from pear.errors import UserError
from pear.runs import SCRATCH
from tests import naive
from tests.analysis.model_fixtures import tables_in

SIZES = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "vocab_size": 17,
}
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def save(
    path: Path, config: PretrainedConfig, seed: int = 0, dtype: torch.dtype = torch.float32, **kwargs: Any
) -> Path:
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(path, **kwargs)
    return path


def changed(source: Path, target: Path, change: Callable[[str, Tensor], Tensor | None]) -> Path:
    """A copy of a checkpoint in one file whose tensors are `change(name, tensor)`; None leaves one out."""
    shutil.copytree(source, target)
    tensors = {name: change(name, value) for name, value in load_file(target / "model.safetensors").items()}
    kept = {name: value.contiguous() for name, value in tensors.items() if value is not None}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


def request(before: Path, after: Path, work: Path, **fields: Any) -> Request:
    work.mkdir(exist_ok=True)
    given = {"settings": Settings(), "progress": lambda done, total, unit: None, **fields}
    return Request(before=str(before), after=str(after), work=work, **given)


def drift(before: Path, after: Path, work: Path, **fields: Any) -> dict[str, Any]:
    asked = request(before, after, work, **fields)
    check(asked)
    return analyze(asked)


def modules(work: Path) -> dict[str, dict[str, Any]]:
    return {row["module"]: row for row in pyarrow.parquet.read_table(work / "modules.parquet").to_pylist()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "base", Qwen3Config(**SIZES, tie_word_embeddings=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", [Qwen3Config, LlamaConfig])
def test_numbers_are_the_naive_ones_of_the_loaded_models(
    tmp_path: Path, architecture: type[PretrainedConfig], tied: bool, dtype: torch.dtype
) -> None:
    config = architecture(**SIZES, tie_word_embeddings=tied)
    before = save(tmp_path / "before", config, dtype=dtype)
    torch.manual_seed(1)
    after = changed(
        before, tmp_path / "after", lambda name, value: (value * (1 + 0.01 * torch.randn(value.shape))).to(value.dtype)
    )
    found = drift(before, after, tmp_path / "work", settings=Settings(epsilon=1e-4))
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=dtype) for path in (before, after)]
    linear = [
        {name: part.weight.tolist() for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        for model in models
    ]
    head = [layers.pop("lm_head") for layers in linear]
    bits = 8 if dtype == torch.bfloat16 else 24

    def measures(old: naive.Matrix, new: naive.Matrix) -> dict[str, float]:
        return {
            "sparsity": naive.sparsity(old, new, epsilon=1e-4, bits=bits),
            "sparsity_bf16": naive.sparsity_bf16(old, new),
            "spectrum_shift": naive.spectrum_shift(old, new),
            "update_norm": naive.update_norm(old, new),
        }

    expected = {name: measures(old, linear[1][name]) for name, old in linear[0].items()}
    table = modules(tmp_path / "work")
    assert table.keys() == expected.keys()
    for name, values in expected.items():
        assert {key: table[name][key] for key in values} == pytest.approx(values, rel=1e-7)
        assert (table[name]["rows"], table[name]["columns"]) == (len(linear[0][name]), len(linear[0][name][0]))
    for key in ("sparsity", "sparsity_bf16", "spectrum_shift"):
        mean = sum(values[key] for values in expected.values()) / len(expected)
        assert found[f"drift/{key}"] == pytest.approx(mean, rel=1e-7)
        assert 0.0 < mean < 1.0
    every = [[parameter.flatten().tolist() for parameter in model.parameters()] for model in models]
    assert found["drift/update_norm"] == pytest.approx(naive.update_norm(*every), rel=1e-10)
    together = [[[value for values in parameters for value in values]] for parameters in every]
    assert found["drift/all_parameters/sparsity_bf16"] == pytest.approx(naive.sparsity_bf16(*together))
    assert found["drift/all_parameters/sparsity"] == pytest.approx(naive.sparsity(*together, epsilon=1e-4, bits=bits))
    assert found["modules"] == 14
    assert found["parameters"] == sum(parameter.numel() for parameter in models[0].parameters())
    stored = "BF16" if dtype == torch.bfloat16 else "F32"
    assert found["dtypes"] == {"before": [stored], "after": [stored]}
    own = {key.removeprefix("drift/lm_head/"): found[key] for key in found if key.startswith("drift/lm_head/")}
    assert own == ({} if tied else pytest.approx(measures(*head), rel=1e-7))


def test_identical_models_have_not_moved(tmp_path: Path, base: Path) -> None:
    found = drift(base, changed(base, tmp_path / "copy", lambda name, value: value), tmp_path / "work")
    assert {found[f"drift/{key}"] for key in ("sparsity", "sparsity_bf16", "all_parameters/sparsity")} == {1.0}
    assert found["drift/spectrum_shift"] == found["drift/update_norm"] == 0.0


def test_a_scaled_model_has_moved_by_its_factor(tmp_path: Path, base: Path) -> None:
    found = drift(base, changed(base, tmp_path / "scaled", lambda name, value: 0.5 * value), tmp_path / "work")
    assert found["drift/spectrum_shift"] == pytest.approx(0.5, rel=1e-12)
    shifts = [row["spectrum_shift"] for row in modules(tmp_path / "work").values()]
    assert shifts == pytest.approx([0.5] * 14, rel=1e-12)
    assert found["drift/sparsity_bf16"] == 0.0


def test_embeddings_and_norms_count_in_the_norm_alone(tmp_path: Path, base: Path) -> None:
    def change(name: str, value: Tensor) -> Tensor:
        return value + 0.5 if "embed" in name or "norm" in name else value

    found = drift(base, changed(base, tmp_path / "after", change), tmp_path / "work")
    assert (found["drift/sparsity"], found["drift/spectrum_shift"]) == (1.0, 0.0)
    moved = sum(
        value.numel()
        for name, value in load_file(base / "model.safetensors").items()
        if change(name, value) is not value
    )
    assert found["drift/update_norm"] == pytest.approx(0.5 * moved**0.5, rel=1e-6)
    assert found["drift/all_parameters/sparsity"] == pytest.approx(1 - moved / found["parameters"])


def test_a_stored_copy_of_a_tied_head_is_no_parameter(tmp_path: Path, base: Path) -> None:
    after = changed(base, tmp_path / "after", lambda name, value: value + 0.01)
    copy = changed(base, tmp_path / "with_head", lambda name, value: value)
    tensors = load_file(copy / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, copy / "model.safetensors")
    assert drift(copy, after, tmp_path / "first") == drift(base, after, tmp_path / "second")


def test_shards_give_what_one_file_gives(tmp_path: Path, base: Path) -> None:
    after = changed(base, tmp_path / "after", lambda name, value: value * 1.01)
    shards = tmp_path / "shards"
    AutoModelForCausalLM.from_pretrained(after).save_pretrained(shards, max_shard_size="4KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    assert drift(base, shards, tmp_path / "first") == drift(base, after, tmp_path / "second")
    next(iter(sorted(shards.glob("*.safetensors")))).unlink()
    with pytest.raises(UserError, match=r"model-00001-of-\d+\.safetensors is missing"):
        check(request(base, shards, tmp_path / "third"))


def test_layers_of_zeros_have_no_relative_shift(tmp_path: Path, base: Path) -> None:
    zeros = changed(base, tmp_path / "zeros", lambda name, value: 0 * value if name == Q_PROJ else value)
    found = drift(zeros, changed(base, tmp_path / "after", lambda name, value: 0.5 * value), tmp_path / "work")
    table = modules(tmp_path / "work")
    assert [name for name, row in table.items() if row["spectrum_shift"] is None] == [Q_PROJ.removesuffix(".weight")]
    assert found["drift/spectrum_shift"] == pytest.approx(0.5, rel=1e-12)


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = save(tmp_path / "after", Qwen3Config(**SIZES, tie_word_embeddings=True), seed=5)
    whole = drift(base, after, tmp_path / "whole")
    seen: list[int] = []

    def stop_at_nine(done: int, total: int, unit: str) -> None:
        seen.append(done)
        if done == 9:
            raise KeyboardInterrupt

    work = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        drift(base, after, work, progress=stop_at_nine)
    assert seen == list(range(1, 10))
    parts = sorted((work / SCRATCH / "parts").glob("*.json"))
    assert len(parts) == 9
    # What is finished is not worked out again, but for a part that is not what was written there.
    damaged = json.loads(parts[2].read_text())
    parts[2].write_text(json.dumps({**damaged, "update_norm": 1000.0}))
    compared: list[str] = []
    compare = weight_drift._compare
    monkeypatch.setattr(
        weight_drift, "_compare", lambda old, new, request: compared.append(old.name) or compare(old, new, request)
    )
    assert drift(base, after, work) == whole
    names = list(open_checkpoint(str(base)).tensors)
    assert compared == [names[2], *names[9:]]
    assert tables_in(work) == ["modules.parquet"]
    assert (work / "modules.parquet").read_bytes() == (tmp_path / "whole" / "modules.parquet").read_bytes()


def with_nan(name: str, value: Tensor) -> Tensor:
    return torch.where(value == value.flatten()[3], torch.nan, value) if name == Q_PROJ else value


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda name, value: None if name == Q_PROJ else value, f"only in .*base: {Q_PROJ}"),
        (lambda name, value: None if ".0." in name else value, "gate_proj.weight and 8 more"),
        (lambda name, value: value[:5] if name == Q_PROJ else value, r"shape \(12, 12\) in .* \(5, 12\)"),
        (lambda name, value: value.to(torch.uint8) if name == Q_PROJ else value, "is stored as U8. Give"),
        (lambda name, value: value.to(torch.float8_e4m3fn), "is stored as F8_E4M3. Give the model before it was"),
        (with_nan, f"'{Q_PROJ}' holds NaN or infinite values"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_compared(tmp_path: Path, base: Path, change: Any, sentence: str) -> None:
    after = changed(base, tmp_path / "after", change)
    with pytest.raises(UserError, match=sentence):
        drift(base, after, tmp_path / "work")


def test_files_that_cannot_be_read(tmp_path: Path, base: Path) -> None:
    after = changed(base, tmp_path / "after", lambda name, value: value)
    whole = (after / "model.safetensors").read_bytes()
    for content in (whole[:-7], b"PK\x03\x04 a pickle"):
        (after / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors: not readable as safetensors"):
            check(request(base, after, tmp_path / "work"))
    (after / "model.safetensors").rename(after / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.safetensors is missing; weights in other formats are not loaded"):
        check(request(base, after, tmp_path / "work"))
    (after / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(UserError, match=r"index\.json: has no weight_map"):
        check(request(base, after, tmp_path / "work"))


def test_models_without_blocks_and_a_dtype_to_load_in(tmp_path: Path, base: Path) -> None:
    for name in ("one", "two"):
        changed(base, tmp_path / name, lambda name, value: value if "embed" in name else None)
    with pytest.raises(UserError, match="no linear layers in blocks"):
        check(request(tmp_path / "one", tmp_path / "two", tmp_path / "work"))
    with pytest.raises(UserError, match="has no use for bfloat16"):
        check(request(base, base, tmp_path / "work", dtype="bfloat16"))


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("model.layers.0.mlp.experts.3.gate_proj.weight", (8, 16), "linear"),
        ("model.layers.0.mlp.gate.weight", (4, 16), "linear"),
        ("transformer.h.0.attn.c_attn.weight", (16, 48), "linear"),
        ("language_model.model.layers.11.mlp.up_proj.weight", (8, 4), "linear"),
        ("lm_head.weight", (17, 12), "lm_head"),
        ("language_model.lm_head.weight", (17, 12), "lm_head"),
        ("embed_out.weight", (17, 12), "lm_head"),
        ("model.embed_tokens.weight", (17, 12), "other"),
        ("transformer.wpe.weight", (64, 12), "other"),
        ("model.layers.0.embed_tokens.weight", (17, 12), "other"),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, 8), "other"),
        ("model.layers.0.input_layernorm.weight", (12,), "other"),
        ("model.layers.0.self_attn.q_proj.bias", (12,), "other"),
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 8, 16), "other"),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", (4, 8), "other"),
        ("model.layers.0.linear_attn.conv1d.weight", (8, 1, 4), "other"),
        ("multi_modal_projector.weight", (8, 8), "other"),
    ],
)
def test_what_a_parameter_is_by_its_name_and_shape(name: str, shape: tuple[int, ...], kind: str) -> None:
    assert StoredTensor(name=name, file=Path("model.safetensors"), shape=shape, dtype="BF16").kind == kind


PEAK = """
import sys
from pathlib import Path
from pear.analysis.checkpoints import StoredTensor
from pear.analysis.request import Request
from pear.analysis.weight_drift import Settings, analyze
import torch, pyarrow.parquet

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

def run(name):
    work = Path(sys.argv[1]) / ("work_" + name)
    work.mkdir()
    before, after = (str(Path(sys.argv[1]) / (name + part)) for part in ("_before", "_after"))
    analyze(Request(before=before, after=after, settings=Settings(), work=work, progress=lambda *values: None))
    return peak()

print(-run("small") + run("large"))
"""


def test_checkpoints_are_read_one_tensor_at_a_time(tmp_path: Path) -> None:
    """32 tensors of 2 MiB: the two checkpoints together are 128 MiB, one pair of tensors 4 MiB."""
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in range(32)]
    for size, layers in (("small", 1), ("large", 32)):
        for part, value in (("before", 1.0), ("after", 1.5)):
            directory = tmp_path / f"{size}_{part}"
            directory.mkdir()
            (directory / "config.json").write_text("{}")
            tensors = {f"{name}.weight": torch.full((8192, 64), value) for name in names[:layers]}
            save_file(tensors, directory / "model.safetensors")
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 40
    assert list(modules(tmp_path / "work_large")) == names
