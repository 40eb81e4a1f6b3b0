"""A whole study on the real stages, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pear.errors import UserError
from pear.runs import locked
from pear.study import StudyConfig, run_study

N2 = {"task": "tiny/affine_chain", "level": "n2"}


def small_study() -> dict[str, Any]:
    def pretrain(size: int, steps: int) -> dict[str, Any]:
        trainer = {"max_steps": steps, "per_device_train_batch_size": 16, "learning_rate": "5e-3"}
        return {
            "pretrain": {
                "problems": [{**N2, "split": "sft", "size": 400}],
                "hidden_size": size,
                "num_layers": 2,
                "num_heads": 2,
                "trainer": trainer,
            }
        }

    return {
        "name": "small",
        "base": pretrain(16, 10),
        "behavior": {"model": pretrain(48, 80), "sampling": {"max_tokens": 48, "samples": 8}},
        "tasks": {
            "sft": [{**N2, "split": "sft", "size": 48}],
            "rl": [{**N2, "split": "rl", "size": 8}],
            "eval": [{**N2, "split": "eval", "size": 8}],
        },
        "arms": {
            "nll": {"objective": "nll"},
            "pear_token": {"objective": "pear_token"},
            "broken": {"objective": "nll", "sft": {"trainer": {"max_length": 4}}},
        },
        "seeds": [3],
        "sft": {"trainer": {"max_steps": 2, "per_device_train_batch_size": 8}},
        "rl": {"steps": 2, "prompts_per_step": 4, "group_size": 2, "max_completion_tokens": 48},
        "evaluate": {"samples": 2, "k": [1], "max_tokens": 48, "at_rl_steps": [1]},
    }


def start(values: dict[str, Any], tmp_path: Path, *options: str) -> "subprocess.Popen[str]":
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "pear", "study", str(recipe), "--output-dir", str(tmp_path / "study"), *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_a_study_is_stopped_goes_on_survives_a_bad_arm_and_does_nothing_twice(tmp_path: Path) -> None:
    study_dir = tmp_path / "study"
    runs = study_dir / "runs"

    stopped = start(small_study(), tmp_path)
    while stopped.poll() is None and not list(runs.glob("pretrain-*.partial/progress.json")):
        time.sleep(0.1)
    stopped.send_signal(signal.SIGINT)
    _, text = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, text
    assert "Traceback" not in text
    assert not list(study_dir.glob("report.html"))

    study = start(small_study(), tmp_path)
    _, text = study.communicate(timeout=240)
    assert study.returncode == 1, text
    assert "1 failed, 4 could not run for that:" in text
    assert "sft broken base_3 seed 3: " in text
    plan = json.loads((study_dir / "plan.json").read_text())
    failures = json.loads((study_dir / "failures.json").read_text())
    complete = {path.parent.name for path in runs.glob("*/manifest.json")}
    of_arm = {
        arm: {node["id"] for node in plan["nodes"] if any(use["arm"] == arm for use in node["uses"])}
        for arm in ("nll", "pear_token", "broken")
    }
    # SFT, RL, and three evaluations each.
    assert [len(ids) for ids in of_arm.values()] == [5, 5, 5]
    assert of_arm["nll"] | of_arm["pear_token"] <= complete
    assert not of_arm["broken"] & complete
    assert set(failures) < of_arm["broken"]
    assert "longer" in next(iter(failures.values()))["error"]
    assert (study_dir / "report.html").is_file()

    written = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    without_broken = small_study()
    del without_broken["arms"]["broken"]
    study = start(without_broken, tmp_path)
    _, text = study.communicate(timeout=60)
    assert study.returncode == 0, text
    assert "14 stages, 14 of them finished already." in text
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == written
    assert not (study_dir / "failures.json").exists()


def probed_study() -> dict[str, Any]:
    """Three arms on shipped models, analyzed; two of four steps of RL choose between them."""
    n4 = {"task": "tiny/affine_chain", "level": "n4"}
    return {
        "name": "probed",
        "base": "pear:affine_chain/base_{seed}",
        "behavior": {"model": "pear:affine_chain/behavior", "sampling": {"max_tokens": 48}},
        "tasks": {
            "sft": [{**n4, "split": "sft", "size": 32}],
            "rl": [{**n4, "split": "rl", "size": 8}],
            "eval": [{**n4, "split": "eval", "size": 16}],
        },
        "arms": {"nll": {"objective": "nll"}, "pear_token": {"objective": "pear_token"}, "direct": None},
        "seeds": [1],
        "sft": {"trainer": {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": "1.5e-3"}},
        "rl": {"steps": 4, "prompts_per_step": 4, "group_size": 4, "max_completion_tokens": 48, "beta": 0.0},
        "evaluate": {"samples": 4, "k": [1], "max_tokens": 48},
        "probe": {"share": 0.5},
        "analyze": {
            "calibration": {"problems": [{**n4, "split": "dev", "size": 8}]},
            "rl_signal_problems": 4,
            "settings": {"gradient_rotation": {"steps": 1}},
        },
    }


@pytest.mark.slow
def test_a_probed_study_is_analyzed_and_reported(tmp_path: Path) -> None:
    study_dir = tmp_path / "study"
    study = start(probed_study(), tmp_path, "--probe")
    _, text = study.communicate(timeout=240)
    assert study.returncode == 0, text
    choice = json.loads((study_dir / "probe.json").read_text())
    assert choice["steps"] == 2
    assert set(choice["scores"]) == {"nll", "pear_token", "direct"}
    assert "nll" in choice["kept"]
    assert len(choice["kept"]) >= 2
    assert f"The probe keeps {choice['kept'][0]} (" in text

    found = {}
    plan = json.loads((study_dir / "plan.json").read_text())
    for node in plan["nodes"]:
        for use in node["uses"]:
            metrics = study_dir / node["dir"] / "metrics.json"
            if use["role"] in ("analysis", "rl_signal"):
                found[use["arm"], use.get("analysis", "rl_signal"), use["rl_step"]] = json.loads(metrics.read_text())
    after_sft = {("weight_drift", 0), ("divergence", 0), ("token_weights", 0), ("gradient_rotation", 0)}
    for arm in ("nll", "pear_token", "direct"):
        planned = {("weight_drift", 4), ("rl_signal", 0)} | (after_sft if arm != "direct" else set())
        assert {(name, step) for of, name, step in found if of == arm} == (planned if arm in choice["kept"] else set())
    assert found["nll", "weight_drift", 4]["drift/update_norm"] > 0
    assert found["nll", "divergence", 0]["divergence/forward_kl"]["value"] > 0
    assert found["nll", "rl_signal", 0]["num_samples"] == 4
    assert (study_dir / "report.html").is_file()

    study = start(probed_study(), tmp_path, "--probe")
    _, text = study.communicate(timeout=60)
    assert study.returncode == 0, text
    assert f"{len(plan['nodes'])} stages, {len(plan['nodes'])} of them finished already." in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "values", "message"),
    [
        ("sft", {"trainer": {"learning_rat": 1}}, "sft: trainer.learning_rat: PearConfig has no field of this name."),
        ("rl", {"trainer": {"epsilonn": 1}}, "rl: trainer.epsilonn: GRPOConfig has no field of this name."),
    ],
)
def test_trainer_blocks_are_checked_before_anything_is_written(
    tmp_path: Path, block: str, values: dict[str, Any], message: str
) -> None:
    study_values = small_study()
    study_values[block] |= values
    study = start(study_values, tmp_path)
    _, text = study.communicate(timeout=120)
    assert study.returncode == 2
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "study").exists()


def test_two_studies_do_not_work_in_one_directory(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_text("")
    values = {"name": "one", "base": str(model), "tasks": {"eval": [{**N2, "split": "eval", "size": 2}]}}
    study_dir = tmp_path / "study"
    study_dir.mkdir()
    with locked(study_dir), pytest.raises(UserError, match="another process is working here"):
        run_study(StudyConfig.parse(values, source="test"), study_dir)
    assert [path.name for path in study_dir.iterdir()] == [".lock"]


def test_a_directory_that_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no study"):
        run_study(StudyConfig.parse(small_study(), source="test"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
