"""A study as a graph of stages: what a node is, in which order nodes run, how long the rest takes."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pear.configuration import StrictModel
from pear.runs import MANIFEST

Role = Literal["collect", "pretrain", "sft", "rescale", "grpo", "eval", "probe", "calibration", "analysis", "rl_signal"]
# What nothing else of the study waits for. It runs where a slot would be idle, and never holds up RL.
BESIDE: frozenset[Role] = frozenset({"calibration", "analysis", "rl_signal"})


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a node is to one (arm, base, seed) of the study. A shared node has several uses.

    Args:
        arm: the arm's name, None for what belongs to no arm (bases, the buffer).
        base: the name of the base model.
        seed: the study's seed, not the one derived from it.
        role: what the stage does here. `probe` is RL up to the probe's step, and the evaluation that ranks the arms.
        rl_step: for evaluations: None for a base, 0 after SFT, N after N steps of RL. For analyses: 0 from the base to
            the model after SFT, N from there to the model after N steps of RL.
        analysis: for analyses: which one.
    """

    arm: str | None
    base: str
    seed: int
    role: Role
    rl_step: int | None = None
    analysis: str | None = None

    def record(self) -> dict[str, Any]:
        """The use's entry in plan.json."""
        values = asdict(self)
        if self.analysis is None:
            del values["analysis"]
        return values


@dataclass(frozen=True, kw_only=True)
class Node:
    """One stage to run, once.

    Args:
        id: `<stage>-<first 10 digits of the key>`.
        stage: a name in `STAGES`.
        key: sha256 over the stage, its hashed configuration and its inputs; equal keys are one node.
        config: the stage's configuration, `output_dir` included.
        directory: where the finished run lies.
        depends: ids of the nodes that it reads.
        label: for people.
        uses: whose node it is.
    """

    id: str
    stage: str
    key: str
    config: StrictModel
    directory: Path
    depends: tuple[str, ...] = ()
    label: str
    uses: tuple[Use, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the run is finished: its directory gets this name only then."""
        return (self.directory / MANIFEST).is_file()

    @property
    def beside(self) -> bool:
        """Whether nothing but analyses needs it."""
        return bool(self.uses) and all(use.role in BESIDE for use in self.uses)

    @property
    def kind(self) -> str:
        """What nodes that take about as long have in common: the stage, and which analysis or role, if it is apart."""
        if not self.uses or self.uses[0].role not in {*BESIDE, "probe"}:
            return self.stage
        return f"{self.stage} {self.uses[0].analysis or self.uses[0].role}"

    def record(self, study_dir: Path) -> dict[str, Any]:
        """The node's entry in plan.json."""
        return {
            "id": self.id,
            "stage": self.stage,
            "dir": self.directory.relative_to(study_dir).as_posix(),
            "depends": list(self.depends),
            "label": self.label,
            "uses": [use.record() for use in self.uses],
        }


def typical_durations(finished: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The median seconds of each kind of node, from (kind, seconds) pairs of finished nodes."""
    by_kind: dict[str, list[float]] = {}
    for kind, seconds in finished:
        by_kind.setdefault(kind, []).append(seconds)
    return {kind: median(values) for kind, values in by_kind.items()}


def start_order(nodes: Sequence[Node], durations: Mapping[str, float]) -> dict[str, tuple[bool, float]]:
    """Node id to what ready nodes are sorted by: those that analyses alone need come last, long chains first.

    A chain is counted without the analyses at its end, so that they do not bring forward what they read either.
    """
    needed = path_lengths([node for node in nodes if not node.beside], durations)
    lengths = {**path_lengths(nodes, durations), **needed}
    return {node.id: (node.beside, -lengths[node.id]) for node in nodes}


def path_lengths(nodes: Sequence[Node], durations: Mapping[str, float]) -> dict[str, float]:
    """Seconds from each node's start to the end of the longest chain that begins with it.

    A kind whose duration is not known yet counts as the longest known one, so that chains are compared by the number
    of their nodes first.
    """
    unknown = max(durations.values(), default=1.0)
    dependents: dict[str, list[str]] = {node.id: [] for node in nodes}
    for node in nodes:
        for needed in node.depends:
            if needed in dependents:
                dependents[needed].append(node.id)
    lengths: dict[str, float] = {}
    for node in reversed(in_order(nodes)):
        after = max((lengths[dependent] for dependent in dependents[node.id]), default=0.0)
        lengths[node.id] = durations.get(node.kind, unknown) + after
    return lengths


def in_order(nodes: Sequence[Node]) -> list[Node]:
    """The nodes, each after those of the list that it depends on."""
    by_id = {node.id: node for node in nodes}
    ordered: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if node.id in ordered:
            return
        for needed in node.depends:
            if needed in by_id:
                visit(by_id[needed])
        ordered[node.id] = node

    for node in nodes:
        visit(node)
    return list(ordered.values())


def remaining_seconds(
    nodes: Sequence[Node], running: Mapping[str, float], durations: Mapping[str, float], slots: int
) -> float | None:
    """How long the unfinished nodes will take, by playing the schedule through.

    Args:
        nodes: the unfinished nodes that can still run; what they depend on outside this list is finished.
        running: node id to the seconds that it still needs.
        durations: kind of node to seconds.
        slots: how many nodes run side by side.

    Returns:
        Seconds, or None while a kind's duration is unknown.
    """
    waiting = [node for node in nodes if node.id not in running]
    if any(node.kind not in durations for node in waiting):
        return None
    order = start_order(nodes, durations)
    ends = [(seconds, node_id) for node_id, seconds in running.items()]
    heapq.heapify(ends)
    unfinished = {node.id for node in nodes}
    now = 0.0
    while waiting or ends:
        ready = [node for node in waiting if not unfinished.intersection(node.depends)]
        ready.sort(key=lambda node: order[node.id])
        for node in ready[: max(0, slots - len(ends))]:
            heapq.heappush(ends, (now + durations[node.kind], node.id))
            waiting.remove(node)
        now, done = heapq.heappop(ends)
        unfinished.remove(done)
    return now
