"""What has to be equal for runs to be compared: the RL that they had, and how they were evaluated."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pear.training.trainer_arguments import hashed_trainer_values

# What a run of RL is given without being part of what RL does: where it starts, where it writes, what it keeps.
_NOT_RL = frozenset({"model", "output_dir", "save_every", "checkpoint_steps", "seed"})
_ABSENT = "not there"


def rl_budget(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run of RL beside the model that it starts from and its seed: equal budgets are the same RL.

    That is the hashed configuration without `seed` and without `checkpoint_steps`, which only keeps models on the way;
    the problems' files, and the versions of the stage and of the tasks.
    """
    config = {key: value for key, value in (manifest.get("config") or {}).items() if key not in _NOT_RL}
    if "trainer" in config:
        config["trainer"] = trainer_values(config["trainer"])
    return {**config, **_problems(manifest), "version": manifest.get("version")}


def trainer_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a `trainer` mapping decides a result; a number that YAML read as text, such as 1e-5, is that number.

    >>> trainer_values({"learning_rate": "1e-5", "logging_steps": 1, "lr_scheduler_type": "cosine"})
    {'learning_rate': 1e-05, 'lr_scheduler_type': 'cosine'}
    """
    return {key: _numeric(value) for key, value in hashed_trainer_values(values).items()}


def _numeric(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        found = float(value)
    except ValueError:
        return value
    return found if math.isfinite(found) else value


def evaluation_settings(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What decides an evaluation beside the model and the seed: the problems, and how their answers were sampled."""
    decoding = {key: value for key, value in (metrics.get("decoding") or {}).items() if key != "seed"}
    return {**_problems(manifest), "decoding": decoding}


def _problems(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The sets of problems, their files by content, and the versions of their tasks."""
    sets = (manifest.get("config") or {}).get("problems") or []
    inputs = manifest.get("inputs") or {}
    return {
        "problems": [{key: value for key, value in item.items() if key != "path"} for item in sets],
        "files": {name: source.get("fingerprint") for name, source in inputs.items() if name != "model"},
        "tasks": dict(manifest.get("parts") or {}),
    }


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping of dotted keys.

    >>> flat({"steps": 3, "problems": [{"size": 5}], "trainer": {}})
    {'steps': 3, 'problems.0.size': 5}
    """
    if not isinstance(value, Mapping | list | tuple):
        return {prefix: value}
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else enumerate(value)
    found: dict[str, Any] = {}
    for key, inner in items:
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def differences(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Every setting in which named settings differ: `steps is 40 in A and 60 in B`.

    >>> differences([("A", {"steps": 40}), ("B", {"steps": 60}), ("C", {"steps": 40})])
    ['steps is 40 in A and 60 in B']
    """
    flattened = [(name, flat(settings)) for name, settings in named]
    found = []
    for key in dict.fromkeys(key for _, settings in flattened for key in settings):
        first_with: dict[str, str] = {}
        for name, settings in flattened:
            first_with.setdefault(str(settings.get(key, _ABSENT)), name)
        if len(first_with) > 1:
            values = [f"{value} in {name}" for value, name in first_with.items()]
            found.append(f"{key} is {', '.join(values[:-1])} and {values[-1]}")
    return found
