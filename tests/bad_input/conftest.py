"""The command line in this process, and what commands read."""

import sys
from pathlib import Path

import pytest

import pear.study.run
from pear.cli import main
from tests.bad_input.commands import Cli
from tests.killing import prepare


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `pear WORDS` in this process; the exit code and standard error. A study that would run is an error."""

    def accepted(*arguments: object) -> None:
        raise AssertionError("nothing was wrong with this study")

    monkeypatch.setattr(pear.study.run, "check_trainers", accepted)

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pear", *map(str, words)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, capsys.readouterr().err

    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a buffer, and an evaluation."""
    found = tmp_path_factory.mktemp("bad-input")
    prepare(found)
    return found
