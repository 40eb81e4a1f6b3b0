"""A tiny model, and a buffer sampled from it with right and wrong trajectories."""

from pathlib import Path

import pytest

from pear.stages import collect
from tests.training.grpo_fixtures import PROBLEM_SET, save_solver


@pytest.fixture(scope="module")
def solver(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_solver(tmp_path_factory.mktemp("models") / "solver", seed=0)


@pytest.fixture(scope="module")
def sampled(solver: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {
        "model": solver,
        "problems": [PROBLEM_SET.model_dump()],
        "sampling": {"samples": 4, "max_tokens": 24},
        "output_dir": tmp_path_factory.mktemp("collected") / "buffer",
    }
    return collect.run(collect.CollectConfig.parse(values, source="test"))
