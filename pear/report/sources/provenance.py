"""Where the numbers come from: configuration, digests, inputs, environment, stages and their wall times."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pear.data.buffer import Estimate
from pear.models import shipped_name
from pear.report.export import ExportTable
from pear.report.sources.budgets import rl_budget
from pear.report.sources.rows import Study
from pear.runs import read_json


@dataclass(frozen=True, kw_only=True)
class RlCheck:
    """Whether the finished RL runs of a unit had the same configuration, read from their manifests.

    `units` is how many units have at least two arms to compare; `differing` names the keys that differ, and
    `other_seeds` is in how many units RL had different seeds.
    """

    runs: int
    units: int
    differing: tuple[str, ...]
    other_seeds: int


def check_rl(study: Study) -> RlCheck:
    """Compares the RL configurations of all arms, unit by unit, in all but the model that they start from."""
    runs = units = other_seeds = 0
    differing: set[str] = set()
    for unit in study.units:
        nodes = [study.node("grpo", arm, unit) for arm in study.arms]
        manifests = [node.manifest for node in nodes if node is not None and node.manifest is not None]
        budgets = [rl_budget(manifest) for manifest in manifests]
        runs += len(budgets)
        units += len(budgets) > 1
        other_seeds += len({(manifest.get("config") or {}).get("seed") for manifest in manifests}) > 1
        for budget in budgets[1:]:
            keys = set(budget) | set(budgets[0])
            differing |= {key for key in keys if budget.get(key) != budgets[0].get(key)}
    return RlCheck(runs=runs, units=units, differing=tuple(sorted(differing)), other_seeds=other_seeds)


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Trajectories of a behavior model: what a `buffer.json` says. `estimate` is the sentence where there is one."""

    behavior_model: str
    trajectories: int | None
    correct: int | None
    tokens: int | None
    sampling: Mapping[str, Any] | None
    estimate: str | None
    aligned: bool

    @property
    def sampled_as_scored(self) -> bool | None:
        """Whether the log-probs are those of the sampled distribution; None where the sampling is unknown."""
        if self.sampling is None:
            return None
        as_scored = {"temperature": 1, "top_p": 1, "top_k": 0}
        return all(self.sampling.get(name, value) == value for name, value in as_scored.items())

    @property
    def sampling_text(self) -> str:
        """`temperature 0.7, top-p 0.9`: what differs from the model's own distribution."""
        found = self.sampling or {}
        parts = [f"temperature {found.get('temperature', 1)}"]
        parts += [f"top-p {found['top_p']}"] if found.get("top_p", 1) != 1 else []
        parts += [f"top-k {found['top_k']}"] if found.get("top_k", 0) != 0 else []
        return ", ".join(parts)


def buffers(study: Study) -> list[Buffer]:
    """Every buffer that an SFT run of the study has read, or that the study has made for one."""
    return _buffers(study, reader="sft", role="collect")


def calibration_buffers(study: Study) -> list[Buffer]:
    """Every buffer of held-out trajectories that an analysis of the study has read, or that was made for one."""
    return _buffers(study, reader="analyze", role="calibration")


def _buffers(study: Study, *, reader: str, role: str) -> list[Buffer]:
    places: dict[Path, None] = {}
    for node in study.nodes:
        if node.manifest is not None and any(use.role == role for use in node.uses):
            places[node.directory.resolve()] = None
        source = ((node.manifest or {}).get("inputs") or {}).get("buffer") or {}
        if node.stage == reader and source.get("path"):
            places[Path(source["path"]).resolve()] = None
    found = []
    for place in sorted(places):
        if (place / "buffer.json").is_file():
            record = read_json(place / "buffer.json")
            counts = record.get("counts") or {}
            found.append(
                Buffer(
                    behavior_model=str(record.get("behavior_model")),
                    trajectories=counts.get("rows"),
                    correct=counts.get("correct"),
                    tokens=counts.get("tokens"),
                    sampling=record.get("sampling"),
                    estimate=Estimate(**record["estimate"]).sentence if record.get("estimate") else None,
                    aligned=record.get("aligned_from") is not None,
                )
            )
    return found


def environment_rows(study: Study) -> list[tuple[str, str]]:
    """Versions and machine; a name with several values was not the same in every stage."""
    found: dict[str, dict[str, None]] = {}
    for node in study.nodes:
        environment = dict((node.manifest or {}).get("environment") or {})
        libraries = environment.pop("libraries", None) or {}
        for name, value in [*environment.items(), *libraries.items()]:
            found.setdefault(name, {})[str(value)] = None
    return [(name.replace("_", " "), ", ".join(values)) for name, values in found.items()]


def input_rows(study: Study) -> list[tuple[str, str, str]]:
    """(name, path, fingerprint) of every input that no stage of the study made."""
    made = {str((node.manifest or {}).get("fingerprint")) for node in study.nodes}
    rows: dict[tuple[str, str, str], None] = {}
    for node in study.nodes:
        for name, source in ((node.manifest or {}).get("inputs") or {}).items():
            fingerprint = str(source.get("fingerprint", ""))
            if fingerprint.removeprefix("run:").split("/")[0] not in made:
                rows[name, shipped_name(str(source.get("path", ""))), fingerprint] = None
    return list(rows)


def stage_table(study: Study) -> ExportTable:
    """Every planned stage with its state, wall time and fingerprint."""
    return ExportTable(
        name="stages",
        title="Every stage",
        note="Wall times in seconds, of the process that finished the stage",
        columns=("id", "stage", "label", "status", "seconds", "fingerprint", "error", "log"),
        rows=[
            (
                node.id,
                node.stage,
                node.label,
                node.status,
                node.seconds,
                (node.manifest or {}).get("fingerprint"),
                node.error,
                node.log,
            )
            for node in study.nodes
        ],
    )


def duration(seconds: float | None) -> str:
    """Wall time for people.

    >>> duration(8.25), duration(125.0), duration(7260.0)
    ('8.2 s', '2 min 05 s', '2 h 01 min')
    """
    if seconds is None:
        return "\N{EN DASH}"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def times_by_stage(study: Study) -> list[tuple[str, int, int, float]]:
    """(stage, complete, planned, summed seconds) in the plan's order."""
    rows: dict[str, list[float]] = {}
    for node in study.nodes:
        row = rows.setdefault(node.stage, [0, 0, 0.0])
        row[0] += node.status == "complete"
        row[1] += 1
        row[2] += node.seconds or 0.0
    return [(stage, int(done), int(planned), seconds) for stage, (done, planned, seconds) in rows.items()]
