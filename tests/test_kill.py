"""Kill it anywhere: the next start goes on, and what comes of it is what an unbroken run gives, byte for byte."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

from pear import runs
from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.runs import MANIFEST, PROGRESS, SCRATCH, STARTED, Files, Run, file_digest, open_run, partial_path, write_json
from pear.training import checkpoints
from tests.killing import RUNS, STUDY, contents, count_file_events, forked, prepare, run_stage

ROOT = Path(__file__).resolve().parent.parent
SHARDS = 2


class Scripted(StrictModel):
    """A stage that writes shards, what it needs on its way, and a result."""

    output_dir: Annotated[Path, NotHashed()]


def scripted(output_dir: Path) -> Path:
    """Writes `made`, a line for each shard that was made, beside the run."""
    with open_run("scripted", 1, Scripted(output_dir=output_dir), output_dir) as run:
        if run.complete:
            return run.output_dir
        files = Files(run.scratch, run.scratch / "shards.json")
        for number in range(SHARDS):
            run.progress(number, SHARDS, "shards")
            name = f"{number}.txt"
            if not files.has(name):
                with (output_dir.parent / "made").open("a") as made:
                    made.write(f"{name}\n")
                with files.writing(name) as temporary:
                    temporary.write_text(f"shard {number}\n" * 100)
        write_json(run.work / "result.json", [(run.scratch / f"{number}.txt").read_text() for number in range(SHARDS)])
        return run.finish({"shards": SHARDS})


def made(folder: Path) -> Counter[str]:
    return Counter((folder / "made").read_text().splitlines() if (folder / "made").is_file() else [])


def in_a_process(output_dir: Path, stop_at: int | None) -> bool:
    """Runs the scripted stage in a process of its own; whether it was killed."""

    def work() -> None:
        count_file_events([output_dir], stop_at)
        scripted(output_dir)

    return os.WIFSIGNALED(os.waitpid(forked(work, output_dir.parent / "log"), 0)[1])


def test_a_kill_before_any_file_operation_costs_one_shard_at_most(tmp_path: Path) -> None:
    whole = scripted(tmp_path / "whole" / "run")
    moment = 0
    killed = True
    while killed:
        moment += 1
        folder = tmp_path / str(moment)
        folder.mkdir()
        killed = in_a_process(folder / "run", stop_at=moment)
        before = made(folder)
        assert scripted(folder / "run") == folder / "run", f"killed at file event {moment}"
        assert contents(folder / "run", folder) == contents(whole, tmp_path / "whole"), f"file event {moment}"
        assert not partial_path(folder / "run").exists()
        again = made(folder) - before
        assert sum(again.values()) <= SHARDS - sum(before.values()) + 1, f"file event {moment}: {before}, then {again}"
    assert moment > 30


def test_what_counts_has_reached_the_disk_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut keeps what was flushed: so a file is before its rename, and its directory after it."""
    events: list[tuple[str, Path]] = []
    flush, rename = runs.flush, Path.rename

    def logged_flush(path: Path) -> None:
        events.append(("flush", path))
        flush(path)

    def logged_rename(path: Path, target: Path) -> Path:
        events.append(("rename", path))
        events.append(("named", target))
        return rename(path, target)

    for module in (runs, checkpoints):
        monkeypatch.setattr(module, "flush", logged_flush)
    monkeypatch.setattr(Path, "rename", logged_rename)
    run = scripted(tmp_path / "run")
    partial = partial_path(run)
    checkpoint = tmp_path / "checkpoint-5"
    (checkpoint / "inside").mkdir(parents=True)
    for name in ("model", "inside/optimizer"):
        (checkpoint / name).write_text("weights")
    checkpoints.mark_complete(checkpoint)

    def at(event: str, path: Path) -> int:
        return max(place for place, found in enumerate(events) if found == (event, path))

    written = [
        partial / STARTED,
        *(partial / SCRATCH / name for name in ("0.txt", "1.txt", "shards.json")),
        partial / "result.json",
        partial / MANIFEST,
        checkpoint / "COMPLETE",
    ]
    for path in written:
        temporary = path.with_name(path.name + ".tmp")
        assert at("flush", temporary) < at("rename", temporary) < at("named", path) < at("flush", path.parent)
    manifest = at("rename", partial / f"{MANIFEST}.tmp")
    assert at("flush", partial / "result.json") < manifest < at("named", run) < at("flush", tmp_path)
    complete = at("rename", checkpoint / "COMPLETE.tmp")
    inside = [checkpoint / "model", checkpoint / "inside", checkpoint / "inside" / "optimizer"]
    assert max(at("flush", path) for path in inside) < complete


@pytest.mark.parametrize("name", [STARTED, MANIFEST])
@pytest.mark.parametrize("text", ["", '{"fingerprint": "0', "[]", "{}"])
def test_a_record_that_cannot_be_read_is_a_sentence(tmp_path: Path, name: str, text: str) -> None:
    partial = partial_path(tmp_path / "run")
    partial.mkdir()
    (partial / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name}: cannot be read, .*Remove that directory and run the same command"):
        scripted(tmp_path / "run")
    assert sorted(path.name for path in partial.iterdir()) == [".lock", name]


def test_a_manifest_of_something_else_is_no_fingerprint(tmp_path: Path) -> None:
    """A model from elsewhere may have a `manifest.json` beside it."""
    model = tmp_path / "models" / "base"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_text("weights")
    for text in ("", "7", '["fingerprint"]', '{"fingerprint": 7}'):
        (tmp_path / "models" / MANIFEST).write_text(text)
        assert runs.input_fingerprint(model).startswith("sha256:")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models and a buffer."""
    found = tmp_path_factory.mktemp("kill")
    prepare(found)
    return found


@pytest.fixture(scope="module")
def stopped(folder: Path) -> Callable[[str], tuple[Path, Path]]:
    """Makes, once for each stage, an unbroken run, and one that was stopped when all but its end was done."""
    found: dict[str, tuple[Path, Path]] = {}

    def make(stage: str) -> tuple[Path, Path]:
        if stage not in found:
            whole, half = folder / f"{stage}-whole", folder / f"{stage}-half"
            run_stage(stage, folder, whole)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Run, "finish", _interrupt)
                with pytest.raises(KeyboardInterrupt):
                    run_stage(stage, folder, half)
            found[stage] = whole, partial_path(half)
        return found[stage]

    return make


def _interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def change(path: Path) -> None:
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(bytes(text))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """Another file of the same kind: whole, but not the one that was written there."""
    other = sorted(other for other in path.parent.glob(f"*{path.suffix}") if file_digest(other) != file_digest(path))
    shutil.copy(other[0], path)


Damage = Callable[[Path], None]
DAMAGES: list[tuple[str, str, Damage, str]] = [
    ("collect", "shard-00003.parquet", cut, "shard-00003.parquet: not what was written here, or not all of it"),
    ("collect", "shard-00001.parquet", swap, "shard-00001.parquet: not what was written"),
    ("collect", f"{SCRATCH}/shards.json", cut, "shard-00005.parquet: not what was written"),
    ("score", "shard-00001.parquet", change, "shard-00001.parquet: not what was written"),
    ("evaluate", f"{SCRATCH}/00002.parquet", cut, "00002.parquet: not what was written"),
    ("sft", f"{SCRATCH}/checkpoint-12/optimizer.pt", cut, "checkpoint-12: left out, since its optimizer.pt is not"),
    (
        "lora",
        f"{SCRATCH}/checkpoint-12/adapter_model.safetensors",
        change,
        "since its adapter_model.safetensors is not",
    ),
    ("inspect", f"{SCRATCH}/00000000.parquet", cut, "00000000.parquet: not what was written"),
    ("rescale", "model.safetensors", change, "model.safetensors: not what was written"),
    ("weight_drift", f"{SCRATCH}/parts/00007.json", swap, "00007.json: not what was written"),
    ("divergence", f"{SCRATCH}/tokens/00000000.parquet", change, "00000000.parquet: not what was written"),
    ("gradient_rotation", f"{SCRATCH}/gradients/grpo_again.safetensors", swap, "grpo_again.safetensors: not what was"),
]
MORE_DAMAGES: list[tuple[str, str, Damage, str]] = [
    ("collect", "shard-00005.parquet", Path.unlink, ""),
    ("collect", "buffer.json", empty, ""),
    ("evaluate", f"{SCRATCH}/00007.parquet", swap, "00007.parquet: not what was written"),
    ("evaluate", "outcomes.parquet", cut, ""),
    ("sft", f"{SCRATCH}/checkpoint-12/model.safetensors", change, "since its model.safetensors is not the file"),
    ("sft", f"{SCRATCH}/checkpoint-12/COMPLETE", empty, "checkpoint-12: left out, since its COMPLETE names no files"),
    ("sft", PROGRESS, empty, ""),
    ("sft", "model.safetensors", empty, ""),
    ("pretrain", f"{SCRATCH}/checkpoint-12/scheduler.pt", Path.unlink, "since its scheduler.pt is not the file"),
    ("grpo", f"{SCRATCH}/checkpoint-5/trainer_state.json", cut, "checkpoint-5: left out"),
    ("grpo", f"{SCRATCH}/checkpoint-2/model.safetensors", cut, "is to be kept, but its model.safetensors is not"),
    ("grpo", f"{SCRATCH}/checkpoint-5/optimizer.pt", Path.unlink, "checkpoint-5: left out"),
    ("lora", "adapter/adapter_model.safetensors", empty, ""),
    ("inspect", "weights.parquet", cut, ""),
    ("rescale", f"{SCRATCH}/tensors.json", empty, "model.safetensors: not what was written"),
    ("token_weights", f"{SCRATCH}/tokens.json", cut, "00000000.parquet: not what was written"),
    ("gradient_rotation", f"{SCRATCH}/parts/00003.json", empty, "00003.json: not what was written"),
    ("gradient_rotation", f"{SCRATCH}/gradients/offline.safetensors", Path.unlink, ""),
]


@pytest.mark.parametrize(
    ("stage", "name", "damage", "sentence"),
    [*DAMAGES, *(pytest.param(*more, marks=pytest.mark.slow) for more in MORE_DAMAGES)],
    ids=[f"{stage}-{name}-{damage.__name__}" for stage, name, damage, _ in (*DAMAGES, *MORE_DAMAGES)],
)
def test_a_file_that_was_damaged_is_found_and_made_again(
    folder: Path,
    stopped: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    name: str,
    damage: Damage,
    sentence: str,
) -> None:
    whole, half = stopped(stage)
    output_dir = tmp_path / "run"
    shutil.copytree(half, partial_path(output_dir))
    damage(partial_path(output_dir) / name)
    run_stage(stage, folder, output_dir)
    assert sentence in capsys.readouterr().err
    assert contents(output_dir, folder) == contents(whole, folder)


def kills(folder: Path, wanted: dict[str, int]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.killing", str(folder), *(f"{name}={n}" for name, n in wanted.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(result.stdout)
    assert result.returncode == 0, result.stderr[-4000:]
    log: list[dict[str, Any]] = json.loads((folder / "kills.json").read_text())
    assert Counter(kill["stage"] for kill in log) == wanted
    return log


@pytest.mark.slow
def test_a_real_stage_is_killed_and_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    kills(tmp_path, {"sft": 3, "weight_drift": 2, "gradient_rotation": 1})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_kills_over_all_stages(tmp_path: Path) -> None:
    wanted = dict.fromkeys(RUNS, 3) | {"sft": 5, "lora": 4, "grpo": 5, "gradient_rotation": 5, STUDY: 4}
    # Before a run is opened, a kill has nothing to damage.
    at_work = [kill["stage"] for kill in kills(tmp_path, wanted) if kill["at_work"]]
    assert len(at_work) >= 30
    assert set(at_work) == set(wanted)
