"""What the machine offers: slots, each with its threads and, where there are GPUs, one of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from pear.configuration import StrictModel
from pear.errors import unknown_name
from pear.stages import STAGES
from pear.study.graph import Node

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


class Machine(StrictModel):
    """How a study uses the machine. Not part of any fingerprint.

    Args:
        slots: how many stages run side by side on this machine. By default cores // threads, or as many as there are
            GPUs. On Ray its own resources decide.
        threads: CPU threads of each stage.
        gpus: how many GPUs a stage gets, by the stage's name, such as {sft: 8, evaluate: 1}, or one number for all. By
            default one for each of its processes, where there are any.
    """

    slots: Annotated[int | None, Field(gt=0)] = None
    threads: Annotated[int, Field(gt=0)] = 1
    gpus: Annotated[int, Field(ge=0)] | dict[str, Annotated[int, Field(ge=0)]] = {}

    @field_validator("gpus")
    @classmethod
    def _names_stages(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        for name in value if isinstance(value, dict) else ():
            if name not in STAGES:
                raise ValueError(str(unknown_name("stage", name, STAGES)))
        return value

    def gpus_of(self, node: Node) -> int | None:
        """The GPUs that a node's stage gets; None where nothing is said of it."""
        return self.gpus.get(node.stage) if isinstance(self.gpus, dict) else self.gpus


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Room for one stage: its number and the GPU that it sees, None where there is none."""

    number: int
    gpu: str | None


def slots(machine: Machine) -> list[Slot]:
    """The slots of this machine; with more slots than GPUs, several share one."""
    gpus = visible_gpus()
    count = machine.slots or (len(gpus) if gpus else max(1, available_cores() // machine.threads))
    return [Slot(number=number, gpu=gpus[number % len(gpus)] if gpus else None) for number in range(count)]


def stage_environment(machine: Machine, taken: Sequence[Slot]) -> dict[str, str]:
    """The environment of a stage's process, which sees the GPUs of its slots; with no slot, that of the forkserver."""
    environment = {**os.environ, **stage_settings(machine)}
    gpus = list(dict.fromkeys(slot.gpu for slot in taken if slot.gpu is not None))
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment


def stage_settings(machine: Machine) -> dict[str, str]:
    """What is set in the environment of every stage's process."""
    return {
        "OMP_NUM_THREADS": str(machine.threads),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",  # bars would fill the logs; stages write progress.json
        # Asking whether there is a GPU must not initialize CUDA in the forkserver: no child could use it then.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def available_cores() -> int:
    """Cores that this process may use: its affinity, bounded by a container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_LIMIT.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
