"""From a study file to the graph of its stages. Everything is checked here; nothing is written.

Equal stages are one node: its key is the sha256 of the stage, its version, its hashed configuration and the keys of its
inputs. So arms share what they have in common, and a changed study reuses whatever stayed the same.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pear.configuration import StrictModel
from pear.engines.protocol import derive_seed
from pear.errors import UserError
from pear.models import resolve_model
from pear.runs import canonical_json, input_fingerprint, read_manifest, sha256
from pear.stages import STAGES, load_stage
from pear.study.config import SEED, Arm, Pretrained, StudyConfig, merged
from pear.study.graph import Node, Role, Use
from pear.tasks.problems import ProblemSet, load_problems, task_files, task_versions

RUNS = "runs"
BEHAVIOR = "behavior"
_KEY_DIGITS = 10
# What the study sets itself, by stage: in the file these would be ignored or break the comparison.
_SET_BY_STUDY: dict[str, frozenset[str]] = {
    "pretrain": frozenset({"seed", "output_dir"}),
    "collect": frozenset({"output_dir"}),
    "sft": frozenset({"model", "buffer", "objective", "objective_kwargs", "seed", "output_dir"}),
    "grpo": frozenset({"model", "problems", "checkpoint_steps", "seed", "output_dir"}),
    "evaluate": frozenset({"model", "problems", "output_dir"}),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All nodes of a study and the digests of what its arms have in common.

    Args:
        config: the study.
        arms: its arms, sweeps multiplied out.
        nodes: every node after those that it depends on.
        digests: `rl` (the whole RL but the model), `evaluation`, `buffer`; sha256.
    """

    config: StudyConfig
    arms: Mapping[str, Arm | None]
    nodes: tuple[Node, ...]
    digests: Mapping[str, str]

    def record(self, study_dir: Path) -> dict[str, Any]:
        """The content of plan.json."""
        config = self.config.model_dump(mode="json", exclude={"machine"})
        arms = {name: None if arm is None else arm.model_dump(mode="json") for name, arm in self.arms.items()}
        return {
            "name": self.config.name,
            "config": {**config, "arms": arms},
            "digests": dict(self.digests),
            "nodes": [node.record(study_dir) for node in self.nodes],
        }


@dataclass(frozen=True, kw_only=True)
class _Source:
    """An input of a stage: its path (or model name), what identifies it, and the node that makes it, if one does."""

    path: str
    key: str
    node: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """A (base, seed) pair."""

    base: str
    seed: int
    model: _Source

    @property
    def label(self) -> str:
        return f"{short_name(self.base)} seed {self.seed}"


def make_plan(config: StudyConfig, study_dir: Path) -> Plan:
    """Plans every stage of a study.

    Raises:
        UserError: an unknown key, task, objective, model, arm or path, or blocks that do not fit together.
    """
    return _Planner(config, study_dir.absolute()).plan()


def derived_seed(seed: int, stage: str) -> int:
    """The seed of a stage, from the seed of the study and the stage alone: the same in every arm. 31 bits for numpy."""
    return derive_seed(seed, "study", stage) >> 32


def short_name(model: str) -> str:
    """The last part of a model's name or path."""
    return model.rstrip("/").rsplit("/", 1)[-1]


class _Planner:
    """Collects nodes; equal ones are merged. `nodes` is in order, since inputs are planned before what reads them."""

    def __init__(self, config: StudyConfig, study_dir: Path) -> None:
        self.config = config
        self.study_dir = study_dir
        self.nodes: dict[str, Node] = {}
        self.problems: dict[str, tuple[str, frozenset[str]]] = {}
        self.arms = config.expanded_arms()
        self.evaluate_settings, self.rl_steps = _rl_steps(config)

    def plan(self) -> Plan:
        _check_blocks(self.config)
        _check_objectives(self.arms)
        contents = self._phases()
        if self.config.behavior and not self.arms:
            use = Use(arm=None, base=BEHAVIOR, seed=0, role="eval")
            self._evaluate(self._behavior_model(), "behavior model", use)
        units = self._units()
        for unit in units:
            self._evaluate(unit.model, f"{short_name(unit.base)}, base", _use(unit, None, "eval"))
        digests: dict[str, str] = {}
        if self.arms:
            buffer = self._buffer()
            digests["buffer"] = buffer.key
            for name, arm in self.arms.items():
                for unit in units:
                    self._rl(name, unit, self._sft(name, arm, unit, buffer))
            digests["rl"] = sha256(self._same_for_all_arms("grpo") + contents["rl"])
        digests["evaluation"] = sha256(self._hashed("evaluate") + contents["eval"])
        return Plan(config=self.config, arms=self.arms, nodes=tuple(self.nodes.values()), digests=digests)

    def _units(self) -> list[_Unit]:
        base = self.config.base
        if isinstance(base, Pretrained):
            return [self._pretrained_unit(base, seed) for seed in self.config.seeds]
        units = []
        for template in [base] if isinstance(base, str) else base:
            for seed in self.config.seeds:
                name = template.replace(SEED, str(seed))
                units.append(_Unit(base=name, seed=seed, model=_external_model(name)))
        return units

    def _pretrained_unit(self, base: Pretrained, seed: int) -> _Unit:
        name = f"base_{seed}"
        model = self._pretrain(base, "base.pretrain", seed, name, Use(arm=None, base=name, seed=seed, role="pretrain"))
        return _Unit(base=name, seed=seed, model=model)

    def _pretrain(self, made: Pretrained, block: str, seed: int, name: str, use: Use) -> _Source:
        values = {**made.pretrain, "seed": derived_seed(seed, "pretrain")}
        return self._add("pretrain", block, made.pretrain, values, {}, f"pretrain {name}", use)

    def _behavior_model(self) -> _Source:
        model = self.config.behavior.get("model")
        if isinstance(model, str):
            return _external_model(model)
        made = Pretrained.parse(model, source="behavior.model")
        use = Use(arm=None, base=BEHAVIOR, seed=0, role="pretrain")
        return self._pretrain(made, "behavior.model.pretrain", 0, "behavior model", use)

    def _buffer(self) -> _Source:
        behavior = self.config.behavior
        if "buffer" in behavior:
            directory = Path(str(behavior["buffer"]))
            read_manifest(directory)
            return _Source(path=str(directory.absolute()), key=input_fingerprint(directory))
        model = self._behavior_model()
        given = {key: value for key, value in behavior.items() if key != "model"}
        problems = [item.model_dump(mode="json", exclude_unset=True) for item in self.config.tasks.sft]
        values = {"problems": problems, **given, "model": model.path}
        use = Use(arm=None, base=BEHAVIOR, seed=0, role="collect")
        return self._add("collect", "behavior", given, values, {"model": model}, "collect the buffer", use)

    def _sft(self, name: str, arm: Arm | None, unit: _Unit, buffer: _Source) -> _Source:
        """Plans SFT and its evaluation; an arm without SFT starts RL from the base."""
        if arm is None:
            start = unit.model
        else:
            given = merged(self.config.sft, arm.sft)
            values = {
                **given,
                "model": unit.model.path,
                "buffer": buffer.path,
                "objective": arm.objective,
                "objective_kwargs": arm.objective_kwargs,
                "seed": derived_seed(unit.seed, "sft"),
            }
            inputs = {"model": unit.model, "buffer": buffer}
            block = f"arms.{name}.sft" if arm.sft else "sft"
            start = self._add("sft", block, given, values, inputs, f"sft {name} {unit.label}", _use(unit, name, "sft"))
        self._evaluate(start, f"{name} {unit.label}, after SFT", _use(unit, name, "eval", 0))
        return start

    def _rl(self, name: str, unit: _Unit, start: _Source) -> None:
        values = {
            **self.config.rl,
            "model": start.path,
            "problems": [item.model_dump(mode="json", exclude_unset=True) for item in self.config.tasks.rl],
            "seed": derived_seed(unit.seed, "grpo"),
            "checkpoint_steps": self.rl_steps[:-1],
        }
        label = f"grpo {name} {unit.label}"
        final = self._add("grpo", "rl", self.config.rl, values, {"model": start}, label, _use(unit, name, "grpo"))
        for step in self.rl_steps:
            inside = "" if step == self.rl_steps[-1] else f"/checkpoint-{step}"
            model = replace(final, path=final.path + inside, key=final.key + inside)
            self._evaluate(model, f"{name} {unit.label}, RL step {step}", _use(unit, name, "eval", step))

    def _evaluate(self, model: _Source, of: str, use: Use) -> None:
        problems = [item.model_dump(mode="json", exclude_unset=True) for item in self.config.tasks.eval]
        values = {**self.evaluate_settings, "model": model.path, "problems": problems}
        self._add("evaluate", "evaluate", self.evaluate_settings, values, {"model": model}, f"evaluate {of}", use)

    def _add(
        self,
        stage: str,
        block: str,
        given: Mapping[str, Any],
        values: Mapping[str, Any],
        inputs: Mapping[str, _Source],
        label: str,
        use: Use,
    ) -> _Source:
        """Adds a node, or a use to the node that is equal. `given` is what the user wrote, in `block`."""
        if forbidden := sorted(_SET_BY_STUDY[stage].intersection(given)):
            raise UserError(f"{block}.{forbidden[0]}: is set by the study; leave it out.")
        config_class, _ = load_stage(stage)
        unplaced = config_class.parse({**values, "output_dir": self.study_dir}, source=block)
        self._check_problems(block, getattr(unplaced, "problems", []))
        key = _node_key(_identity(stage, unplaced), unplaced, inputs)
        node_id = f"{stage}-{key[:_KEY_DIGITS]}"
        directory = self.study_dir / RUNS / node_id
        if node_id in self.nodes:
            node = self.nodes[node_id]
            uses = node.uses if use in node.uses else (*node.uses, use)
            self.nodes[node_id] = replace(node, uses=uses)
        else:
            self.nodes[node_id] = Node(
                id=node_id,
                stage=stage,
                key=key,
                config=unplaced.model_copy(update={"output_dir": directory}),
                directory=directory,
                depends=tuple(dict.fromkeys(source.node for source in inputs.values() if source.node is not None)),
                label=label,
                uses=(use,),
            )
        return _Source(path=str(directory), key=f"node:{key}", node=node_id)

    def _check_problems(self, block: str, sets: Sequence[ProblemSet]) -> tuple[str, frozenset[str]]:
        """Loads every problem of `sets`, once; their digest and ids."""
        name = canonical_json([item.model_dump(mode="json") for item in sets])
        if sets and name not in self.problems:
            try:
                problems = load_problems(sets)
            except UserError as error:
                raise UserError(f"{block}: {error}") from None
            digest = sha256("\n".join(problem.to_json() for problem in problems))
            self.problems[name] = digest, frozenset(problem.id for problem in problems)
        return self.problems.get(name, ("", frozenset()))

    def _phases(self) -> dict[str, str]:
        """The digest of the problems of RL and of the evaluation. None of the latter may be trained on."""
        sets = self.config.tasks
        found = {phase: self._check_problems(f"tasks.{phase}", getattr(sets, phase)) for phase in ("sft", "rl", "eval")}
        for phase in ("sft", "rl"):
            if shared := sorted(found[phase][1] & found["eval"][1]):
                raise UserError(
                    f"tasks.eval: {len(shared)} of its problems are in tasks.{phase} too, '{shared[0]}' for one. "
                    "Use another split or offset."
                )
        return {phase: digest for phase, (digest, _) in found.items()}

    def _hashed(self, stage: str, arm: str | None = None) -> str:
        """What decides the results of a stage's nodes, of one arm or of all, without repetition and in order."""
        texts = [
            canonical_json(_identity(stage, node.config))
            for node in self.nodes.values()
            if node.stage == stage and (arm is None or any(use.arm == arm for use in node.uses))
        ]
        return canonical_json(list(dict.fromkeys(texts)))

    def _same_for_all_arms(self, stage: str) -> str:
        found = {name: self._hashed(stage, name) for name in self.arms}
        assert len(set(found.values())) == 1, f"{stage} differs between arms: {found}"
        return next(iter(found.values()))


def _use(unit: _Unit, arm: str | None, role: Role, rl_step: int | None = None) -> Use:
    return Use(arm=arm, base=unit.base, seed=unit.seed, role=role, rl_step=rl_step)


def _external_model(name: str) -> _Source:
    found = resolve_model(name)
    path = str(Path(found).absolute()) if Path(found).is_dir() and not name.startswith("pear:") else name
    return _Source(path=path, key=input_fingerprint(found))


def _node_key(node: Mapping[str, Any], config: StrictModel, inputs: Mapping[str, _Source]) -> str:
    """What `open_run` hashes, with the keys of planned inputs in place of fingerprints that do not exist yet."""
    keys = {name: source.key for name, source in inputs.items()}
    files = task_files(getattr(config, "problems", ()))
    keys.update({name: input_fingerprint(path) for name, path in files.items()})
    return sha256(canonical_json({**node, "inputs": keys}))


def _identity(stage: str, config: StrictModel) -> dict[str, Any]:
    """All that decides a stage's result beside its inputs."""
    parts = task_versions(getattr(config, "problems", ()))
    objective = getattr(config, "objective", None)
    if objective is not None:
        from pear.objectives import OBJECTIVES

        parts[f"objective:{objective}"] = OBJECTIVES[objective].version
    version = importlib.import_module(STAGES[stage][0]).VERSION
    return {"stage": stage, "version": version, "config": config.hashed(), "parts": parts}


def _rl_steps(config: StudyConfig) -> tuple[dict[str, Any], list[int]]:
    """The `evaluate` block without `at_rl_steps`, and the RL steps whose models are evaluated, the last included."""
    settings = dict(config.evaluate)
    asked = settings.pop("at_rl_steps", [])
    if not isinstance(asked, list) or not all(isinstance(step, int) for step in asked):
        raise UserError(f"evaluate.at_rl_steps: expected a list of steps, such as [20, 60], got {asked!r}.")
    if not config.arms:
        return settings, []
    steps = config.rl.get("steps")
    if not isinstance(steps, int) or steps < 1:
        raise UserError(f"rl.steps: expected a number of steps, got {steps!r}.")
    if wrong := [step for step in asked if not 0 < step <= steps]:
        raise UserError(
            f"evaluate.at_rl_steps: {wrong[0]} is not in 1..{steps} (rl.steps). After SFT models are always evaluated."
        )
    return settings, sorted({*asked, steps})


def _check_blocks(config: StudyConfig) -> None:
    """Blocks that are missing, or that nothing would read."""
    behavior = config.behavior
    if not config.arms:
        unread = [name for name in ("sft", "rl") if getattr(config, name)]
        unread += [f"tasks.{name}" for name in ("sft", "rl") if getattr(config.tasks, name)]
        unread += [f"behavior.{key}" for key in behavior if key != "model"]
        if unread:
            raise UserError(f"{unread[0]}: nothing reads this in a study without arms. Add arms, or leave it out.")
        return
    if not config.tasks.rl:
        raise UserError("tasks.rl: name the problems of RL.")
    if not behavior:
        raise UserError("behavior: this key is required: {model: ...} to sample one, or {buffer: DIR}.")
    if "buffer" in behavior:
        if others := [key for key in behavior if key != "buffer"]:
            raise UserError(f"behavior.{others[0]}: nothing reads this beside `buffer`. Leave it out.")
        if config.tasks.sft:
            raise UserError("tasks.sft: nothing reads this, since behavior.buffer holds the data. Leave it out.")
    elif "model" not in behavior:
        raise UserError("behavior: needs `model`, to sample it, or `buffer`, a directory with scored trajectories.")
    elif not config.tasks.sft and "problems" not in behavior:
        raise UserError("tasks.sft: name the problems that the behavior model is sampled on.")


def _check_objectives(arms: Mapping[str, Arm | None]) -> None:
    from pear.objectives import make_objective

    for name, arm in arms.items():
        if arm is None:
            continue
        try:
            make_objective(arm.objective, arm.objective_kwargs)
        except UserError as error:
            raise UserError(f"arms.{name}: {error}") from None
