"""Run directories: one stage, one directory, complete or absent.

A stage works in `DIR.partial` and renames it to `DIR` when everything in it is complete. `manifest.json` names the
configuration, the inputs and their fingerprints; equal fingerprints mean equal results. A killed stage finds its own
`DIR.partial` again and goes on there.

Whatever a later start relies on is flushed to the disk before it gets the name by which it counts, so that a power cut
leaves the old or the new. The manifest is written last: with it the stage is done, and what it needed only on its way
(`DIR.partial/scratch`) goes after that.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
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
from pear.errors import UserError, writing_to

MANIFEST = "manifest.json"
STARTED = "started.json"
PROGRESS = "progress.json"
SCRATCH = "scratch"
_TEMPORARY = ".tmp"
_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "numpy")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(text: str) -> str:
    """The hex digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Waits until a file, or the names in a directory, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(directory: Path) -> None:
    """`flush` for a directory and all that is in it."""
    for path in (*directory.rglob("*"), directory):
        flush(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to. At the end of the block the file is flushed and renamed to `path`."""
    temporary = path.with_name(path.name + _TEMPORARY)
    yield temporary
    flush(temporary)
    temporary.rename(path)
    flush(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON under a temporary name, flushes it to disk and renames it."""
    with replacing(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


class Files:
    """Files that a stage writes one after another, and a journal of their digests: a later start knows the whole ones.

    Args:
        directory: where they are.
        journal: the JSON file with the sha256 of each; without one, no later start finds them again.
    """

    def __init__(self, directory: Path, journal: Path | None) -> None:
        self._directory = directory
        self._journal = journal
        self.digests = {} if journal is None else _read_digests(journal)

    def has(self, name: str) -> bool:
        """Whether a file is there as it was written. One that is cut short, changed or foreign is not, with a note."""
        path = self._directory / name
        if not path.is_file():
            return False
        if name in self.digests and self.digests[name] == file_digest(path):
            return True
        note(f"{path}: not what was written here, or not all of it. It is made again.")
        return False

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A temporary name to write a file to; at the end of the block the file counts."""
        with replacing(self._directory / name) as temporary:
            yield temporary
            self.digests[name] = file_digest(temporary)
            if self._journal is not None:
                write_json(self._journal, self.digests)


def _read_digests(journal: Path) -> dict[str, str]:
    """The digests of a journal; none where it cannot be read, since then nothing is known of the files."""
    try:
        stored = read_json(journal)
    except UserError:
        return {}
    return {str(name): str(digest) for name, digest in stored.items()} if isinstance(stored, dict) else {}


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises `UserError` where it is missing or cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
        stored = _fingerprint_in(manifest) if manifest.is_file() else None
        if stored is not None:
            return f"run:{stored}/{resolved.relative_to(parent).as_posix()}"
    if resolved.is_dir():
        return f"sha256:{directory_digest(resolved)}"
    return f"sha256:{hashlib.sha256(resolved.read_bytes()).hexdigest()}"


def _fingerprint_in(record: Path) -> str | None:
    """The fingerprint that a manifest or the record of a start names; None where it is cut short or something else."""
    try:
        stored = read_json(record)
    except UserError:
        return None
    found = stored.get("fingerprint") if isinstance(stored, dict) else None
    return found if isinstance(found, str) else None


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

    @property
    def scratch(self) -> Path:
        """Where files are that a stage needs on its way and nobody afterwards, such as checkpoints to resume from."""
        return self.work / SCRATCH

    def progress(self, done: float, total: float, unit: str) -> None:
        """Says how far the stage is, for whoever watches (`pear study` does)."""
        value = {"done": done, "total": total, "unit": unit, "seconds": round(time.monotonic() - self._started, 1)}
        path = self.work / PROGRESS
        temporary = path.with_name(path.name + _TEMPORARY)
        temporary.write_text(json.dumps(value))
        temporary.rename(path)

    def finish(self, results: Mapping[str, Any] | None = None) -> Path:
        """Writes the manifest with `results` (small, JSON-ready) and renames the directory: the stage is complete."""
        for leftover in self.work.rglob(f"*{_TEMPORARY}"):
            leftover.unlink()
        flush_tree(self.work)
        seconds = round(time.monotonic() - self._started, 3)
        write_json(
            self.work / MANIFEST,
            {**self.record, "results": dict(results or {}), "seconds": seconds, "environment": environment()},
        )
        return self.conclude()

    def conclude(self) -> Path:
        """Gives a directory that has its manifest its name. A kill may have come before that."""
        if self.scratch.is_dir():
            shutil.rmtree(self.scratch)
        for name in (STARTED, PROGRESS):
            (self.work / name).unlink(missing_ok=True)
        partial_path(self.output_dir).rename(self.output_dir)
        flush(self.output_dir.parent)
        self.complete = True
        return self.output_dir


def partial_path(output_dir: Path) -> Path:
    """Where a stage works until it is complete."""
    return output_dir.with_name(output_dir.name + ".partial")


def is_finished(output_dir: Path) -> bool:
    """Whether a stage has done all its work there: only the last rename may be missing, which `open_run` makes up."""
    # In this order, because the one may become the other between the two looks.
    return any((path / MANIFEST).is_file() for path in (partial_path(output_dir.absolute()), output_dir))


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
        _check_same(output_dir / MANIFEST, identity)
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
        # A kill may come while the record is written, or after it made way for the manifest.
        records = [partial / name for name in (STARTED, MANIFEST) if (partial / name).is_file()]
        for found in records:
            _check_same(found, identity)
        if not records:
            if [entry for entry in partial.iterdir() if entry.name not in (".lock", f"{STARTED}{_TEMPORARY}")]:
                raise UserError(
                    f"{partial}: exists and was not begun by this stage. Remove it, or choose another output."
                )
            write_json(partial / STARTED, record)
        if output_dir.is_dir():
            output_dir.rmdir()
        if (partial / MANIFEST).is_file():
            run.conclude()
        else:
            run.scratch.mkdir(exist_ok=True)
        yield run


def _check_same(record: Path, wanted: str) -> None:
    """Raises `UserError` unless the record in a directory names the wanted fingerprint."""
    directory, found = record.parent, _fingerprint_in(record)
    if found is None:
        raise UserError(
            f"{record}: cannot be read, so it is not known whose files {directory.name} holds. "
            "Remove that directory and run the same command again."
        )
    if found != wanted:
        raise UserError(
            f"{directory}: holds the output of another run (fingerprint {found[:12]}, this one is {wanted[:12]}). "
            "Choose another output directory, or remove it."
        )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds a directory for this process alone, to write there.

    Raises:
        UserError: another process holds it; or, at any time until the end of the block, it cannot be written.
    """
    with writing_to(directory), (directory / ".lock").open("w") as file:
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
