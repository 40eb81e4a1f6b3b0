"""Shape checks on, and no skip without a listed reason."""

import os
import signal
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Functions of these packages check the shapes in their annotations while tests run.
install_import_hook(["pear.ops", "pear.objectives"], "beartype.beartype")

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

_ALLOWED = Path(__file__).with_name("allowed_skips.txt")
_unlisted: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _note_skip(report.nodeid, report.longrepr[2])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _note_skip(report.nodeid, report.longrepr[2])


def _note_skip(where: str, message: str) -> None:
    reason = message.removeprefix("Skipped: ")
    allowed = [line for line in _ALLOWED.read_text().splitlines() if line and not line.startswith("#")]
    if reason not in allowed:
        _unlisted.append(f"{where}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("PEAR_CHECK_SKIPS") and _unlisted and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _unlisted:
        terminalreporter.write_line(f"skipped for a reason not in tests/allowed_skips.txt: {line}", red=True)
