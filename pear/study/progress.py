"""What a running study shows: a live table on a terminal, a line per event elsewhere. Everything goes to stderr."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from pear.runs import note
from pear.study.graph import Node

if TYPE_CHECKING:
    from rich.console import Group

_NOTE_EVERY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class RunningNode:
    """A node at work: for how long, and its own progress.json (`done`, `total`, `unit`), None while it starts."""

    label: str
    seconds: float
    progress: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a study stands.

    Args:
        running: the nodes at work.
        stages: stage to (done, planned).
        failed: nodes that failed; `blocked` those that wait for one of them in vain.
        elapsed: seconds since the start.
        remaining: estimated seconds to the end, None while a stage's duration is unknown.
        then_analyses: whether that is the end of all but the analyses, whose duration is unknown.
    """

    running: tuple[RunningNode, ...]
    stages: Mapping[str, tuple[int, int]]
    failed: int
    blocked: int
    elapsed: float
    remaining: float | None
    then_analyses: bool = False

    @property
    def done(self) -> int:
        """How many nodes are finished."""
        return sum(done for done, _ in self.stages.values())

    @property
    def total(self) -> int:
        """How many nodes are planned."""
        return sum(total for _, total in self.stages.values())


class Display(Protocol):
    """What the executor tells. A context manager around the whole run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def started(self, node: Node) -> None:
        """A node's process was started."""

    def finished(self, node: Node, seconds: float, done: int, total: int) -> None:
        """A node is complete; with it `done` of `total`."""

    def failed(self, node: Node, error: str, log: str) -> None:
        """A node failed; `error` is one line, `log` its file in the study."""

    def update(self, snapshot: Snapshot) -> None:
        """Called once a second."""


def make_display() -> Display:
    """The live table on a terminal, lines elsewhere."""
    return TerminalDisplay() if sys.stderr.isatty() else LineDisplay()


class LineDisplay:
    """A line when a node starts, ends or fails, and one a minute in between."""

    def __init__(self) -> None:
        self._noted = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def started(self, node: Node) -> None:
        """Notes the start."""
        self._note(f"start  {node.label}")

    def finished(self, node: Node, seconds: float, done: int, total: int) -> None:
        """Notes the end and the time it took."""
        self._note(f"done   {node.label} ({duration(seconds)}; {done} of {total})")

    def failed(self, node: Node, error: str, log: str) -> None:
        """Notes the error."""
        self._note(f"FAILED {node.label}: {error} (see {log})")

    def update(self, snapshot: Snapshot) -> None:
        """Notes where the study stands, once a minute."""
        if snapshot.running and time.monotonic() - self._noted >= _NOTE_EVERY_SECONDS:
            running = "; ".join(
                item.label + (f" {amount(item.progress)}" if item.progress else "") for item in snapshot.running
            )
            self._note(f"{summary(snapshot)}. Running: {running}")

    def _note(self, message: str) -> None:
        self._noted = time.monotonic()
        note(f"{time.strftime('%H:%M:%S')} {message}")


class TerminalDisplay:
    """A table that is redrawn in place; failures stay above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=2, transient=False)

    def __enter__(self) -> Self:
        from rich.text import Text

        self._live.update(Text("Starting ..."))
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def started(self, node: Node) -> None:
        """Nothing: the table shows it."""

    def finished(self, node: Node, seconds: float, done: int, total: int) -> None:
        """Nothing: the table shows it."""

    def failed(self, node: Node, error: str, log: str) -> None:
        """Prints the error above the table."""
        from rich.text import Text

        self._console.print(Text(f"FAILED {node.label}: {error} (see {log})", style="red"))

    def update(self, snapshot: Snapshot) -> None:
        """Redraws the table."""
        self._live.update(render(snapshot))


def render(snapshot: Snapshot) -> "Group":
    """The live table: stages with what is done and left, then what runs, then the times."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    counts = Table.grid(padding=(0, 3))
    counts.add_row(*(Text(f"{stage} {done}/{total}") for stage, (done, total) in snapshot.stages.items()))
    running = Table.grid(padding=(0, 2))
    for item in snapshot.running:
        progress = item.progress or {"done": 0, "total": 1, "unit": ""}
        running.add_row(
            Text(item.label),
            ProgressBar(total=progress["total"], completed=progress["done"], width=24),
            Text(amount(item.progress) if item.progress else "starting"),
            Text(duration(item.seconds), style="dim"),
        )
    return Group(counts, running, Text(summary(snapshot), style="bold"))


def summary(snapshot: Snapshot) -> str:
    """Done and left, elapsed and estimated time, in a line."""
    parts = [f"{snapshot.done} of {snapshot.total} done"]
    if snapshot.failed:
        parts.append(f"{snapshot.failed} failed")
    if snapshot.blocked:
        parts.append(f"{snapshot.blocked} cannot run for that")
    parts.append(f"{duration(snapshot.elapsed)} elapsed")
    if snapshot.running:
        parts.append("time left: not known yet" if snapshot.remaining is None else f"{_about(snapshot.remaining)} left")
        if snapshot.then_analyses:
            parts.append("then analyses")
    return ", ".join(parts)


def amount(progress: Mapping[str, Any]) -> str:
    """`done/total unit` of a progress.json."""
    return f"{progress['done']:g}/{progress['total']:g} {progress['unit']}"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(8.4), duration(75), duration(7260)
    ('8 s', '1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _about(seconds: float) -> str:
    """An estimate, without the digits that it does not have."""
    rounded = seconds if seconds < 60 else 60 * round(seconds / 60)
    return "about " + duration(rounded).removesuffix(" 0 s")
