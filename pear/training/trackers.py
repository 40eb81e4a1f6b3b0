"""`report_to`: the trackers that `transformers` knows, each with the package that it needs."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from transformers import Trainer
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

from pear.errors import missing_extra, unknown_name

# Name of the tracker, of its package and of this package's extra.
_EXTRAS = ("tensorboard", "trackio", "wandb")
EVENTS = "tensorboard"


def check_trackers(report_to: str | Sequence[str] | None) -> None:
    """Checks that trackers are known, and that those which are an extra of this package are installed.

    Args:
        report_to: of arguments that were made, so that "all" and "none" are lists.

    Raises:
        UserError: names the nearest tracker, or the command that installs it.
    """
    assert isinstance(report_to, list)
    for name in report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise unknown_name("tracker in report_to", name, [*INTEGRATION_TO_CALLBACK, "all", "none"])
        if name in _EXTRAS and importlib.util.find_spec(name) is None:
            raise missing_extra(f"{name} (`report_to`)", name)


def keep_events(trainer: Trainer, directory: Path) -> None:
    """Lets TensorBoard's events go to `directory/tensorboard` unless the environment names a place.

    `transformers` would put them among the checkpoints, which a stage removes at its end.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(directory / EVENTS)
