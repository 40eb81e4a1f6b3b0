"""Runs stages on this machine: each in a process of its own, on slots."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import TracebackType
from typing import Self

from pear.study.graph import Node
from pear.study.machine import Machine, Slot, slots, stage_environment
from pear.study.processes import PRELOAD, signal_group, start_forkserver, start_process, stop
from pear.study.worker import Job, work


@dataclass(kw_only=True)
class _Child:
    node: Node
    slots: list[Slot]
    process: ForkServerProcess
    outcome: connection.Connection


class LocalRunner:
    """`Runner` on this machine.

    Args:
        machine: slots, threads and GPUs.
        preload: modules that the forkserver imports once, for all stages.
    """

    def __init__(self, machine: Machine, preload: Sequence[str] = PRELOAD) -> None:
        self._machine, self._preload = machine, preload
        self._free = slots(machine)
        self._running: dict[str, _Child] = {}
        self._began: list[str] = []
        self._context: ForkServerContext
        self.side_by_side = len(self._free)
        self._have_gpus = any(slot.gpu is not None for slot in self._free)

    def __enter__(self) -> Self:
        self._context = start_forkserver(self._machine, self._preload)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stop([child.process for child in self._running.values()])

    def fits(self, node: Node) -> bool:
        """Whether there are slots enough; those that come free are kept for it."""
        return self._needed(node) <= len(self._free)

    def start(self, node: Node, job: Job) -> None:
        """Starts a process on the lowest free slots."""
        taken = [self._free.pop(0) for _ in range(self._needed(node))]
        reader, writer = self._context.Pipe(duplex=False)
        environment = stage_environment(self._machine, taken)
        process = start_process(self._context, work, (job, environment, writer))
        writer.close()
        self._running[node.id] = _Child(node=node, slots=taken, process=process, outcome=reader)
        self._began.append(node.id)

    def began(self) -> list[str]:
        """Ids of the nodes that run since this was last asked."""
        began, self._began = self._began, []
        return began

    def ended(self, patience: float) -> list[tuple[str, str | None]]:
        """Ids of the nodes that ended, with what went wrong; waits for the first, at most so many seconds."""
        connection.wait([child.process.sentinel for child in self._running.values()], timeout=patience)
        found = []
        for child in [child for child in self._running.values() if not child.process.is_alive()]:
            found.append((child.node.id, _error(child)))
            child.outcome.close()
            child.process.join()
            signal_group(child.process, signal.SIGKILL)  # what a stage that died left behind
            del self._running[child.node.id]
            self._free += child.slots
        self._free.sort(key=lambda slot: slot.number)
        return found

    def _needed(self, node: Node) -> int:
        """One slot for each process that it trains on or GPU that it gets, as far as there are so many."""
        gpus = (self._machine.gpus_of(node) or 0) if self._have_gpus else 0
        return min(max(processes_of(node), gpus), self.side_by_side)


def processes_of(node: Node) -> int:
    """How many processes a node's stage trains on."""
    return int(getattr(node.config, "processes", 1))


def _error(child: _Child) -> str | None:
    """What went wrong in one line, None where the stage returned."""
    try:
        told = child.outcome.recv() if child.outcome.poll() else None
    except EOFError:
        told = None
    if told is not None:
        return str(told)
    status = child.process.exitcode
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"The process was ended by {name}{hint}."
    return None if status == 0 else f"The process ended with status {status}."
