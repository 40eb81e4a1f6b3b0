"""`PearTrainer` against TRL, against Algorithm 1 written out, and against itself in other arrangements of a batch."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback

from pear.objectives import OBJECTIVES, make_objective
from pear.training.checkpoints import COMPLETE, latest_complete_checkpoint
from tests.training.sft_fixtures import (
    build_model,
    build_rows,
    logged,
    parameters,
    pear_trainer,
    relative_distance,
    run_on_two_processes,
    save_model,
    trl_trainer,
)
from tests.training.test_every_objective import DESCENT, others_for, rows_for

# One optimizer step of plain gradient descent with rate 1: the change of the parameters is the gradient.
GRADIENT: dict[str, Any] = {
    "max_steps": 1,
    "optim": "sgd",
    "learning_rate": 1.0,
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
}
ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "padded": {},
    "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "packed": {"packing": True, "max_length": 40},
    "packed_shuffled_accumulated": {
        "packing": True,
        "max_length": 64,
        "shuffle_dataset": True,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 3,
    },
    "padding_free": {"padding_free": True, "max_length": None},
    "checkpointed": {"gradient_checkpointing": True},
    "padded_to_a_multiple": {"pad_to_multiple_of": 16},
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_nll_is_trl_step_for_step(arrangement: str, tmp_path: Path) -> None:
    config = ARRANGEMENTS[arrangement]
    rows = build_rows()
    theirs = trl_trainer(tmp_path / "trl", rows, **config)
    ours = pear_trainer(tmp_path / "pear", rows, objective="nll", **config)
    theirs.train()
    ours.train()
    assert len(logged(ours)) == 20
    assert logged(ours) == logged(theirs)
    assert logged(ours, "grad_norm") == logged(theirs, "grad_norm")
    assert torch.equal(parameters(ours), parameters(theirs))


@pytest.mark.gpu
@pytest.mark.parametrize("arrangement", ["padded", "packed"])
def test_nll_is_trl_on_a_gpu(arrangement: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    config = {**ARRANGEMENTS[arrangement], "use_cpu": False}
    rows = build_rows()
    theirs = trl_trainer(tmp_path / "trl", rows, **config)
    ours = pear_trainer(tmp_path / "pear", rows, objective="nll", **config)
    theirs.train()
    ours.train()
    # Sums on a GPU have no fixed order.
    assert logged(ours) == pytest.approx(logged(theirs), rel=1e-5)
    assert relative_distance(parameters(ours), parameters(theirs)) < 1e-4


def naive_loss_and_gradient(rows: list[dict[str, Any]], model: Any, gamma: float = 0.999) -> tuple[float, torch.Tensor]:
    """Algorithm 1 with B = 1 (arXiv 2602.01058) in float64, a sequence at a time, from the model's full logits."""
    total = torch.zeros((), dtype=torch.float64)
    tokens = 0
    for row in rows:
        prompt, completion = row["prompt_ids"], row["completion_ids"]
        ids = torch.tensor([prompt + completion])
        log_probs = model(ids).logits.double().log_softmax(-1)[0]
        chosen = [log_probs[len(prompt) + t - 1, token] for t, token in enumerate(completion)]
        suffix = 0.0
        for t in reversed(range(len(completion))):
            log_weight = (len(completion) - 1 - t) * math.log(gamma) + suffix
            total = total - math.exp(min(max(log_weight, -10.0), 5.0)) * chosen[t]
            suffix += min(max(float(chosen[t].detach()) - row["behavior_log_probs"][t], -0.08), 0.3)
        tokens += len(completion)
    model.zero_grad()
    (total / tokens).backward()
    return float(total.detach()) / tokens, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


STEP: dict[str, dict[str, Any]] = {
    "padded_8x1": {"per_device_train_batch_size": 8},
    "padded_1x8": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "padded_3x3": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3},
    "padding_free": {"per_device_train_batch_size": 8, "padding_free": True, "max_length": None},
    # All eight fit into rows of 64, and 16 rows are more than there are.
    "packed": {"per_device_train_batch_size": 16, "packing": True, "max_length": 64},
    "checkpointed": {"per_device_train_batch_size": 8, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("arrangement", STEP)
def test_a_step_is_algorithm_1_however_the_batch_is_arranged(arrangement: str, tmp_path: Path) -> None:
    rows = build_rows(8, seed=5)
    expected_loss, expected_gradient = naive_loss_and_gradient(rows, build_model())
    trainer = pear_trainer(tmp_path, rows, **{**GRADIENT, **STEP[arrangement]})
    before = parameters(trainer)
    trainer.train()
    # float32 forward passes of differently shaped batches differ by about 1e-6.
    assert logged(trainer)[0] == pytest.approx(expected_loss, rel=1e-5)
    assert relative_distance(before - parameters(trainer), expected_gradient) < 1e-5


@pytest.mark.parametrize("objective", ["pear_sequence", "pear_block", "single_step_is"])
def test_packed_rows_give_the_weights_of_their_sequences_alone(objective: str, tmp_path: Path) -> None:
    rows = build_rows(8, seed=6)
    kwargs = {"block_size": 4} if objective == "pear_block" else {}
    runs = []
    for name in ("padded_1x8", "packed", "padding_free"):
        trainer = pear_trainer(
            tmp_path / name, rows, objective=objective, objective_kwargs=kwargs, **{**GRADIENT, **STEP[name]}
        )
        trainer.train()
        runs.append((trainer.state.log_history[0], parameters(trainer)))
    (alone, alone_parameters), *others = runs
    assert alone["weights/mean"] != pytest.approx(1.0, abs=1e-2)
    for entry, packed_parameters in others:
        assert relative_distance(packed_parameters, alone_parameters) < 1e-6
        for key in ("loss", "loss/nll", *(key for key in alone if key.startswith("weights/"))):
            # Quantiles are counted on a grid of 0.01.
            assert entry[key] == pytest.approx(alone[key], rel=1e-5, abs=1.01e-2 if "log_weight/q" in key else 1e-7)


def test_diagnostics_are_those_of_the_whole_window(tmp_path: Path) -> None:
    rows = build_rows(8, seed=7)
    config = {**GRADIENT, "max_steps": 2, "logging_steps": 2, "learning_rate": 0.0}
    trainer = pear_trainer(
        tmp_path,
        rows,
        objective="single_step_is",
        **config,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
    )
    trainer.train()
    entry = trainer.state.log_history[0]
    model = build_model()
    ratios = []
    nll = 0.0
    for row in rows:
        prompt, completion = row["prompt_ids"], row["completion_ids"]
        log_probs = model(torch.tensor([prompt + completion])).logits.double().log_softmax(-1)[0]
        for t, (token, behavior) in enumerate(zip(completion, row["behavior_log_probs"], strict=True)):
            value = float(log_probs[len(prompt) + t - 1, token].detach())
            ratios.append(value - behavior)
            nll -= value
    n = len(ratios)
    weights = [math.exp(min(max(ratio, -0.08), 0.3)) for ratio in ratios]
    assert entry["loss/nll"] == pytest.approx(nll / n, rel=1e-5)
    assert entry["weights/mean"] == pytest.approx(sum(weights) / n, rel=1e-5)
    size = sum(weights) ** 2 / (n * sum(weight**2 for weight in weights))
    assert entry["weights/effective_sample_size"] == pytest.approx(size, rel=1e-5)
    assert entry["weights/log_ratio/mean"] == pytest.approx(sum(ratios) / n, rel=1e-5)
    assert entry["weights/clipped/log_ratio_low"] == pytest.approx(sum(ratio < -0.08 for ratio in ratios) / n)
    assert entry["weights/clipped/log_ratio_high"] == pytest.approx(sum(ratio > 0.3 for ratio in ratios) / n)


def test_an_objective_instance_overrides_the_configuration(tmp_path: Path) -> None:
    rows = build_rows(8)
    config: dict[str, Any] = {**GRADIENT, "per_device_train_batch_size": 8}
    given = pear_trainer(tmp_path, rows, **config, trainer={"objective": OBJECTIVES["pear_token"](gamma=0.5)})
    named = pear_trainer(tmp_path, rows, **config, objective_kwargs={"gamma": 0.5})
    default = pear_trainer(tmp_path, rows, **config)
    for trainer in (given, named, default):
        trainer.train()
    assert torch.equal(parameters(given), parameters(named))
    assert not torch.equal(parameters(given), parameters(default))


def test_lora_trains_the_adapter_with_the_same_loss(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    rows = build_rows(8)
    adapter = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = pear_trainer(
        tmp_path, rows, max_steps=5, per_device_train_batch_size=8, gradient_checkpointing=True,
        trainer={"peft_config": adapter},
    )  # fmt: skip
    base = {name: value.clone() for name, value in trainer.model.named_parameters() if "lora" not in name}
    trainer.train()
    full = pear_trainer(tmp_path, rows, max_steps=1, per_device_train_batch_size=8)
    full.train()
    # An adapter starts at zero, so the first loss is the model's own.
    assert logged(trainer)[0] == pytest.approx(logged(full)[0], rel=1e-5)
    assert logged(trainer)[-1] < logged(trainer)[0]
    assert all(torch.equal(value, base[name]) for name, value in trainer.model.named_parameters() if name in base)


def test_evaluation(tmp_path: Path) -> None:
    rows, held_out = build_rows(16), build_rows(8, seed=9)
    dataset = Dataset.from_list(held_out)
    trainer = pear_trainer(
        tmp_path, rows, max_steps=2, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=8,
        trainer={"eval_dataset": {"held_out": dataset, "seen": Dataset.from_list(rows)}},
    )  # fmt: skip
    trainer.train()
    assert len(logged(trainer, "eval_held_out_loss")) == 2
    assert len(logged(trainer, "eval_weights/mean")) == 4
    assert len(logged(trainer, "weights/mean")) == 2
    expected, _ = naive_loss_and_gradient(held_out, trainer.model)
    assert trainer.evaluate(dataset)["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.evaluate({"again": dataset})["eval_again_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arrangement", ["padding_free", "packed"])
def test_evaluation_of_packed_rows(arrangement: str, tmp_path: Path) -> None:
    rows = build_rows(8, seed=9)
    trainer = pear_trainer(tmp_path, rows, **STEP[arrangement], per_device_eval_batch_size=16)
    expected, _ = naive_loss_and_gradient(rows, build_model())
    # A mapping is prepared once: packed rows are not packed again.
    loss = trainer.evaluate({"held_out": Dataset.from_list(rows)})["eval_held_out_loss"]
    assert loss == pytest.approx(expected, rel=1e-5)


class _Interrupt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_resume_equals_unbroken(tmp_path: Path) -> None:
    rows = build_rows()
    config: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 12,
    }
    unbroken = pear_trainer(tmp_path / "unbroken", rows, **config)
    unbroken.train()
    broken = pear_trainer(tmp_path / "broken", rows, **config, trainer={"callbacks": [_Interrupt(7)]})
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    # As if it had been killed while it wrote this one.
    (tmp_path / "broken" / "checkpoint-6" / COMPLETE).unlink()
    (tmp_path / "broken" / "checkpoint-6" / "optimizer.pt").unlink()
    assert latest_complete_checkpoint(tmp_path / "broken") == tmp_path / "broken" / "checkpoint-4"
    resumed = pear_trainer(tmp_path / "broken", rows, **config)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(parameters(resumed), parameters(unbroken))
    for key in ("loss", "num_tokens", "weights/mean", "weights/effective_sample_size"):
        assert logged(resumed, key) == logged(unbroken, key)


@pytest.mark.parametrize("stopped_after", [5, 7])
def test_resume_between_two_logs_and_at_the_end_equals_unbroken(tmp_path: Path, stopped_after: int) -> None:
    """Four steps an epoch, seven of them: `Trainer` would lose the log of steps 4 and 5, and do an eighth step."""
    config: dict[str, Any] = {"save_strategy": "steps", "save_steps": 5, "logging_steps": 3, "max_steps": 7}
    rows = build_rows(16)
    unbroken = pear_trainer(tmp_path / "unbroken", rows, **config)
    unbroken.train()
    broken = pear_trainer(tmp_path / "broken", rows, **config)
    broken.train()
    if stopped_after == 5:
        (tmp_path / "broken" / "checkpoint-7" / COMPLETE).unlink()
    resumed = pear_trainer(tmp_path / "broken", rows, **config)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 7
    assert torch.equal(parameters(resumed), parameters(unbroken))
    for key in ("loss", "num_tokens", "entropy", "loss/nll", "weights/mean"):
        assert logged(resumed, key) == logged(unbroken, key)


def test_every_objective_sees_the_same_batches_in_the_same_order(tmp_path: Path) -> None:
    orders = []
    for objective, seed in (("nll", 3), ("pear_token", 3), ("nll", 4)):
        trainer = pear_trainer(tmp_path, build_rows(), objective=objective, seed=seed)
        orders.append([batch["input_ids"].tolist() for batch in trainer.get_train_dataloader()])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_completion_ids_are_trained_as_they_are(tmp_path: Path) -> None:
    rows = build_rows(4)
    rows[0]["completion_ids"][-1] = 7  # cut by length: no EOS at its end
    trainer = pear_trainer(tmp_path, rows)
    for row, prepared in zip(rows, trainer.train_dataset, strict=True):
        prompt = len(row["prompt_ids"])
        assert prepared["input_ids"] == row["prompt_ids"] + row["completion_ids"]
        assert prepared["labels"] == [-100] * prompt + row["completion_ids"]
        assert prepared["behavior_log_probs"][prompt:] == pytest.approx(row["behavior_log_probs"])


def test_messages_are_rendered_with_the_targets_template(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "w1 w2"}], "completion_ids": [9, 1], "behavior_log_probs": [-0.5, -0.5]}
    ] * 2
    trainer = pear_trainer(tmp_path, rows)
    assert trainer.train_dataset[0]["input_ids"] == [3, 6, 7, 4, 9, 1]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """For weights of a token alone, of a whole step, and with counts of the step's failures."""
    config: dict[str, Any] = {
        "max_steps": 3,
        "logging_steps": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
    }
    save_model(tmp_path / "model")
    objectives = ["pear_token", "talr", "negatives"]
    run_on_two_processes(Path(__file__).with_name("two_process_sft.py"), str(tmp_path), json.dumps(objectives))
    for objective in objectives:
        rows = build_rows(16, seed=8)
        if objective == "negatives":
            rows = [{**row, "correct": index % 4 != 0} for index, row in enumerate(rows)]
        single = pear_trainer(tmp_path / "single", rows, objective=objective, **config)
        single.train()
        two = load_file(tmp_path / objective / "two" / "model.safetensors")
        one = {name: value for name, value in single.model.state_dict().items() if name in two}
        assert len(one) == len(two)
        for name, value in one.items():
            assert relative_distance(two[name], value) < 1e-5, (objective, name)
        entry, expected = torch.load(tmp_path / objective / "log.pt", weights_only=True), single.state.log_history[0]
        keys = [key for key in expected if key.startswith(("loss", "weights/")) and "/q" not in key]
        assert len(keys) > 3
        for key in keys:
            assert entry[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-9), (objective, key)


@pytest.mark.slow
def test_sharded_weights_equal_whole_ones(tmp_path: Path) -> None:
    """FSDP 2: with weights of a token alone, a pass over the step, a teacher's and the model's head, and a snapshot."""
    objectives, rate = ["pear_token", "talr", "sft_kl", "psft"], 0.05
    script = Path(__file__).with_name("fsdp2_sft.py")
    run_on_two_processes(script, str(tmp_path), json.dumps(objectives), str(rate))
    for name in objectives:
        objective = make_objective(name, {})
        config = {**DESCENT, "max_steps": 2, "learning_rate": rate, "per_device_train_batch_size": 8}
        whole = pear_trainer(
            tmp_path / "whole", rows_for(objective), objective=name, trainer=others_for(objective), **config
        )
        before = parameters(whole)
        whole.train()
        change = parameters(whole) - before
        sharded = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert relative_distance(sharded - before, change) < 1e-4, name
