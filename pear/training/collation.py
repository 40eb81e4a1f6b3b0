"""Batches of trajectories: TRL's, with the columns that objectives take."""

from typing import Any

import torch
from transformers import DataCollator

from pear.training.sft_data import TOKEN_COLUMNS


class TrajectoryCollator:
    """TRL's collator, with the other columns padded or flattened as its `input_ids` are.

    The float32 bits travel as int32, because under DeepSpeed `Trainer` casts floating-point inputs to bfloat16.
    """

    def __init__(self, collator: DataCollator) -> None:
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns TRL's batch and those of `TOKEN_COLUMNS` that the examples hold, (batch, seq) or (batch, seq, k)."""
        batch: dict[str, Any] = self.collator(examples)
        for name, blank in TOKEN_COLUMNS.items():
            if name not in examples[0]:
                continue
            dtype = {bool: torch.bool, int: torch.int64, float: torch.float32}[type(blank)]
            rows = [torch.tensor(example[name], dtype=dtype) for example in examples]
            if getattr(self.collator, "padding_free", False):
                rows = [torch.cat(rows)]
            values = torch.full((*batch["input_ids"].shape, *rows[0].shape[1:]), blank, dtype=dtype)
            for row, value in zip(rows, values, strict=True):
                value[: len(row)] = row
            batch[name] = values.view(torch.int32) if dtype == torch.float32 else values
        return batch


def taken_from(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Removes the columns of `TrajectoryCollator` from a batch and returns them, floats as floats again.

    Index t of them is about token t.
    """
    columns = {name: inputs.pop(name) for name in TOKEN_COLUMNS if name in inputs}
    return {
        name: values.view(torch.float32) if isinstance(TOKEN_COLUMNS[name], float) else values
        for name, values in columns.items()
    }
