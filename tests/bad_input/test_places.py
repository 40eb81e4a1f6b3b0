"""Places that cannot be written, two processes in one place, and Ctrl-C."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import pear.study.run
from pear.runs import Run, is_finished, locked
from tests.bad_input.commands import COMMANDS, N2, Cli, collect, command_for, the_last, the_sentence
from tests.killing import contents, run_stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written(cli: Cli, folder: Path, tmp_path: Path, command: str) -> None:
    """Even root cannot write below a file; for others a read-only directory is the same."""
    (tmp_path / "file").write_text("mine")
    for output_dir, reason in ((tmp_path / "file" / "out", "Not a directory"), (tmp_path / "file", "")):
        code, text = cli(*COMMANDS[command](folder, folder / "model"), "--output-dir", output_dir)
        assert code == 2, text
        assert reason in the_sentence(text)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@contextmanager
def files_up_to(kilobytes: int) -> Iterator[None]:
    """No larger file can be written: the system then fails as on a full disk, with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("stage", "kilobytes"),
    [
        ("collect", 2),
        ("sft", 200),  # the optimizer, by torch
        pytest.param("sft", 64, marks=pytest.mark.slow),  # the model, by safetensors
        pytest.param("score", 2, marks=pytest.mark.slow),
        pytest.param("evaluate", 2, marks=pytest.mark.slow),
        pytest.param("grpo", 64, marks=pytest.mark.slow),
        pytest.param("pretrain", 8, marks=pytest.mark.slow),
    ],
)
def test_a_file_that_cannot_grow_is_a_sentence_and_the_next_start_goes_on(
    cli: Cli, folder: Path, tmp_path: Path, stage: str, kilobytes: int
) -> None:
    words = command_for(stage, folder, tmp_path / "out")
    with files_up_to(kilobytes):
        code, text = cli(*words)
    assert code == 2, text
    sentence = the_last(text)
    assert "out.partial: " in sentence
    assert "Make room and run the same command again: it goes on where it was." in sentence
    assert not is_finished(tmp_path / "out")
    assert cli(*words)[0] == 0
    run_stage(stage, folder, tmp_path / "whole")
    assert contents(tmp_path / "out", folder) == contents(tmp_path / "whole", folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("stage", ["collect", pytest.param("sft", marks=pytest.mark.slow)])
def test_a_full_disk_is_a_sentence_and_the_next_start_goes_on(
    cli: Cli, folder: Path, tmp_path: Path, small_disk: Path, stage: str
) -> None:
    words = command_for(stage, folder, small_disk / "out")
    (small_disk / "other").write_bytes(bytes(28 << 10))
    code, text = cli(*words)
    assert code == 2, text
    assert "out.partial: No space left on device. Make room and run the same command again: it" in the_last(text)
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert cli(*words)[0] == 0
    run_stage(stage, folder, tmp_path / "whole")
    assert contents(small_disk / "out", folder) == contents(tmp_path / "whole", folder)


def test_a_read_only_disk_is_a_sentence(cli: Cli, folder: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    code, text = cli(*collect(folder / "model"), "--output-dir", small_disk / "out")
    assert code == 2
    assert "out.partial: cannot be written (Read-only file system)." in the_sentence(text)


def test_two_studies_on_one_directory(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pear.study.run, "check_trainers", lambda *_: None)
    recipe, study_dir = tmp_path / "study.yaml", tmp_path / "study"
    tasks = {"eval": [{**N2, "split": "eval", "size": 2}]}
    recipe.write_text(yaml.safe_dump({"name": "one", "base": "pear:affine_chain/base_1", "tasks": tasks}))
    study_dir.mkdir()
    with locked(study_dir):
        code, text = cli("study", recipe, "--output-dir", study_dir)
    assert code == 2
    assert the_sentence(text) == f"pear: {study_dir}: another process is working here. Wait for it, or stop it."
    assert [path.name for path in study_dir.iterdir()] == [".lock"]


@pytest.mark.parametrize("left", ["study.yaml.tmp", "plan.json.tmp"])
def test_a_study_that_was_stopped_as_it_began_is_not_somebody_elses(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pear.study.run, "check_trainers", stopped)
    recipe, study_dir = tmp_path / "study.yaml", tmp_path / "study"
    tasks = {"eval": [{**N2, "split": "eval", "size": 2}]}
    recipe.write_text(yaml.safe_dump({"name": "one", "base": "pear:affine_chain/base_1", "tasks": tasks}))
    study_dir.mkdir()
    (study_dir / left).write_text("half")
    assert cli("study", recipe, "--output-dir", study_dir)[0] == 130, "it is let in"
    (study_dir / "notes.txt").write_text("mine")
    assert cli("study", recipe, "--output-dir", study_dir)[0] == 2


def test_two_runs_of_a_stage_on_one_directory(cli: Cli, folder: Path, tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    with locked(partial):
        code, text = cli(*collect(folder / "model"), "--output-dir", tmp_path / "out")
    assert code == 2
    assert "another process is working here. Wait for it, or stop it." in the_sentence(text)
    assert [path.name for path in partial.iterdir()] == [".lock"]


@pytest.mark.parametrize("stage", ["collect", pytest.param("sft", marks=pytest.mark.slow)])
def test_ctrl_c_is_one_line_and_the_next_start_goes_on(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    words = command_for(stage, folder, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "progress", lambda *_: signal.raise_signal(signal.SIGINT))
        code, text = cli(*words)
    assert code == 130
    assert the_last(text) == "pear: interrupted. The same command goes on from here."
    assert cli(*words)[0] == 0


class InterruptedAsItGoes:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_a_destructor_where_python_drops_it(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def progress(*_: object) -> None:
        InterruptedAsItGoes()
        time.sleep(10)  # ended by the signal that comes again

    monkeypatch.setattr(Run, "progress", progress)
    code, text = cli(*command_for("collect", folder, tmp_path / "out"))
    assert code == 130
    assert the_last(text) == "pear: interrupted. The same command goes on from here."


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["collect", "grpo"])
def test_ctrl_c_in_a_terminal_is_one_line(folder: Path, tmp_path: Path, stage: str) -> None:
    command = [sys.executable, "-m", "pear", *command_for(stage, folder, tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    while process.poll() is None and not (tmp_path / "out.partial" / "started.json").is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert the_last(text) == "pear: interrupted. The same command goes on from here."
