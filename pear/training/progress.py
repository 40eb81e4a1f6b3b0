"""Says how far a training run is, for whoever watches its directory."""

import time

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pear.runs import Run

_SECONDS = 1.0


class ReportProgress(TrainerCallback):
    """Writes steps done and to do into a run's progress file, at most once a second, from rank 0."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._last = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Reports the step that has just ended."""
        due = time.monotonic() - self._last >= _SECONDS or state.global_step == state.max_steps
        if due and state.is_world_process_zero:
            self.run.progress(state.global_step, state.max_steps, "steps")
            self._last = time.monotonic()
