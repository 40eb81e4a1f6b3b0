"""Whether SFT and GRPO push a model's layers in the same directions: angles between their mean gradients (A.4)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pear.analysis.checkpoints import layer_order
from pear.analysis.request import Request
from pear.analysis.tables import kept_rows, write_table
from pear.configuration import StrictModel
from pear.runs import sha256

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
REQUIRES = frozenset({"buffer", "gradients"})
MODULES = "modules.parquet"
GRADIENTS = "gradients"
OFFLINE, GRPO, GRPO_AGAIN = "offline", "grpo", "grpo_again"
_SMALL = 8
"""Of a matrix' shorter side, one direction in so many is compared at most: with more, random matrices are near, too."""


class Settings(StrictModel):
    """Settings of the gradient rotation. `before` is the SFT checkpoint, from which all three pilot runs start.

    Args:
        rl: the fields of `pear grpo`, such as problems, prompts_per_step, group_size and max_completion_tokens; what a
            pilot has of its own is left aside (model, steps, seed, checkpoint_steps, save_every, output_dir).
        objective: of the arm, and `objective_kwargs`, its fields: the loss of the offline pilot.
        sft: the `trainer` block of `pear sft`; the pilot's max_steps and save_strategy come before those in it.
        overflow: trajectories longer than `sft.max_length` are an "error", or "drop" leaves them out.
        steps: optimizer steps of each pilot run; a gradient is the mean over them.
        k: directions that are compared, at most an eighth of a matrix' shorter side.
        seed: of the offline pilot, the first GRPO pilot and the random floor; the second GRPO pilot has the next one.
    """

    rl: dict[str, Any]
    objective: str = "pear_token"
    objective_kwargs: dict[str, Any] = {}
    sft: dict[str, Any] = {}
    overflow: Literal["error", "drop"] = "error"
    steps: Annotated[int, Field(gt=0)] = 10
    k: Annotated[int, Field(gt=0)] = 128
    seed: Annotated[int, Field(ge=0)] = 0


def check(request: Request) -> None:
    """Has nothing to refuse: what the pilot runs need is checked where they are made (`pear.stages.gradients`)."""


def analyze(request: Request) -> dict[str, Any]:
    """Mean principal angle between offline and GRPO gradients, with two floors; writes `modules.parquet`.

        rotation(W) = mean_i arccos sigma_i(U_offline,k^T U_grpo,k),    then the mean over the blocks' linear layers

    U_k spans the top-k left singular directions of a layer's mean gradient. The same angle between two GRPO runs of
    different seeds is what noise alone gives, and that between random matrices is as far apart as this k allows: only
    what lies between the two says something.

    Source: arXiv 2602.01058, Appendix A.4, with k at most an eighth of the shorter side, where the paper's 128 would
    make the angles of any two small matrices 0.

    Args:
        request: its `gradients` are safetensors of mean gradients, named by module: "offline", "grpo" and "grpo_again".

    Raises:
        ValueError: a gradient's rank is below k.
    """
    from safetensors import safe_open

    with safe_open(request.gradients[OFFLINE], framework="pt") as file:
        modules = sorted(file.keys(), key=layer_order)
    rows = kept_rows(request, len(modules), "modules", lambda place: _compare(modules[place], request))
    _write_modules(request.work / MODULES, rows)
    return {
        **{
            f"gradients/{name}_degrees": math.fsum(row[name] for row in rows) / len(rows)
            for name in ("rotation", "floor_random", "floor_grpo")
        },
        "gradients/k": max(row["k"] for row in rows),
        "gradients/steps": request.settings.steps,
        "modules": len(rows),
    }


def _compare(module: str, request: Request) -> dict[str, Any]:
    """A layer's three angles, in degrees."""
    from pear.ops.geometry import left_subspace

    offline = _read(request.gradients[OFFLINE], module, request.device)
    rows, columns = offline.shape
    k = directions(rows, columns, request.settings.k)
    subspaces = [
        left_subspace(offline, k),
        *(left_subspace(_read(request.gradients[name], module, request.device), k) for name in (GRPO, GRPO_AGAIN)),
    ]
    return {
        "module": module,
        "rows": rows,
        "columns": columns,
        "k": k,
        "rotation": mean_angle(subspaces[0], subspaces[1]),
        "floor_random": mean_angle(*random_subspaces(rows, k, seed=request.settings.seed, module=module)),
        "floor_grpo": mean_angle(subspaces[1], subspaces[2]),
    }


def directions(rows: int, columns: int, k: int) -> int:
    """How many directions of a matrix are compared: k, at most an eighth of its shorter side, at least 1.

    >>> directions(2048, 6144, 128), directions(64, 256, 128), directions(4, 4, 128)
    (128, 8, 1)
    """
    return min(k, max(1, min(rows, columns) // _SMALL))


def mean_angle(u: "Tensor", v: "Tensor") -> float:
    """Mean principal angle between two subspaces in degrees, from orthonormal bases (rows, k).

    Source: arXiv 2602.01058, A.4.
    """
    from pear.ops.geometry import principal_angles

    return math.degrees(float(principal_angles(u, v).mean()))


def random_subspaces(rows: int, k: int, *, seed: int, module: str) -> list["Tensor"]:
    """Bases (rows, k) of the top-k left singular subspaces of two independent Gaussian matrices.

    A Gaussian matrix has no preferred direction, so that such a subspace is uniform over all those of dimension k,
    however many columns the matrix has. Orthonormalized Gaussian columns are too, and cost no decomposition.
    """
    import torch

    generator = torch.Generator().manual_seed(int(sha256(f"{seed}/gradient_rotation/floor/{module}")[:15], 16))
    draws = (torch.randn(rows, k, dtype=torch.float64, generator=generator) for _ in range(2))
    return [torch.linalg.qr(draw).Q for draw in draws]


def _read(path: Path, module: str, device: str) -> "Tensor":
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(module).to(device)


def _write_modules(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow

    write_table(path, pyarrow.Table.from_pylist(list(rows)))
