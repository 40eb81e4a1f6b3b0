import json
from pathlib import Path

import pytest
from safetensors import safe_open

from pear.errors import UserError
from pear.models import recipes_directory, resolve_model, resolve_recipe, shipped_models


def test_a_shipped_model_is_complete() -> None:
    names = shipped_models()
    assert names
    for name in names:
        path = Path(resolve_model(name))
        with safe_open(str(path / "model.safetensors"), framework="pt") as weights:
            assert list(weights.keys())
        manifest = json.loads((path / "manifest.json").read_text())
        assert manifest["stage"] == "pretrain"
        assert manifest["config"]["problems"]


def test_a_directory_needs_a_model_in_safetensors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match="safetensors"):
        resolve_model(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert resolve_model(str(tmp_path)) == str(tmp_path)


def test_a_name_that_is_nothing() -> None:
    with pytest.raises(UserError, match="Did you mean"):
        resolve_model(shipped_models()[0] + "x")
    with pytest.raises(UserError, match="no such model directory"):
        resolve_model("/nowhere/model")
    assert resolve_model("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"


def test_recipes_are_found_by_path_and_by_name(tmp_path: Path) -> None:
    demo = recipes_directory() / "demo.yaml"
    assert resolve_recipe(demo) == demo
    assert resolve_recipe(Path("demo")) == demo
    own = tmp_path / "demo.yaml"
    own.write_text("name: mine")
    assert resolve_recipe(own) == own
    with pytest.raises(UserError, match=r"Shipped recipes: .*demo"):
        resolve_recipe(Path("recipes/dmo.yaml"))
