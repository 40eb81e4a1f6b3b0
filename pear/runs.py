"""Run directories: one stage, one directory, complete or absent.

A stage works in `DIR.partial` and renames it to `DIR` when everything in it is complete. `manifest.json` names the
configuration, the inputs and their fingerprints; equal fingerprints mean equal results. A killed stage finds its own
`DIR.partial` again and goes on there.
"""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pear
from pear.configuration import StrictModel
from pear.errors import UserError

MANIFEST = "manifest.json"
STARTED = "started.json"
PROGRESS = "progress.json"
_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "numpy")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(text: str) -> str:
    """The hex digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON under a temporary name, flushes it to disk and renames it."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises `UserError` where it is missing or cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}).") from None


def directory_digest(path: Path) -> str:
    """A sha256 over the names and bytes of a directory's files (manifests, logs and hidden files aside)."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path).as_posix()
        if file.is_dir() or file.name == MANIFEST or any(part.startswith(".") for part in relative.split("/")):
            continue
        digest.update(f"{relative}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def input_fingerprint(source: str | Path) -> str:
    """What identifies a stage's input.

    A path inside a finished run is that run's fingerprint and the path within it; any other path is the digest of its
    bytes; a name that is no path is taken as a hub id.
    """
    path = Path(source)
    if not path.exists():
        return f"hub:{source}"
    resolved = path.resolve()
    for parent in (resolved, *resolved.parents[:2]):
        manifest = parent / MANIFEST
        if manifest.is_file():
            stored = json.loads(manifest.read_text(encoding="utf-8"))
            if "fingerprint" in stored:
                return f"run:{stored['fingerprint']}/{resolved.relative_to(parent).as_posix()}"
    if resolved.is_dir():
        return f"sha256:{directory_digest(resolved)}"
    return f"sha256:{hashlib.sha256(resolved.read_bytes()).hexdigest()}"


def fingerprint(
    stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str], parts: Mapping[str, int]
) -> str:
    """The sha256 that names a stage's result.

    Args:
        stage: the stage's name, and `version`, raised whenever its numbers change.
        config: the hashed configuration (`StrictModel.hashed()`).
        inputs: name to `input_fingerprint`.
        parts: versions of the tasks and objectives that the configuration names.
    """
    return sha256(
        canonical_json(
            {"stage": stage, "version": version, "config": config, "inputs": dict(inputs), "parts": dict(parts)}
        )
    )


def environment() -> dict[str, Any]:
    """Versions and machine, recorded in a manifest and not hashed."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "pear": pear.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "libraries": versions,
        "git": _git_revision(),
    }


def _git_revision() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None


class Run:
    """A stage's directory while it works. Made by `open_run`."""

    def __init__(self, output_dir: Path, record: dict[str, Any]) -> None:
        self.output_dir = output_dir
        self.record = record
        self.complete = (output_dir / MANIFEST).is_file()
        self._started = time.monotonic()

    @property
    def work(self) -> Path:
        """Where files are written: `DIR.partial` until `finish`, `DIR` afterwards."""
        return self.output_dir if self.complete else partial_path(self.output_dir)

    def progress(self, done: float, total: float, unit: str) -> None:
        """Says how far the stage is, for whoever watches (`pear study` does)."""
        value = {"done": done, "total": total, "unit": unit, "seconds": round(time.monotonic() - self._started, 1)}
        path = self.work / PROGRESS
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(value))
        temporary.rename(path)

    def finish(self, results: Mapping[str, Any] | None = None) -> Path:
        """Writes the manifest with `results` (small, JSON-ready) and renames the directory: the stage is complete."""
        (self.work / PROGRESS).unlink(missing_ok=True)
        (self.work / STARTED).unlink(missing_ok=True)
        seconds = round(time.monotonic() - self._started, 3)
        write_json(
            self.work / MANIFEST,
            {**self.record, "results": dict(results or {}), "seconds": seconds, "environment": environment()},
        )
        partial_path(self.output_dir).rename(self.output_dir)
        self.complete = True
        return self.output_dir


def partial_path(output_dir: Path) -> Path:
    """Where a stage works until it is complete."""
    return output_dir.with_name(output_dir.name + ".partial")


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """The manifest of a finished run. Raises `UserError` where there is none."""
    if not (run_dir / MANIFEST).is_file():
        raise UserError(f"{run_dir}: not a finished run (no {MANIFEST} in it).")
    manifest: dict[str, Any] = read_json(run_dir / MANIFEST)
    return manifest


@contextmanager
def open_run(
    stage: str,
    version: int,
    config: StrictModel,
    output_dir: Path,
    *,
    inputs: Mapping[str, str | Path] | None = None,
    parts: Mapping[str, int] | None = None,
) -> Iterator[Run]:
    """Opens a stage's run directory for writing, or finds it complete.

    Check everything that the user gave before this: nothing is written by a stage that refuses its input. The body
    looks at `run.complete` first, writes under `run.work` and ends with `run.finish(...)`. An exception leaves
    `DIR.partial`, and the same call goes on there.

    Raises:
        UserError: the directory holds something else, or another process is working in it.
    """
    identified = {name: input_fingerprint(source) for name, source in (inputs or {}).items()}
    identity = fingerprint(stage, version, config.hashed(), identified, parts or {})
    record = {
        "stage": stage,
        "version": version,
        "fingerprint": identity,
        "config": config.model_dump(mode="json"),
        "inputs": {
            name: {"path": str(source), "fingerprint": identified[name]} for name, source in (inputs or {}).items()
        },
        "parts": dict(parts or {}),
    }
    output_dir = output_dir.absolute()
    run = Run(output_dir, record)
    if run.complete:
        _check_same(output_dir, read_manifest(output_dir)["fingerprint"], identity)
        yield run
        return
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(f"{output_dir}: exists and is not the output of this stage. Choose another output directory.")
    partial = partial_path(output_dir)
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{partial}: cannot be written ({error.strerror}).") from None
    with locked(partial):
        if (partial / STARTED).is_file():
            _check_same(partial, read_json(partial / STARTED)["fingerprint"], identity)
        elif [entry for entry in partial.iterdir() if entry.name != ".lock"]:
            raise UserError(f"{partial}: exists and was not begun by this stage. Remove it, or choose another output.")
        else:
            write_json(partial / STARTED, record)
        if output_dir.is_dir():
            output_dir.rmdir()
        yield run


def _check_same(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise UserError(
            f"{path}: holds the output of another run (fingerprint {found[:12]}, this one is {wanted[:12]}). "
            "Choose another output directory, or remove it."
        )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds a directory for this process alone. Raises `UserError` where another process holds it."""
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{directory}: another process is working here. Wait for it, or stop it.") from None
        yield


def is_main_process() -> bool:
    """Whether this process writes files: rank 0 of a distributed launch, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def note(message: str) -> None:
    """A line to the user, on standard error."""
    print(message, file=sys.stderr, flush=True)
