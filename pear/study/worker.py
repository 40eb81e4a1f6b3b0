"""What runs inside a node's own process. Imports nothing heavy: the forkserver has done that."""

import faulthandler
import fcntl
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from pear.configuration import StrictModel
from pear.errors import UserError
from pear.runs import partial_path

_ERROR_LENGTH = 600
_LOCK_PATIENCE = 30.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of a stage.

    Args:
        module: the stage's module; its `run(config)` is called.
        config: the stage's configuration.
        directory: the output directory.
        log: the file that takes standard output and standard error.
        threads: torch's threads.
    """

    module: str
    config: StrictModel
    directory: Path
    log: Path
    threads: int


def work(job: Job, environment: Mapping[str, str], outcome: Connection) -> None:
    """Runs a stage in this process, with that environment and no other; what went wrong goes to `outcome` as one line,
    and the exit status is 1."""
    # A session of its own: Ctrl-C in the terminal reaches the study alone, which then stops this whole group.
    os.setsid()
    _die_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    _redirect(job.log)
    try:
        _run(job)
    except BaseException as error:
        traceback.print_exc()
        outcome.send(one_line(error))
        sys.stderr.flush()
        sys.exit(1)


def work_in_ray(job: Job, settings: Mapping[str, str], folder: Path) -> str | None:
    """Runs a stage in this process of Ray's, which has the environment that Ray gave it, and `settings`.

    `folder` is where the study was started: paths in its file may be relative to it.

    Returns:
        What went wrong, as one line; None where nothing did.
    """
    os.environ.update(settings)
    if folder.is_dir():  # not on every machine of a cluster, where paths are better absolute
        os.chdir(folder)
    _redirect(job.log)
    try:
        _run(job)
    except BaseException as error:
        traceback.print_exc()
        return one_line(error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return None


def _run(job: Job) -> None:
    if "torch" in sys.modules:  # preloaded; otherwise OMP_NUM_THREADS is read when a stage imports it
        import torch

        torch.set_num_threads(job.threads)
    wait_until_free(partial_path(job.directory))
    importlib.import_module(job.module).run(job.config)


def one_line(error: BaseException) -> str:
    """A `UserError`'s sentence, or the last line of the traceback."""
    text = str(error) if isinstance(error, UserError) else "".join(traceback.format_exception_only(error))
    line = " ".join(text.split())
    return line if len(line) <= _ERROR_LENGTH else line[: _ERROR_LENGTH - 3] + "..."


def _redirect(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    # By line, so that both streams keep their order and a killed process loses nothing.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable(sys.stderr)
    print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}", file=sys.stderr)


def _die_with_parent() -> None:
    """Kills this process and its children as soon as the study's process is gone, however it went."""
    study = multiprocessing.parent_process()
    assert study is not None

    def watch() -> None:
        study.join()
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch the study", daemon=True).start()


def wait_until_free(partial: Path, patience: float = _LOCK_PATIENCE) -> None:
    """Waits while a process of a study that was killed a moment ago still holds the directory it worked in."""
    lock = partial / ".lock"
    end = time.monotonic() + patience
    while lock.is_file() and time.monotonic() < end:
        with lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)
                continue
        return
