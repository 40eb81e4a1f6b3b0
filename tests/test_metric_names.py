"""One page documents every metric: what runs write is on it, and what is on it some run writes."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pear.report.figures.curves import RL_METRICS, SFT_METRICS, UPDATE_NORM
from pear.report.results.signal_sources import signals_of
from pear.report.sources.rows import Study
from pear.runs import read_manifest
from pear.stages import analyze, collect, evaluate, grpo, pretrain, rescale, sft
from pear.stages.outcomes import outcome_schema
from pear.study.config import Probe
from pear.study.probe import choose

ROOT = Path(__file__).resolve().parent.parent
BASE = "pear:affine_chain/base_1"
# Of metrics.jsonl of RL, all else is TRL's.
OURS_IN_RL = re.compile(r"rl/|update/|step$")
AREAS = re.compile(r"(loss|weights|update|rl|drift|divergence|token_weights|gradients)/[a-z0-9_]+(/[a-z0-9_]+)*")


def documented() -> dict[str, list[str]]:
    """Section to the keys in the first column of its table."""
    sections: dict[str, list[str]] = {}
    title = ""
    for line in (ROOT / "docs/metrics.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.startswith("| `"):
            cell = line.split(" | ")[0]
            sections.setdefault(title, []).extend(re.findall(r"`([^`]+)`", cell))
    return sections


def problem_sets(split: str, size: int) -> list[dict[str, Any]]:
    return [{"task": "tiny/affine_chain", "level": "n4", "split": split, "size": size}]


def logged(directory: Path) -> set[str]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return {key for line in lines for key in json.loads(line)}


def results(*directories: Path) -> set[str]:
    return {key for directory in directories for key in read_manifest(directory)["results"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def buffer(folder: Path) -> Path:
    values = {
        "model": "pear:affine_chain/behavior",
        "problems": problem_sets("sft", 12),
        "sampling": {"max_tokens": 64},
        "output_dir": folder / "buffer",
    }
    return collect.run(collect.CollectConfig.parse(values, source="test"))


@pytest.fixture(scope="module")
def tuned(folder: Path, buffer: Path) -> Path:
    values = {
        "model": BASE,
        "buffer": str(buffer),
        "objective": "pear_token",
        "trainer": {"max_steps": 1, "per_device_train_batch_size": 4, "logging_steps": 1, "max_length": 128},
        "output_dir": folder / "sft",
    }
    return sft.run(sft.SftConfig.parse(values, source="test"))


RL = {"problems": problem_sets("rl", 4), "prompts_per_step": 4, "group_size": 4, "max_completion_tokens": 64}


@pytest.fixture(scope="module")
def reinforced(folder: Path, tuned: Path) -> Path:
    values = {**RL, "model": str(tuned), "steps": 1, "output_dir": folder / "grpo"}
    return grpo.run(grpo.GrpoConfig.parse(values, source="test"))


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    values = {
        "problems": problem_sets("sft", 4),
        "hidden_size": 16,
        "trainer": {"max_steps": 1, "max_length": 128},
        "output_dir": folder / "pretrain",
    }
    return pretrain.run(pretrain.PretrainConfig.parse(values, source="test"))


@pytest.fixture(scope="module")
def evaluated(folder: Path, tuned: Path) -> dict[str, Any]:
    values = {
        "model": str(tuned),
        "problems": problem_sets("eval", 2),
        "samples": 4,
        "k": [2],
        "temperature": [1.0, 0.5],
        "max_tokens": 40,
        "output_dir": folder / "evaluate",
    }
    run = evaluate.run(evaluate.EvaluateConfig.parse(values, source="test"))
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def untied_model(directory: Path, scale: float) -> Path:
    directory.mkdir()
    weights = {f"{name}.weight": scale * torch.eye(16) for name in ("model.layers.0.self_attn.q_proj", "lm_head")}
    save_file(weights, directory / "model.safetensors")
    (directory / "config.json").write_text("{}")
    return directory


@pytest.fixture(scope="module")
def analyzed(folder: Path, buffer: Path, tuned: Path) -> list[Path]:
    untied = [untied_model(folder / name, scale) for name, scale in (("before", 1.0), ("after", 1.5))]
    pilots = {"steps": 1, "rl": RL, "sft": {"max_length": 128}}
    runs = [
        {"analysis": "weight_drift", "before": untied[0], "after": untied[1]},
        {"analysis": "divergence", "before": BASE, "after": tuned, "buffer": buffer},
        {"analysis": "token_weights", "before": BASE, "after": tuned, "buffer": buffer},
        {"analysis": "gradient_rotation", "before": tuned, "buffer": buffer, "settings": pilots},
    ]
    return [
        analyze.run(
            analyze.AnalyzeConfig.parse(
                {
                    **{key: str(value) if isinstance(value, Path) else value for key, value in run.items()},
                    "output_dir": folder / f"analyze_{run['analysis']}",
                },
                source="test",
            )
        )
        for run in runs
    ]


def check_section(title: str, written: set[str]) -> None:
    known = documented()[title]
    assert len(set(known)) == len(known), f"{title}: a key is documented twice"
    assert written - set(known) == set(), f"{title}: written by a run, not in docs/metrics.md"
    assert set(known) - written == set(), f"{title}: in docs/metrics.md, and no run writes it"


def test_every_section_is_checked() -> None:
    checked = [
        "SFT",
        "SFT, of some objectives",
        "RL",
        "Evaluation",
        "Outcomes",
        "Analyses",
        "Signals",
        "Probe",
        "Counts",
    ]
    assert list(documented()) == checked


def test_sft(tuned: Path) -> None:
    written = logged(tuned) | {key for key in results(tuned) if "/" in key}
    check_section("SFT", {re.sub(r"/distance_\d+/", "/distance_{d}/", key) for key in written})


def test_sft_of_some_objectives() -> None:
    found = {key for path in (ROOT / "pear/objectives").glob("*.py") for key in literals(path)}
    check_section("SFT, of some objectives", found - set(documented()["SFT"]))


def test_rl(reinforced: Path) -> None:
    written = {key for key in logged(reinforced) if OURS_IN_RL.match(key)}
    check_section("RL", written | {key for key in results(reinforced) if "/" in key})


def test_evaluation(evaluated: dict[str, Any]) -> None:
    check_section("Evaluation", {"pass@k" if key.startswith("pass@") else key for key in evaluated})
    inner = [*evaluated["tasks"].values(), *evaluated["levels"].values(), evaluated["macro"]]
    assert all(set(entry) <= set(evaluated) for entry in inner)
    assert all(set(entry) == set(evaluated) - {"temperatures"} for entry in evaluated["temperatures"].values())


def test_outcomes() -> None:
    check_section("Outcomes", set(outcome_schema().names))


def test_analyses(analyzed: list[Path]) -> None:
    for run in analyzed:
        assert results(run) == set(json.loads((run / "metrics.json").read_text()))
    check_section("Analyses", results(*analyzed))


def test_signals(tmp_path: Path) -> None:
    study = Study(directory=tmp_path, name="none", config={}, digests={}, nodes=(), reference="nll")
    check_section("Signals", {signal.name for signal in signals_of(study)})


def test_probe() -> None:
    choice = choose({"nll": {"0": 0.1}, "a": {"0": 0.3}, "b": {"0": 0.2}}, reference="nll", keep=0.5)
    record = choice.record(5, Probe())
    check_section("Probe", set(record))
    assert all(set(entry) <= set(record) for entry in record["rounds"])


def test_counts(folder: Path, buffer: Path, made: Path, tuned: Path, reinforced: Path) -> None:
    scaled = {"base": BASE, "model": str(tuned), "norm_of": str(reinforced), "output_dir": folder / "rescale"}
    rescaled = rescale.run(rescale.RescaleConfig.parse(scaled, source="test"))
    failures = {
        "model": BASE,
        "buffer": str(buffer),
        "objective": "negatives",
        "trainer": {"max_steps": 1, "per_device_train_batch_size": 4, "max_length": 128},
        "output_dir": folder / "negatives",
    }
    with_failures = sft.run(sft.SftConfig.parse(failures, source="test"))
    made_by = (buffer, made, tuned, rescaled, with_failures, reinforced)
    check_section("Counts", {key for key in results(*made_by) if "/" not in key})


def literals(path: Path) -> list[str]:
    """The strings of a module that are metric keys; pieces of longer ones are not."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    pieces = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    constants = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in pieces]
    return [value for value in constants if isinstance(value, str) and AREAS.fullmatch(value)]


def test_every_key_that_stands_in_the_code_is_documented() -> None:
    """What the report reads and shows above all: a slip there is an empty figure."""
    known = {key for keys in documented().values() for key in keys}
    found = {key: path.name for path in sorted((ROOT / "pear").rglob("*.py")) for key in literals(path)}
    assert {key: name for key, name in found.items() if key not in known} == {}
    assert {metric.key for metric in (*SFT_METRICS, *RL_METRICS, UPDATE_NORM)} <= set(found)
