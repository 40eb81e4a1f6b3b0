"""From a study file to the graph of its stages. Everything is checked here; nothing is written.

Equal stages are one node: its key is the sha256 of the stage, its version, its hashed configuration and the keys of its
inputs. So arms share what they have in common, and a changed study reuses whatever stayed the same.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pear.errors import UserError, unknown_name
from pear.runs import sha256
from pear.stages import load_stage
from pear.study.analyses import BEHAVIOR, Offline, Trained, plan_analyses
from pear.study.config import SEED, Arm, Pretrained, StudyConfig, merged
from pear.study.graph import Node, Use
from pear.study.nodes import Nodes, Problems, Source, Unit, derived_seed, external_buffer, external_model, short_name
from pear.study.probe import probe_steps


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All nodes of a study and the digests of what its arms have in common.

    Args:
        config: the study.
        arms: its arms, sweeps multiplied out.
        nodes: every node after those that it depends on.
        digests: `rl` (the whole RL but the model), `evaluation`, `buffer`; sha256.
        dropped: the arms that stop after the probe.
    """

    config: StudyConfig
    arms: Mapping[str, Arm | None]
    nodes: tuple[Node, ...]
    digests: Mapping[str, str]
    dropped: frozenset[str]

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


def make_plan(
    config: StudyConfig, study_dir: Path, *, probe: bool = False, dropped: Collection[str] = (), load: bool = True
) -> Plan:
    """Plans every stage of a study.

    Args:
        config: the study.
        study_dir: where it will lie.
        probe: whether every arm goes through a probe, RL up to an early step, beside all of RL.
        dropped: the arms that stop after the probe.
        load: whether the problems are made and read; without that, nothing of them is checked, and no file is needed.

    Raises:
        UserError: an unknown key, task, objective, model, arm or path, or blocks that do not fit together.
    """
    return _Planner(config, study_dir.absolute(), probe, frozenset(dropped), load).plan()


class _Planner:
    def __init__(self, config: StudyConfig, study_dir: Path, probe: bool, dropped: frozenset[str], load: bool) -> None:
        _check_keys(config)
        self.config = config
        self.nodes = Nodes(study_dir, load=load)
        self.arms = config.expanded_arms()
        self.evaluate_settings, self.rl_steps = _rl_steps(config)
        self.probe_steps = probe_steps(config, self.arms) if probe else None
        self.dropped = dropped

    def plan(self) -> Plan:
        _check_blocks(self.config)
        _check_objectives(self.arms)
        phases = self._phases()
        if self.config.behavior and not self.arms:
            use = Use(arm=None, base=BEHAVIOR, seed=0, role="eval")
            self._evaluate(self._behavior_model(), "behavior model", use)
        units = self._units()
        for unit in units:
            self._evaluate(unit.model, f"{short_name(unit.base)}, base", unit.use(None, "eval"))
        digests: dict[str, str] = {}
        if self.arms:
            offline = self._offline(phases)
            digests["buffer"] = offline.buffer.key
            runs = []
            for name, arm in self.arms.items():
                for unit in units:
                    sft = None if arm is None else self._sft(name, arm, unit, offline.buffer)
                    start = self._start(name, unit, sft, offline.buffer)
                    if name not in self.dropped:
                        final = self._rl(name, unit, start)
                        runs.append(Trained(name=name, arm=arm, unit=unit, sft=sft, start=start, final=final))
                    if self.probe_steps is not None:
                        self._probe(name, unit, start, self.probe_steps)
            digests["rl"] = sha256(self._same_for_all_arms() + phases["rl"].digest)
            if self.config.analyze is not None:
                plan_analyses(self.nodes, self.config, offline, runs)
        digests["evaluation"] = sha256(self.nodes.hashed("eval") + phases["eval"].digest)
        return Plan(config=self.config, arms=self.arms, nodes=self.nodes.all, digests=digests, dropped=self.dropped)

    def _units(self) -> list[Unit]:
        base = self.config.base
        if isinstance(base, Pretrained):
            return [self._pretrained_unit(base, seed) for seed in self.config.seeds]
        units = []
        for template in [base] if isinstance(base, str) else base:
            for seed in self.config.seeds:
                name = template.replace(SEED, str(seed))
                units.append(Unit(base=name, seed=seed, model=external_model(name)))
        return units

    def _pretrained_unit(self, base: Pretrained, seed: int) -> Unit:
        name = f"base_{seed}"
        model = self._pretrain(base, "base.pretrain", seed, name, Use(arm=None, base=name, seed=seed, role="pretrain"))
        return Unit(base=name, seed=seed, model=model)

    def _pretrain(self, made: Pretrained, block: str, seed: int, name: str, use: Use) -> Source:
        values = {**made.pretrain, "seed": derived_seed(seed, "pretrain")}
        return self.nodes.add("pretrain", block, made.pretrain, values, {}, f"pretrain {name}", use)

    def _behavior_model(self) -> Source:
        model = self.config.behavior.get("model")
        if isinstance(model, str):
            return external_model(model)
        made = Pretrained.parse(model, source="behavior.model")
        use = Use(arm=None, base=BEHAVIOR, seed=0, role="pretrain")
        return self._pretrain(made, "behavior.model.pretrain", 0, "behavior model", use)

    def _offline(self, phases: Mapping[str, Problems]) -> Offline:
        """The buffer: one that is there, or the behavior model's."""
        behavior = self.config.behavior
        trained_on = {"tasks.sft": phases["sft"], "tasks.rl": phases["rl"]}
        if "buffer" in behavior:
            buffer = external_buffer(Path(str(behavior["buffer"])))
            return Offline(buffer=buffer, model=None, sets=[], trained_on=trained_on)
        model = self._behavior_model()
        given = {key: value for key, value in behavior.items() if key != "model"}
        problems = [item.model_dump(mode="json", exclude_unset=True) for item in self.config.tasks.sft]
        values = {"problems": problems, **given, "model": model.path}
        use = Use(arm=None, base=BEHAVIOR, seed=0, role="collect")
        buffer = self.nodes.add("collect", "behavior", given, values, {"model": model}, "collect the buffer", use)
        sets = self.nodes.config(buffer).problems
        if "problems" in behavior:
            trained_on["behavior.problems"] = self.nodes.collected("behavior.problems", self.nodes.config(buffer))
            phases["eval"].refuse_shared("tasks.eval", trained_on["behavior.problems"], "behavior.problems")
        return Offline(buffer=buffer, model=model, sets=sets, trained_on=trained_on)

    def _sft(self, name: str, arm: Arm, unit: Unit, buffer: Source) -> Source:
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
        return self.nodes.add("sft", block, given, values, inputs, f"sft {name} {unit.label}", unit.use(name, "sft"))

    def _start(self, name: str, unit: Unit, sft: Source | None, buffer: Source) -> Source:
        """Plans the model that RL starts from, and its evaluation: SFT's, that at another norm, or the base."""
        start = unit.model if sft is None else self._at_norm(name, unit, sft, buffer)
        self._evaluate(start, f"{name} {unit.label}, after SFT", unit.use(name, "eval", 0))
        return start

    def _at_norm(self, name: str, unit: Unit, sft: Source, buffer: Source) -> Source:
        """Plans the model after SFT at the update norm of another arm, where the arm asks for that."""
        arm = self.arms[name]
        matched = None if arm is None else arm.match_update_norm
        other = None if matched is None else self.arms[matched]
        if matched is None or other is None:
            return sft
        inputs = {"base": unit.model, "model": sft, "norm_of": self._sft(matched, other, unit, buffer)}
        values = {key: source.path for key, source in inputs.items()}
        label = f"rescale {name} {unit.label} to the norm of {matched}"
        block = f"arms.{name}.match_update_norm"
        return self.nodes.add("rescale", block, {}, values, inputs, label, unit.use(name, "rescale"))

    def _rl(self, name: str, unit: Unit, start: Source) -> Source:
        """Plans RL and its evaluations."""
        steps = {"steps": self.rl_steps[-1], "checkpoint_steps": self.rl_steps[:-1]}
        final = self._grpo(f"grpo {name} {unit.label}", unit.use(name, "grpo"), unit, start, steps)
        for step in self.rl_steps:
            inside = "" if step == self.rl_steps[-1] else f"/checkpoint-{step}"
            model = replace(final, path=final.path + inside, key=final.key + inside)
            self._evaluate(model, f"{name} {unit.label}, RL step {step}", unit.use(name, "eval", step))
        return final

    def _probe(self, name: str, unit: Unit, start: Source, steps: int) -> None:
        """Plans RL up to the probe's step, and the evaluation that ranks the arms."""
        short = {"steps": steps, "checkpoint_steps": []}
        model = self._grpo(f"probe {name} {unit.label}", unit.use(name, "probe"), unit, start, short)
        uses = [unit.use(name, "probe", steps)]
        # Where all of RL is evaluated at this step, that is the arm's entry in the results.
        if name in self.dropped or steps not in self.rl_steps:
            uses.insert(0, unit.use(name, "eval", steps))
        for use in uses:
            self._evaluate(model, f"{name} {unit.label}, probe at RL step {steps}", use)

    def _grpo(self, label: str, use: Use, unit: Unit, start: Source, steps: Mapping[str, Any]) -> Source:
        values = {
            **self.config.rl,
            "model": start.path,
            "problems": [item.model_dump(mode="json", exclude_unset=True) for item in self.config.tasks.rl],
            "seed": derived_seed(unit.seed, "grpo"),
            **steps,
        }
        return self.nodes.add("grpo", "rl", self.config.rl, values, {"model": start}, label, use)

    def _evaluate(self, model: Source, of: str, use: Use) -> None:
        problems = [item.model_dump(mode="json", exclude_unset=True) for item in self.config.tasks.eval]
        settings = self.evaluate_settings
        values = {**settings, "model": model.path, "problems": problems}
        self.nodes.add("evaluate", "evaluate", settings, values, {"model": model}, f"evaluate {of}", use)

    def _phases(self) -> dict[str, Problems]:
        """The problems of the three phases. None of the evaluation's may be trained on."""
        found = {}
        for phase in ("sft", "rl", "eval"):
            found[phase] = self.nodes.problems(f"tasks.{phase}", getattr(self.config.tasks, phase))
        for phase in ("sft", "rl"):
            found["eval"].refuse_shared("tasks.eval", found[phase], f"tasks.{phase}")
        return found

    def _same_for_all_arms(self) -> str:
        """What decides RL's results: in every arm, up to where it goes, the same."""
        whole = {self.nodes.hashed("grpo", name) for name in self.arms if name not in self.dropped}
        probes = {self.nodes.hashed("probe", name) for name in self.arms}
        assert len(whole) == len(probes) == 1, "RL differs between arms"
        return whole.pop()


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


def _check_keys(config: StudyConfig) -> None:
    """Keys of blocks that no stage knows, before their absence under the right name is noticed."""
    own = {"behavior": ("collect", {"buffer"}), "sft": ("sft", set()), "rl": ("grpo", set())}
    for block, (stage, more) in {**own, "evaluate": ("evaluate", {"at_rl_steps"})}.items():
        known = {*load_stage(stage)[0].model_fields, *more}
        for key in map(str, getattr(config, block)):
            if key not in known:
                raise UserError(f"{block}: {key}: {unknown_name('key', key, known)}")


def _check_blocks(config: StudyConfig) -> None:
    """Blocks that are missing, or that nothing would read."""
    behavior = config.behavior
    if not config.arms:
        unread = [name for name in ("sft", "rl", "analyze") if getattr(config, name)]
        unread += ["probe"] if "probe" in config.model_fields_set else []
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
