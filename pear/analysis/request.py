"""What an analysis is asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pear.models import Dtype
from pear.runs import SCRATCH


@dataclass(frozen=True, kw_only=True)
class Request:
    """One analysis to be made. What it does not need is None.

    Args:
        before: the base model, or the one that training started from: a directory or a hub id.
        after: the trained model, likewise.
        buffer: the directory of a buffer with calibration trajectories.
        settings: the module's own `Settings`.
        work: where tables go.
        progress: called with (done, total, unit) after every part.
        device: where to compute: a device of torch that is there ("cpu", "cuda").
        dtype: of the models that are loaded; "auto" is float32 on a CPU and bfloat16 elsewhere.
        gradients: name to a safetensors file of mean gradients.
    """

    before: str
    after: str | None = None
    buffer: str | None = None
    settings: Any
    work: Path
    progress: Callable[[int, int, str], None]
    device: str = "cpu"
    dtype: Dtype = "auto"
    gradients: Mapping[str, Path] = field(default_factory=dict)

    @property
    def scratch(self) -> Path:
        """Where parts are that a killed run goes on from, and nobody needs afterwards. It may hold those of one."""
        return self.work / SCRATCH
