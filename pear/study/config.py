"""The study file: base x arms x seeds under one identical RL."""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pear.analysis import ANALYSES
from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError, unknown_name
from pear.study.machine import Machine
from pear.tasks.problems import ProblemSet

SEED = "{seed}"
_DIRECTORY_NAME = re.compile(r"\w[\w.-]*")


class Pretrained(StrictModel):
    """A model made by the study: the fields of `pear pretrain`, without seed and output_dir."""

    pretrain: dict[str, Any]


class TaskSets(StrictModel):
    """Problems of the three phases; they may differ (paper, Section 4.4).

    Args:
        sft: what the behavior model is sampled on.
        rl: what every arm's RL runs on.
        eval: what every model is evaluated on.
    """

    sft: list[ProblemSet] = []
    rl: list[ProblemSet] = []
    eval: Annotated[list[ProblemSet], Field(min_length=1)]


class Arm(StrictModel):
    """One way to do SFT.

    Args:
        objective: a name in `OBJECTIVES`, and `objective_kwargs`, its fields.
        sft: keys of the study's `sft` block that this arm has otherwise; `trainer` is merged key by key.
        sweep: axis to values; the arm becomes one arm per combination, named `arm[gamma=0.9]`. An axis is a field of
            the objective (`gamma`), or a path (`sft.trainer.learning_rate`).
        match_update_norm: another arm: the model after SFT is moved along its own update until it is as far from the
            base as that arm's is on the same unit. All that comes after SFT starts from there.
    """

    objective: str
    objective_kwargs: dict[str, Any] = {}
    sft: dict[str, Any] = {}
    sweep: dict[str, Any] = {}
    match_update_norm: str | None = None


class Analyze(StrictModel):
    """The paper's analyses of every arm and unit, and a look at what RL would learn from.

    Args:
        calibration: trajectories of the behavior model on held-out problems: the fields of `pear collect` but `model`,
            and `samples`, the completions per problem. Sampled as `behavior` says; by default once on each of 269
            problems (Appendix A.1) of the split `dev`, of the tasks that SFT's problems are of. Or {buffer: DIR}.
        analyses: names in `ANALYSES`.
        rl_signal_problems: on how many problems of `tasks.rl` the start of RL is sampled as RL samples it; 0 for none.
        settings: name of an analysis to its settings.
    """

    calibration: dict[str, Any] = {}
    analyses: list[str] = [*ANALYSES]
    rl_signal_problems: Annotated[int, Field(ge=0)] = 100
    settings: dict[str, dict[str, Any]] = {}


class Probe(StrictModel):
    """How `pear study --probe` chooses the arms that are worth the whole budget.

    Args:
        share: of RL's steps that every arm is given first.
        keep: share of the arms that go on, rounded up. The reference arm always does.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5


def _base(value: Any) -> Any:
    if isinstance(value, dict):
        return Pretrained.parse(value, source="base")
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("expected a model, a list of models, or {pretrain: {...}}")
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"names {', '.join(sorted(repeated))} twice")
    return value


def _seeds(value: Any) -> Any:
    if isinstance(value, list) and len(set(map(str, value))) < len(value):
        raise ValueError("a seed is named twice")
    return value


class StudyConfig(StrictModel):
    """A study.

    Args:
        name: for people.
        base: the model that every arm starts from: one name; a list (each with every seed); a name with `{seed}` in it
            (one base per seed); or {pretrain: {...}} (one base per seed, made by the study).
        behavior: {buffer: DIR}, or the fields of `pear collect`, where `model` may be {pretrain: {...}} and `problems`
            are `tasks.sft` by default. Left out in a study without arms.
        tasks: the problems of SFT, RL and evaluation.
        arms: name to objective; null is RL without SFT. Without arms, the bases are made and evaluated, no more.
        seeds: one (base, seed) unit each; order of the data and every draw follow from it, the same in every arm.
        sft: the fields of `pear sft` that all arms share.
        rl: the fields of `pear grpo`, the same for every arm.
        evaluate: the fields of `pear evaluate`, and `at_rl_steps`: after how many steps of RL models are evaluated.
            After SFT and at RL's end they always are.
        reference: the arm that the others are compared with.
        analyze: analyses of what SFT and RL did; none by default.
        probe: how `--probe` chooses; read only then.
        machine: how the machine is used; changes no number.
    """

    name: str
    base: Annotated[str | list[str] | Pretrained, BeforeValidator(_base)]
    behavior: dict[str, Any] = {}
    tasks: TaskSets
    arms: dict[str, Arm | None] = {}
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), BeforeValidator(_seeds)] = [0]
    sft: dict[str, Any] = {}
    rl: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    reference: str = "nll"
    analyze: Analyze | None = None
    probe: Probe = Probe()
    machine: Annotated[Machine, NotHashed()] = Machine()

    def expanded_arms(self) -> dict[str, Arm | None]:
        """The arms with their sweeps multiplied out.

        Raises:
            UserError: a sweep that is no list of values, an unknown axis, two arms of one name, or a
                `match_update_norm` that names no other arm with an SFT of its own norm.
        """
        arms: dict[str, Arm | None] = {}
        for name, arm in self.arms.items():
            for expanded_name, expanded in [(name, arm)] if arm is None else _expanded(name, arm):
                if expanded_name in arms:
                    raise UserError(f"arms: '{expanded_name}' is there twice.")
                arms[expanded_name] = expanded
        if arms and self.reference not in arms:
            raise UserError(f"reference: {unknown_name('arm', self.reference, arms)}")
        for name, arm in arms.items():
            if arm is not None and arm.match_update_norm is not None:
                _check_matched(name, arm.match_update_norm, arms)
        return arms


def parse_studies(values: Any, *, source: str) -> dict[str | None, StudyConfig]:
    """The studies of a file: one, named None, or one per entry of `variants`, in their order.

    `variants` maps a name to keys that this study has otherwise, merged key by key over the rest of the file: the same
    arms and seeds on another task, say, or another family of bases.

    Raises:
        UserError: names `source`, the variant and what cannot be used.
    """
    if not isinstance(values, dict) or "variants" not in values:
        return {None: StudyConfig.parse(values, source=source)}
    shared = {key: value for key, value in values.items() if key != "variants"}
    variants = values["variants"]
    if not isinstance(variants, dict) or not variants or not all(isinstance(own, dict) for own in variants.values()):
        raise UserError(f"{source}: variants: expected names with the keys that each has otherwise, {{name: {{...}}}}.")
    studies: dict[str | None, StudyConfig] = {}
    for name, own in variants.items():
        if not isinstance(name, str) or not _DIRECTORY_NAME.fullmatch(name):
            raise UserError(f"{source}: variants: '{name}' names a directory: use letters, digits, '_', '-' and '.'.")
        study = StudyConfig.parse(merged(shared, own), source=f"{source}: variants.{name}")
        title = study.name if "name" in own else f"{study.name}, {name}"
        studies[name] = study.model_copy(update={"name": title})
    return studies


def merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's block over the shared one; mappings inside are merged key by key.

    >>> merged({"trainer": {"max_steps": 5, "seed": 1}}, {"trainer": {"max_steps": 9}})
    {'trainer': {'max_steps': 9, 'seed': 1}}
    """
    result = dict(shared)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def _check_matched(name: str, other: str, arms: Mapping[str, Arm | None]) -> None:
    key = f"arms.{name}.match_update_norm"
    if other not in arms:
        raise UserError(f"{key}: {unknown_name('arm', other, arms)}")
    if other == name:
        raise UserError(f"{key}: names the arm itself. Name the arm whose update norm it is to have.")
    matched = arms[other]
    if matched is None:
        raise UserError(f"{key}: {other} has no SFT, so no update. Name an arm with an objective.")
    if matched.match_update_norm is not None:
        raise UserError(f"{key}: {other} is itself matched to {matched.match_update_norm}. Name that arm.")


def _expanded(name: str, arm: Arm) -> list[tuple[str, Arm]]:
    if not arm.sweep:
        return [(name, arm)]
    for axis, values in arm.sweep.items():
        if not isinstance(values, list):
            hint = f" Did you mean {axis}=[{json.dumps(values)}]?" if not isinstance(values, dict) else ""
            raise UserError(f"Sweep axis '{axis}' must be a list of values, got {type(values).__name__}.{hint}")
        if not values:
            raise UserError(f"Sweep axis '{axis}' has no values.")
    axes = list(arm.sweep)
    expanded = []
    for values in itertools.product(*arm.sweep.values()):
        point = dict(zip(axes, values, strict=True))
        settings: dict[str, Any] = {"objective_kwargs": arm.objective_kwargs, "sft": arm.sft}
        for axis, value in point.items():
            settings = merged(settings, _at(name, axis, value))
        text = ",".join(f"{axis.rsplit('.', 1)[-1]}={value}" for axis, value in point.items())
        expanded_arm = Arm(objective=arm.objective, match_update_norm=arm.match_update_norm, **settings)
        expanded.append((f"{name}[{text}]", expanded_arm))
    return expanded


def _at(name: str, axis: str, value: Any) -> dict[str, Any]:
    """The nested mapping that sets one axis."""
    path = axis.split(".") if "." in axis else ["objective_kwargs", axis]
    if path[0] not in ("objective_kwargs", "sft"):
        raise UserError(
            f"arms.{name}.sweep: unknown axis '{axis}'. An axis is a field of the objective, or a path such as "
            "sft.trainer.learning_rate."
        )
    nested: Any = value
    for part in reversed(path):
        nested = {part: nested}
    result: dict[str, Any] = nested
    return result
