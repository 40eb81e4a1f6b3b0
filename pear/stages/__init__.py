"""Stages: one file per command, `Config` and `run(config)`. Each reads directories and writes one new one."""

import importlib
from collections.abc import Callable
from pathlib import Path

from pear.configuration import StrictModel

# Name of the stage to its module and configuration class.
STAGES: dict[str, tuple[str, str]] = {
    "pretrain": ("pear.stages.pretrain", "PretrainConfig"),
    "collect": ("pear.stages.collect", "CollectConfig"),
    "score": ("pear.stages.score", "ScoreConfig"),
    "sft": ("pear.stages.sft", "SftConfig"),
    "rescale": ("pear.stages.rescale", "RescaleConfig"),
    "grpo": ("pear.stages.grpo", "GrpoConfig"),
    "evaluate": ("pear.stages.evaluate", "EvaluateConfig"),
    "analyze": ("pear.stages.analyze", "AnalyzeConfig"),
}


def load_stage(name: str) -> tuple[type[StrictModel], Callable[..., Path]]:
    """A stage's configuration class and its `run`."""
    module_name, config_name = STAGES[name]
    module = importlib.import_module(module_name)
    return getattr(module, config_name), module.run
