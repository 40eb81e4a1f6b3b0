"""`pear study --executor ray` on scripted stages: order, resources, failures, kills, and the same results."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from scripted_stages import STAGES

from pear.errors import UserError
from pear.runs import read_manifest
from pear.study.executor import Executor, Executors, Outcome
from pear.study.graph import Node
from pear.study.machine import Machine
from pear.study.progress import LineDisplay
from tests.study.test_executor import PROGRAM, alive, facts, until

Scripted = Callable[..., Node]
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _two_cpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pear.study.ray_runner.available_cores", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # So that Ray's processes find the scripted stages.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    yield
    raylets = [process for process in psutil.Process().children(recursive=True) if "raylet" in process.name()]
    assert not psutil.wait_procs(raylets, timeout=20)[1]


def execute(nodes: list[Node], study_dir: Path, *, executor: Executors = "ray", **machine: Any) -> Outcome:
    return Executor(
        nodes=nodes,
        stages=STAGES,
        study_dir=study_dir,
        machine=Machine(**machine),
        display=LineDisplay(),
        preload=(),
        executor=executor,
    ).run()


def test_stages_run_after_what_they_read_side_by_side_and_within_what_there_is(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = scripted("first")
    sides = [scripted(name, after=(first,), seconds=1.5) for name in ("left", "middle", "right")]
    last = scripted("last", after=tuple(sides))
    outcome = execute([last, *sides, first], tmp_path)
    assert outcome == Outcome(ran=5, reused=0, failures={}, blocked=())
    assert all(facts(first)["ended"] <= facts(side)["began"] for side in sides)
    assert facts(last)["began"] >= max(facts(side)["ended"] for side in sides)
    events = sorted((facts(side)[when], step) for side in sides for when, step in (("began", 1), ("ended", -1)))
    at_once = [sum(step for _, step in events[: place + 1]) for place in range(len(events))]
    assert max(at_once) == 2
    assert {facts(side)["threads"] for side in sides} == {"1"}
    assert {facts(side)["folder"] for side in sides} == {str(tmp_path)}
    # Each had a process of its own.
    assert len({(side.directory / "pid").read_text() for side in sides}) == 3
    log = (tmp_path / "logs" / "scripted-left.log").read_text()
    assert "out left\n" in log
    assert "err left\n" in log
    again = execute([last, *sides, first], tmp_path)
    assert again == Outcome(ran=0, reused=5, failures={}, blocked=())


def test_failures_stop_only_what_needs_them_and_the_other_executor_goes_on(scripted: Scripted, tmp_path: Path) -> None:
    bad = {behavior: scripted(behavior, behavior=behavior) for behavior in ("refuse", "raise", "die", "give_up")}
    after = scripted("after", after=(bad["die"],))
    other = scripted("other")
    outcome = execute([*bad.values(), after, other], tmp_path)
    errors = {name.removeprefix("scripted-"): failure["error"] for name, failure in outcome.failures.items()}
    assert errors.pop("die").startswith("Ray ended the process (")
    assert errors == {
        "refuse": "refuse: refused, over two lines.",
        "raise": "ValueError: raise: broken",
        "give_up": "scripted: ended without finishing its run directory.",
    }
    assert (outcome.ran, outcome.blocked) == (1, ("scripted-after",))
    assert json.loads((tmp_path / "failures.json").read_text()) == outcome.failures
    assert "Traceback" in (tmp_path / "logs" / "scripted-raise.log").read_text()
    mended = scripted("again")
    finished = execute([mended, other], tmp_path, executor="local", slots=2)
    assert finished == Outcome(ran=1, reused=1, failures={}, blocked=())


def test_more_gpus_than_there_are_is_an_error_in_words(scripted: Scripted, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"machine.gpus: scripted reserves 3 GPUs, and this machine has 0"):
        execute([scripted("a")], tmp_path, gpus=3)


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_a_sentence(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a minute or so: Ray itself would try for more than ten."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6391")
    with pytest.raises(UserError, match=r"^RAY_ADDRESS: Ray cannot be reached at 127\.0\.0\.1:6391 .*Does it run\?"):
        execute([scripted("a")], tmp_path)


def test_threads_are_reserved(scripted: Scripted, tmp_path: Path) -> None:
    nodes = [scripted(name, seconds=0.5) for name in "ab"]
    execute(nodes, tmp_path, threads=2)
    (first, second) = sorted((facts(node)["began"], facts(node)["ended"]) for node in nodes)
    assert first[1] <= second[0]
    assert {facts(node)["threads"] for node in nodes} == {"2"}


def start(tmp_path: Path, **settings: object) -> "subprocess.Popen[str]":
    program = tmp_path / "program.py"
    text = PROGRAM.format(here=str(Path(__file__).parent), study=str(tmp_path), settings=settings, preload="()")
    program.write_text(text.replace("preload=()", 'preload=(), executor="ray"'))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_study(tmp_path: Path, kind: signal.Signals) -> None:
    study = start(tmp_path, behavior="spawn")
    work = tmp_path / "runs" / "scripted-a.partial"
    until(lambda: (work / "child").is_file() and (work / "child").read_text() != "", seconds=60)
    pids = [int((work / name).read_text()) for name in ("pid", "child")]
    assert all(alive(pid) for pid in pids)
    study.send_signal(kind)
    until(lambda: not any(alive(pid) for pid in pids), seconds=60)
    assert study.wait(60) == (130 if kind == signal.SIGINT else -kind)


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was(tmp_path: Path) -> None:
    study = start(tmp_path, behavior="count", steps=120)
    work = tmp_path / "runs" / "scripted-a.partial"
    until(lambda: (work / "counted").is_file() and len((work / "counted").read_text()) >= 20, seconds=60)
    first = int((work / "pid").read_text())
    study.kill()
    study.wait(30)
    until(lambda: not alive(first), seconds=60)
    before = len((work / "counted").read_text())
    assert before < 120
    output, _ = start(tmp_path, behavior="count", steps=120).communicate(timeout=120)
    assert "ran=1" in output
    # A stage that began anew would have counted on from what is there, beyond the end.
    assert (tmp_path / "runs" / "scripted-a" / "counted").read_text() == "." * 120
    assert int((tmp_path / "runs" / "scripted-a" / "pid").read_text()) != first


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_is_the_same_under_both(tmp_path: Path) -> None:
    """A real study, by the command: equal plans, fingerprints, weights and results."""
    recipe = tmp_path / "recipe.yaml"
    problems = "{{task: tiny/affine_chain, level: n2, split: {}, size: 12}}"
    recipe.write_text(
        f"""
name: small
base: pear:affine_chain/base_1
behavior: {{model: pear:affine_chain/behavior, sampling: {{max_tokens: 24}}}}
tasks: {{sft: [{problems.format("sft")}], rl: [{problems.format("rl")}], eval: [{problems.format("eval")}]}}
arms: {{nll: {{objective: nll}}, pear_block: {{objective: pear_block}}}}
sft: {{trainer: {{max_steps: 3}}}}
rl: {{steps: 2, prompts_per_step: 4, group_size: 4, max_completion_tokens: 24}}
evaluate: {{samples: 4, k: [1, 2], max_tokens: 24}}
machine: {{gpus: {{sft: 0}}}}
""",
        encoding="utf-8",
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("RAY_ADDRESS", None)
    found = {}
    for executor in ("local", "ray"):
        directory = tmp_path / executor
        command = [sys.executable, "-m", "pear", "study", str(recipe), "--output-dir", str(directory)]
        subprocess.run([*command, "--executor", executor], check=True, env=environment, cwd=tmp_path)
        plan = json.loads((directory / "plan.json").read_text())
        found[executor] = {node["id"]: directory / node["dir"] for node in plan["nodes"]}
    assert found["local"].keys() == found["ray"].keys()
    assert len(found["local"]) > 8
    for node_id, directory in found["local"].items():
        other = found["ray"][node_id]
        mine, theirs = read_manifest(directory), read_manifest(other)
        assert mine["fingerprint"] == theirs["fingerprint"]
        assert mine["results"] == theirs["results"]
        for path in directory.rglob("*.safetensors"):
            assert path.read_bytes() == (other / path.relative_to(directory)).read_bytes()
    # Under the other executor there is nothing left to do.
    command = [sys.executable, "-m", "pear", "study", str(recipe), "--output-dir", str(tmp_path / "local")]
    again = subprocess.run(
        [*command, "--executor", "ray"], check=True, env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert f"{len(found['local'])} stages, {len(found['local'])} of them finished already" in again.stderr
