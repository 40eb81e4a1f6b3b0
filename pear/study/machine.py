"""What the machine offers: slots, each with its threads and, where there are GPUs, one of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pear.configuration import StrictModel

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


class Machine(StrictModel):
    """How a study uses the machine. Not part of any fingerprint.

    Args:
        slots: how many stages run side by side. By default cores // threads, or as many as there are GPUs.
        threads: CPU threads of each stage.
    """

    slots: Annotated[int | None, Field(gt=0)] = None
    threads: Annotated[int, Field(gt=0)] = 1


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
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(machine.threads),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",  # bars would fill the logs; stages write progress.json
        # Asking whether there is a GPU must not initialize CUDA in the forkserver: no child could use it then.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    gpus = list(dict.fromkeys(slot.gpu for slot in taken if slot.gpu is not None))
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment


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
