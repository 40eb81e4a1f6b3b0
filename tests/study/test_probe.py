"""The probe: whom it keeps, what it leaves in the plan, and that a study can be stopped anywhere in it."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import scripted_study

import pear.report
from pear.errors import UserError
from pear.study import StudyConfig, StudyResult, run_study
from pear.study import run as study_run
from pear.study.executor import Executor
from pear.study.plan import Plan, make_plan
from pear.study.probe import Scores, choose, probe_nodes

ARMS = {
    "nll": {"objective": "nll"},
    "pear_token": {"objective": "pear_token", "objective_kwargs": {"gamma": 0.9}},
    "pear_block": {"objective": "pear_block"},
    "direct": None,
}


# So that a process of a stage starts in no time.
PRELOAD = ("scripted_study", "pear.stages.sft", "pear.stages.grpo", "pear.stages.evaluate", "pear.stages.collect")


@pytest.fixture(scope="module", autouse=True)
def _forkserver() -> None:
    """The server that other tests have started has not loaded the scripts."""
    forkserver._forkserver._stop()


def means(**values: float) -> Scores:
    return {arm: {"unit": value} for arm, value in values.items()}


@pytest.mark.parametrize(
    ("scores", "keep", "kept"),
    [
        (means(nll=0.1, a=0.4, b=0.3, c=0.2), 0.5, "nll a b"),  # the reference beside the better half
        (means(nll=0.4, a=0.3, b=0.2, c=0.1), 0.5, "nll a"),
        (means(nll=0.4, a=0.3, b=0.2), 0.5, "nll a"),  # half of three, rounded up
        (means(nll=0.4, a=0.3, b=0.3, c=0.1), 0.5, "nll a b"),  # a tie at the border
        (means(nll=0.4, a=0.2, b=0.2, c=0.2), 0.5, "nll a b c"),
        (means(nll=0.4, a=0.3, b=0.2, c=0.1), 0.2, "nll a"),  # the best other arm, or nothing could be compared
        (means(nll=0.1, a=0.4, b=0.3, c=0.2), 0.2, "nll a"),
        (means(nll=0.1, a=0.4, b=0.3, c=0.2), 0.75, "nll a b c"),
        ({"nll": {"u": 0.1}, "a": {"u": None}, "b": {"u": 0.2}, "c": {"u": 0.3}}, 0.5, "nll b c"),
        ({"nll": {"u": 0.1, "v": 0.1}, "a": {"u": 0.9, "v": None}, "b": {"u": 0.0, "v": 0.0}}, 0.5, "nll b"),
        ({"nll": {"u": 0.1, "v": None}, "a": {"u": 0.9, "v": 0.8}, "b": {"u": 0.5, "v": 0.5}}, 0.5, "nll a b"),
        # A unit that failed in every arm, as where its base could not be made.
        ({"nll": {"u": 0.1, "v": None}, "a": {"u": 0.4, "v": None}, "b": {"u": 0.2, "v": None}}, 0.3, "nll a"),
        ({"nll": {"u": None}, "a": {"u": None}, "b": {"u": None}}, 0.5, "nll"),
    ],
)
def test_whom_the_probe_keeps(scores: Scores, keep: float, kept: str) -> None:
    choice = choose(scores, reference="nll", keep=keep)
    assert " ".join(choice.kept) == kept
    assert sorted((*choice.kept, *choice.dropped)) == sorted(scores)
    assert set(choice.failed) == set(scores) - set(choice.means)


def test_a_failed_arm_is_named_and_its_half_mean_is_not_compared() -> None:
    scores = {"nll": {"u": 0.5, "v": 0.1}, "a": {"u": 0.9, "v": None}, "b": {"u": 0.2, "v": 0.2}}
    choice = choose(scores, reference="nll", keep=0.5)
    assert choice.failed == {"a": "no result on v"}
    assert choice.means == {"nll": 0.3, "b": 0.2}
    assert choice.sentence == "The probe keeps nll (0.300), b (0.200) and drops a (failed)."


def test_without_a_result_of_the_reference_nothing_can_be_compared() -> None:
    def comparable(nll: float | None, a: float | None) -> bool:
        scores = {"nll": {"u": nll}, "a": {"u": a}, "b": {"u": None}}
        return choose(scores, reference="nll", keep=0.5).comparable

    assert comparable(1.0, 0.0)
    assert not comparable(None, 1.0)
    assert not comparable(1.0, None)


@pytest.fixture
def probed(values: dict[str, Any]) -> dict[str, Any]:
    """Four arms, one unit and 20 steps of RL, of which the probe has two."""
    values["arms"] = dict(ARMS)
    values["seeds"] = [0]
    values["rl"]["steps"] = 20
    values["evaluate"]["at_rl_steps"] = []
    return values


def plan_of(values: dict[str, Any], study_dir: Path, **options: Any) -> Plan:
    return make_plan(StudyConfig.parse(values, source="test"), study_dir, **options)


def steps_of(plan: Plan, arm: str, role: str) -> list[int | None]:
    found = {
        use.rl_step for node in plan.nodes for use in node.uses if use.arm == arm and use.role == role and use.seed == 0
    }
    return sorted(found, key=lambda step: -1 if step is None else step)


def test_the_plan_of_a_probe(probed: dict[str, Any], tmp_path: Path) -> None:
    whole, both = plan_of(probed, tmp_path), plan_of(probed, tmp_path, probe=True)
    # What is there without a probe is the same with it, so neither run redoes the other's.
    assert {node.id for node in whole.nodes} < {node.id for node in both.nodes}
    assert both.digests == whole.digests
    first = probe_nodes(both.nodes)
    # The buffer, three arms with SFT, RL and its evaluation for all four.
    assert Counter(node.stage for node in first) == {"collect": 1, "sft": 3, "grpo": 4, "evaluate": 4}
    assert {node.config.steps for node in first if node.stage == "grpo"} == {2}
    assert all(node.config.checkpoint_steps == [] for node in first if node.stage == "grpo")


def test_a_dropped_arm_ends_with_the_probe(probed: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(probed, tmp_path, probe=True, dropped=["pear_block", "direct"])
    for arm in ("nll", "pear_token"):
        assert steps_of(plan, arm, "grpo") == [None]
        assert steps_of(plan, arm, "eval") == [0, 2, 20]
    for arm in ("pear_block", "direct"):
        assert steps_of(plan, arm, "grpo") == []
        assert steps_of(plan, arm, "eval") == [0, 2]
    for arm in ARMS:
        assert steps_of(plan, arm, "probe") == [None, 2]
    assert plan.digests == plan_of(probed, tmp_path).digests


def test_where_rl_is_evaluated_at_the_probes_step_each_result_has_one_node(
    probed: dict[str, Any], tmp_path: Path
) -> None:
    probed["evaluate"]["at_rl_steps"] = [2]
    plan = plan_of(probed, tmp_path, probe=True, dropped=["pear_block", "direct"])
    found = Counter((use.arm, use.seed, use.rl_step) for node in plan.nodes for use in node.uses if use.role == "eval")
    assert {entry: count for entry, count in found.items() if count > 1} == {}
    assert {arm for arm, _, step in found if step == 2} == set(ARMS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"nll": ARMS["nll"], "direct": None}}, "--probe: chooses between arms, and a study of 2 has none"),
        ({"probe": {"share": 0.96}}, "probe.share: 0.96 of 20 RL steps is all of them."),
        ({"probe": {"share": 1}}, "probe.share"),
        ({"probe": {"keep": 0}}, "probe.keep"),
        ({"probe": {"shar": 0.1}}, "probe.shar: Unknown key 'shar'. Did you mean 'share'?"),
        ({"rl": {"trainer": {"lr_scheduler_type": "cosine"}}}, "rl.trainer.lr_scheduler_type: with 'cosine'"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    probed: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    for block, given in changes.items():
        probed[block] = given if block == "arms" else {**probed.get(block, {}), **given}
    with pytest.raises(UserError) as caught:
        run_study(StudyConfig.parse(probed, source="test"), tmp_path / "study", probe=True)
    assert message in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_a_study_without_arms_has_nothing_to_probe(values: dict[str, Any], tmp_path: Path) -> None:
    bare = {key: values[key] for key in ("name", "base")} | {"tasks": {"eval": values["tasks"]["eval"]}}
    with pytest.raises(UserError, match="--probe: chooses between arms, and a study of 0 has none"):
        plan_of(bare, tmp_path, probe=True)
    with pytest.raises(UserError, match=r"^probe: nothing reads this in a study without arms"):
        plan_of({**bare, "probe": {"share": 0.1}}, tmp_path)


Script = Callable[..., None]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Says what the scripted stages do: script(scores={...}, fail=[...])."""

    def write(**entries: Any) -> None:
        (tmp_path / "script.json").write_text(json.dumps(entries))

    return write


SCORES = {"nll": 0.3, "pear_token/0.9": 0.5, "pear_block": 0.4, "direct": 0.1}


def run_scripted(values: dict[str, Any], study_dir: Path, *, probe: bool = True) -> StudyResult:
    """`run_study` on the scripted stages, and without the report, which has its own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(study_run, "STAGES", scripted_study.STAGES)
        patch.setattr(study_run, "Executor", functools.partial(Executor, preload=PRELOAD))
        patch.setattr(study_run, "check_trainers", lambda nodes, machine: None)
        patch.setattr(pear.report, "write_report", _stand_in)
        patch.setattr(pear.report, "verdict_sentence", lambda study_dir: "verdict")
        return run_study(StudyConfig.parse(values, source="test"), study_dir, probe=probe)


def _stand_in(study_dir: Path) -> Path:
    report = study_dir / "report.html"
    report.write_text("report")
    return report


def ran(tmp_path: Path) -> list[str]:
    path = tmp_path / "ran.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    path.unlink(missing_ok=True)
    return lines


def probe_file(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "study" / "probe.json").read_text())
    return found


def test_the_better_half_gets_all_of_rl_and_a_second_run_does_nothing(
    probed: dict[str, Any], tmp_path: Path, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script(scores=SCORES)
    result = run_scripted(probed, tmp_path / "study")
    assert result.exit_code == 0
    lines = ran(tmp_path)
    whole = {line for line in lines if line.startswith("grpo") and line.endswith(" 20")}
    assert whole == {f"grpo {arm} base_0 20" for arm in ("nll", "pear_token/0.9", "pear_block")}
    # All of the probe comes before anything of the rest.
    starts = [place for place, line in enumerate(lines) if line in whole]
    assert max(place for place, line in enumerate(lines) if line.endswith(" 2")) < min(starts)

    unit = f"{tmp_path}/models/base_0, seed 0"
    scores = {"nll": 0.32, "pear_token": 0.52, "pear_block": 0.42, "direct": 0.12}
    kept = ["nll", "pear_token", "pear_block"]
    assert probe_file(tmp_path) == {
        "steps": 2,
        "share": 0.1,
        "keep": 0.5,
        "metric": "pass@1",
        "scores": pytest.approx(scores),
        "units": {arm: {unit: pytest.approx(score)} for arm, score in scores.items()},
        "kept": kept,
        "dropped": ["direct"],
        "failed": {},
        "rounds": [{"steps": 2, "scores": pytest.approx(scores), "kept": kept, "dropped": ["direct"]}],
    }
    text = capsys.readouterr().err
    assert "test, probe of 2 in 20 RL steps: 12 stages, 0 of them finished already." in text
    assert "The probe keeps nll (0.320), pear_token (0.520), pear_block (0.420) and drops direct (0.120)." in text

    study_dir = tmp_path / "study"
    plan = (study_dir / "plan.json").read_bytes()
    files = [study_dir / "report.html", study_dir / "probe.json", *(study_dir / "runs").rglob("*")]
    written = {path: path.stat().st_mtime_ns for path in files}
    again = run_scripted(probed, study_dir)
    assert (again.ran, again.reused) == (0, result.ran)
    assert ran(tmp_path) == []
    assert (study_dir / "plan.json").read_bytes() == plan
    assert written == {path: path.stat().st_mtime_ns for path in written}

    # Without the probe the dropped arm is run too, and nothing else.
    run_scripted(probed, study_dir, probe=False)
    assert ran(tmp_path) == ["grpo base_0 20", "evaluate base_0 20"]
    assert not (study_dir / "probe.json").exists()


def test_a_failed_arm_is_dropped_and_tried_again_by_the_next_run(
    probed: dict[str, Any], tmp_path: Path, script: Script
) -> None:
    probed["seeds"] = [0, 1]
    script(scores=SCORES, fail=["sft pear_token/0.9 base_1"])
    result = run_scripted(probed, tmp_path / "study")
    assert result.exit_code == 1
    assert [failure["error"] for failure in result.failures.values()] == ["sft pear_token/0.9 base_1: fails."]
    assert probe_file(tmp_path)["kept"] == ["nll", "pear_block"]
    assert probe_file(tmp_path)["failed"] == {"pear_token": f"no result on {tmp_path}/models/base_1, seed 1"}
    assert json.loads((tmp_path / "study" / "failures.json").read_text()) == result.failures
    # It was tried once, not again with the rest; and its other unit did not go on.
    assert "grpo pear_token/0.9 base_0 20" not in ran(tmp_path)

    script(scores=SCORES)
    result = run_scripted(probed, tmp_path / "study")
    assert result.exit_code == 0
    assert probe_file(tmp_path)["kept"] == ["nll", "pear_token", "pear_block"]
    assert "grpo pear_token/0.9 base_0 20" in ran(tmp_path)


def test_nothing_is_spent_where_nothing_can_be_compared(
    probed: dict[str, Any], tmp_path: Path, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script(scores=SCORES, fail=["sft nll base_0"])
    result = run_scripted(probed, tmp_path / "study")
    assert result.exit_code == 1
    assert not [line for line in ran(tmp_path) if line.endswith(" 20")]
    assert "The rest is not run" in capsys.readouterr().err
    assert (tmp_path / "study" / "report.html").is_file()


def test_a_failed_analysis_leaves_the_arms_alone(probed: dict[str, Any], tmp_path: Path, script: Script) -> None:
    del probed["arms"]["pear_block"], probed["arms"]["direct"]
    held_out = [{**probed["tasks"]["sft"][0], "split": "dev"}]
    probed["analyze"] = {"calibration": {"problems": held_out}, "analyses": ["divergence"], "rl_signal_problems": 0}
    script(scores=SCORES, fail=["collect calibration"])
    result = run_scripted(probed, tmp_path / "study", probe=False)
    assert result.exit_code == 1
    assert [failure["error"] for failure in result.failures.values()] == ["collect calibration: fails."]
    assert sorted(node_id.split("-")[0] for node_id in result.blocked) == ["analyze", "analyze"]
    assert {"evaluate nll base_0 20", "evaluate pear_token/0.9 base_0 20"} <= set(ran(tmp_path))
    assert (tmp_path / "study" / "report.html").is_file()


# A study in a process of its own, which is killed.
PROGRAM = """
import json, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.study.test_probe import run_scripted
run_scripted(json.loads({values!r}), Path({study_dir!r}))
"""


@pytest.mark.parametrize("hang", ["evaluate base_0 2", pytest.param("grpo nll base_0 20", marks=pytest.mark.slow)])
def test_a_killed_study_goes_on_and_decides_the_same(
    probed: dict[str, Any], tmp_path: Path, script: Script, hang: str
) -> None:
    script(scores=SCORES, hang=[hang])
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), str(root / "tests" / "study")]
    code = PROGRAM.format(paths=paths, values=json.dumps(probed), study_dir=str(tmp_path / "study"))
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        study = subprocess.Popen([sys.executable, "-c", code], stderr=file)
    hangs, end = tmp_path / "hangs", time.monotonic() + 60
    while not (hangs.is_file() and hangs.read_text()):
        assert study.poll() is None, log.read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(study.pid, signal.SIGKILL)
    study.wait()
    finished = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "study").glob("runs/*/manifest.json")
        if path.parent.suffix != ".partial"
    }
    script(scores=SCORES)
    result = run_scripted(probed, tmp_path / "study")
    assert result.exit_code == 0
    assert probe_file(tmp_path)["dropped"] == ["direct"]
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
