"""Runs a study's nodes side by side, each in a process of its own, and goes on where one fails."""

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from pear.errors import UserError
from pear.runs import MANIFEST, PROGRESS, partial_path, read_json, write_json
from pear.study.graph import Node, remaining_seconds, start_order, typical_durations
from pear.study.machine import Machine, Slot, slots, stage_environment
from pear.study.processes import PRELOAD, signal_group, start_forkserver, start_process, stop
from pear.study.progress import Display, RunningNode, Snapshot
from pear.study.worker import Job, work

FAILURES = "failures.json"
LOGS = "logs"
_POLL_SECONDS = 1.0  # a stage that ends is seen at once; this is how often its progress is read
# A first guess from a node's own progress counts only after this share: its start-up distorts what comes before.
_TRUSTED_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the nodes.

    Args:
        ran: how many were run to their end.
        reused: how many were finished already.
        failures: node id to {"error", "log"}, as in failures.json.
        blocked: ids of the nodes that were not run since they depend on a failed one.
    """

    ran: int
    reused: int
    failures: Mapping[str, Mapping[str, str]]
    blocked: tuple[str, ...]


@dataclass(kw_only=True)
class _Child:
    node: Node
    slots: list[Slot]
    process: ForkServerProcess
    outcome: connection.Connection
    started: float


@dataclass(kw_only=True)
class Executor:
    """Runs nodes.

    Args:
        nodes: the whole plan, finished nodes included.
        stages: name of a stage to its module (and configuration class), `pear.stages.STAGES`.
        study_dir: where logs and failures are written.
        machine: slots and threads.
        display: what shows how far it is.
        given_up: nodes that failed a moment ago, with their failures; they are not tried again.
        preload: modules that the forkserver imports once, for all stages.
    """

    nodes: Sequence[Node]
    stages: Mapping[str, tuple[str, str]]
    study_dir: Path
    machine: Machine
    display: Display
    given_up: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    preload: Sequence[str] = PRELOAD
    _waiting: list[Node] = field(default_factory=list, init=False)
    _running: dict[str, _Child] = field(default_factory=dict, init=False)
    _finished: list[tuple[str, float]] = field(default_factory=list, init=False)
    _done: set[str] = field(default_factory=set, init=False)
    _failures: dict[str, Mapping[str, str]] = field(default_factory=dict, init=False)
    _began: float = field(default=0.0, init=False)

    def run(self) -> Outcome:
        """Runs every node that is not finished and whose inputs can be had.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after the running stages were stopped; they go on where they were next time.
        """
        self._began = time.monotonic()
        self._failures.update(self.given_up)
        for node in self.nodes:
            if node.id in self.given_up:
                continue
            if node.complete:
                self._done.add(node.id)
                self._finished.append((node.kind, float(read_json(node.directory / MANIFEST).get("seconds", 0.0))))
            else:
                self._waiting.append(node)
        reused = len(self._done)
        if self._failures:
            write_json(self.study_dir / FAILURES, self._failures)
        else:
            (self.study_dir / FAILURES).unlink(missing_ok=True)
        if self._waiting:
            self._run_waiting()
        return Outcome(
            ran=len(self._done) - reused,
            reused=reused,
            failures=self._failures,
            blocked=tuple(node.id for node in self._waiting),
        )

    def _run_waiting(self) -> None:
        (self.study_dir / LOGS).mkdir(exist_ok=True)
        free = slots(self.machine)
        slot_count = len(free)
        context = start_forkserver(self.machine, self.preload)
        with self.display:
            try:
                while True:
                    for node in self._ready():
                        needed = slots_of(node, slot_count)
                        if needed > len(free):
                            break  # the slots that come free are kept for it
                        self._start(context, node, [free.pop(0) for _ in range(needed)])
                    self.display.update(self._snapshot(slot_count))
                    if not self._running:
                        break
                    sentinels = [child.process.sentinel for child in self._running.values()]
                    connection.wait(sentinels, timeout=_POLL_SECONDS)
                    for child in [child for child in self._running.values() if not child.process.is_alive()]:
                        self._collect(child)
                        free += child.slots
                    free.sort(key=lambda slot: slot.number)
            finally:
                stop([child.process for child in self._running.values()])

    def _ready(self) -> list[Node]:
        """The nodes that could start now, the longest chain first, analyses last."""
        ready = [node for node in self._waiting if self._done.issuperset(node.depends)]
        order = start_order(self.nodes, typical_durations(self._finished))
        return sorted(ready, key=lambda node: order[node.id])

    def _start(self, context: ForkServerContext, node: Node, taken: list[Slot]) -> None:
        reader, writer = context.Pipe(duplex=False)
        job = Job(
            module=self.stages[node.stage][0],
            config=node.config,
            directory=node.directory,
            log=self._log(node),
            environment=stage_environment(self.machine, taken),
            threads=self.machine.threads,
        )
        process = start_process(context, work, (job, writer))
        writer.close()
        self._waiting.remove(node)
        self._running[node.id] = _Child(
            node=node, slots=taken, process=process, outcome=reader, started=time.monotonic()
        )
        self.display.started(node)

    def _collect(self, child: _Child) -> None:
        node = child.node
        seconds = time.monotonic() - child.started
        error = _error(child)
        child.outcome.close()
        child.process.join()
        signal_group(child.process, signal.SIGKILL)  # what a stage that died left behind
        del self._running[node.id]
        if error is None:
            self._done.add(node.id)
            self._finished.append((node.kind, seconds))
            self.display.finished(node, seconds, len(self._done), len(self.nodes))
        else:
            log = self._log(node).relative_to(self.study_dir).as_posix()
            self._failures[node.id] = {"error": error, "log": log}
            write_json(self.study_dir / FAILURES, self._failures)
            self.display.failed(node, error, log)

    def _log(self, node: Node) -> Path:
        return self.study_dir / LOGS / f"{node.id}.log"

    def _snapshot(self, slot_count: int) -> Snapshot:
        now = time.monotonic()
        running, left, estimates = [], {}, []
        for child in self._running.values():
            seconds = now - child.started
            progress = _read_progress(child.node)
            running.append(RunningNode(label=child.node.label, seconds=seconds, progress=progress))
            share = progress["done"] / progress["total"] if progress and progress["total"] else 0.0
            if progress and share >= _TRUSTED_SHARE:
                left[child.node.id] = progress["seconds"] * (1 - share) / share
                estimates.append((child.node.kind, progress["seconds"] / share))
        # Finished nodes say best how long a stage takes; a running one stands in until there is one.
        durations = {**typical_durations(estimates), **typical_durations(self._finished)}
        blocked = self._blocked()
        able = [node for node in self._waiting if node.id not in blocked]
        for child in self._running.values():
            if child.node.id not in left and child.node.kind in durations:
                left[child.node.id] = max(0.0, durations[child.node.kind] - (now - child.started))
        unfinished = [*able, *(child.node for child in self._running.values())]
        remaining, whole = self._remaining(unfinished, left, durations, slot_count), True
        if remaining is None:
            needed = [node for node in unfinished if not node.beside]
            remaining, whole = self._remaining(needed, left, durations, slot_count), False
        stages = {}
        for stage in self.stages:  # in the order of the pipeline
            ids = {node.id for node in self.nodes if node.stage == stage}
            if ids:
                stages[stage] = (len(ids & self._done), len(ids))
        return Snapshot(
            running=tuple(running),
            stages=stages,
            failed=len(self._failures),
            blocked=len(blocked),
            elapsed=now - self._began,
            remaining=remaining,
            then_analyses=remaining is not None and not whole,
        )

    def _remaining(
        self, nodes: Sequence[Node], left: Mapping[str, float], durations: Mapping[str, float], slot_count: int
    ) -> float | None:
        """How long these unfinished nodes will take, None where that is not known or there are none."""
        running = [node.id for node in nodes if node.id in self._running]
        if not nodes or any(node_id not in left for node_id in running):
            return None
        return remaining_seconds(nodes, {node_id: left[node_id] for node_id in running}, durations, slot_count)

    def _blocked(self) -> set[str]:
        """Ids of the waiting nodes that depend on a failed one."""
        blocked = set(self._failures)
        before = -1
        while len(blocked) != before:
            before = len(blocked)
            blocked.update(node.id for node in self._waiting if blocked.intersection(node.depends))
        return blocked.difference(self._failures)


def slots_of(node: Node, slot_count: int) -> int:
    """How many slots a node takes: one for each process that it trains on, as far as there are so many."""
    return min(int(getattr(node.config, "processes", 1)), slot_count)


def _error(child: _Child) -> str | None:
    """What went wrong in one line, None where the run is finished."""
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
    if status != 0:
        return f"The process ended with status {status}."
    if not child.node.complete:
        return f"{child.node.stage}: ended without finishing its run directory."
    return None


def _read_progress(node: Node) -> dict[str, Any] | None:
    path = partial_path(node.directory) / PROGRESS
    try:
        progress: dict[str, Any] = read_json(path)
    except UserError:
        return None  # not written yet, or just renamed with its directory
    return progress
