"""The tensors of a checkpoint on disk, one at a time: names and shapes from the safetensors headers, no model built."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pear.errors import UserError
from pear.runs import read_json

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["linear", "lm_head", "other"]
"""A linear layer of a block, the output head, or anything else (embeddings, norms, biases)."""

_INDEX = "model.safetensors.index.json"
_FLOATING = {"F64", "F32", "F16", "BF16"}
_HEADS = {"lm_head", "embed_out"}
# What the name of a matrix has that is looked up and not multiplied.
_LOOKED_UP = re.compile(r"embed(?!_out)|wte|wpe|relative_attention_bias")
_NAMES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One parameter: its name, the file that holds it, its shape and its dtype as safetensors calls it."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def kind(self) -> Kind:
        """What the parameter is, by its name and shape."""
        parts = self.name.split(".")
        if len(self.shape) != 2 or parts[-1] != "weight" or _LOOKED_UP.search(self.name):
            return "other"
        if parts[-2:-1] and parts[-2] in _HEADS:
            return "lm_head"
        return "linear" if any(part.isdecimal() for part in parts) else "other"

    @property
    def num_bytes(self) -> int:
        """What its values take: safetensors calls a dtype of 16 bits F16 or BF16."""
        return math.prod(self.shape) * int(self.dtype.lstrip("BF")) // 8

    def read(self) -> "Tensor":
        """The values in the stored dtype. The file is closed again, so that what was read does not stay in memory."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as file:
            return file.get_tensor(self.name)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's parameters by name, layer after layer. A tied head is no parameter of its own."""

    source: str
    tensors: dict[str, StoredTensor]

    @property
    def dtypes(self) -> list[str]:
        """The dtypes that occur."""
        return sorted({tensor.dtype for tensor in self.tensors.values()})


def open_checkpoint(source: str) -> Checkpoint:
    """Reads the headers of a checkpoint: one file, or shards with an index.

    Args:
        source: a model directory, or a hub id, which is downloaded.

    Raises:
        UserError: no such model, no weights as safetensors, a file that is missing or cut short, or weights that are
            quantized.
    """
    directory = Path(source) if Path(source).is_dir() else _downloaded(source)
    found = {tensor.name: tensor for file in _files(directory, source) for tensor in _headers(file)}
    floating = {name: tensor for name, tensor in found.items() if tensor.dtype in _FLOATING}
    for name, tensor in found.items():
        if name not in floating and name.endswith(".weight"):
            raise UserError(f"{source}: '{name}' is stored as {tensor.dtype}. Give the model before it was quantized.")
    if _is_tied(directory):
        floating = {name: tensor for name, tensor in floating.items() if tensor.kind != "lm_head"}
    return Checkpoint(source=source, tensors={name: floating[name] for name in sorted(floating, key=layer_order)})


def check_same_parameters(before: Checkpoint, after: Checkpoint) -> None:
    """Raises `UserError` unless both have parameters of the same names and shapes, blocks' linear layers among them."""
    missing = [name for name in before.tensors if name not in after.tensors]
    added = [name for name in after.tensors if name not in before.tensors]
    if missing or added:
        differences = [
            f"only in {checkpoint.source}: {_listed(names)}"
            for checkpoint, names in ((before, missing), (after, added))
            if names
        ]
        raise UserError(
            f"The models do not have the same parameters ({'; '.join(differences)}). Give two checkpoints of one "
            "architecture."
        )
    for name, tensor in before.tensors.items():
        if tensor.shape != after.tensors[name].shape:
            raise UserError(
                f"'{name}' has shape {tensor.shape} in {before.source} and {after.tensors[name].shape} in "
                f"{after.source}. Give two checkpoints of one architecture."
            )
    if not any(tensor.kind == "linear" for tensor in before.tensors.values()):
        raise UserError(f"{before.source}: no linear layers in blocks, such as model.layers.0.self_attn.q_proj.weight.")


def _listed(names: list[str]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _downloaded(source: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=["config.json", "model*.safetensors", _INDEX]))
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: no such directory, and not to be had from the hub ({_first(error)}).") from None


def _first(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _files(directory: Path, source: str) -> list[Path]:
    """The weight files: those that the index names, or model.safetensors."""
    if (directory / _INDEX).is_file():
        index: Any = read_json(directory / _INDEX)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{directory / _INDEX}: has no weight_map.")
        files = [directory / name for name in sorted(set(weight_map.values()))]
    else:
        files = [directory / "model.safetensors"]
    for file in files:
        if not file.is_file():
            raise UserError(f"{source}: {file.name} is missing; weights in other formats are not loaded.")
    return files


def _headers(file: Path) -> Iterable[StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, because this is no mapping
                found = tensors.get_slice(name)
                shape = tuple(found.get_shape())
                yield StoredTensor(name=name, file=file, shape=shape, dtype=found.get_dtype())
    except SafetensorError as error:
        raise UserError(f"{file}: not readable as safetensors ({_first(error)}).") from None


def _is_tied(directory: Path) -> bool:
    """Whether the output head is the embedding, so that a stored head is a copy of it."""
    config: Any = read_json(directory / "config.json") if (directory / "config.json").is_file() else {}
    text = config.get("text_config", {})
    return bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))


def layer_order(name: str) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
