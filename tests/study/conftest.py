"""Builds scripted nodes."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pear.study.graph import Node, Use

# The stages' processes import it by this name too.
sys.path.insert(0, str(Path(__file__).parent))

from scripted_stages import ScriptedConfig


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[..., Node]:
    """Makes a node of the scripted stage: scripted("a", behavior="write", after=[node])."""

    def make(name: str, *, after: tuple[Node, ...] = (), **settings: object) -> Node:
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
            uses=(Use(arm=None, base="base", seed=0, role="sft"),),
        )

    return make
