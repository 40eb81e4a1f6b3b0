"""Finished runs followed back along their inputs: the base, SFT and RL that a model comes from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pear.errors import UserError
from pear.runs import MANIFEST, read_json, read_manifest

_CHECKPOINT = "checkpoint-"
# The inputs that lead from a run to what it was made of. A base is where SFT starts, whatever made it.
_FOLLOWED = {
    "evaluate": ("model",),
    "grpo": ("model",),
    "sft": ("buffer",),
    "rescale": ("model", "norm_of"),
    "analyze": ("before", "after", "buffer"),
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished run. Runs of one fingerprint are one record, wherever they lie."""

    fingerprint: str
    directory: Path = field(compare=False)
    manifest: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def stage(self) -> str:
        """The stage that made it."""
        return str(self.manifest.get("stage"))

    @property
    def config(self) -> Mapping[str, Any]:
        """The stage's configuration."""
        config: Mapping[str, Any] = self.manifest.get("config") or {}
        return config

    @property
    def seed(self) -> int:
        """The seed of its configuration."""
        return int(self.config.get("seed") or 0)

    @property
    def id(self) -> str:
        """A short name, as a study gives its nodes."""
        return f"{self.stage}-{self.fingerprint[:10]}"

    def source(self, name: str) -> Mapping[str, str] | None:
        """An input's path and fingerprint."""
        found: Mapping[str, str] | None = (self.manifest.get("inputs") or {}).get(name)
        return found


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model comes from. `rl_step` is None for a base, 0 after SFT (or for a base that RL starts from), N in RL.

    `base` is the fingerprint of the model before SFT, `base_path` its path or name. `rescaled` is the run that scaled
    what SFT ended in, where one did.
    """

    base: str
    base_path: str = field(compare=False)
    sft: Record | None
    rescaled: Record | None = None
    grpo: Record | None
    rl_step: int | None

    @property
    def start(self) -> tuple[Record | None, Record | None]:
        """What RL starts from, or where this model itself lies before RL: SFT, and what scaled its update."""
        return self.sft, self.rescaled


class Library:
    """The runs that were given, and those that their inputs lead to."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._records: dict[str, Record] = {}
        self._listed: dict[Path, dict[str, Path]] = {}
        waiting = [self._add(directory) for directory in directories]
        while waiting:
            record = waiting.pop(0)
            for name in _FOLLOWED.get(record.stage, ()):
                source = record.source(name)
                known = len(self._records)
                found = None if source is None else self.maker(source, record)
                if found is not None and len(self._records) > known:
                    waiting.append(found)

    @property
    def records(self) -> list[Record]:
        """Every run, those that were given first."""
        return list(self._records.values())

    def of_stage(self, stage: str) -> list[Record]:
        """Every run of a stage."""
        return [record for record in self.records if record.stage == stage]

    def _add(self, directory: Path) -> Record:
        manifest = read_manifest(directory)
        fingerprint = str(manifest.get("fingerprint") or "")
        if not fingerprint:
            raise UserError(f"{directory / MANIFEST}: not a run's manifest (no fingerprint in it).")
        record = Record(fingerprint=fingerprint, directory=directory.absolute(), manifest=manifest)
        return self._records.setdefault(fingerprint, record)

    def maker(self, source: Mapping[str, str], reader: Record) -> Record | None:
        """The run that made an input of `reader`; None where no run did, or where it is no longer there.

        It is looked for among the runs that are known, where the input was read, and beside the run that read it.
        """
        wanted = _made_by(source)
        if wanted is None:
            return None
        if wanted not in self._records:
            path = Path(source["path"])
            places = [path, *path.parents[:2]]
            found = next((place for place in places if _fingerprint(place) == wanted), None)
            found = found or self._siblings(reader.directory).get(wanted)
            if found is not None:
                self._add(found)
        return self._records.get(wanted)

    def _siblings(self, directory: Path) -> dict[str, Path]:
        """Fingerprint to directory of the runs that lie beside a run."""
        parent = directory.parent
        if parent not in self._listed:
            places = sorted(path for path in parent.iterdir() if (path / MANIFEST).is_file())
            self._listed[parent] = {str(_fingerprint(path)): path for path in reversed(places)}
        return self._listed[parent]

    def origin(self, name: str, reader: Record) -> Origin:
        """Where the model comes from that `reader` was given as the input `name`.

        Raises:
            UserError: the run that made it is not there, or it is no model that SFT or RL ended in or kept.
        """
        source = reader.source(name)
        if source is None:
            raise UserError(f"{reader.directory / MANIFEST}: names no input '{name}'.")
        record = self.maker(source, reader)
        inside = source["fingerprint"].partition("/")[2]
        if record is not None and record.stage == "sft":
            if inside not in ("", "."):
                raise UserError(f"{reader.directory}: reads {source['path']}, which is not what that SFT ended in.")
            base = record.source("model") or {}
            return Origin(
                base=base.get("fingerprint", ""), base_path=base.get("path", ""), sft=record, grpo=None, rl_step=0
            )
        if record is not None and record.stage == "rescale":
            return replace(self.origin("model", record), rescaled=record)
        if record is not None and record.stage == "grpo":
            start = self.origin("model", record)
            steps = int(record.config.get("steps") or 0)
            step = int(inside.removeprefix(_CHECKPOINT)) if inside.startswith(_CHECKPOINT) else steps
            return replace(start, grpo=record, rl_step=step)
        if record is None and _made_by(source) is not None and not self._is_base(source["fingerprint"]):
            raise UserError(
                f"{reader.directory}: the run that made its model {source['path']} is not there (fingerprint "
                f"{str(_made_by(source))[:12]}). Give that run's directory too."
            )
        return Origin(base=source["fingerprint"], base_path=source["path"], sft=None, grpo=None, rl_step=None)

    def _is_base(self, fingerprint: str) -> bool:
        """Whether an SFT run started from it."""
        return any((record.source("model") or {}).get("fingerprint") == fingerprint for record in self.of_stage("sft"))


def _made_by(source: Mapping[str, str]) -> str | None:
    """The fingerprint of the run that made an input."""
    kind, _, rest = source["fingerprint"].partition(":")
    return rest.partition("/")[0] if kind == "run" else None


def _fingerprint(directory: Path) -> str | None:
    path = directory / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    found = manifest.get("fingerprint") if isinstance(manifest, Mapping) else None
    return None if found is None else str(found)
