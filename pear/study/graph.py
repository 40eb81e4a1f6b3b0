"""A study as a graph of stages: what a node is, in which order nodes run, how long the rest takes."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pear.configuration import StrictModel
from pear.runs import MANIFEST

Role = Literal["collect", "pretrain", "sft", "grpo", "eval"]


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a node is to one (arm, base, seed) of the study. A shared node has several uses.

    Args:
        arm: the arm's name, None for what belongs to no arm (bases, the buffer).
        base: the name of the base model.
        seed: the study's seed, not the one derived from it.
        role: what the stage does here.
        rl_step: for evaluations: None for a base, 0 after SFT, N after N steps of RL.
    """

    arm: str | None
    base: str
    seed: int
    role: Role
    rl_step: int | None = None


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

    def record(self, study_dir: Path) -> dict[str, Any]:
        """The node's entry in plan.json."""
        return {
            "id": self.id,
            "stage": self.stage,
            "dir": self.directory.relative_to(study_dir).as_posix(),
            "depends": list(self.depends),
            "label": self.label,
            "uses": [asdict(use) for use in self.uses],
        }


def typical_durations(finished: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The median seconds of each stage, from (stage, seconds) pairs of finished nodes."""
    by_stage: dict[str, list[float]] = {}
    for stage, seconds in finished:
        by_stage.setdefault(stage, []).append(seconds)
    return {stage: median(values) for stage, values in by_stage.items()}


def path_lengths(nodes: Sequence[Node], durations: Mapping[str, float]) -> dict[str, float]:
    """Seconds from each node's start to the end of the longest chain that begins with it.

    A stage whose duration is not known yet counts as the longest known one, so that chains are compared by the number
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
        lengths[node.id] = durations.get(node.stage, unknown) + after
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
        durations: stage to seconds.
        slots: how many nodes run side by side.

    Returns:
        Seconds, or None while a stage's duration is unknown.
    """
    waiting = [node for node in nodes if node.id not in running]
    if any(node.stage not in durations for node in waiting):
        return None
    lengths = path_lengths(nodes, durations)
    ends = [(seconds, node_id) for node_id, seconds in running.items()]
    heapq.heapify(ends)
    unfinished = {node.id for node in nodes}
    now = 0.0
    while waiting or ends:
        ready = [node for node in waiting if not unfinished.intersection(node.depends)]
        ready.sort(key=lambda node: -lengths[node.id])
        for node in ready[: max(0, slots - len(ends))]:
            heapq.heappush(ends, (now + durations[node.stage], node.id))
            waiting.remove(node)
        now, done = heapq.heappop(ends)
        unfinished.remove(done)
    return now
