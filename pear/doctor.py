"""`pear doctor`: what is installed, what the machine has, and what is missing for what."""

import importlib.util
import os
import platform
from importlib import metadata

import pear
from pear.models import shipped_models

_REQUIRED = ("torch", "transformers", "trl", "accelerate", "datasets", "pyarrow", "math-verify")
_EXTRAS = {"peft": "LoRA and other adapters", "vllm": "sampling and scoring on GPUs", "ray": "many machines"}


def doctor() -> int:
    """Print versions, devices and extras."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"pear {pear.__version__}", show_header=False, title_justify="left")
    table.add_row("python", platform.python_version())
    table.add_row("platform", platform.platform())
    table.add_row("cores", str(os.cpu_count()))
    for name in _REQUIRED:
        table.add_row(name, _version(name))
    table.add_row("devices", _devices())
    for name, purpose in _EXTRAS.items():
        found = importlib.util.find_spec(name) is not None
        hint = f"{_version(name)}" if found else f"not installed; for {purpose}: pip install 'pear-sft[{name}]'"
        table.add_row(name, Text(hint))
    table.add_row("shipped models", ", ".join(shipped_models()) or "none")
    Console(soft_wrap=True).print(table)
    return 0


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
