"""`pear score --behavior estimate`: a policy that is not at hand, fitted to the trajectories by cross-fitting."""

import json
from pathlib import Path
from typing import Any

import pytest

from pear.data.buffer import Estimate, load_buffer, read_manifest
from pear.data.rendering import load_tokenizer
from pear.engines.protocol import derive_seed
from pear.engines.transformers_engine import load_model
from pear.errors import UserError
from pear.runs import MANIFEST, Run
from pear.stages import score, sft
from pear.stages.cross_fitting import _dataset, deal
from pear.training.sft_run import sft_arguments, train_and_save
from tests.engines import naive
from tests.training.grpo_fixtures import save_solver

FIT = {"max_steps": 6, "learning_rate": 3e-3, "per_device_train_batch_size": 8}
ESTIMATE = {"behavior": "estimate", "folds": 3, "fit": FIT, "seed": 7}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_solver(tmp_path_factory.mktemp("models") / "base", seed=1, until=1.0)


def scored(model: str, source: Path, output_dir: Path, **changes: Any) -> Path:
    values = {"model": model, "inputs": [str(source)], "output_dir": output_dir, **changes}
    return score.run(score.ScoreConfig.parse(values, source="test"))


@pytest.fixture(scope="module")
def estimated(base: str, sampled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored(base, sampled, tmp_path_factory.mktemp("scored") / "estimate", shard_rows=10, **ESTIMATE)


def test_every_fold_is_scored_by_a_model_of_the_others(
    estimated: Path, base: str, sampled: Path, tmp_path: Path
) -> None:
    found = load_buffer(estimated, correct_only=False).to_list()
    source = load_buffer(sampled, correct_only=False).to_list()
    assert [row["completion_ids"] for row in found] == [row["completion_ids"] for row in source]
    assert {row["correct"] for row in source} == {True, False}
    places = deal([row["problem_id"] for row in source], 3, seed=7)
    assert all(len({row["problem_id"] for row, own in zip(source, places, strict=True) if own == fold}) == 4
               for fold in range(3))  # fmt: skip
    tokenizer = load_tokenizer(base)
    for fold in (0, 2):
        others = [row for row, own in zip(source, places, strict=True) if own != fold]
        inside = [(row, new) for row, new, own in zip(source, found, places, strict=True) if own == fold]
        assert not {row["problem_id"] for row in others} & {row["problem_id"] for row, _ in inside}
        run = Run(tmp_path / str(fold), {})
        run.scratch.mkdir(parents=True)
        seed = derive_seed(7, "fold", fold) >> 32
        trainer = {"max_length": None, **FIT}
        args = sft_arguments(run.scratch, objective="nll", objective_kwargs={}, seed=seed, trainer=trainer)
        train_and_save(base, tokenizer, _dataset(others), run, args)
        fitted = load_model(str(run.work), "cpu", "float32")
        for row, new in inside:
            expected = naive.score(fitted, row["behavior_prompt_ids"], row["completion_ids"])
            assert new["behavior_log_probs"] == pytest.approx(expected, abs=1e-4)


def test_the_buffer_says_that_it_is_an_estimate(estimated: Path, base: str) -> None:
    manifest = read_manifest(estimated)
    assert manifest.estimate == Estimate(model=Path(base).name, folds=3)
    assert manifest.behavior_model.startswith("an estimate, fitted from ")
    assert set(load_buffer(estimated)["behavior_model"]) == {manifest.behavior_model}
    assert not list(estimated.glob("fold*"))


def test_what_decides_it_is_in_its_fingerprint(base: str, sampled: Path, tmp_path: Path) -> None:
    def hashed(**changes: Any) -> dict[str, Any]:
        values = {"model": base, "inputs": [str(sampled)], "output_dir": tmp_path, **changes}
        return score.ScoreConfig.parse(values, source="test").hashed()

    assert not {"behavior", "folds", "fit", "seed", "align"} & hashed().keys()
    whole = hashed(**ESTIMATE)
    assert whole != hashed(**{**ESTIMATE, "folds": 4})
    assert whole != hashed(**{**ESTIMATE, "fit": {**FIT, "max_steps": 7}})
    assert whole == hashed(**{**ESTIMATE, "fit": {**FIT, "save_steps": 1}})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"folds": 13}, "folds: 13 of them, and the trajectories are of 12 problems"),
        ({"fit": {"learning_rat": 1}}, "fit: .*learning_rat"),
        ({"fit": {"max_length": 8}}, "longer than max_length=8"),
        ({"align": "x"}, "align: an estimate can be fitted"),
        ({"teacher_top_k": 2}, "teacher_top_k: an estimate"),
        ({"engine": "server", "engine_kwargs": {"endpoints": ["http://h/v1"]}}, "engine: a server cannot load"),
        ({"behavior": "model", "fit": {}, "seed": 0}, "folds: only read with"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    changes: dict[str, Any], sentence: str, base: str, sampled: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        scored(base, sampled, tmp_path / "out", **{**ESTIMATE, **changes})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_actors_of_ray_score_what_is_fitted(base: str, sampled: Path, estimated: Path, tmp_path: Path) -> None:
    kwargs = {"workers": 1, "cpus_per_worker": 0.5}
    values: dict[str, Any] = {"engine": "ray", "engine_kwargs": kwargs, **ESTIMATE}
    found = load_buffer(scored(base, sampled, tmp_path / "out", **values), correct_only=False)
    wanted = load_buffer(estimated, correct_only=False)
    for one, other in zip(found["behavior_log_probs"], wanted["behavior_log_probs"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_rows_without_ids_are_enough(base: str, sampled: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    kept = ("problem_id", "prompt", "completion")
    lines = [{name: row[name] for name in kept} for row in load_buffer(sampled).to_list()]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    run = scored(base, rows, tmp_path / "out", behavior="estimate", folds=2, fit={"max_steps": 1})
    assert json.loads((run / MANIFEST).read_text(encoding="utf-8"))["results"]["rows"] == len(lines)


def test_every_report_says_that_it_is_an_estimate(estimated: Path, base: str, tmp_path: Path) -> None:
    from pear.report.calibration import write_calibration_page
    from pear.report.inspection import write_weight_page
    from pear.stages import calibrate, inspect

    sentence = "Its log-probs are an estimate: the policy that made the trajectories was not at hand"
    values = {"model": base, "buffer": str(estimated)}
    looked = inspect.InspectConfig.parse({**values, "output_dir": tmp_path / "inspect"}, source="test")
    assert sentence in write_weight_page(inspect.run(looked)).read_text(encoding="utf-8")
    strength = calibrate.CalibrateConfig.parse({**values, "output_dir": tmp_path / "calibrate"}, source="test")
    assert sentence in write_calibration_page(calibrate.run(strength)).read_text(encoding="utf-8")
    given = {**values, "trainer": {"max_steps": 1}, "output_dir": tmp_path / "sft"}
    trained = sft.run(sft.SftConfig.parse(given, source="test"))
    assert sentence in json.loads((trained / MANIFEST).read_text(encoding="utf-8"))["results"]["estimate"]
    assert sentence in (trained / "README.md").read_text(encoding="utf-8")
