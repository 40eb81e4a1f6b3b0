"""`pear rescale`: a trained model moved along its own update until it is as far from its start as another model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.models import resolve_model
from pear.runs import Files, Run, is_finished, note, open_run, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from pear.analysis.checkpoints import Checkpoint, StoredTensor

NAME = "rescale"
VERSION = 1
_JOURNAL = "tensors.json"
_INDEX = "model.safetensors.index.json"
# A control that misses its norm by more controls nothing.
_TOLERANCE = 0.01


class RescaleConfig(StrictModel):
    """Scales a model's update so that its norm is that of another model's update, both from one base.

    Args:
        base: theta_0, what both were trained from: a shipped model, a directory, or a hub id.
        model: theta, whose update is scaled: a `pear sft` run, or any model of the base's architecture.
        norm_of: the model whose update norm is taken.
        output_dir: where the scaled model goes.
    """

    base: Annotated[str, NotHashed()]
    model: Annotated[str, NotHashed()]
    norm_of: Annotated[str, NotHashed()]
    output_dir: Annotated[Path, NotHashed()]


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """The checked checkpoints; `wanted` is the norm to be reached, `own` that of the model's update."""

    base: "Checkpoint"
    model: "Checkpoint"
    wanted: float
    own: float

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return self.wanted / self.own


def run(config: RescaleConfig) -> Path:
    """Writes theta_0 + s (theta - theta_0) with s = ||theta' - theta_0||_2 / ||theta - theta_0||_2.

    theta' is `norm_of`; the norms are over all parameters. One tensor at a time is worked out, in float64, and written
    in the dtype that `model` is stored in; tokenizer, configuration and generation configuration are those of `model`.
    The manifest has s and three norms: before, wanted, and of what was written.

    Raises:
        UserError: no such model, models of different parameters, or an update that is 0; before anything is written. Or
            the scaled update cannot be stored in the model's dtype.
    """
    given = {"base": config.base, "model": config.model, "norm_of": config.norm_of}
    inputs = {name: resolve_model(source) for name, source in given.items()}
    prepared = None if is_finished(config.output_dir) else _prepare(inputs)
    with open_run(NAME, VERSION, config, config.output_dir, inputs=inputs) as run_dir:
        if run_dir.complete or prepared is None:
            note(f"{config.output_dir}: complete, nothing to do.")
            return run_dir.output_dir
        _write_weights(prepared, run_dir)
        _write_rest(inputs["model"], run_dir.work)
        reached = _reached(prepared, run_dir.work)
        return run_dir.finish(
            {
                "scale": prepared.scale,
                "norm_before": prepared.own,
                "norm_wanted": prepared.wanted,
                "update/norm": reached,
            }
        )


def _prepare(inputs: Mapping[str, str]) -> _Prepared:
    """Everything that can be wrong with what the user gave, before anything is written."""
    from pear.analysis.checkpoints import check_same_parameters, open_checkpoint
    from pear.data.rendering import load_tokenizer

    base, model, other = (open_checkpoint(inputs[name]) for name in ("base", "model", "norm_of"))
    for trained in (model, other):
        check_same_parameters(base, trained)
    load_tokenizer(inputs["model"])
    own, wanted = (_norm(base, trained) for trained in (model, other))
    for trained, norm in ((model, own), (other, wanted)):
        if not 0 < norm < math.inf:
            raise UserError(
                f"{trained.source}: its update from {base.source} has norm {norm}. Give a model that was trained from "
                "that base, and whose weights are finite."
            )
    return _Prepared(base=base, model=model, wanted=wanted, own=own)


def _norm(base: "Checkpoint", trained: "Checkpoint") -> float:
    """||theta - theta_0||_2, one pair of tensors at a time."""
    from pear.ops.geometry import update_norm

    return math.hypot(
        *(update_norm(tensor.read(), trained.tensors[name].read()) for name, tensor in base.tensors.items())
    )


def _write_weights(prepared: _Prepared, run_dir: Run) -> None:
    """Writes the model's files with scaled updates; those that a killed run left whole are not made again."""
    from safetensors.torch import save_file

    by_file: dict[str, list[StoredTensor]] = {}
    for tensor in prepared.model.tensors.values():
        by_file.setdefault(tensor.file.name, []).append(tensor)
    files = Files(run_dir.work, run_dir.scratch / _JOURNAL)
    for place, (file, tensors) in enumerate(by_file.items()):
        run_dir.progress(place, len(by_file), "files")
        if not files.has(file):
            scaled = {tensor.name: _scaled(prepared, tensor) for tensor in tensors}
            with files.writing(file) as temporary:
                save_file(scaled, temporary, metadata={"format": "pt"})
    if len(by_file) > 1:
        weight_map = {tensor.name: file for file, tensors in by_file.items() for tensor in tensors}
        size = sum(tensor.num_bytes for tensor in prepared.model.tensors.values())
        write_json(run_dir.work / _INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _scaled(prepared: _Prepared, tensor: "StoredTensor") -> "Tensor":
    """theta_0 + s (theta - theta_0) of one parameter, in the dtype of theta."""
    trained = tensor.read()
    start = prepared.base.tensors[tensor.name].read().double()
    return (start + prepared.scale * (trained.double() - start)).to(trained.dtype).contiguous()


def _write_rest(model: str, work: Path) -> None:
    """Writes what a model has beside its weights."""
    from transformers import AutoConfig, GenerationConfig

    from pear.data.rendering import load_tokenizer

    load_tokenizer(model).save_pretrained(work)
    AutoConfig.from_pretrained(model).save_pretrained(work)
    GenerationConfig.from_pretrained(model).save_pretrained(work)


def _reached(prepared: _Prepared, work: Path) -> float:
    """The norm of the update that was written. Raises `UserError` where it is not the one that was wanted."""
    from pear.analysis.checkpoints import open_checkpoint

    reached = _norm(prepared.base, open_checkpoint(str(work)))
    if abs(reached - prepared.wanted) > _TOLERANCE * prepared.wanted:
        raise UserError(
            f"{prepared.model.source}: its scaled update has norm {reached:.4g}, and {prepared.wanted:.4g} was wanted: "
            f"{' and '.join(prepared.model.dtypes)} is too coarse for it. Train the model in float32."
        )
    return reached
