"""Mean gradients of a training run's first steps, as they are before clipping."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pear.errors import UserError


class MeanGradients:
    """Sums the gradients of the blocks' linear layers over a trainer's optimizer steps.

    `transformers.Trainer` calls `accelerator.clip_grad_norm_` once for each optimizer step, after the last micro-batch
    and the reduction over processes and before anything is clipped; with `max_grad_norm` 0 it calls it for the norm
    alone. So the gradients are read there, and the step goes on as it would have.

    Args:
        trainer: before its `train`. It is left as it is but for its accelerator's method.

    Raises:
        UserError: gradients that no process has whole (FSDP, DeepSpeed), or that are scaled (float16).
    """

    def __init__(self, trainer: Trainer) -> None:
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise UserError("Gradients are split over processes by FSDP and DeepSpeed. Collect them on one device.")
        if trainer.args.fp16:
            raise UserError("fp16: gradients are scaled for float16. Use bf16, or float32.")
        self.steps = 0
        self._trainer = trainer
        self._sums: dict[str, Tensor] = {}
        clip = trainer.accelerator.clip_grad_norm_

        def read_and_clip(*args: Any, **kwargs: Any) -> Any:
            self._add()
            return clip(*args, **kwargs)

        trainer.accelerator.clip_grad_norm_ = read_and_clip

    @torch.no_grad()
    def _add(self) -> None:
        self.steps += 1
        for name, weight in linear_weights(self._trainer.accelerator.unwrap_model(self._trainer.model)).items():
            if weight.grad is not None:
                gradient = weight.grad.to(device="cpu", dtype=torch.float32)
                self._sums[name] = self._sums[name] + gradient if name in self._sums else gradient.clone()

    @property
    def is_zero(self) -> bool:
        """Whether no layer ever had a gradient."""
        return not any(bool(total.any()) for total in self._sums.values())

    def save(self, path: Path) -> None:
        """Writes sum / steps for each layer, float32, by module name."""
        means = {name: total / self.steps for name, total in self._sums.items()}
        save_file(means, path, metadata={"steps": str(self.steps)})


def linear_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of the blocks' linear layers by module name: not the output head, which is in no block."""
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and any(part.isdecimal() for part in name.split("."))
    }


class StepProgress(TrainerCallback):
    """Calls `progress(done + step, total, "steps")` after each step; `done` are those of runs before this one."""

    def __init__(self, progress: Callable[[int, int, str], None], *, done: int, total: int) -> None:
        self._progress, self._done, self._total = progress, done, total

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Reports the step that has just ended."""
        self._progress(self._done + state.global_step, self._total, "steps")
