"""`kill -9` of the driver, of vLLM's processes and of servers: the next start goes on, no row is lost or doubled."""

import json
import os
import signal
import subprocess
import sys
import time
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


def wait_for_a_new_shard(output: Path, driver: "subprocess.Popen[str]") -> None:
    before, deadline = len(shards(output)), time.monotonic() + 300
    while len(shards(output)) <= before:
        assert driver.poll() is None, output.with_suffix(".log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_rows(whole: Path, killed: Path) -> None:
    """The same problems in the same order, each as often as it was asked for."""

    def problems(output: Path) -> list[str]:
        return [str(value) for table in read_shards(output) for value in table["problem_id"].to_pylist()]

    found = problems(killed)
    assert found == problems(whole)
    assert len(found) == PROBLEMS * SAMPLES
    assert all(found.count(problem) == SAMPLES for problem in set(found))


def test_vllms_processes_and_the_driver(tiny: str, tmp_path: Path) -> None:
    settings = {"enforce_eager": True, "max_model_len": 512}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    log = killed.with_suffix(".log")
    assert collect(tiny, whole, "vllm", settings).wait(300) == 0, whole.with_suffix(".log").read_text()[-3000:]
    there: dict[str, bytes] = {}
    for name in ("Worker", "EngineCore", "driver"):
        driver = collect(tiny, killed, "vllm", settings)
        wait_for_a_new_shard(killed, driver)
        own = psutil.Process(driver.pid).children(recursive=True)
        chosen = [driver] if name == "driver" else [process for process in own if name in process.name()]
        assert len(chosen) == 1
        chosen[0].send_signal(signal.SIGKILL)
        assert driver.wait(120) == (-signal.SIGKILL if name == "driver" else 2), log.read_text()[-3000:]
        now = shards(killed)
        assert len(now) > len(there)
        assert now.items() >= there.items()
        there = now
        assert own
        assert not psutil.wait_procs(own, timeout=60)[1], f"a process of vLLM outlives its {name}"
    assert log.read_text().count("Run the same command again: it goes on where it was.") == 2
    assert len(there) < PROBLEMS // SHARD_PROBLEMS
    assert collect(tiny, killed, "vllm", settings).wait(300) == 0
    assert {path.name: path.read_bytes() for path in killed.glob("*.parquet")}.items() >= there.items()
    check_rows(whole, killed)


def test_a_server(tiny: str, tmp_path: Path) -> None:
    """One of two is killed, and the other takes its requests; the last one is killed, and the run ends in words."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with served(sys.executable, tiny, tmp_path / "one.log", ON_A_CPU) as one:
        with served(sys.executable, tiny, tmp_path / "two.log", ON_A_CPU) as two:
            settings = {"endpoints": [one, two], "retries": 1}
            assert collect(tiny, whole, "server", settings).wait(300) == 0
            driver = collect(tiny, killed, "server", settings)
            wait_for_a_new_shard(killed, driver)
            kill_server(two)
            assert driver.wait(300) == 0
        assert "the others take its requests" in killed.with_suffix(".log").read_text()
        check_rows(whole, killed)

        alone = tmp_path / "alone"
        settings = {"endpoints": [one], "retries": 1}
        driver = collect(tiny, alone, "server", settings)
        wait_for_a_new_shard(alone, driver)
        kill_server(one)
        assert driver.wait(120) == 2
        there = shards(alone)
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
