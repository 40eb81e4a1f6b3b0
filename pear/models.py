"""Models: the names of those that ship with the package, checks of their files, and loading. Recipes by name."""

import json
from pathlib import Path
from typing import Any, Literal

from pear.errors import UserError, unknown_name

_PACKAGE = Path(__file__).resolve().parent
_MODELS = _PACKAGE / "shipped_models"
PREFIX = "pear:"
Dtype = Literal["auto", "float32", "bfloat16"]


def shipped_models() -> list[str]:
    """Names of the shipped models, such as `pear:affine_chain/base_1`."""
    return sorted(PREFIX + path.parent.relative_to(_MODELS).as_posix() for path in _MODELS.glob("*/*/config.json"))


def resolve_model(name: str) -> str:
    """The directory of a shipped model, an existing directory as it is, or a hub id unchanged.

    >>> resolve_model("Qwen/Qwen3-0.6B-Base")
    'Qwen/Qwen3-0.6B-Base'
    """
    if name.startswith(PREFIX):
        path = _MODELS / name.removeprefix(PREFIX)
        if not (path / "config.json").is_file():
            raise unknown_name("shipped model", name, shipped_models())
        return str(path)
    path = Path(name)
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise UserError(
                f'{name}: a LoRA adapter without the model that it belongs to. Merge them first: python -c "from peft '
                f"import AutoPeftModelForCausalLM as M; M.from_pretrained('{name}').merge_and_unload()"
                ".save_pretrained('MERGED')\", and copy the tokenizer's files there. `pear sft` with `lora` does both."
            )
        if not (path / "config.json").is_file():
            raise UserError(f"{name}: a directory without a model (no config.json in it).")
        if not any(path.glob("*.safetensors")):
            raise UserError(f"{name}: no weights as safetensors in this directory; other formats are not loaded.")
        return name
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UserError(f"{name}: no such model directory.")
    return name


def check_model(model: str) -> None:
    """Checks that a causal language model can be loaded: its configuration, and that none of its weights is cut short.

    Args:
        model: a directory; of a hub id the configuration alone is looked at.

    Raises:
        UserError: names the file.
    """
    from safetensors import SafetensorError, safe_open
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable_model(model, error) from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{model}: a model of type '{config.model_type}' is no causal language model. Use one.")
    directory = Path(model)
    for index in directory.glob("*.safetensors.index.json"):
        for name in sorted(set(_read_index(index).values())):
            if not (directory / name).is_file():
                raise UserError(f"{directory / name}: missing; {index.name} names it. Copy the whole directory.")
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: not readable as safetensors ({error}). Copy or make the model again.") from None


def _read_index(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError):
        weight_map = None
    if not isinstance(weight_map, dict):
        raise UserError(f"{index}: does not say which file holds which weight. Copy or make the model again.")
    return weight_map


def shipped_name(path: str) -> str:
    """The inverse of `resolve_model` for a shipped model's directory, in whatever installation; others unchanged.

    >>> shipped_name("/elsewhere/pear/shipped_models/affine_chain/base_1")
    'pear:affine_chain/base_1'
    """
    _, found, name = path.rpartition(f"/{_MODELS.name}/")
    return PREFIX + name if found else path


def load_causal_model(model: str, device: str, dtype: Dtype = "auto") -> Any:
    """A causal language model in evaluation mode on a device; "auto" is float32 on a CPU and bfloat16 elsewhere.

    Remote code is never run.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_model(model)
    automatic = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(dtype, automatic)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=chosen, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise unreadable_model(model, error) from None
    return loaded.to(device).eval()


def unreadable_model(model: str, error: Exception) -> UserError:
    """The sentence about a model that cannot be loaded."""
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    return UserError(f"{model}: no causal language model can be loaded from it ({reason}).")


def recipes_directory() -> Path:
    """Where the shipped recipes lie: inside an installed package, or beside it in a checkout."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def resolve_recipe(path: Path) -> Path:
    """A recipe's file: the path itself, or the shipped recipe of that name (`recipes/demo.yaml` or `demo`)."""
    if path.is_file():
        return path
    known = {recipe.stem: recipe for recipe in recipes_directory().glob("*.yaml")}
    if path.stem in known and path in (Path(path.stem), Path("recipes") / f"{path.stem}.yaml"):
        return known[path.stem]
    raise UserError(f"{path}: no such file. Shipped recipes: {', '.join(sorted(known)) or 'none'}.")
