"""A `trainer:` mapping against the fields of a `TrainingArguments` subclass: checked, coerced, never mirrored."""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pear.errors import UserError

# They change what is written along the way, not what is trained: a run goes on, and is found again, under other values.
NOT_HASHED = frozenset(
    {
        "dataloader_num_workers",
        "dataset_num_proc",
        "disable_tqdm",
        "hub_always_push",
        "hub_model_id",
        "hub_private_repo",
        "hub_revision",
        "log_level",
        "logging_first_step",
        "logging_steps",
        "logging_strategy",
        "project",
        "push_to_hub",
        "report_to",
        "run_name",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        "trackio_bucket_id",
        "trackio_space_id",
        "trackio_static_space_id",
    }
)


def checked_arguments(config_class: type, values: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Checks a `trainer:` mapping and coerces its values to the types of the fields, so that the text "1e-5" is 1e-5.

    Args:
        config_class: a dataclass such as `PearConfig` or `trl.GRPOConfig`.
        values: field name to value, as YAML or the command line gave it.
        source: what to name in errors, such as "trainer".

    Returns:
        The same keys with coerced values, ready for `config_class(**...)`.

    Raises:
        UserError: an unknown key (names the nearest), or a value that is not of the field's type.

    >>> import dataclasses
    >>> Config = dataclasses.make_dataclass("Config", [("learning_rate", float), ("max_steps", int)])
    >>> checked_arguments(Config, {"learning_rate": "1e-5"}, source="trainer")
    {'learning_rate': 1e-05}
    """
    adapters = _adapters(config_class)
    checked = {}
    for name, value in values.items():
        if name not in adapters:
            nearest = difflib.get_close_matches(str(name), adapters, n=1)
            hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
            raise UserError(f"{source}.{name}: {config_class.__name__} has no field of this name.{hint}")
        try:
            checked[name] = adapters[name].validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UserError(f"{source}.{name}: {message} (got {value!r}).") from None
    return checked


def hashed_trainer_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """A `trainer:` mapping without the keys of `NOT_HASHED`: what goes into a stage's fingerprint.

    >>> hashed_trainer_values({"max_steps": 5, "logging_steps": 1})
    {'max_steps': 5}
    """
    return {name: value for name, value in values.items() if name not in NOT_HASHED}


@functools.cache
def _adapters(config_class: type) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(config_class)
    return {field.name: _adapter(hints[field.name]) for field in dataclasses.fields(config_class) if field.init}


def _adapter(hint: Any) -> TypeAdapter[Any]:
    # pydantic takes no configuration for a dataclass.
    arbitrary = None if dataclasses.is_dataclass(hint) else ConfigDict(arbitrary_types_allowed=True)
    return TypeAdapter(hint, config=arbitrary)


def machine_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage sets on this machine unless the user did: float32 on the CPU where there is no GPU for training.

    Apple's GPU is left aside unless `use_cpu: false` asks for it: its results differ, and tiny models are slower there.
    """
    import torch

    device = torch.accelerator.current_accelerator(check_available=True)
    if device is not None and device.type != "mps":
        return {}
    defaults: dict[str, Any] = {"use_cpu": True}
    if not values.get("fp16"):
        defaults["bf16"] = False
    if "activation_checkpointing" not in values:
        # TRL's default is True. None is off, and warns about neither of the two names of the option.
        defaults["gradient_checkpointing"] = None
    return defaults
