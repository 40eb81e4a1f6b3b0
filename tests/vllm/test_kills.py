"""`kill -9` of the driver, of vLLM's own process and of a server: the next start goes on, and no row is lost or doubled."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.generate import served
from pear.data.buffer import read_shards
from tests.vllm.conftest import ON_A_CPU, ROOT

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

PROBLEMS, SAMPLES, SHARD_PROBLEMS = 240, 2, 8


def collect(model: str, output: Path, engine: str, kwargs: dict[str, Any]) -> "subprocess.Popen[str]":
    command = [
        sys.executable, "-m", "pear", "collect", "--model", model, "--problems",
        f"task=tiny/affine_chain,level=n8,split=sft,size={PROBLEMS}", "--sampling.max-tokens", "24",
        "--sampling.samples", str(SAMPLES), "--shard-problems", str(SHARD_PROBLEMS), "--device", "cpu",
        "--engine", engine, "--engine-kwargs", json.dumps(kwargs), "--output-dir", str(output),
    ]  # fmt: skip
    with output.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **ON_A_CPU}, stdout=log, stderr=log, text=True)


def shards(output: Path) -> dict[str, bytes]:
    """The finished shards of a run that is going on, or was killed."""
    return {path.name: path.read_bytes() for path in sorted(output.with_suffix(".partial").glob("*.parquet"))}


def after_a_new_shard(output: Path, driver: "subprocess.Popen[str]", kill: Callable[[], None]) -> dict[str, bytes]:
    """Kills when one more shard is written; what is there then."""
    before, deadline = len(shards(output)), time.monotonic() + 300
    while len(shards(output)) <= before:
        assert driver.poll() is None, output.with_suffix(".log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill()
    driver.wait(120)
    return shards(output)


def named(parent: int, name: str) -> list[psutil.Process]:
    """The processes of a name under another."""
    return [process for process in psutil.Process(parent).children(recursive=True) if name in process.name()]


def check_rows(whole: Path, killed: Path) -> None:
    """The same problems in the same order, each as often as it was asked for."""

    def problems(output: Path) -> list[str]:
        return [str(value) for table in read_shards(output) for value in table["problem_id"].to_pylist()]

    found = problems(killed)
    assert found == problems(whole)
    assert len(found) == PROBLEMS * SAMPLES
    assert all(found.count(problem) == SAMPLES for problem in set(found))


def test_vllms_process_and_the_driver(tiny: str, tmp_path: Path) -> None:
    settings = {"enforce_eager": True, "max_model_len": 512}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert collect(tiny, whole, "vllm", settings).wait(300) == 0, whole.with_suffix(".log").read_text()[-3000:]

    driver = collect(tiny, killed, "vllm", settings)
    first = after_a_new_shard(killed, driver, lambda: named(driver.pid, "VLLM")[0].kill())
    assert driver.returncode == 2
    sentence = killed.with_suffix(".log").read_text().strip().splitlines()
    assert any("Run the same command again: it goes on where it was." in line for line in sentence[-20:])

    driver = collect(tiny, killed, "vllm", settings)
    own: list[psutil.Process] = []

    def kill() -> None:
        own.extend(named(driver.pid, "VLLM"))
        driver.send_signal(signal.SIGKILL)

    second = after_a_new_shard(killed, driver, kill)
    assert second.items() >= first.items()
    assert 0 < len(first) < len(second) < PROBLEMS // SHARD_PROBLEMS
    gone, left = psutil.wait_procs(own, timeout=60)
    assert gone
    assert not left, "vLLM's process outlives the driver"

    assert collect(tiny, killed, "vllm", settings).wait(300) == 0
    assert {path.name: path.read_bytes() for path in killed.glob("*.parquet")}.items() >= second.items()
    check_rows(whole, killed)


def test_a_server(tiny: str, tmp_path: Path) -> None:
    """One of two servers is killed, and the other takes its requests; then that one, and the run ends with a sentence."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with served(sys.executable, tiny, tmp_path / "one.log", ON_A_CPU) as one:
        with served(sys.executable, tiny, tmp_path / "two.log", ON_A_CPU) as two:
            settings = {"endpoints": [one, two], "retries": 1}
            assert collect(tiny, whole, "server", settings).wait(300) == 0
            driver = collect(tiny, killed, "server", settings)
            after_a_new_shard(killed, driver, lambda: kill_server(two))
            assert driver.returncode == 0
        assert "the others take its requests" in killed.with_suffix(".log").read_text()
        check_rows(whole, killed)

        alone = tmp_path / "alone"
        settings = {"endpoints": [one], "retries": 1}
        driver = collect(tiny, alone, "server", settings)
        there = after_a_new_shard(alone, driver, lambda: kill_server(one))
        assert driver.returncode == 2
        assert "No endpoint answers" in alone.with_suffix(".log").read_text()
    assert 0 < len(there) < PROBLEMS // SHARD_PROBLEMS
    with served(sys.executable, tiny, tmp_path / "three.log", ON_A_CPU) as three:
        assert collect(tiny, alone, "server", {"endpoints": [three]}).wait(300) == 0
    assert {path.name: path.read_bytes() for path in alone.glob("*.parquet")}.items() >= there.items()
    check_rows(whole, alone)


def kill_server(url: str) -> None:
    """`kill -9` of a server and its workers."""
    port = url.split(":")[2].split("/")[0]
    servers = [child for child in psutil.Process().children() if port in child.cmdline()]
    assert len(servers) == 1
    for process in [*servers[0].children(recursive=True), servers[0]]:
        process.kill()
