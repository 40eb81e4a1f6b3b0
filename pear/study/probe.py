"""`pear study --probe`: a little RL for every arm, and all of it for the better half.

The probe is a true start of the whole run: the learning rate is constant, and a step's prompts and draws depend on the
seed and the step alone. So its last model is the model that the whole run has after as many steps.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pear.errors import UserError
from pear.runs import read_json, write_json
from pear.study.config import Probe, StudyConfig
from pear.study.graph import Node

PROBE = "probe.json"
METRIC = "pass@1"
Scores = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a probe decided.

    Args:
        reference: the arm that is always kept.
        scores: arm to unit to the metric, None where there is no result.
        means: arm to its mean over units, for the arms with a result on every unit that any arm has one on.
        kept: the arms that go on, and `dropped`, the others; both in the study's order.
        failed: the arms without a mean, with what is missing.
    """

    reference: str
    scores: Scores
    means: Mapping[str, float]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    failed: Mapping[str, str]

    def record(self, steps: int, probe: Probe) -> dict[str, Any]:
        """The content of probe.json."""
        means, kept, dropped = dict(self.means), list(self.kept), list(self.dropped)
        return {
            "steps": steps,
            "share": probe.share,
            "keep": probe.keep,
            "metric": METRIC,
            "scores": means,
            "units": {arm: dict(values) for arm, values in self.scores.items()},
            "kept": kept,
            "dropped": dropped,
            "failed": dict(self.failed),
            "rounds": [{"steps": steps, "scores": means, "kept": kept, "dropped": dropped}],
        }

    @property
    def comparable(self) -> bool:
        """Whether the reference has a result at all, and another arm to compare it with."""
        return len(self.kept) > 1 and any(value is not None for value in self.scores[self.reference].values())

    @property
    def sentence(self) -> str:
        """Who goes on and who does not, with the numbers."""

        def named(arm: str) -> str:
            return f"{arm} (failed)" if arm in self.failed else f"{arm} ({self.means[arm]:.3f})"

        kept = f"The probe keeps {', '.join(map(named, self.kept))}"
        return f"{kept} and drops {', '.join(map(named, self.dropped)) or 'no arm'}."


def choose(scores: Scores, *, reference: str, keep: float) -> Choice:
    """Keeps the better arms by their mean over units.

    `ceil(keep x arms)` arms are kept; those that tie with the last of them are kept too. The reference always is, and
    so is the best other arm, since otherwise there would be nothing to compare. Units that no arm has a result on are
    left out; an arm without a result on one of the others has no mean and is dropped.

    >>> scores = {"nll": {"u": 0.1}, "a": {"u": 0.3}, "b": {"u": 0.2}, "c": {"u": None}}
    >>> choice = choose(scores, reference="nll", keep=0.5)
    >>> choice.kept, choice.dropped, choice.failed
    (('nll', 'a', 'b'), ('c',), {'c': 'no result on u'})
    """
    means, failed = {}, {}
    units = {unit for values in scores.values() for unit, value in values.items() if value is not None}
    for arm, values in scores.items():
        found = [value for value in values.values() if value is not None]
        if found and len(found) == len(units):
            means[arm] = math.fsum(found) / len(found)
        else:
            failed[arm] = f"no result on {', '.join(unit for unit, value in values.items() if value is None)}"
    ranked = sorted(means.values(), reverse=True)
    count = min(math.ceil(keep * len(scores)), len(ranked))
    kept = {arm for arm, mean in means.items() if count and mean >= ranked[count - 1]}
    others = {arm: mean for arm, mean in means.items() if arm != reference}
    kept |= {reference} | {arm for arm, mean in others.items() if mean == max(others.values())}
    return Choice(
        reference=reference,
        scores=scores,
        means=means,
        kept=tuple(arm for arm in scores if arm in kept),
        dropped=tuple(arm for arm in scores if arm not in kept),
        failed=failed,
    )


def probe_steps(config: StudyConfig, arms: Collection[str]) -> int:
    """After how many steps of RL the arms are compared.

    Raises:
        UserError: fewer than three arms, a probe as long as RL itself, or an RL whose start depends on its length.
    """
    if len(arms) < 3:
        raise UserError(f"--probe: chooses between arms, and a study of {len(arms)} has none to drop. Leave it out.")
    total = config.rl["steps"]
    steps = math.ceil(config.probe.share * total)
    if steps == total:
        raise UserError(f"probe.share: {config.probe.share} of {total} RL steps is all of them. Give a smaller share.")
    schedule = (config.rl.get("trainer") or {}).get("lr_scheduler_type", "constant")
    if schedule != "constant":
        raise UserError(
            f"rl.trainer.lr_scheduler_type: with '{schedule}' the learning rate depends on the number of steps, so a "
            "probe would not be the start of the whole run. Use constant, or leave --probe out."
        )
    return steps


def probe_nodes(nodes: Sequence[Node]) -> list[Node]:
    """The nodes that the probe needs."""
    by_id = {node.id: node for node in nodes}
    wanted = [node.id for node in nodes if any(use.role == "probe" for use in node.uses)]
    found: set[str] = set()
    while wanted:
        node_id = wanted.pop()
        if node_id not in found:
            found.add(node_id)
            wanted.extend(by_id[node_id].depends)
    return [node for node in nodes if node.id in found]


def probe_scores(nodes: Sequence[Node], arms: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """What the probe's evaluations found: arm to unit to the metric."""
    scores: dict[str, dict[str, float | None]] = {arm: {} for arm in arms}
    for node in nodes:
        for use in node.uses:
            if node.stage == "evaluate" and use.role == "probe" and use.arm is not None:
                metrics = read_json(node.directory / "metrics.json") if node.complete else None
                value = None if metrics is None else metrics[METRIC]["value"]
                scores[use.arm][f"{use.base}, seed {use.seed}"] = value
    return scores


def write_choice(path: Path, record: Mapping[str, Any]) -> None:
    """Writes probe.json where it is not there yet as it should be."""
    if not path.is_file() or read_json(path) != record:
        write_json(path, record)
