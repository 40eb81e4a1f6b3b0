"""The gradient of a mean divergence over four rows, two on each of two gloo ranks, beside that of one process."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from trl.trainer.utils import add_fused_lm_head

from pear.training.divergence import capture_hidden_states, head_of, token_divergence
from tests.engines.conftest import build

INPUT_IDS = torch.arange(2, 34).view(4, 8)
LABELS = torch.where(torch.arange(8) < 3, -100, INPUT_IDS)


def patched(**settings: Any) -> Any:
    model = build("Qwen3", tie_word_embeddings=False, **settings)
    add_fused_lm_head(model)
    return model


def loss_of(model: Any, other: Any, rows: slice) -> torch.Tensor:
    """The mean over the rows' tokens of KL(other || model) - log model(token)."""
    inputs = {"input_ids": INPUT_IDS[rows], "labels": LABELS[rows], "fused_lm_head": True}
    with capture_hidden_states(model) as states:
        outputs = model(**inputs)
    with torch.no_grad(), capture_hidden_states(other) as other_states:
        other(**inputs)
    mask = outputs.label_mask
    values = token_divergence(
        states.last[:, :-1][mask], head_of(model), other_states.last[:, :-1][mask], head_of(other), "forward"
    )
    return (values - outputs.log_probs[mask]).mean()


def sharded(again: bool) -> Any:
    """A model under FSDP2; `again` leaves its head a DTensor after the forward pass, when the divergence reads it."""
    model, mesh = patched(), torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh, reshard_after_forward=again)


def gradients_of(model: Any, other: Any, rows: slice) -> dict[str, torch.Tensor]:
    loss_of(model, other, rows).backward()
    result = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradient = parameter.grad
        result[name.removeprefix("module.")] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return result


def main(file: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    other, own = patched(hidden_size=16, head_dim=4), slice(2 * rank, 2 * rank + 2)
    gradients = {
        "alone": gradients_of(patched(), other, slice(None)),
        "DDP": gradients_of(DistributedDataParallel(patched()), other, own),
        "FSDP2": gradients_of(sharded(again=False), other, own),
        "FSDP2, sharded again": gradients_of(sharded(again=True), other, own),
    }
    if rank == 0:
        torch.save(gradients, file)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
