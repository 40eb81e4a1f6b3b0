"""`pear calibrate`: every point of the grid against the naive twin, and what is recommended."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from pear.cli import main
from pear.errors import UserError
from pear.report.calibration import recommendations
from pear.runs import read_manifest
from pear.stages import collect
from pear.stages.calibrate import CALIBRATION, LOG_RATIOS, CalibrateConfig, recommend, run
from pear.training.tiny_models import build_model, build_tokenizer
from tests import naive
from tests.training.grpo_fixtures import PROBLEM_SET, save_solver


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    directory = tmp_path_factory.mktemp("models")
    return save_solver(directory / "behavior", seed=0), save_solver(directory / "target", seed=1)


@pytest.fixture(scope="module")
def buffer(models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {"samples": 24, "max_tokens": 24, "temperature": 1.0}
    directory = tmp_path_factory.mktemp("collected") / "buffer"
    return collect.run(
        collect.CollectConfig.parse(
            {"model": models[0], "problems": [PROBLEM_SET.model_dump()], "sampling": values, "output_dir": directory},
            source="test",
        )
    )


def config(model: str, buffer: Path, output_dir: Path, **changes: Any) -> CalibrateConfig:
    values = {"log_ratio_lows": [-0.5, -0.08], "block_sizes": [3, 2], "trajectories": 20, **changes}
    return CalibrateConfig.parse(
        {"model": model, "buffer": str(buffer), "output_dir": output_dir, **values}, source="test"
    )


def found(run_dir: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run_dir / CALIBRATION).read_text())
    return values


@pytest.fixture(scope="module")
def calibrated(models: tuple[str, str], buffer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config(models[1], buffer, tmp_path_factory.mktemp("calibrated") / "out"))


def log_ratio_rows(run_dir: Path) -> list[list[float]]:
    rows = pyarrow.parquet.read_table(run_dir / LOG_RATIOS).to_pylist()
    return [
        [ours - theirs for ours, theirs in zip(row["log_probs"], row["behavior_log_probs"], strict=True)]
        for row in rows
    ]


def naive_log_weights(ratios: list[list[float]], point: dict[str, Any]) -> list[list[float]]:
    """Before the clip of log G."""
    level, fields = point["objective"].removeprefix("pear_"), point["objective_kwargs"]
    clip = tuple(fields["log_ratio_clip"])
    size, gamma = fields.get("block_size", 1), 1.0 if level == "sequence" else 0.999
    return [
        naive.algorithm_1(row, uniform=level == "sequence", block_size=size, gamma=gamma, log_ratio_clip=clip)
        for row in ratios
    ]


def test_the_grid_is_what_was_asked_for(calibrated: Path) -> None:
    points = found(calibrated)["points"]
    places = [
        (point["objective"], point["objective_kwargs"].get("block_size"), point["objective_kwargs"]["log_ratio_clip"])
        for point in points
    ]
    assert places == [
        (f"pear_{level}", size, [low, 0.3])
        for level, size in (("token", None), ("block", 2), ("block", 3), ("sequence", None))
        for low in (-0.08, -0.5)
    ]


def test_every_point_equals_the_naive_twin(calibrated: Path) -> None:
    ratios = log_ratio_rows(calibrated)
    assert len(ratios) == 20
    mask = [[True] * len(row) for row in ratios]
    flat = [value for row in ratios for value in row]
    for point in found(calibrated)["points"]:
        before = naive_log_weights(ratios, point)
        weights = [[math.exp(naive.clip(value, (-10, 5))) for value in row] for row in before]
        every = [weight for row in weights for weight in row]
        metrics = point["metrics"]
        assert metrics["weights/effective_sample_size"] == pytest.approx(naive.effective_sample_size(every))
        assert metrics["weights/trajectory_effective_sample_size"] == pytest.approx(
            naive.trajectory_effective_sample_size(weights, mask, None)
        )
        low, high = point["objective_kwargs"]["log_ratio_clip"]
        assert metrics["weights/clipped/log_ratio_low"] == pytest.approx(sum(value < low for value in flat) / len(flat))
        assert metrics["weights/clipped/log_ratio_high"] == pytest.approx(
            sum(value > high for value in flat) / len(flat)
        )
        assert metrics["weights/last_tokens_with_90_percent"] == pytest.approx(
            naive.last_tokens_with_90_percent(weights, mask, None)
        )
        assert sum(point["tokens_by_distance"]) == pytest.approx(1)
        last = sum(row[-1] for row in weights)
        assert point["weight_by_distance"][0] == pytest.approx(last / math.fsum(every))


def test_the_exponent_gives_the_wanted_size(models: tuple[str, str], buffer: Path, tmp_path: Path) -> None:
    run_dir = run(config(models[1], buffer, tmp_path / "out", ess=0.95))
    ratios = log_ratio_rows(run_dir)
    tempered = 0
    for point in found(run_dir)["points"]:
        logs = [value for row in naive_log_weights(ratios, point) for value in row]
        size = naive.effective_sample_size([math.exp(point["exponent"] * value) for value in logs])
        if point["exponent"] == 1:
            assert size >= 0.95
        else:
            tempered += 1
            assert size == pytest.approx(0.95, abs=1e-6)
    assert tempered > 0


def test_the_behavior_policy_itself_has_constant_weights(models: tuple[str, str], buffer: Path, tmp_path: Path) -> None:
    run_dir = run(config(models[0], buffer, tmp_path / "out", levels=["sequence"]))
    assert [point["metrics"]["weights/effective_sample_size"] for point in found(run_dir)["points"]] == pytest.approx(
        [1.0, 1.0], abs=1e-6
    )
    assert [point["exponent"] for point in found(run_dir)["points"]] == [1.0, 1.0]


def test_a_finished_run_is_kept(models: tuple[str, str], buffer: Path, calibrated: Path) -> None:
    before = (calibrated / CALIBRATION).read_bytes()
    assert run(config(models[1], buffer, calibrated)) == calibrated
    assert (calibrated / CALIBRATION).read_bytes() == before
    results = read_manifest(calibrated)["results"]
    assert results["trajectories"] == 20
    assert results["recommended"] == found(calibrated)["recommended"]
    assert [point["objective"] for point in results["recommended"]] == ["pear_token", "pear_block", "pear_sequence"]


def point(size: float, objective: str = "pear_token") -> dict[str, Any]:
    return {"objective": objective, "metrics": {"weights/effective_sample_size": size}}


def test_the_strongest_weights_that_keep_the_size_are_recommended() -> None:
    points = [point(0.99), point(0.8), point(0.71), point(0.4), point(0.2, "pear_block"), point(0.6, "pear_block")]
    assert recommend(points, 0.7) == [
        {**point(0.71), "reached": True},
        {**point(0.6, "pear_block"), "reached": False},
    ]
    assert recommend(points[:3], 0.71) == [{**point(0.71), "reached": True}]
    plain_sft = point(0.9999)
    assert recommend([plain_sft, point(0.4)], 0.7) == [{**point(0.4), "reached": False}]
    assert recommend([plain_sft], 0.7) == [{**plain_sft, "reached": True}]


def foreign(directory: Path) -> str:
    """A model whose ids are other words."""
    tokenizer = build_tokenizer(["quite", "other", "words"])
    build_model(tokenizer, hidden_size=16, num_layers=1, num_heads=2).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def test_what_cannot_be_calibrated(models: tuple[str, str], buffer: Path, tmp_path: Path) -> None:
    output, other = tmp_path / "out", foreign(tmp_path / "foreign")
    for values, sentence in (
        ({"buffer": tmp_path}, "not a buffer"),
        ({"levels": ["tokn"]}, "Unknown level 'tokn'. Did you mean 'token'"),
        ({"levels": []}, "levels: name at least one"),
        ({"log_ratio_lows": []}, "log_ratio_lows: name at least one"),
        ({"block_sizes": []}, "block_sizes: name at least one, or leave block out of levels"),
        ({"model": other}, "its vocabulary is not the one of the buffer"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(config(**{"model": models[1], "buffer": buffer, "output_dir": output, **values}))
    for values, sentence in (
        ({"trajectories": 15}, "trajectories.*16"),
        ({"ess": 1.0}, "ess.*less than 1"),
        ({"log_ratio_lows": [0.1]}, "log_ratio_lows.*less than or equal to 0"),
        ({"log_ratio_lows": [-math.inf]}, "log_ratio_lows.*finite"),
    ):
        with pytest.raises(UserError, match=sentence):
            config(models[1], buffer, output, **values)
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]


def test_too_few_trajectories(models: tuple[str, str], tmp_path: Path) -> None:
    values = {"samples": 1, "max_tokens": 24, "temperature": 1.0}
    small = {"model": models[0], "problems": [PROBLEM_SET.model_dump()], "sampling": values}
    buffer = collect.run(collect.CollectConfig.parse({**small, "output_dir": tmp_path / "buffer"}, source="test"))
    with pytest.raises(UserError, match=r"buffer: has \d+ correct trajectories, and a calibration needs at least 16\."):
        run(config(models[1], buffer, tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["buffer"]


def test_the_command_says_what_to_take_and_writes_the_page(
    models: tuple[str, str],
    buffer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    words = ["calibrate", str(buffer), "--model", models[1], "--output-dir", str(output), "--ess", "0.8"]
    grid = ["--levels", "sequence", "block", "--log-ratio-lows", "-1", "-0.05", "--block-sizes", "2"]
    monkeypatch.setattr("sys.argv", ["pear", *words, *grid, "--trajectories", "16"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(output / "calibration.html")
    page = (output / "calibration.html").read_text()
    values = found(output)
    assert [point["objective"] for point in values["points"]] == ["pear_sequence"] * 2 + ["pear_block"] * 2
    for sentence in recommendations(values["recommended"], ess=0.8):
        assert sentence in printed.err
        assert sentence in page
