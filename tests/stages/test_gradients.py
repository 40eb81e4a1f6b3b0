"""The pilot runs of gradient_rotation: their gradients against gradients by hand, and the whole analysis."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pear.analysis.gradient_rotation import GRPO, GRPO_AGAIN, OFFLINE, Settings
from pear.data.buffer import load_buffer
from pear.data.rendering import load_tokenizer, render_prompt
from pear.errors import UserError
from pear.runs import read_manifest
from pear.stages import analyze, collect, gradients
from pear.stages.analyze import AnalyzeConfig
from pear.stages.collect import CollectConfig
from pear.stages.gradients import check_gradients, collect_gradients
from pear.training.gradients import MeanGradients, StepProgress, linear_weights
from tests.training.grpo_fixtures import PROBLEM_SET, TASK, save_solver
from tests.training.sft_fixtures import build_rows, pear_trainer

RL = {
    "problems": [PROBLEM_SET.model_dump(mode="json")],
    "prompts_per_step": 6,
    "group_size": 4,
    "micro_batch": 8,
    "max_completion_tokens": 20,
    "learning_rate": "1e-3",
    "beta": 0.0,
    "trainer": {"max_grad_norm": 1e-3},
}
SFT = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "max_grad_norm": 1e-3}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_solver(tmp_path_factory.mktemp("model"), seed=0, until=0.4)


@pytest.fixture(scope="module")
def buffer(model, tmp_path_factory) -> str:
    config = {
        "model": model,
        "problems": [{"task": TASK.name, "level": "n2", "split": "dev", "size": 12}],
        "sampling": {"max_tokens": 20, "samples": 4},
        "output_dir": tmp_path_factory.mktemp("collect") / "buffer",
    }
    return str(collect.run(CollectConfig.parse(config, source="test")))


def config_for(model: str, buffer: str, output_dir: Path, **settings: Any) -> AnalyzeConfig:
    chosen = {"objective": "nll", "sft": SFT, "rl": RL, "steps": 2, "k": 4, **settings}
    return AnalyzeConfig(
        analysis="gradient_rotation", before=model, buffer=buffer, settings=chosen, output_dir=output_dir
    )


def collected(config: AnalyzeConfig, work: Path, progress: Any = None) -> dict[str, dict[str, torch.Tensor]]:
    work.mkdir(exist_ok=True)
    settings = Settings.parse(config.settings, source="test")
    paths = collect_gradients(config, settings, work, progress or (lambda done, total, unit: None))
    return {name: load_file(path) for name, path in paths.items()}


def one_pilot(config: AnalyzeConfig, name: str, work: Path) -> dict[str, torch.Tensor]:
    work.mkdir()
    progress = StepProgress(lambda done, total, unit: None, done=0, total=1)
    settings = Settings.parse(config.settings, source="test")
    gradients._collect(config, settings, name, work / "mean.safetensors", progress)
    return load_file(work / "mean.safetensors")


@pytest.fixture(scope="module")
def finished(model, buffer, tmp_path_factory) -> tuple[Path, dict[str, dict[str, torch.Tensor]]]:
    directory = tmp_path_factory.mktemp("gradients")
    return directory / "work", collected(config_for(model, buffer, directory / "run"), directory / "work")


def gradient_by_hand(model: str, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Of the mean NLL over all response tokens of these rows: one row at a time, in float64."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    tokenizer = load_tokenizer(model)
    tokens = sum(len(row["completion_ids"]) for row in rows)
    for row in rows:
        prompt, completion = render_prompt(tokenizer, row["prompt"]), row["completion_ids"]
        logits = loaded(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        chosen = torch.log_softmax(logits, -1)[torch.arange(len(completion)), torch.tensor(completion)]
        (-chosen.sum() / tokens).backward()
    return {name: weight.grad for name, weight in linear_weights(loaded).items()}


def test_one_offline_step_is_the_gradient_by_hand(model, buffer, tmp_path) -> None:
    """Two micro-batches of half the data, before a clip that would shrink them a thousandfold."""
    rows = load_buffer(buffer).to_list()
    half = (len(rows) + 1) // 2
    config = config_for(model, buffer, tmp_path / "run", steps=1, sft={**SFT, "per_device_train_batch_size": half})
    found = one_pilot(config, OFFLINE, tmp_path / "work")
    expected = gradient_by_hand(model, rows)
    assert found.keys() == expected.keys()
    assert len(found) == 14
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), gradient, rtol=1e-4, atol=1e-6)
    assert sum(float(gradient.square().sum()) for gradient in expected.values()) ** 0.5 > 0.01


def test_the_mean_is_over_steps_that_are_taken(model, buffer, tmp_path) -> None:
    """All data in every step: at rate 0 two steps have one gradient, otherwise the second is another."""
    rows = load_buffer(buffer).to_list()
    expected = gradient_by_hand(model, rows)
    sft = {"per_device_train_batch_size": len(rows), "lr_scheduler_type": "constant"}
    still, moved = (
        one_pilot(
            config_for(model, buffer, tmp_path / f"run{rate}", sft={**sft, "learning_rate": rate}),
            OFFLINE,
            tmp_path / f"work{rate}",
        )
        for rate in (0.0, 1e-2)
    )
    for name, gradient in expected.items():
        torch.testing.assert_close(still[name].double(), gradient, rtol=1e-4, atol=1e-6)
    assert any((moved[name] - still[name]).norm() > 0.1 * still[name].norm() for name in still)


def test_reading_gradients_changes_no_training(tmp_path) -> None:
    rows = build_rows(16)
    plain, read = (
        pear_trainer(tmp_path / name, rows, max_steps=3, gradient_accumulation_steps=2) for name in ("plain", "read")
    )
    gradients = MeanGradients(read)
    for trainer in (plain, read):
        trainer.train()
    assert gradients.steps == 3
    assert not gradients.is_zero
    for first, second in zip(plain.model.parameters(), read.model.parameters(), strict=True):
        assert first.equal(second)


@pytest.mark.parametrize("max_grad_norm", [0.0, 1e-3])
def test_gradients_are_read_before_they_are_clipped(tmp_path, max_grad_norm) -> None:
    trainer = pear_trainer(tmp_path, build_rows(16), max_steps=1, max_grad_norm=max_grad_norm)
    gradients = MeanGradients(trainer)
    trainer.train()
    gradients.save(tmp_path / "mean.safetensors")
    found = load_file(tmp_path / "mean.safetensors")
    norm = trainer.state.log_history[0]["grad_norm"]
    linear = sum(float(gradient.square().sum()) for gradient in found.values()) ** 0.5
    # The reported norm is that of all parameters before clipping; these are most of them.
    assert 0.3 * norm < linear < norm
    assert norm > 0.1


def test_grpo_gradients_do_not_depend_on_the_clip(model, buffer, tmp_path) -> None:
    """With one step, from the same draws; the clip of the first would shrink them."""
    one, other = (
        one_pilot(
            config_for(model, buffer, tmp_path / f"run{clip}", steps=1, rl={**RL, "trainer": {"max_grad_norm": clip}}),
            GRPO,
            tmp_path / f"work{clip}",
        )
        for clip in (1e-3, 0.0)
    )
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=0, atol=0)
        assert gradient.norm() > 1e-3


def test_two_grpo_runs_differ_and_a_finished_file_is_not_made_again(model, buffer, finished, monkeypatch) -> None:
    work, found = finished
    assert sorted(path.name for path in (work / "gradients").iterdir()) == [
        "grpo.safetensors",
        "grpo_again.safetensors",
        "offline.safetensors",
    ]
    assert any(not found[GRPO][name].equal(found[GRPO_AGAIN][name]) for name in found[GRPO])
    monkeypatch.setattr(gradients, "_collect", None)
    config = config_for(model, buffer, work.parent / "run")
    again = collected(config, work)
    assert all(again[name][module].equal(tensor) for name in found for module, tensor in found[name].items())


def test_a_killed_run_goes_on_to_the_same_gradients(model, buffer, finished, tmp_path) -> None:
    _, expected = finished
    seen: list[int] = []

    class KilledError(Exception):
        pass

    def kill(done: int, total: int, unit: str) -> None:
        assert (total, unit) == (6, "steps")
        seen.append(done)
        if done == 3:
            raise KilledError

    config = config_for(model, buffer, tmp_path / "run")
    with pytest.raises(KilledError):
        collected(config, tmp_path / "work", kill)
    found = collected(config, tmp_path / "work", lambda done, total, unit: seen.append(done))
    assert seen == [1, 2, 3, 3, 4, 5, 6]
    for name, tensors in expected.items():
        assert all(found[name][module].equal(tensor) for module, tensor in tensors.items())


def test_the_whole_analysis(model, buffer, tmp_path) -> None:
    config = config_for(model, buffer, tmp_path / "run")
    analyze.run(config)
    metrics = json.loads((config.output_dir / "metrics.json").read_text())
    rows = pyarrow.parquet.read_table(config.output_dir / "modules.parquet").to_pylist()
    assert metrics["modules"] == len(rows) == 14
    assert {row["k"] for row in rows} == {4}
    assert 0 < metrics["gradients/floor_grpo_degrees"] < metrics["gradients/floor_random_degrees"] < 90
    assert 0 < metrics["gradients/rotation_degrees"] < 90
    assert (metrics["gradients/k"], metrics["gradients/steps"]) == (4, 2)
    assert sorted(path.name for path in config.output_dir.iterdir() if not path.name.startswith(".")) == [
        "manifest.json",
        "metrics.json",
        "modules.parquet",
    ]
    assert read_manifest(config.output_dir)["config"]["settings"]["objective"] == "nll"


def test_grpo_without_a_signal_says_so(model, buffer, tmp_path) -> None:
    """Completions of one token are never right, so that no group has different rewards."""
    config = config_for(model, buffer, tmp_path / "run", steps=1, rl={**RL, "max_completion_tokens": 1})
    with pytest.raises(UserError, match="1 steps of grpo from it had no gradient"):
        collected(config, tmp_path / "work")
    assert [path.name for path in (tmp_path / "work" / "gradients").iterdir()] == ["offline.safetensors"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "pear_tokn"}, "Did you mean 'pear_token'"),
        ({"sft": {"lerning_rate": 1}}, "Did you mean 'learning_rate'"),
        ({"sft": {"max_length": 8}}, "longer than max_length=8"),
        ({"rl": {}}, "settings.rl: problems: this key is required"),
        ({"rl": {**RL, "group_sise": 4}}, "Did you mean 'group_size'"),
        ({"rl": {**RL, "prompts_per_step": 16}}, "12 are too few"),
        ({"rl": {**RL, "micro_batch": 5}}, "do not divide"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(model, buffer, tmp_path, settings, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        analyze.run(config_for(model, buffer, tmp_path / "run", **settings))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_a_pilot_has_of_its_own_is_left_aside(model, buffer, tmp_path) -> None:
    """So that a study can hand over the blocks of its arms and its RL as they are."""
    config = config_for(
        model,
        buffer,
        tmp_path / "run",
        sft={**SFT, "max_steps": 500, "save_strategy": "epoch"},
        rl={**RL, "steps": 500, "seed": 3, "checkpoint_steps": [400], "save_every": 7},
    )
    settings = Settings.parse(config.settings, source="test")
    check_gradients(config, settings)
    offline = gradients._offline_config(config, settings, config.output_dir)
    assert (offline.trainer["max_steps"], offline.trainer["save_strategy"]) == (2, "no")
    first, second = (gradients._grpo_config(config, settings, name, config.output_dir) for name in (GRPO, GRPO_AGAIN))
    assert (first.steps, first.checkpoint_steps, first.seed, second.seed) == (2, [], 0, 1)
    assert first.hashed().keys() == second.hashed().keys()


def test_scaled_gradients_are_refused(tmp_path) -> None:
    trainer = pear_trainer(tmp_path, build_rows(4), max_steps=1)
    trainer.args.fp16 = True
    with pytest.raises(UserError, match="Use bf16"):
        MeanGradients(trainer)
