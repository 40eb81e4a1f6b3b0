"""SFT and GRPO on TRL. Importing this package does not import TRL; `PearConfig` and `PearTrainer` do."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pear.training.sft_config import PearConfig as PearConfig
    from pear.training.sft_trainer import PearTrainer as PearTrainer

# TRL reports its use over the network unless this is set before `huggingface_hub` is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__all__ = ["PearConfig", "PearTrainer"]

_MODULES = {"PearConfig": "pear.training.sft_config", "PearTrainer": "pear.training.sft_trainer"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'pear.training' has no attribute '{name}'")
