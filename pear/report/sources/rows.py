"""A study's files as rows: what was planned, what is there, and every number as it was written.

Nothing is made up here. What is not on disk is `None`, and the tables and figures show it as missing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pear.errors import UserError
from pear.report.sources.reading import (
    OUTCOMES,
    WHOLE,
    Outcomes,
    Scope,
    check_digest,
    interval_value,
    number,
    read_lines,
    read_outcomes,
    read_rows,
)
from pear.runs import MANIFEST, read_json

BASE_STAGE = -1
"""Stands beside the RL steps 0 (after SFT), 20, 60, ... for the base model, before SFT."""

Status = Literal["complete", "failed", "blocked", "not run"]
Series = list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True, order=True)
class Unit:
    """What arms are paired over: one base model with one seed."""

    base: str
    seed: int

    @property
    def name(self) -> str:
        """A short name: the base's last path component and the seed."""
        return f"{self.base.rstrip('/').rsplit('/', 1)[-1]}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a node is for: an arm (None: all of them, or the base itself), a unit and a role.

    `analysis` is which one, where the role is `analysis`.
    """

    arm: str | None
    base: str | None
    seed: int | None
    role: str
    rl_step: int | None
    analysis: str | None = None


@dataclass(frozen=True, kw_only=True)
class Node:
    """One planned run of a stage; `manifest` is None until it is complete."""

    id: str
    stage: str
    label: str
    directory: Path
    depends: tuple[str, ...]
    uses: tuple[Use, ...]
    status: Status
    error: str | None
    log: str | None
    manifest: Mapping[str, Any] | None

    @property
    def seconds(self) -> float | None:
        """The wall time that the stage's last process recorded."""
        return None if self.manifest is None else self.manifest.get("seconds")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is reported: a study's directory as it was found, or runs that were brought together.

    `directory` is where the report goes, `probe` what `pear study --probe` decided, if it did. A `comparison` is of
    runs that were not one study; `comparison_notes` say what differs between them.
    """

    directory: Path
    name: str
    config: Mapping[str, Any]
    digests: Mapping[str, str]
    nodes: tuple[Node, ...]
    reference: str
    probe: Mapping[str, Any] | None = None
    comparison: bool = False
    comparison_notes: tuple[str, ...] = ()
    _read: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def arms(self) -> list[str]:
        """Arm names: the reference first, then in the order of the study file."""
        named = [use.arm for node in self.nodes for use in node.uses if use.arm is not None]
        configured = [name for name in self.config.get("arms") or {} if name in named]
        ordered = list(dict.fromkeys([*configured, *named]))
        return sorted(ordered, key=lambda name: name != self.reference)

    @cached_property
    def units(self) -> list[Unit]:
        """The planned (base, seed) units of the arms, in the plan's order; without arms, of the evaluations."""
        uses = [use for node in self.nodes for use in node.uses if use.base is not None and use.seed is not None]
        # Beside the arms' units, a plan may evaluate other models, such as the behavior model.
        ours = [use for use in uses if use.arm is not None] or [use for use in uses if use.role == "eval"]
        return list(dict.fromkeys(Unit(base=str(use.base), seed=int(use.seed or 0)) for use in ours))

    @cached_property
    def rl_steps(self) -> list[int]:
        """The planned evaluations after SFT (0) and in RL, in order."""
        uses = (use for node in self.nodes for use in node.uses if use.role == "eval")
        return sorted({use.rl_step for use in uses if use.rl_step is not None})

    @property
    def last_rl_step(self) -> int | None:
        """The RL step that the verdict is about."""
        return self.rl_steps[-1] if self.rl_steps and self.rl_steps[-1] > 0 else None

    @cached_property
    def dropped(self) -> list[str]:
        """The arms that a probe left behind: no evaluation of theirs is planned after the last RL step."""
        last, left_behind = self.last_rl_step, (self.probe or {}).get("dropped") or ()

        def goes_on(arm: str) -> bool:
            return last is not None and any(self.evaluation_node(arm, unit, last) for unit in self.units)

        return [arm for arm in self.arms if arm in left_behind and not goes_on(arm)]

    @cached_property
    def analyses(self) -> list[str]:
        """The names of the planned analyses."""
        uses = (use for node in self.nodes for use in node.uses)
        return list(dict.fromkeys(use.analysis for use in uses if use.role == "analysis" and use.analysis is not None))

    @property
    def stages(self) -> list[int]:
        """The columns of the results: the base, after SFT, each RL step."""
        return [BASE_STAGE, *self.rl_steps]

    def is_direct(self, arm: str) -> bool:
        """Whether an arm goes to RL without SFT."""
        arms = self.config.get("arms")
        return isinstance(arms, Mapping) and arm in arms and arms[arm] is None

    def place(self, node: Node) -> str:
        """Where a node's run lies: within the report's directory, or the whole path."""
        inside = node.directory.is_relative_to(self.directory)
        return str(node.directory.relative_to(self.directory) if inside else node.directory)

    @cached_property
    def _by_use(self) -> dict[Use, Node]:
        places: dict[Use, Node] = {}
        for node in self.nodes:
            for use in node.uses:
                places.setdefault(use, node)
        return places

    def node(
        self, role: str, arm: str | None, unit: Unit, rl_step: int | None = None, analysis: str | None = None
    ) -> Node | None:
        """The planned node with this role, or None."""
        for seed in (unit.seed, None):
            use = Use(arm=arm, base=unit.base, seed=seed, role=role, rl_step=rl_step, analysis=analysis)
            if use in self._by_use:
                return self._by_use[use]
        return None

    def evaluation_node(self, arm: str, unit: Unit, stage: int) -> Node | None:
        """The node that evaluates an arm at a stage; the base of every arm is the same node."""
        if stage == BASE_STAGE:
            return self.node("eval", None, unit)
        found = self.node("eval", arm, unit, stage)
        if found is None and stage == 0 and self.is_direct(arm):
            return self.node("eval", None, unit)
        return found

    def evaluation(self, arm: str, unit: Unit, stage: int) -> Mapping[str, Any] | None:
        """The metrics of an evaluation, or None where it is missing."""
        return self.metrics(self.evaluation_node(arm, unit, stage))

    def metrics(self, node: Node | None) -> Mapping[str, Any] | None:
        """The `metrics.json` of an evaluation's node, or None where it is missing."""
        found: Mapping[str, Any] | None = self._once(node, "metrics.json", read_json)
        return found

    def value(self, arm: str, unit: Unit, stage: int, metric: str, scope: Scope = WHOLE) -> float | None:
        """One number of an evaluation: `pass@1` and its like, or a plain entry such as `truncated`."""
        return interval_value(scope.of(self.evaluation(arm, unit, stage) or {}).get(metric))

    def paired(self, arm: str, stage: int, metric: str, scope: Scope = WHOLE) -> dict[Unit, float]:
        """Arm minus reference, on the units that have both."""
        differences = {}
        for unit in self.units:
            ours, theirs = (self.value(name, unit, stage, metric, scope) for name in (arm, self.reference))
            if ours is not None and theirs is not None:
                differences[unit] = ours - theirs
        return differences

    def evaluations(self) -> list[tuple[str | None, Unit, int, Node]]:
        """Every planned (arm, unit, stage) with its node; the base once a unit, with arm None."""
        rows: list[tuple[str | None, Unit, int, Node]] = []
        for unit in self.units:
            base = self.node("eval", None, unit)
            if base is not None:
                rows.append((None, unit, BASE_STAGE, base))
            for arm in self.arms:
                nodes = [(step, self.evaluation_node(arm, unit, step)) for step in self.rl_steps]
                rows += [(arm, unit, step, node) for step, node in nodes if node is not None]
        return rows

    @cached_property
    def pass_metrics(self) -> list[str]:
        """The `pass@k` that the evaluations hold, by k."""
        names: set[str] = set()
        for _, _, _, node in self.evaluations():
            names |= {name for name in self.metrics(node) or {} if name.startswith("pass@")}
        return sorted(names, key=lambda name: int(name.removeprefix("pass@")))

    def parts(self, kind: Literal["tasks", "levels", "temperatures", "many_solutions"]) -> list[str]:
        """The tasks, the levels (`TASK LEVEL`) or the temperatures that the evaluations tell apart, in their order.

        `many_solutions` are the tasks whose problems may have several right answers.
        """
        found: dict[str, None] = {}
        for _, _, _, node in self.evaluations():
            found.update(dict.fromkeys((self.metrics(node) or {}).get(kind) or ()))
        return list(found)

    def log(self, role: str, arm: str, unit: Unit) -> list[dict[str, Any]] | None:
        """The lines of a training run's `metrics.jsonl`, or None where the run is missing or kept none."""
        lines: list[dict[str, Any]] | None = self._once(self.node(role, arm, unit), "metrics.jsonl", read_lines)
        return lines

    def result(self, role: str, arm: str, unit: Unit, key: str) -> float | None:
        """A number from the results in a run's manifest. SFT's update norm is that of the model RL starts from."""
        scaled = self.node("rescale", arm, unit) if (role, key) == ("sft", "update/norm") else None
        node = scaled or self.node(role, arm, unit)
        return None if node is None or node.manifest is None else number((node.manifest.get("results") or {}).get(key))

    def series(self, role: str, arm: str, key: str) -> dict[Unit, Series]:
        """One logged metric of an arm: (step, value) pairs of every unit that has any."""
        found: dict[Unit, Series] = {}
        for unit in self.units:
            points: dict[int, float] = {}
            for line in self.log(role, arm, unit) or []:
                value = number(line.get(key))
                if value is not None and "step" in line:
                    points[int(line["step"])] = value
            if points:
                found[unit] = sorted(points.items())
        return found

    def logged_keys(self, role: str) -> list[str]:
        """Every metric key that any run of a role logged."""
        lines = (line for arm in self.arms for unit in self.units for line in self.log(role, arm, unit) or [])
        return sorted({key for line in lines for key in line})

    def outcome_matrix(self, arm: str, unit: Unit, stage: int) -> Outcomes | None:
        """Which samples of an evaluation are right, at its first temperature. None where the evaluation is missing."""
        return self._outcomes(self.evaluation_node(arm, unit, stage))

    def outcomes(self, arm: str, unit: Unit, stage: int) -> dict[str, tuple[str, float]] | None:
        """Per problem: its task and the share of correct samples. None where the evaluation is missing."""
        found = self.outcome_matrix(arm, unit, stage)
        return None if found is None else found.shares

    def rl_signal(self, arm: str, unit: Unit) -> Outcomes | None:
        """Which samples are right of the model that RL starts from, on RL's own prompts. None where it is missing."""
        return self._outcomes(self.rl_signal_node(arm, unit))

    def rl_signal_node(self, arm: str, unit: Unit) -> Node | None:
        """The node that samples RL's prompts from the model that RL starts from."""
        names = (arm, None) if self.is_direct(arm) else (arm,)
        found = [self.node("rl_signal", name, unit, step) for name in names for step in (0, None)]
        return next((node for node in found if node is not None), None)

    def analysis_node(self, name: str, arm: str, unit: Unit, rl_step: int) -> Node | None:
        """The node of an analysis: `rl_step` 0 is base against SFT checkpoint, the last one SFT against RL."""
        return self.node("analysis", arm, unit, rl_step, name)

    def analysis(self, name: str, arm: str, unit: Unit, rl_step: int) -> Mapping[str, Any] | None:
        """What an analysis found (its `metrics.json`), or None where it is missing."""
        return self.metrics(self.analysis_node(name, arm, unit, rl_step))

    def analysis_table(
        self, name: str, arm: str, unit: Unit, rl_step: int, table: str = "modules"
    ) -> list[dict[str, Any]] | None:
        """The rows of an analysis' `TABLE.parquet`, or None where it is missing."""
        node = self.analysis_node(name, arm, unit, rl_step)
        rows: list[dict[str, Any]] | None = self._once(node, f"{table}.parquet", read_rows)
        return rows

    def _outcomes(self, node: Node | None) -> Outcomes | None:
        """An evaluation's samples, of the file whose digest its manifest holds."""

        def read(path: Path) -> Outcomes:
            check_digest(path, node.manifest if node is not None else None)
            return read_outcomes(path)

        found: Outcomes | None = self._once(node, OUTCOMES, read)
        return found

    def _once(self, node: Node | None, name: str, read: Callable[[Path], Any]) -> Any:
        """What `read` makes of a complete node's file, read once; None where there is no such file."""
        if node is None or node.status != "complete" or not (node.directory / name).is_file():
            return None
        if (node.id, name) not in self._read:
            self._read[node.id, name] = read(node.directory / name)
        return self._read[node.id, name]


def read_study(study_dir: Path) -> Study:
    """Reads a study's plan, its failures and the manifests that are there. Raises `UserError` where it is no study."""
    study_dir = Path(study_dir)
    if not (study_dir / "plan.json").is_file():
        raise UserError(f"{study_dir}: not a study's directory (no plan.json in it). Run: pear study STUDY.yaml")
    plan = read_json(study_dir / "plan.json")
    failures, probe = (
        read_json(study_dir / name) if (study_dir / name).is_file() else None
        for name in ("failures.json", "probe.json")
    )
    try:
        config = plan["config"]
        nodes = _nodes(study_dir, plan["nodes"], failures or {})
        name, digests = str(plan["name"]), dict(plan.get("digests") or {})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{study_dir / 'plan.json'}: not a study's plan ({type(error).__name__}: {error}).") from None
    return Study(
        directory=study_dir,
        name=name,
        config=config,
        digests=digests,
        nodes=nodes,
        reference=str(config.get("reference") or "nll"),
        probe=probe,
    )


def _nodes(
    study_dir: Path, planned: Iterable[Mapping[str, Any]], failures: Mapping[str, Mapping[str, Any]]
) -> tuple[Node, ...]:
    entries = {str(entry["id"]): entry for entry in planned}

    def status(name: str) -> Status:
        if (study_dir / entries[name]["dir"] / MANIFEST).is_file():
            return "complete"
        if name in failures:
            return "failed"
        parents = [status(parent) for parent in entries[name]["depends"]]
        return "blocked" if any(parent in ("failed", "blocked") for parent in parents) else "not run"

    nodes = []
    for name, entry in entries.items():
        found = status(name)
        failure = failures.get(name, {}) if found == "failed" else {}
        directory = study_dir / entry["dir"]
        keys = ("arm", "base", "seed", "role", "rl_step", "analysis")
        nodes.append(
            Node(
                id=name,
                stage=entry["stage"],
                label=entry["label"],
                directory=directory,
                depends=tuple(entry["depends"]),
                uses=tuple(Use(**{key: use.get(key) for key in keys}) for use in entry["uses"]),
                status=found,
                error=failure.get("error"),
                log=failure.get("log"),
                manifest=read_json(directory / MANIFEST) if found == "complete" else None,
            )
        )
    return tuple(nodes)
