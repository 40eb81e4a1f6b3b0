"""`pear rescale`: the norm that is reached, what is kept of the model, and what is refused."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from pear.errors import UserError
from pear.runs import read_manifest
from pear.stages.rescale import RescaleConfig, run
from pear.stages.sft import update_norm
from pear.tasks import TASKS
from pear.training.tiny_models import build_model, build_tokenizer

TASK = TASKS["tiny/affine_chain"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, and `near` and `far`, whose weights moved from there in directions of their own."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = build_tokenizer(TASK.vocabulary)
    torch.manual_seed(0)
    build_model(tokenizer, hidden_size=16, num_layers=1, num_heads=2).save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    moved(root / "base", root / "near", noise(1e-3, seed=1))
    moved(root / "base", root / "far", noise(4e-3, seed=2))
    return root


def noise(size: float, *, seed: int, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """Adds draws of this standard deviation."""
    draw = torch.Generator().manual_seed(seed)
    return lambda value: (value + size * torch.randn(value.shape, generator=draw)).to(dtype)


def moved(source: Path, target: Path, change: Callable[[Tensor], Tensor]) -> Path:
    """A copy of a model with other weights."""
    shutil.copytree(source, target)
    weights = {name: change(value) for name, value in load_file(source / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def rescaled(models: Path, output_dir: Path, *, base: str = "base", model: str = "near", norm_of: str = "far") -> Path:
    names = {"base": base, "model": model, "norm_of": norm_of}
    values = {key: str(models / name) for key, name in names.items()}
    return run(RescaleConfig.parse({**values, "output_dir": output_dir}, source="test"))


def update(before: Path, after: Path) -> list[float]:
    """All elements of an update in float64, in the order of the tensors' names."""
    old, new = (load_file(path / "model.safetensors") for path in (before, after))
    assert old.keys() == new.keys()
    return [
        float(one) - float(other)
        for name in sorted(old)
        for one, other in zip(new[name].flatten().tolist(), old[name].flatten().tolist(), strict=True)
    ]


def test_the_update_keeps_its_direction_and_gets_the_other_ones_norm(models: Path, tmp_path: Path) -> None:
    found = rescaled(models, tmp_path / "out")
    own, scaled, other = (update(models / "base", path) for path in (models / "near", found, models / "far"))
    norms = [math.sqrt(math.fsum(value * value for value in values)) for values in (own, scaled, other)]
    assert norms[1] == pytest.approx(norms[2], rel=1e-6)
    assert norms[2] > 3.9 * norms[0]
    cosine = math.fsum(one * two for one, two in zip(own, scaled, strict=True)) / (norms[0] * norms[1])
    assert cosine == pytest.approx(1.0, abs=1e-6)
    results = read_manifest(found)["results"]
    assert results["scale"] == pytest.approx(norms[2] / norms[0], rel=1e-9)
    assert results["norm_before"] == pytest.approx(norms[0], rel=1e-9)
    assert results["norm_wanted"] == pytest.approx(norms[2], rel=1e-9)
    assert results["update/norm"] == pytest.approx(norms[1], rel=1e-9)
    # As `pear sft` says it of the model that it wrote.
    assert results["update/norm"] == pytest.approx(update_norm(str(models / "base"), found), rel=1e-9)


def test_every_weight_is_on_the_line_through_start_and_end(models: Path, tmp_path: Path) -> None:
    """Against the formula in float64, element by element; a smaller norm makes the update shorter."""
    found = rescaled(models, tmp_path / "out", model="far", norm_of="near")
    scale = read_manifest(found)["results"]["scale"]
    assert 0.2 < scale < 0.3
    start, end, between = (load_file(path / "model.safetensors") for path in (models / "base", models / "far", found))
    for name, value in between.items():
        expected = start[name].double() + scale * (end[name].double() - start[name].double())
        torch.testing.assert_close(value, expected.float(), rtol=0, atol=0)


def test_a_model_at_that_norm_stays_as_it_is(models: Path, tmp_path: Path) -> None:
    found = rescaled(models, tmp_path / "out", norm_of="near")
    assert read_manifest(found)["results"]["scale"] == 1.0
    assert update(models / "near", found) == pytest.approx([0.0] * len(update(models / "near", found)), abs=1e-9)


def test_the_model_loads_with_all_that_it_had(models: Path, tmp_path: Path) -> None:
    settings = json.loads((models / "near" / "generation_config.json").read_text())
    near = shutil.copytree(models / "near", tmp_path / "near")
    (near / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [1, 7]}))
    found = rescaled(models, tmp_path / "out", model=str(near))
    model = AutoModelForCausalLM.from_pretrained(found)
    assert model.generation_config.eos_token_id == [1, 7]
    assert model.config.hidden_size == 16
    tokenizer, before = (AutoTokenizer.from_pretrained(path) for path in (found, near))
    assert tokenizer.get_vocab() == before.get_vocab()
    assert tokenizer.chat_template == before.chat_template
    assert not (found / "scratch").exists()
    written = (found / "model.safetensors").stat().st_mtime_ns
    assert rescaled(models, tmp_path / "out", model=str(near)) == found
    assert (found / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_is_the_model_s(models: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """With an update that bfloat16 can hold; the base may be of another dtype."""
    wide = moved(models / "base", tmp_path / "wide", noise(0.5, seed=5, dtype=dtype))
    found = rescaled(models, tmp_path / "out", model=str(wide), norm_of="far")
    weights = load_file(found / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {dtype}
    assert weights.keys() == load_file(wide / "model.safetensors").keys()


def test_shards_stay_shards(models: Path, tmp_path: Path) -> None:
    whole = rescaled(models, tmp_path / "whole")
    for name in ("base", "near"):
        model = AutoModelForCausalLM.from_pretrained(models / name)
        model.save_pretrained(tmp_path / name, max_shard_size="4KB")
        AutoTokenizer.from_pretrained(models / name).save_pretrained(tmp_path / name)
    found = rescaled(models, tmp_path / "out", base=str(tmp_path / "base"), model=str(tmp_path / "near"))
    index = json.loads((found / "model.safetensors.index.json").read_text())
    given = json.loads((tmp_path / "near" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert index["weight_map"] == given["weight_map"]
    assert index["metadata"]["total_size"] == given["metadata"]["total_size"]
    one, other = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (whole, found))
    assert all(value.equal(other[name]) for name, value in one.items())


def test_a_norm_that_cannot_be_matched_is_a_sentence_and_nothing_is_written(models: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tokenizer = build_tokenizer(TASK.vocabulary)
    build_model(tokenizer, hidden_size=32, num_layers=1, num_heads=2).save_pretrained(other)
    broken = moved(models / "base", tmp_path / "broken", lambda value: value * math.nan)
    before = sorted(tmp_path.iterdir())
    for changes, message in (
        ({"model": "base"}, r"base: its update from .*base has norm 0\.0\. Give a model that was trained from"),
        ({"norm_of": "base"}, r"base: its update from .*base has norm 0\.0\."),
        ({"norm_of": str(broken)}, r"broken: its update from .*base has norm nan\."),
        ({"norm_of": str(other)}, "Give two checkpoints of one architecture"),
        ({"model": "nowhere"}, "nowhere"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            rescaled(models, tmp_path / "out", **changes)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_dtype_that_cannot_hold_the_update_is_a_sentence(models: Path, tmp_path: Path) -> None:
    coarse = moved(models / "base", tmp_path / "coarse", noise(0.5, seed=5, dtype=torch.bfloat16))
    tiny = moved(models / "base", tmp_path / "tiny", lambda value: value + 1e-6)
    with pytest.raises(UserError, match=r"coarse: its scaled update has norm .* wanted: BF16 is too coarse for it\."):
        rescaled(models, tmp_path / "out", model=str(coarse), norm_of=str(tiny))
    assert not (tmp_path / "out").exists()
