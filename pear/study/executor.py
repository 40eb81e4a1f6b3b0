"""Runs a study's nodes side by side, each in a process of its own, and goes on where one fails."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from pear.errors import UserError
from pear.runs import MANIFEST, PROGRESS, partial_path, read_json, write_json
from pear.study.graph import Node, remaining_seconds, start_order, typical_durations
from pear.study.local_runner import LocalRunner
from pear.study.machine import Machine
from pear.study.processes import PRELOAD
from pear.study.progress import Display, RunningNode, Snapshot
from pear.study.ray_runner import RayRunner
from pear.study.worker import Job

Executors = Literal["local", "ray"]

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


class Runner(Protocol):
    """Where stages run, inside of its context; none runs any more when that ends."""

    side_by_side: int
    """How many run at once, about."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def fits(self, node: Node) -> bool:
        """Whether a node can be started now. If not, no other is started before it."""

    def start(self, node: Node, job: Job) -> None:
        """Starts a node's stage, or hands it in."""

    def began(self) -> list[str]:
        """Ids of the nodes that run since this was last asked."""

    def ended(self, patience: float) -> list[tuple[str, str | None]]:
        """Ids of the nodes that ended, with what went wrong in one line; waits for the first, at most `patience`
        seconds."""


@dataclass(kw_only=True)
class _Child:
    """A node that was started; `started` is when it began to run, None while it is queued."""

    node: Node
    started: float | None = None


@dataclass(kw_only=True)
class Executor:
    """Runs nodes.

    Args:
        nodes: the whole plan, finished nodes included.
        stages: name of a stage to its module (and configuration class), `pear.stages.STAGES`.
        study_dir: where logs and failures are written.
        machine: slots, threads and GPUs.
        display: what shows how far it is.
        given_up: nodes that failed a moment ago, with their failures; they are not tried again.
        preload: modules that the forkserver imports once, for all stages.
        executor: "local", on this machine, or "ray".
    """

    nodes: Sequence[Node]
    stages: Mapping[str, tuple[str, str]]
    study_dir: Path
    machine: Machine
    display: Display
    given_up: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    preload: Sequence[str] = PRELOAD
    executor: Executors = "local"
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
        runner: Runner = (
            RayRunner(self.machine, self._waiting)
            if self.executor == "ray"
            else LocalRunner(self.machine, self.preload)
        )
        with runner, self.display:
            while True:
                for node in self._ready():
                    if not runner.fits(node):
                        break
                    runner.start(node, self._job(node))
                    self._waiting.remove(node)
                    self._running[node.id] = _Child(node=node)
                self._begin(runner.began())
                self.display.update(self._snapshot(runner.side_by_side))
                if not self._running:
                    break
                for node_id, error in runner.ended(_POLL_SECONDS):
                    self._collect(self._running.pop(node_id), error)

    def _begin(self, node_ids: Sequence[str]) -> None:
        for node_id in node_ids:
            child = self._running[node_id]
            child.started = time.monotonic()
            self.display.started(child.node)

    def _ready(self) -> list[Node]:
        """The nodes that could start now, the longest chain first, analyses last."""
        ready = [node for node in self._waiting if self._done.issuperset(node.depends)]
        order = start_order(self.nodes, typical_durations(self._finished))
        return sorted(ready, key=lambda node: order[node.id])

    def _job(self, node: Node) -> Job:
        return Job(
            module=self.stages[node.stage][0],
            config=node.config,
            directory=node.directory,
            log=self._log(node),
            threads=self.machine.threads,
        )

    def _collect(self, child: _Child, error: str | None) -> None:
        node = child.node
        if error is None and not node.complete:
            error = f"{node.stage}: ended without finishing its run directory."
        if error is None:
            if child.started is None:  # it was over before anybody looked
                seconds = float(read_json(node.directory / MANIFEST).get("seconds", 0.0))
            else:
                seconds = time.monotonic() - child.started
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
        active = {node_id: now - child.started for node_id, child in self._running.items() if child.started is not None}
        for node_id, seconds in active.items():
            child = self._running[node_id]
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
        for node_id, seconds in active.items():
            kind = self._running[node_id].node.kind
            if node_id not in left and kind in durations:
                left[node_id] = max(0.0, durations[kind] - seconds)
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
        running = [node.id for node in nodes if node.id in self._running and self._running[node.id].started is not None]
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


def _read_progress(node: Node) -> dict[str, Any] | None:
    path = partial_path(node.directory) / PROGRESS
    try:
        progress: dict[str, Any] = read_json(path)
    except UserError:
        return None  # not written yet, or just renamed with its directory
    return progress
