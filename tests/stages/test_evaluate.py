import json
from pathlib import Path

import numpy
import pyarrow.parquet
import pytest

from pear.errors import UserError
from pear.ops.pass_at_k import pass_at_k
from pear.runs import partial_path, read_manifest
from pear.stages import evaluate
from pear.stages.evaluate import EvaluateConfig
from pear.tasks import TASKS
from tests.training.grpo_fixtures import PROBLEM_SET, PROBLEMS, save_solver


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_solver(tmp_path_factory.mktemp("model"), seed=0)


def config_for(start: str, output_dir: Path, **changes) -> EvaluateConfig:
    values = {
        "model": start,
        "problems": [PROBLEM_SET.model_dump()],
        "samples": 6,
        "k": [3],
        "max_tokens": 20,
        "shard_problems": 5,
        "output_dir": output_dir,
    }
    return EvaluateConfig.parse({**values, **changes}, source="test")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    return evaluate.run(config_for(model, tmp_path_factory.mktemp("evaluate") / "run"))


def outcomes_of(directory: Path) -> list[dict]:
    return pyarrow.parquet.read_table(directory / "outcomes.parquet").to_pylist()


def test_every_outcome_is_kept_in_order(finished) -> None:
    rows = outcomes_of(finished)
    assert [row["problem_id"] for row in rows] == [problem.id for problem in PROBLEMS for _ in range(6)]
    assert [row["sample"] for row in rows] == list(range(6)) * 12
    assert {row["level"] for row in rows} == {"n2"}
    assert sorted(path.name for path in finished.iterdir() if path.name != ".lock") == [
        "manifest.json",
        "metrics.json",
        "outcomes.parquet",
    ]


def test_the_verifiers_word_can_be_had_again_from_the_file(finished) -> None:
    problems = {problem.id: problem for problem in PROBLEMS}
    rows = outcomes_of(finished)
    assert {row["correct"] for row in rows} == {True, False}
    for row in rows:
        verdict = TASKS[row["task"]].verify(problems[row["problem_id"]], row["completion"])
        assert (verdict.correct, verdict.well_formed, verdict.reason, verdict.answer) == (
            row["correct"],
            row["well_formed"],
            row["reason"],
            row["answer"],
        )
        assert "<|end|>" not in row["completion"]
        assert (row["finish"] == "length") == (row["num_tokens"] == 20 and not row["correct"]) or row[
            "finish"
        ] == "stop"


def test_the_metrics_are_those_of_the_outcomes(finished) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    rows = outcomes_of(finished)
    correct = numpy.array([row["correct"] for row in rows]).reshape(12, 6)
    assert metrics["num_problems"] == 12
    assert metrics["num_samples"] == 6
    assert metrics["pass@1"]["value"] == pytest.approx(correct.mean())
    assert metrics["pass@3"]["value"] == pytest.approx(pass_at_k(correct, 3).mean())
    for name in ("pass@1", "pass@3"):
        assert metrics[name]["low"] < metrics[name]["value"] < metrics[name]["high"]
        assert metrics[name]["n"] == 12
    assert metrics["avg@n"] == metrics["pass@1"]
    assert metrics["format"] == pytest.approx(numpy.mean([row["well_formed"] for row in rows]))
    assert metrics["truncated"] == pytest.approx(numpy.mean([row["finish"] == "length" for row in rows]))
    assert metrics["mean_tokens"] == pytest.approx(numpy.mean([row["num_tokens"] for row in rows]))
    assert metrics["decoding"] == config_for("m", finished).sampling.model_dump()
    assert read_manifest(finished)["results"] == metrics


def test_each_task_has_its_own_metrics(model, tmp_path) -> None:
    other = {"task": "tiny/permutation_chain", "split": "dev", "size": 4}
    config = config_for(
        model, tmp_path / "run", problems=[other, PROBLEM_SET.model_dump()], samples=2, k=[], max_tokens=8
    )
    metrics = json.loads((evaluate.run(config) / "metrics.json").read_text())
    assert {task: values["num_problems"] for task, values in metrics["tasks"].items()} == {
        "tiny/affine_chain": 12,
        "tiny/permutation_chain": 4,
    }
    assert metrics["num_problems"] == 16
    assert "pass@3" not in metrics


def test_a_killed_evaluation_goes_on_to_the_same_files(finished, model, tmp_path, monkeypatch) -> None:
    config = config_for(model, tmp_path / "run")
    sample = evaluate._sample_shard
    sampled: list[int] = []

    def killed(config, prepared, shard):
        if shard == 2:
            raise KeyboardInterrupt
        return sample(config, prepared, shard)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_sample_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate.run(config)
    assert len(list((partial_path(config.output_dir) / "shards").glob("*.parquet"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_sample_shard", lambda *args: sampled.append(args[2]) or sample(*args))
        evaluate.run(config)
    assert sampled == [2]
    for name in ("outcomes.parquet", "metrics.json"):
        assert (config.output_dir / name).read_bytes() == (finished / name).read_bytes()


def test_a_second_run_does_nothing(finished, model, monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "_prepare", lambda *_: pytest.fail("prepared again"))
    assert evaluate.run(config_for(model, finished)) == finished


def test_shards_do_not_share_their_draws(model, tmp_path) -> None:
    """The same problem in two shards: a shard's seed is its own."""
    draws = []
    for offset in (0, 1):
        problems = [{**PROBLEM_SET.model_dump(), "size": 1, "offset": number} for number in (offset, 1 - offset)]
        config = config_for(model, tmp_path / str(offset), problems=problems, samples=16, k=[], shard_problems=1)
        rows = outcomes_of(evaluate.run(config))
        draws.append([row["completion"] for row in rows if row["problem_id"] == PROBLEMS[0].id])
    assert draws[0] != draws[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": [8]}, "pass@8 needs as many samples, and `samples` is 6"),
        ({"temperature": 0}, "greedy samples are all the same"),
        ({"sampels": 3}, "Did you mean 'samples'"),
        ({"problems": []}, "problems"),
    ],
)
def test_mistakes_in_the_configuration(model, tmp_path, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        config_for(model, tmp_path / "run", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 4000}, "context of 512"),
        ({"model": "./nowhere"}, "no such model directory"),
        ({"problems": [{"task": "tiny/affine_chain", "split": "eval", "size": 3, "level": "n99"}]}, "n99"),
        ({"device": "tpu9"}, "device"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(model, tmp_path, changes, message) -> None:
    start = changes.pop("model", model)
    with pytest.raises(UserError, match=message):
        evaluate.run(config_for(start, tmp_path / "run", **changes))
    assert not list(tmp_path.iterdir())


def test_few_samples_for_k_are_remarked_on(model, tmp_path, capsys) -> None:
    evaluate.run(config_for(model, tmp_path / "run", samples=4, max_tokens=4))
    assert "pass@3 from 4 samples is a rough estimate; 6 samples or more" in capsys.readouterr().err


def test_greedy_decoding_takes_one_sample(model, tmp_path) -> None:
    config = config_for(model, tmp_path / "run", samples=1, k=[1], temperature=0)
    assert len(outcomes_of(evaluate.run(config))) == 12
