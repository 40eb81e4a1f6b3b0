"""`processes: n`: the same stage on several processes, started by `accelerate launch`, as one command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pear.errors import UserError
from pear.runs import partial_path, read_manifest
from pear.stages.grpo import GrpoConfig
from pear.stages.processes import accelerate_configs, must_start
from pear.stages.sft import SftConfig
from tests.stages.test_sft import TRAINER, write_buffer
from tests.training.grpo_fixtures import save_solver
from tests.training.sft_fixtures import save_model

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 120.0
_SFT: dict[str, Any] = {"model": "m", "buffer": "b", "output_dir": "o"}
_PROBLEMS = [{"task": "tiny/affine_chain", "level": "n2", "split": "rl", "size": 12}]
_GRPO: dict[str, Any] = {
    "model": "m",
    "problems": _PROBLEMS,
    "steps": 6,
    "max_completion_tokens": 20,
    "output_dir": "o",
}


def start(stage: str, values: dict[str, Any], log: Path) -> "subprocess.Popen[bytes]":
    """Starts the command in a session of its own, as a terminal does."""
    words = [sys.executable, "-m", "pear", stage]
    for key, value in values.items():
        several = value if key == "problems" else [value]
        texts = [",".join(f"{k}={v}" for k, v in item.items()) if key == "problems" else item for item in several]
        texts = [json.dumps(text) if isinstance(text, dict | list) else str(text) for text in texts]
        words += [f"--{key.replace('_', '-')}", *texts]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as output:
        return subprocess.Popen(words, stdout=output, stderr=output, env=environment, start_new_session=True)


def finish(stage: str, values: dict[str, Any], log: Path) -> int:
    return start(stage, values, log).wait(_PATIENCE)


def left_over(output_dir: Path) -> list[str]:
    """The processes of a training that writes there."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            open_files = {os.readlink(link) for link in (place / "fd").iterdir()}
        except OSError:
            continue
        if any(name.startswith(str(output_dir)) for name in open_files):
            found.append(command)
    return found


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _PATIENCE
    while not path.exists() and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.01)
    assert path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["pear_token", "talr"])
def test_sft_on_two_processes_is_that_on_one(objective: str, tmp_path: Path) -> None:
    values = {"model": save_model(tmp_path / "model"), "buffer": write_buffer(tmp_path / "buffer")}
    values |= {"objective": objective, "seed": 5}
    for processes, batch in ((1, 4), (2, 2)):
        trainer = {**TRAINER, "per_device_train_batch_size": batch}
        output_dir = tmp_path / f"on-{processes}"
        run = {**values, "trainer": trainer, "processes": processes, "output_dir": output_dir}
        assert finish("sft", run, tmp_path / f"{processes}.log") == 0, (tmp_path / f"{processes}.log").read_text()
    losses = {
        processes: [json.loads(line)["loss"] for line in (tmp_path / f"on-{processes}/metrics.jsonl").open()]
        for processes in (1, 2)
    }
    assert len(losses[1]) == 6
    assert losses[2] == pytest.approx(losses[1], rel=1e-5)
    one, two = (read_manifest(tmp_path / f"on-{processes}") for processes in (1, 2))
    assert two["results"]["tokens"] == one["results"]["tokens"]
    assert two["results"]["update/norm"] == pytest.approx(one["results"]["update/norm"], rel=1e-3)
    assert two["fingerprint"] != one["fingerprint"]
    assert {path.name for path in (tmp_path / "on-2").iterdir()} == {
        path.name for path in (tmp_path / "on-1").iterdir()
    }
    # The same command again has nothing to do, and starts nobody.
    again = {**values, "trainer": {**TRAINER, "per_device_train_batch_size": 2}, "processes": 2}
    assert finish("sft", {**again, "output_dir": tmp_path / "on-2"}, tmp_path / "again.log") == 0
    assert "nothing to do" in (tmp_path / "again.log").read_text()


@pytest.mark.slow
def test_grpo_on_two_processes_goes_on_after_a_kill(tmp_path: Path) -> None:
    values = {**_GRPO, "model": save_solver(tmp_path / "model", seed=0), "prompts_per_step": 4, "group_size": 4}
    values |= {"micro_batch": 8, "learning_rate": 1e-3, "save_every": 1, "checkpoint_steps": 2, "processes": 2}
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "log"
    assert finish("grpo", {**values, "output_dir": whole}, log) == 0, log.read_text()

    process = start("grpo", {**values, "output_dir": broken}, log)
    wait_for(partial_path(broken) / "scratch" / "checkpoint-3" / "COMPLETE", process)
    process.kill()
    process.wait(_PATIENCE)
    end = time.monotonic() + 10
    while left_over(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left_over(tmp_path)

    progress = partial_path(broken) / "progress.json"
    progress.unlink(missing_ok=True)
    process = start("grpo", {**values, "output_dir": broken}, log)
    wait_for(progress, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(_PATIENCE) == 130, log.read_text()
    assert not left_over(tmp_path)

    assert finish("grpo", {**values, "output_dir": broken}, log) == 0, log.read_text()
    assert "goes on from checkpoint-" in log.read_text()
    for name in ("model.safetensors", "checkpoint-2/model.safetensors"):
        first, second = load_file(whole / name), load_file(broken / name)
        assert all(bool((first[key] == second[key]).all()) for key in first)
    assert (whole / "metrics.jsonl").read_text() == (broken / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_mistake_is_one_sentence_also_on_two_processes(tmp_path: Path) -> None:
    values = {"model": save_model(tmp_path / "model"), "buffer": write_buffer(tmp_path / "buffer"), "processes": 2}
    values |= {"trainer": {"max_length": 3}, "output_dir": tmp_path / "run"}
    assert finish("sft", values, tmp_path / "log") == 2
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    assert text.count("pear: ") == 1
    assert not partial_path(tmp_path / "run").exists()


def test_one_process_has_the_fingerprint_that_it_always_had() -> None:
    for config_class, values in ((SftConfig, _SFT), (GrpoConfig, _GRPO)):
        one, two = config_class(**values), config_class(**values, processes=2)
        assert not {"processes", "accelerate_config"} & one.hashed().keys()
        assert one.hashed() == config_class(**values, processes=1).hashed()
        assert two.hashed() == {**one.hashed(), "processes": 2, "accelerate_config": None}


def test_a_configuration_of_accelerate_is_hashed_by_what_it_says(tmp_path: Path) -> None:
    named = SftConfig(**_SFT, processes=2, accelerate_config="fsdp2")
    assert named.hashed()["accelerate_config"] == "fsdp2"
    copies = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for copy in copies:
        copy.write_bytes(accelerate_configs()["fsdp2"].read_bytes())
    first, second = (SftConfig(**_SFT, processes=2, accelerate_config=str(copy)).hashed() for copy in copies)
    assert first == second != named.hashed()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"processes": 2, "accelerate_config": "fsdp3"}, "Did you mean 'fsdp"),
        ({"processes": 2, "accelerate_config": "none.yaml"}, "Or name a file"),
        ({"accelerate_config": "fsdp2"}, "set `processes`"),
        ({"processes": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_used_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SftConfig.parse({**_SFT, **values}, source="sft")


def test_what_needs_gpus_is_refused_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pear.stages import sft

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="fsdp2 is for GPUs"):
        sft.run(SftConfig(**{**_SFT, "output_dir": tmp_path / "o"}, processes=2, accelerate_config="fsdp2"))
    assert not list(tmp_path.iterdir())


def test_a_process_of_another_launcher_starts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert must_start(2)
    assert not must_start(1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not must_start(1)
    assert not must_start(4)
    with pytest.raises(UserError, match="processes: 2"):
        must_start(2)
