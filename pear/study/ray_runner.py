"""Runs stages as tasks of Ray, on this machine or a cluster. Ray decides which of them run where and when.

Each stage is a task that reserves CPUs and GPUs, and runs in a process of its own. What it reads and writes lies in the
study's directory, as on one machine, which all machines must share. So fingerprints, manifests and resume are the same,
and a study may go on under the other executor.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pear.engines.ray_cluster import connect
from pear.errors import UserError, missing_extra
from pear.runs import note
from pear.study.graph import Node
from pear.study.local_runner import processes_of
from pear.study.machine import Machine, available_cores, stage_settings
from pear.study.worker import Job, work_in_ray

_ADDRESS = "RAY_ADDRESS"
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


class RayRunner:
    """`Runner` on Ray: the cluster that the variable RAY_ADDRESS names, or one that is started on this machine.

    Args:
        machine: CPU threads and GPUs of each stage.
        nodes: all that will be started.

    Raises:
        UserError: Ray is not installed; or when entered: it is not reachable, or a node wants more GPUs than this
            machine has. A cluster may grow: there the node will wait, with a note.
    """

    def __init__(self, machine: Machine, nodes: Sequence[Node]) -> None:
        try:
            import ray
        except ImportError:
            raise missing_extra("The `ray` executor", "ray") from None
        self._ray = ray
        self._machine, self._nodes = machine, list(nodes)
        self._running: dict[str, Any] = {}
        # Node id to its log, and the size of that before the task was given to Ray: the task's first line is its start.
        self._queued: dict[str, tuple[Path, int]] = {}
        self._starts_ray = _ADDRESS not in os.environ
        self.side_by_side = 1

    def __enter__(self) -> Self:
        connect(os.environ.get(_ADDRESS), setting=_ADDRESS, num_cpus=available_cores())
        machines = [one["Resources"] for one in self._ray.nodes() if one["Alive"]]
        self._largest = {kind: max(one.get(kind, 0.0) for one in machines) for kind in ("CPU", "GPU")}
        cpus = sum(one.get("CPU", 0.0) for one in machines)
        gpus = sum(one.get("GPU", 0.0) for one in machines)
        self.side_by_side = max(1, int(gpus or cpus // self._machine.threads))
        try:
            self._check_gpus()
        except UserError:
            self._ray.shutdown()
            raise
        return self

    def _check_gpus(self) -> None:
        """Before the first stage runs, what the last one lacks."""
        wanted = {node.stage: self._reserved(node)["GPU"] for node in self._nodes}
        most = self._largest["GPU"]
        for stage, amount in wanted.items():
            if amount <= most:
                continue
            lacking = f"machine.gpus: {stage} reserves {amount:g} GPUs, and"
            if self._starts_ray:
                raise UserError(f"{lacking} this machine has {most:g}. Lower it.")
            note(f"{lacking} no machine of the cluster has more than {most:g} now. It will wait.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._running.values():
            self._ray.cancel(task, force=True)
        if self._running:
            # Not before their processes are gone, which hold the directories that they work in.
            self._ray.wait(list(self._running.values()), num_returns=len(self._running), timeout=10.0)
        self._ray.shutdown()

    def fits(self, node: Node) -> bool:
        """Always: Ray keeps what does not fit yet."""
        return True

    def start(self, node: Node, job: Job) -> None:
        """Gives the stage to Ray."""
        reserved = self._reserved(node)
        # A process of its own: libraries keep state that the next stage must not find. A stage that fails is not tried
        # again here: the same command does that, from its last checkpoint.
        task = self._ray.remote(num_cpus=reserved["CPU"], num_gpus=reserved["GPU"], max_calls=1, max_retries=0)
        settings = stage_settings(self._machine)
        self._queued[node.id] = (job.log, _size(job.log))
        self._running[node.id] = task(work_in_ray).options(name=node.label).remote(job, settings, Path.cwd())

    def began(self) -> list[str]:
        """Ids of the nodes that Ray has started since this was last asked."""
        found = [node_id for node_id, (log, before) in self._queued.items() if _size(log) > before]
        for node_id in found:
            del self._queued[node_id]
        return found

    def ended(self, patience: float) -> list[tuple[str, str | None]]:
        """Ids of the nodes that ended, with what went wrong; waits for the first, at most so many seconds."""
        from ray.exceptions import RayError

        tasks = list(self._running.values())
        self._ray.wait(tasks, num_returns=1, timeout=patience)
        ready, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        found: list[tuple[str, str | None]] = []
        for node_id, task in [(node_id, task) for node_id, task in self._running.items() if task in ready]:
            try:
                found.append((node_id, self._ray.get(task)))
            except RayError as error:
                reason = " ".join(_COLORS.sub("", str(error)).split())[:300]
                found.append((node_id, f"Ray ended the process ({reason})."))
            del self._running[node_id]
            self._queued.pop(node_id, None)
        return found

    def _reserved(self, node: Node) -> dict[str, float]:
        """`threads` CPUs for each process, as far as a machine has them, and the node's GPUs."""
        gpus = self._machine.gpus_of(node)
        if gpus is None:
            gpus = processes_of(node) if self._largest["GPU"] else 0
        return {"CPU": min(self._machine.threads * processes_of(node), self._largest["CPU"]), "GPU": gpus}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
