"""LoRA for `pear sft`: `peft.LoraConfig` from a mapping, and the merge into a plain model."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pear.errors import UserError, missing_extra
from pear.runs import is_main_process, read_json, write_json
from pear.training.trainer_arguments import checked_arguments

if TYPE_CHECKING:
    from peft import LoraConfig

# What follows from the model and the task.
_OWNED = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
        "task_type",
    }
)


def lora_config(values: Mapping[str, Any]) -> "LoraConfig":
    """A `lora:` mapping as `peft.LoraConfig`; what it leaves out has peft's defaults.

    >>> lora_config({"r": "4", "target_modules": ["q_proj"]}).r
    4

    Raises:
        UserError: peft is not installed, a key is unknown or set by the stage, or peft refuses a value.
    """
    if importlib.util.find_spec("peft") is None:
        raise missing_extra("peft (`lora`)", "peft")
    from peft import LoraConfig

    for name in sorted(_OWNED & values.keys()):
        raise UserError(f"lora.{name}: follows from the model. Leave it out.")
    checked = checked_arguments(LoraConfig, values, source="lora")
    try:
        return LoraConfig(**checked, task_type="CAUSAL_LM")
    except (ValueError, TypeError) as error:
        raise UserError(f"lora: peft refuses these values ({_first_line(error)}).") from None


def check_lora(model: str, values: Mapping[str, Any]) -> None:
    """Checks a `lora:` mapping against a model, of which only the configuration is read.

    Raises:
        UserError: as `lora_config`; or the model has no such modules, or the merge would change its tied embeddings.
    """
    config = lora_config(values)
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    ends = (empty.get_input_embeddings(), empty.get_output_embeddings())
    tied = ends[0].weight is ends[1].weight
    names = [name for name, module in empty.named_modules() if module in ends]
    try:
        adapted = get_peft_model(empty, config)
    except ValueError as error:
        raise UserError(f"lora: {_first_line(error)}") from None
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    if tied and any(f".{name}." in parameter for name in names for parameter in trained):
        raise UserError(
            "lora: the model's embeddings and its head are one tensor, so an adapter of either cannot be merged. "
            f"Leave {' and '.join(names)} out of target_modules and modules_to_save."
        )


def merge_adapter(model: Any, adapter: Path) -> Any:
    """Writes the adapter and returns the plain model with the adapter added to its weights."""
    if not is_main_process():
        return model.merge_and_unload()
    model.save_pretrained(adapter)
    # peft's own card; the run's is beside the merged model.
    (adapter / "README.md").unlink(missing_ok=True)
    # peft keeps names of modules in sets, so their order differs from process to process.
    settings = read_json(adapter / "adapter_config.json")
    for name in ("target_modules", "exclude_modules"):
        if isinstance(settings[name], list):
            settings[name].sort()
    write_json(adapter / "adapter_config.json", settings)
    return model.merge_and_unload()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
