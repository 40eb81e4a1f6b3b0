"""How far training moved the weights: update sparsity, spectrum shift and update norm (arXiv 2602.01058, A.2 and A.3).

Read from the files, one pair of tensors at a time: a pair of 8B checkpoints needs a few GiB. Both stay in the dtype
that they are stored in.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pear.analysis.checkpoints import Checkpoint, StoredTensor, check_same_parameters, open_checkpoint
from pear.analysis.request import Request
from pear.analysis.tables import kept_rows, write_table
from pear.configuration import StrictModel
from pear.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
REQUIRES = frozenset({"after"})
MODULES = "modules.parquet"
_MEASURES = ("sparsity", "sparsity_bf16", "spectrum_shift", "update_norm")


class Settings(StrictModel):
    """Settings of weight_drift.

    Args:
        epsilon: a weight that moved by less counts as unchanged in the absolute sparsity. The paper states none.
    """

    epsilon: Annotated[float, Field(gt=0)] = 1e-5


def check(request: Request) -> None:
    """Raises `UserError` unless both are checkpoints of one architecture, as safetensors that are not quantized."""
    if request.dtype != "auto":
        raise UserError(
            f"dtype: weight_drift compares weights as they are stored and has no use for {request.dtype}. Leave it out."
        )
    _open(request)


def analyze(request: Request) -> dict[str, Any]:
    """Compares two checkpoints tensor by tensor; a killed run goes on at the first tensor that is missing.

    Sparsity and spectrum shift are means over the blocks' linear layers (macro average); the output head is apart,
    where it is a parameter of its own. The update norm, and what `all_parameters` says, counts every parameter once.

    Returns:
        The metrics; modules.parquet has a row for each linear layer.

    Raises:
        UserError: as `check`; or a weight is NaN or infinite (names the tensor).
    """
    before, after = _open(request)
    pairs = [(tensor, after.tensors[name]) for name, tensor in before.tensors.items()]
    rows = kept_rows(request, len(pairs), "tensors", lambda place: _compare(*pairs[place], request))
    _write_modules(request.work / MODULES, [row for row in rows if row["kind"] == "linear"])
    return {
        **_summary(rows),
        "modules": sum(row["kind"] == "linear" for row in rows),
        "parameters": sum(row["elements"] for row in rows),
        "epsilon": request.settings.epsilon,
        "dtypes": {"before": before.dtypes, "after": after.dtypes},
    }


def _open(request: Request) -> tuple[Checkpoint, Checkpoint]:
    assert request.after is not None
    before, after = open_checkpoint(request.before), open_checkpoint(request.after)
    check_same_parameters(before, after)
    return before, after


def _compare(before: StoredTensor, after: StoredTensor, request: Request) -> dict[str, Any]:
    """What is kept of one pair of tensors."""
    import torch

    from pear.ops.geometry import sparsity, sparsity_bf16, update_norm

    old, new = (_read_finite(tensor, request.device) for tensor in (before, after))
    row: dict[str, Any] = {"module": before.name.removesuffix(".weight"), "kind": before.kind, "elements": old.numel()}
    if before.kind != "other":
        row.update(rows=old.shape[0], columns=old.shape[1])
    if old.dtype == new.dtype and torch.equal(old, new):
        return {**row, "sparsity": 1.0, "sparsity_bf16": 1.0, "update_norm": 0.0, "spectrum_shift": 0.0}
    row.update(
        sparsity=sparsity(old, new, epsilon=request.settings.epsilon),
        sparsity_bf16=sparsity_bf16(old, new),
        update_norm=update_norm(old, new),
    )
    return {**row, "spectrum_shift": _spectrum_shift(old, new) if before.kind != "other" else None}


def _read_finite(tensor: StoredTensor, device: str) -> "Tensor":
    import torch

    values = tensor.read().to(device)
    # The extremes are NaN or infinite exactly when some value is, and take no memory.
    if values.numel() and not bool(torch.stack(torch.aminmax(values)).isfinite().all()):
        raise UserError(f"{tensor.file}: '{tensor.name}' holds NaN or infinite values.")
    return values


def _spectrum_shift(before: "Tensor", after: "Tensor") -> float | None:
    """None where a layer was all zeros, because the shift is relative to what was there."""
    from pear.ops.geometry import singular_values, spectrum_shift

    if not bool(before.any()):
        return None
    return spectrum_shift(singular_values(before), singular_values(after))


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    linear = [row for row in rows if row["kind"] == "linear"]
    means = {name: _mean([row[name] for row in linear]) for name in ("sparsity", "sparsity_bf16", "spectrum_shift")}
    parameters = sum(row["elements"] for row in rows)
    unchanged = {
        name: math.fsum(row[name] * row["elements"] for row in rows) / parameters
        for name in ("sparsity", "sparsity_bf16")
    }
    return {
        **{f"drift/{name}": value for name, value in means.items()},
        "drift/update_norm": math.sqrt(math.fsum(row["update_norm"] ** 2 for row in rows)),
        **{f"drift/all_parameters/{name}": value for name, value in unchanged.items()},
        **{f"drift/lm_head/{name}": row[name] for row in rows if row["kind"] == "lm_head" for name in _MEASURES},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are defined."""
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def _write_modules(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow

    sizes = [(name, pyarrow.int64()) for name in ("rows", "columns")]
    measures = [(name, pyarrow.float64()) for name in _MEASURES]
    schema = pyarrow.schema([("module", pyarrow.string()), *sizes, *measures])
    table = pyarrow.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)
    write_table(path, table)
