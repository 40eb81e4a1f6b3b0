"""Processes for stages: forked from a server that has loaded TRL once, so that each starts within a second."""

import multiprocessing
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from pear.study.machine import Machine, stage_environment

# TRL imports its trainers when they are first asked for: `import trl` alone loads next to nothing.
PRELOAD = (
    "trl.trainer.sft_trainer",
    "trl.trainer.grpo_trainer",
    "transformers.models.qwen3.modeling_qwen3",
    "scipy.stats",
)
_GRACE_SECONDS = 3.0


def start_forkserver(machine: Machine, preload: Sequence[str]) -> ForkServerContext:
    """A context whose processes are forked from a server that has imported `preload` once.

    The server is another program, so nothing of this process (threads, CUDA, open files) gets into a stage.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with _environment(stage_environment(machine, [])):
        forkserver.ensure_running()
    return context


def start_process(
    context: ForkServerContext, target: Callable[..., None], arguments: tuple[Any, ...]
) -> ForkServerProcess:
    """Starts `target(*arguments)`, a function of an importable module."""
    process = context.Process(target=target, args=arguments)
    with _without_main():
        process.start()
    return process


def stop(processes: Sequence[ForkServerProcess]) -> None:
    """Stops processes with their children: first politely, then for certain."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            signal_group(process, kind)
        end = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))


def signal_group(process: ForkServerProcess, kind: signal.Signals) -> None:
    """Sends a signal to a process and its children. They are a group of their own: `work` sees to it."""
    if process.pid is None:
        return
    try:
        os.killpg(process.pid, kind)
    except (ProcessLookupError, PermissionError):
        if process.is_alive():
            process.kill()  # it has no group of its own yet


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables while a program is started: libraries read some of them when they are loaded."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hides the calling script while a process is started.

    `multiprocessing` has a child import the script that started it. A stage needs nothing of it, the `pear` command
    would load its whole command line, and a user's script without `if __name__ == "__main__":` would start again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
