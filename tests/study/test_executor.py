"""The executor on scripted stages: order, failures, resuming, and that nothing outlives the study."""

import itertools
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
from scripted_stages import STAGES

from pear.runs import read_manifest
from pear.study.executor import Executor, Outcome
from pear.study.graph import Node
from pear.study.machine import Machine
from pear.study.processes import PRELOAD
from pear.study.progress import LineDisplay

Scripted = Callable[..., Node]


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that torch is not imported to count them


def execute(nodes: list[Node], study_dir: Path, slots: int = 2, threads: int = 1, **options: Any) -> Outcome:
    machine = Machine(slots=slots, threads=threads)
    return Executor(
        nodes=nodes, stages=STAGES, study_dir=study_dir, machine=machine, display=LineDisplay(), preload=(), **options
    ).run()


def facts(node: Node) -> dict[str, Any]:
    results: dict[str, Any] = read_manifest(node.directory)["results"]
    return results


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_nodes_run_after_what_they_read_and_side_by_side(scripted: Scripted, tmp_path: Path) -> None:
    first = scripted("first")
    left = scripted("left", after=(first,), seconds=0.6)
    right = scripted("right", after=(first,), seconds=0.6)
    last = scripted("last", after=(left, right))
    outcome = execute([last, right, left, first], tmp_path)
    assert outcome == Outcome(ran=4, reused=0, failures={}, blocked=())
    assert facts(first)["ended"] <= min(facts(left)["began"], facts(right)["began"])
    assert facts(left)["began"] < facts(right)["ended"]
    assert facts(right)["began"] < facts(left)["ended"]
    assert facts(last)["began"] >= max(facts(left)["ended"], facts(right)["ended"])


def test_a_slot_is_never_used_twice_at_once(scripted: Scripted, tmp_path: Path) -> None:
    nodes = [scripted(name, seconds=0.1) for name in "abc"]
    execute(nodes, tmp_path, slots=1)
    spans = sorted((facts(node)["began"], facts(node)["ended"]) for node in nodes)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_stage_takes_a_slot_for_each_of_its_processes(scripted: Scripted, tmp_path: Path) -> None:
    nodes = [scripted(name, seconds=0.3, processes=processes) for name, processes in (("a", 1), ("b", 2), ("c", 9))]
    execute(nodes, tmp_path, slots=2)
    spans = sorted((facts(node)["began"], facts(node)["ended"]) for node in nodes)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_the_longest_chain_starts_first(scripted: Scripted, tmp_path: Path) -> None:
    single = scripted("single")
    first = scripted("first")
    second = scripted("second", after=(first,))
    execute([single, first, second], tmp_path, slots=1)
    assert facts(first)["began"] < facts(second)["began"]
    assert facts(first)["began"] < facts(single)["began"]


def test_an_analysis_waits_for_the_last_slot(scripted: Scripted, tmp_path: Path) -> None:
    first = scripted("first")
    analysis = scripted("analysis", after=(first,), role="analysis")
    chain = [scripted("rl", after=(first,))]
    chain.append(scripted("evaluation", after=(chain[0],)))
    execute([first, analysis, *chain], tmp_path, slots=1)
    assert facts(analysis)["began"] > facts(chain[-1])["ended"]


def test_what_was_given_up_is_not_tried_again(scripted: Scripted, tmp_path: Path) -> None:
    bad, other = scripted("bad"), scripted("other")
    after = scripted("after", after=(bad,))
    failure = {bad.id: {"error": "broken", "log": "logs/bad.log"}}
    outcome = execute([bad, after, other], tmp_path, given_up=failure)
    assert outcome == Outcome(ran=1, reused=0, failures=failure, blocked=(after.id,))
    assert not bad.complete
    assert json.loads((tmp_path / "failures.json").read_text()) == failure


def test_a_second_run_does_nothing(scripted: Scripted, tmp_path: Path) -> None:
    nodes = [scripted("a"), scripted("b")]
    execute(nodes, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert execute(nodes, tmp_path) == Outcome(ran=0, reused=2, failures={}, blocked=())
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}


@pytest.mark.parametrize(
    ("behavior", "error"),
    [
        ("refuse", "bad: refused, over two lines."),
        ("raise", "ValueError: bad: broken"),
        ("die", "The process was ended by SIGKILL (out of memory?)."),
        ("give_up", "scripted: ended without finishing its run directory."),
    ],
)
def test_a_failure_is_recorded_and_stops_only_what_needs_it(
    scripted: Scripted, tmp_path: Path, behavior: str, error: str
) -> None:
    bad = scripted("bad", behavior=behavior)
    after = scripted("after", after=(bad,))
    long_after = scripted("long_after", after=(after,))
    other = scripted("other", seconds=0.2)
    outcome = execute([bad, after, long_after, other], tmp_path)
    assert outcome.failures == {"scripted-bad": {"error": error, "log": "logs/scripted-bad.log"}}
    assert outcome.blocked == ("scripted-after", "scripted-long_after")
    assert outcome.ran == 1
    assert other.complete
    assert not after.complete
    assert json.loads((tmp_path / "failures.json").read_text()) == outcome.failures


def test_a_failed_node_is_tried_again(scripted: Scripted, tmp_path: Path) -> None:
    first = scripted("first")
    needs_first = scripted("second", after=(first,))
    assert execute([scripted("first", behavior="refuse"), needs_first], tmp_path).failures
    assert execute([first, needs_first], tmp_path) == Outcome(ran=2, reused=0, failures={}, blocked=())
    assert not (tmp_path / "failures.json").exists()


def test_output_of_a_node_goes_to_its_log(scripted: Scripted, tmp_path: Path) -> None:
    execute([scripted("a"), scripted("b", behavior="raise")], tmp_path)
    log = (tmp_path / "logs" / "scripted-a.log").read_text()
    assert "out a\n" in log
    assert "err a\n" in log
    assert "out b" not in log
    assert "Traceback" in (tmp_path / "logs" / "scripted-b.log").read_text()


def test_the_environment_of_a_stage(scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    nodes = [scripted("a", seconds=0.5), scripted("b", seconds=0.5)]
    execute(nodes, tmp_path, threads=3)
    assert {facts(node)["gpu"] for node in nodes} == {"5", "7"}
    assert [facts(node)["threads"] for node in nodes] == ["3", "3"]
    assert [facts(node)["telemetry"] for node in nodes] == ["1", "1"]


# A study in a process of its own, for the tests that kill it.
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import scripted_stages
from pear.study.executor import Executor
from pear.study.graph import Node
from pear.study.machine import Machine
from pear.study.processes import PRELOAD
from pear.study.progress import LineDisplay

# No `if __name__` line: the script must not run again in the stages' processes.
study_dir = Path({study!r})
directory = study_dir / "runs" / "scripted-a"
config = scripted_stages.ScriptedConfig(output_dir=directory, **{settings!r})
node = Node(id="scripted-a", stage="scripted", key="a", config=config, directory=directory, label="scripted a")
executor = Executor(
    nodes=[node], stages=scripted_stages.STAGES, study_dir=study_dir, machine=Machine(slots=1),
    display=LineDisplay(), preload={preload},
)
try:
    print(executor.run())
except KeyboardInterrupt:
    sys.exit(130)
"""


def start(tmp_path: Path, preload: str = "()", **settings: object) -> "subprocess.Popen[str]":
    program = tmp_path / "program.py"
    here = str(Path(__file__).parent)
    program.write_text(PROGRAM.format(here=here, study=str(tmp_path), settings=settings, preload=preload))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_study(tmp_path: Path, kind: signal.Signals) -> None:
    study = start(tmp_path, behavior="spawn")
    work = tmp_path / "runs" / "scripted-a.partial"
    until(lambda: (work / "child").is_file() and (work / "child").read_text() != "")
    pids = [int((work / name).read_text()) for name in ("pid", "child")]
    assert all(alive(pid) for pid in pids)
    study.send_signal(kind)
    until(lambda: not any(alive(pid) for pid in pids))
    assert study.wait(10) == (130 if kind == signal.SIGINT else -kind)


def test_a_killed_study_goes_on_where_it_was(tmp_path: Path) -> None:
    study = start(tmp_path, behavior="count", steps=15)
    counted = tmp_path / "runs" / "scripted-a.partial" / "counted"
    until(lambda: counted.is_file() and len(counted.read_text()) >= 5)
    study.kill()
    again = start(tmp_path, behavior="count", steps=15)  # at once: the killed stage may still hold its directory
    output, _ = again.communicate(timeout=30)
    assert "ran=1" in output
    assert "failures={}" in output
    assert (tmp_path / "runs" / "scripted-a" / "counted").read_text() == "." * 15
    manifest = read_manifest(tmp_path / "runs" / "scripted-a")
    assert manifest["seconds"] < 1.3  # 10 of the 15 steps


@pytest.mark.slow
def test_the_forkserver_has_trl_loaded(tmp_path: Path) -> None:
    study = start(tmp_path, preload="PRELOAD")
    output, _ = study.communicate(timeout=120)
    assert "ran=1" in output
    preloaded = read_manifest(tmp_path / "runs" / "scripted-a")["results"]["preloaded"]
    assert {name for name in PRELOAD if name.startswith("trl")} <= set(preloaded)
