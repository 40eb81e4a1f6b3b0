import json
import multiprocessing
from pathlib import Path
from typing import Annotated

import pytest

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.runs import (
    SCRATCH,
    STARTED,
    canonical_json,
    directory_digest,
    input_fingerprint,
    open_run,
    partial_path,
    read_manifest,
    write_json,
)


class Config(StrictModel):
    value: int = 0
    output_dir: Annotated[Path, NotHashed()]


def finish(output_dir: Path, value: int = 0, **inputs: Path) -> Path:
    config = Config(value=value, output_dir=output_dir)
    with open_run("stage", 1, config, output_dir, inputs=inputs) as run:
        if run.complete:
            return run.output_dir
        (run.work / "result.txt").write_text(str(value))
        return run.finish({"value": value})


def stop_halfway(output_dir: Path) -> None:
    with open_run("stage", 1, Config(output_dir=output_dir), output_dir) as run:
        (run.work / "half.txt").write_text("half")
        raise RuntimeError


def test_a_run_is_complete_or_absent(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        stop_halfway(out)
    assert not out.exists()
    assert (partial_path(out) / "half.txt").is_file()

    with open_run("stage", 1, Config(output_dir=out), out) as run:
        assert not run.complete
        assert (run.work / "half.txt").is_file()
        run.finish()
    assert not partial_path(out).exists()
    assert not (out / STARTED).exists()
    assert read_manifest(out)["stage"] == "stage"


@pytest.mark.parametrize("left", [f"{STARTED}.tmp", "manifest.json"])
def test_a_run_that_was_killed_as_it_began_or_ended_goes_on(tmp_path: Path, left: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        stop_halfway(out)
    partial = partial_path(out)
    (partial / STARTED).rename(partial / left)
    if left != "manifest.json":
        (partial / "half.txt").unlink()
        (partial / SCRATCH).rmdir()
    finish(out)
    assert not (out / STARTED).exists()


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    first = finish(tmp_path / "out")
    before = (first / "manifest.json").read_bytes()
    finish(tmp_path / "out")
    assert (first / "manifest.json").read_bytes() == before


def test_the_output_of_another_run_is_refused(tmp_path: Path) -> None:
    finish(tmp_path / "out", value=1)
    with pytest.raises(UserError, match="another run"):
        finish(tmp_path / "out", value=2)
    with pytest.raises(RuntimeError):
        stop_halfway(tmp_path / "b")
    with pytest.raises(UserError, match="another run"):
        finish(tmp_path / "b", value=2)


@pytest.mark.parametrize("name", ["out", "out.partial"])
def test_somebody_elses_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("mine")
    with pytest.raises(UserError):
        finish(tmp_path / "out")
    assert [path.name for path in (tmp_path / name).iterdir() if path.name != ".lock"] == ["thesis.tex"]


def hold(out: Path, ready: "multiprocessing.synchronize.Event", done: "multiprocessing.synchronize.Event") -> None:
    with open_run("stage", 1, Config(output_dir=out), out):
        ready.set()
        done.wait(30)


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "out", ready, done))
    process.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match="another process"):
        finish(tmp_path / "out")
    done.set()
    process.join()


def test_an_input_is_known_by_its_run(tmp_path: Path) -> None:
    first = finish(tmp_path / "first")
    identity = read_manifest(first)["fingerprint"]
    (first / "checkpoint-1").mkdir()
    assert input_fingerprint(first) == f"run:{identity}/."
    assert input_fingerprint(first / "checkpoint-1") == f"run:{identity}/checkpoint-1"
    assert input_fingerprint("Qwen/Qwen3-8B") == "hub:Qwen/Qwen3-8B"
    second = finish(tmp_path / "second", source=first)
    third = finish(tmp_path / "third", source=finish(tmp_path / "other", value=5))
    assert read_manifest(second)["fingerprint"] != read_manifest(third)["fingerprint"]
    assert read_manifest(second)["inputs"]["source"]["path"] == str(first)


def test_a_directory_is_known_by_its_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text("same")
    (tmp_path / "b" / ".hidden").write_text("not counted")
    assert directory_digest(tmp_path / "a") == directory_digest(tmp_path / "b")
    (tmp_path / "b" / "x.txt").write_text("other")
    assert directory_digest(tmp_path / "a") != directory_digest(tmp_path / "b")


def test_json_is_canonical_and_finite(tmp_path: Path) -> None:
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    write_json(tmp_path / "x.json", {"a": "é"})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": "é"}
