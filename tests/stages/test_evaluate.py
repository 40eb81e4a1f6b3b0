import itertools
import json
from pathlib import Path
from statistics import fmean

import numpy
import pyarrow
import pyarrow.parquet
import pytest

from pear.engines.protocol import Sampling
from pear.errors import UserError
from pear.ops.pass_at_k import pass_at_k
from pear.runs import SCRATCH, file_digest, partial_path, read_manifest
from pear.stages import evaluate
from pear.stages.evaluate import EvaluateConfig
from pear.stages.outcomes import outcome_metrics, outcome_schema
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
        for name in ("correct", "accurate", "well_formed", "reason", "answer"):
            assert getattr(verdict, name) == row[name]
        assert row["temperature"] == 1.0
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
    assert metrics["decoding"] == config_for("m", finished).samplings[0].model_dump()
    digest = file_digest(finished / "outcomes.parquet")
    assert read_manifest(finished)["results"] == {**metrics, "outcomes_sha256": digest}


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

    def killed(config, prepared, sampling, shard):
        if shard == 2:
            raise KeyboardInterrupt
        return sample(config, prepared, sampling, shard)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_sample_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate.run(config)
    assert len(list((partial_path(config.output_dir) / SCRATCH).glob("*.parquet"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_sample_shard", lambda *args: sampled.append(args[3]) or sample(*args))
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
        ({"k": [4]}, r"pass@4 needs at least 8 samples, and `samples` is 6: .* no spread left, and the interval does"),
        ({"k": [1, 6]}, "pass@6 needs at least 12 samples"),
        ({"temperature": 0}, "greedy samples are all the same"),
        ({"temperature": [0.5, 0]}, "greedy samples are all the same"),
        ({"temperature": [0.5, 1, 0.5]}, "a temperature is named twice"),
        ({"temperature": []}, "expected one temperature or several"),
        ({"temperature": [0.5, -1]}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
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


def test_the_default_k_is_checked_too(tmp_path) -> None:
    values = {"model": "m", "problems": [PROBLEM_SET.model_dump()], "output_dir": tmp_path / "run"}
    assert EvaluateConfig.parse({**values, "samples": 16}, source="test").k == [1, 8]
    with pytest.raises(UserError, match="pass@8 needs at least 16 samples, and `samples` is 15"):
        EvaluateConfig.parse({**values, "samples": 15}, source="test")
    assert EvaluateConfig.parse({**values, "samples": 1, "k": []}, source="test").k == [1]


def test_greedy_decoding_takes_one_sample(model, tmp_path) -> None:
    config = config_for(model, tmp_path / "run", samples=1, k=[1], temperature=0)
    assert len(outcomes_of(evaluate.run(config))) == 12


@pytest.fixture(scope="module")
def at_two_temperatures(model, tmp_path_factory) -> Path:
    config = config_for(model, tmp_path_factory.mktemp("evaluate") / "run", temperature=[1.0, 0.3])
    return evaluate.run(config)


def test_a_second_temperature_leaves_the_first_alone(finished, at_two_temperatures) -> None:
    alone, rows = outcomes_of(finished), outcomes_of(at_two_temperatures)
    assert rows[: len(alone)] == alone
    others = rows[len(alone) :]
    assert {row["temperature"] for row in others} == {0.3}
    assert [(row["problem_id"], row["sample"]) for row in others] == [
        (row["problem_id"], row["sample"]) for row in alone
    ]
    assert [row["completion"] for row in others] != [row["completion"] for row in alone]
    metrics = json.loads((at_two_temperatures / "metrics.json").read_text())
    assert list(metrics.pop("temperatures")) == ["1.0", "0.3"]
    assert metrics == json.loads((finished / "metrics.json").read_text())


def test_each_temperature_has_its_own_metrics(model, at_two_temperatures, tmp_path) -> None:
    found = json.loads((at_two_temperatures / "metrics.json").read_text())["temperatures"]
    assert [values["decoding"]["temperature"] for values in found.values()] == [1.0, 0.3]
    second = evaluate.run(config_for(model, tmp_path / "run", temperature=0.3))
    assert json.loads((second / "metrics.json").read_text()) == found["0.3"]


def test_one_temperature_in_a_list_is_that_temperature(model, tmp_path) -> None:
    single = config_for(model, tmp_path, temperature=[0.3])
    assert single == config_for(model, tmp_path, temperature=0.3)
    assert single.hashed() == config_for(model, tmp_path, temperature=0.3).hashed()


SAMPLES = 6


def scripted_outcomes() -> pyarrow.Table:
    """Tasks that share a level's name; ties, unreadable answers, and answers that are right without their tags."""
    problems = {
        ("tiny/affine_chain", "n2"): ["AAB---", "AbbCCD", "------", "abcdef", "Abbbb-", "AAAAAA"],
        ("tiny/affine_chain", "n4"): ["aaABBB", "--A---", "cb-Aa-"],
        ("synlogic/survo", "n4"): ["AABBcc", "AABccc", "abAb--", "A+++--"],
    }
    rows = [
        {
            "problem_id": f"{task}/{level}/{number}",
            "task": task,
            "level": level,
            "temperature": 1.0,
            "sample": sample,
            # Capitals are right answers; + is one without its tags.
            "correct": letter.isupper(),
            "accurate": letter.isupper() or letter == "+",
            "well_formed": letter.isalpha(),
            "reason": "",
            "answer": letter if letter.isalpha() else None,
            "finish": "length" if letter == "-" else "stop",
            "num_tokens": 3 + ord(letter) % 7,
            "completion": "",
        }
        for (task, level), texts in problems.items()
        for number, text in enumerate(texts)
        for sample, letter in enumerate(text)
    ]
    return pyarrow.Table.from_pylist(rows, schema=outcome_schema())


def brute_force(rows: list[dict], k: int) -> dict[str, float]:
    """The numbers of some problems, by enumerating every choice of k samples and counting every vote."""
    ids = dict.fromkeys(row["problem_id"] for row in rows)
    problems = [[row for row in rows if row["problem_id"] == name] for name in ids]

    def majority(problem: list[dict]) -> float:
        answers = [row["answer"] for row in problem if row["answer"] is not None]
        most = max(map(answers.count, answers), default=0)
        winners = {answer for answer in answers if answers.count(answer) == most}
        right = {row["answer"] for row in problem if row["correct"]}
        return len(winners & right) / len(winners) if winners else 0.0

    return {
        "avg@n": fmean(row["correct"] for row in rows),
        "pass@1": fmean(row["correct"] for row in rows),
        f"pass@{k}": fmean(
            any(row["correct"] for row in chosen)
            for problem in problems
            for chosen in itertools.combinations(problem, k)
        ),
        "maj@n": fmean(map(majority, problems)),
        "accuracy": fmean(row["accurate"] for row in rows),
        "format": fmean(row["well_formed"] for row in rows),
        "truncated": fmean(row["finish"] == "length" for row in rows),
        "unparsable": fmean(row["answer"] is None for row in rows),
        "mean_tokens": fmean(row["num_tokens"] for row in rows),
    }


def check_metrics(found: dict, rows: list[dict]) -> None:
    expected = brute_force(rows, 3)
    num_problems = len({row["problem_id"] for row in rows})
    assert (found["num_problems"], found["num_samples"]) == (num_problems, SAMPLES)
    for name, value in expected.items():
        if isinstance(found[name], dict):
            assert found[name]["value"] == pytest.approx(value, abs=1e-12), name
            assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
            assert found[name]["n"] == num_problems
        else:
            assert found[name] == pytest.approx(value, abs=1e-12), name


def test_metrics_agree_with_brute_force() -> None:
    table = scripted_outcomes()
    rows = table.to_pylist()
    metrics = outcome_metrics(table, [Sampling(samples=SAMPLES)], [1, 3])
    check_metrics(metrics, rows)
    by_task = {task: [row for row in rows if row["task"] == task] for task in metrics["tasks"]}
    assert list(by_task) == ["synlogic/survo", "tiny/affine_chain"]
    for task, found in metrics["tasks"].items():
        check_metrics(found, by_task[task])
        assert not {"macro", "tasks", "levels", "decoding"} & set(found)
    assert list(metrics["levels"]) == ["synlogic/survo n4", "tiny/affine_chain n2", "tiny/affine_chain n4"]
    for name, found in metrics["levels"].items():
        check_metrics(found, [row for row in rows if f"{row['task']} {row['level']}" == name])
    assert list(metrics["macro"]) == ["avg@n", "pass@1", "pass@3", "maj@n"]
    for name, interval in metrics["macro"].items():
        of_tasks = [metrics["tasks"][task][name]["value"] for task in by_task]
        assert interval["value"] == pytest.approx(fmean(of_tasks), abs=1e-12)
        assert interval["low"] < interval["value"] < interval["high"]
        assert abs(interval["value"] - metrics[name]["value"]) > 1e-4
    assert metrics["many_solutions"] == ["synlogic/survo"]
    assert "temperatures" not in metrics
    assert json.loads(json.dumps(metrics)) == metrics


def test_numbers_that_count_by_hand() -> None:
    """AAB---: three right of six, of two kinds. AbbCCD: a wrong and a right answer have two votes each."""
    first, second = (scripted_outcomes().slice(start, SAMPLES) for start in (0, SAMPLES))
    metrics = outcome_metrics(first, [Sampling(samples=SAMPLES)], [1, 3])
    assert metrics["avg@n"]["value"] == metrics["format"] == metrics["unparsable"] == metrics["truncated"] == 0.5
    assert metrics["pass@3"]["value"] == pytest.approx(1 - 1 / 20)
    assert metrics["maj@n"]["value"] == pytest.approx(1)
    assert outcome_metrics(second, [Sampling(samples=SAMPLES)], [1])["maj@n"]["value"] == pytest.approx(1 / 2)


def test_a_majority_vote_ignores_how_often_nothing_can_be_read(finished) -> None:
    rows = outcomes_of(finished)
    metrics = json.loads((finished / "metrics.json").read_text())
    expected = brute_force(rows, 3)
    for name in ("maj@n", "pass@3"):
        assert metrics[name]["value"] == pytest.approx(expected[name])
    for name in ("accuracy", "unparsable"):
        assert metrics[name] == pytest.approx(expected[name])
    assert 0 < metrics["maj@n"]["value"] != metrics["pass@1"]["value"]
