"""Builds scripted nodes, and what a study file is planned from."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pear.study.graph import Node, Role, Use

# The stages' processes import it by this name too.
sys.path.insert(0, str(Path(__file__).parent))

from scripted_stages import ScriptedConfig


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[..., Node]:
    """Makes a node of the scripted stage: scripted("a", behavior="write", after=[node])."""

    def make(name: str, *, after: tuple[Node, ...] = (), role: Role = "sft", **settings: object) -> Node:
        directory = tmp_path / "runs" / f"scripted-{name}"
        config = ScriptedConfig.parse(
            {
                "output_dir": directory,
                "name": name,
                "inputs": tuple(node.directory for node in after),
                **settings,
            },
            source="test",
        )
        return Node(
            id=f"scripted-{name}",
            stage="scripted",
            key=name,
            config=config,
            directory=directory,
            depends=tuple(node.id for node in after),
            label=f"scripted {name}",
            uses=(Use(arm=None, base="base", seed=0, role=role),),
        )

    return make


def make_model(directory: Path, content: str = "weights") -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_text(content)
    return directory


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A directory with the models base_0, base_1 and behavior; planning only reads their bytes."""
    root = tmp_path / "models"
    for name in ("base_0", "base_1", "behavior"):
        make_model(root / name, name)
    return root


@pytest.fixture
def values(models: Path) -> dict[str, Any]:
    task = {"task": "tiny/affine_chain", "level": "n4"}
    return {
        "name": "test",
        "base": f"{models}/base_{{seed}}",
        "behavior": {"model": f"{models}/behavior", "sampling": {"max_tokens": 32}},
        "tasks": {
            "sft": [{**task, "split": "sft", "size": 8}],
            "rl": [{**task, "split": "rl", "size": 8}],
            "eval": [{**task, "split": "eval", "size": 8}],
        },
        "arms": {
            "nll": {"objective": "nll"},
            "pear_token": {"objective": "pear_token", "objective_kwargs": {"gamma": 0.9}},
            "direct": None,
        },
        "seeds": [0, 1],
        "sft": {"trainer": {"max_steps": 4, "learning_rate": "3e-3"}},
        "rl": {"steps": 6, "prompts_per_step": 4, "group_size": 4, "max_completion_tokens": 32},
        "evaluate": {"samples": 8, "k": [1, 4], "max_tokens": 32, "at_rl_steps": [2]},
    }
