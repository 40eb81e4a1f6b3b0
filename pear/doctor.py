"""`pear doctor`: what is installed, what the machine has, and what is missing for what."""

import importlib.util
import os
import platform
from importlib import metadata

import pear
from pear.models import shipped_models

_REQUIRED = ("torch", "transformers", "trl", "accelerate", "datasets", "pyarrow", "math-verify")
_EXTRAS = {
    "peft": "LoRA in `pear sft`",
    "ray": "`engine: ray`",
    "openai": "`engine: server`",
    "reasoning_gym": "the tasks `reasoning_gym/NAME`",
    "vllm": "`engine: vllm`, and `use_vllm: true` in the trainer block of `pear grpo`",
    **{name: f"`report_to: {name}` in a trainer block" for name in ("tensorboard", "trackio", "wandb")},
}
# Extras are called like the package that they add, but for these.
_EXTRA_OF = {"openai": "server", "reasoning_gym": "reasoning-gym"}


def doctor() -> int:
    """Print versions, devices and extras."""
    rows = {
        "pear": pear.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
        "devices": _devices(),
        **{name: _version(name) for name in _REQUIRED},
        **{name: _extra(name, purpose) for name, purpose in _EXTRAS.items()},
        "shipped models": " ".join(shipped_models()),
    }
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(f"{name:{width}}{value}")
    return 0


def _extra(name: str, purpose: str) -> str:
    if importlib.util.find_spec(name) is not None:
        return _version(name)
    extra = _EXTRA_OF.get(name, name)
    return f"not installed; for {purpose}: pip install 'pear-sft[{extra}]'"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return "CPU only"
