"""`PearTrainer` with every registered objective: a step against the objective on full logits, however it is arranged.

The twin knows neither TRL nor the trainer: it runs the model on one padded batch, takes log-softmax in float64, fills a
`TokenBatch` by its definition and divides by the number of tokens.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Qwen3ForCausalLM

from pear.objectives import OBJECTIVES, BaseLoss, Objective, TokenBatch, Weighting, make_objective
from pear.objectives.base_losses import LogLoss
from pear.training.token_fields import needs_reference, needs_teacher
from tests.training.sft_fixtures import (
    VOCABULARY,
    build_model,
    build_rows,
    logged,
    parameters,
    pear_trainer,
    relative_distance,
    save_model,
)

# Fields with which a random model, to which nearly every token is unlikely, has a gradient, or that take another path.
FIELDS: dict[str, dict[str, Any]] = {
    "general_family": {"alpha": 0.5},
    "top_p": {"q": 0.005},
    "top_log_p": {"q": 0.005, "denominator": "kept"},
    "bottom_log_p": {"q": 0.005, "denominator": "kept"},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, FIELDS.get(name, {})) for name in OBJECTIVES if name != "composed"},
    "pear_token_graded": ("pear_token", {"graded": True}),
    "pear_token_of_the_reference": ("pear_token", {"policy": "reference"}),
    "pear_token_tempered": ("pear_token", {"ess_target": 0.7}),
    "composed_talr_on_sft_kl": ("composed", {"base_of": "sft_kl", "weighting_of": "talr"}),
    "composed_pear_on_forward_kl": ("composed", {"base_of": "forward_kl", "weighting_of": "pear_token"}),
    "composed_eaft_on_psft": ("composed", {"base_of": "psft", "weighting_of": "eaft"}),
}
# One for each thing that the trainer supplies; the slow tests take the others.
QUICK = {"nll", "talr", "top_log_p", "pear_token", "pear_block", "negatives", "forward_kl", "eaft", "permuted"}
QUICK |= {"pear_token_of_the_reference", "pear_token_graded"}
PARAMETERS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in VARIANTS]
STEP: dict[str, dict[str, Any]] = {
    "padded_8x1": {"per_device_train_batch_size": 8},
    "padded_1x8": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    # All eight fit into rows of 64, and 16 rows are more than there are.
    "packed": {"per_device_train_batch_size": 16, "packing": True, "max_length": 64},
    "padding_free_3x3": {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 3,
        "padding_free": True,
        "max_length": None,
    },
    "checkpointed": {"per_device_train_batch_size": 8, "gradient_checkpointing": True},
}
# Plain gradient descent: the change of the parameters is the gradient times the rate.
DESCENT: dict[str, Any] = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}


def other_model(shift: float) -> Qwen3ForCausalLM:
    """A model of the same shape whose distributions differ."""
    model = build_model()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.add_(shift * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return model


def rows_for(objective: Objective, seed: int = 5) -> list[dict[str, Any]]:
    rows = build_rows(8, seed=seed)
    for index, row in enumerate(rows):
        if "is_negative" in objective.requires:
            row["correct"] = index % 3 != 0
        if "reward" in objective.requires:
            row["reward"] = 0.25 + index / 8
    return rows


def others_for(objective: Objective) -> dict[str, Any]:
    models: dict[str, Any] = {}
    if needs_reference(objective):
        models["ref_model"] = other_model(0.03)
    if needs_teacher(objective):
        models["teacher_model"] = other_model(0.06)
    return models


def twin_batch(objective: Objective, rows: list[dict[str, Any]], model: Any, old: Any, others: dict[str, Any]) -> Any:
    """All rows as one `TokenBatch`, from full logits in float64."""
    longest = max(len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    columns = {name: torch.zeros(len(rows), longest, dtype=torch.float64) for name in ("behavior", "reward")}
    negative = torch.zeros_like(mask)
    for index, row in enumerate(rows):
        start, tokens = len(row["prompt_ids"]), row["prompt_ids"] + row["completion_ids"]
        ids[index, : len(tokens)] = torch.tensor(tokens)
        mask[index, start : len(tokens)] = True
        columns["behavior"][index, start : len(tokens)] = torch.tensor(row["behavior_log_probs"], dtype=torch.float64)
        columns["reward"][index] = row.get("reward", 0.0)
        negative[index] = not row.get("correct", True)

    def distribution(one: Any) -> torch.Tensor:
        return one(ids).logits[:, :-1].double().log_softmax(-1)

    def chosen(log_probs: torch.Tensor) -> torch.Tensor:
        return log_probs.gather(-1, ids[:, 1:, None])[..., 0]

    log_theta = distribution(model)
    fields: dict[str, Any] = {
        "behavior_log_probs": columns["behavior"][:, 1:],
        "reward": columns["reward"][:, 1:],
        "is_negative": negative[:, 1:] if "is_negative" in objective.requires else None,
    }
    with torch.no_grad():
        others = {name: distribution(one) for name, one in others.items()}
        fields["old_log_probs"] = chosen(distribution(old))
        if "ref_model" in others:
            fields["ref_log_probs"] = chosen(others["ref_model"])
        if objective.weighting().entropy_of_top is not None:
            top = log_theta.topk(objective.weighting().entropy_of_top, dim=-1).values.log_softmax(-1)
            fields["entropy"] = -(top.exp() * top).sum(-1)
    divergence = objective.base().divergence
    if divergence is not None:
        other = others["ref_model" if divergence.other == "reference" else "teacher_model"]
        p, q = (other, log_theta) if divergence.direction == "forward" else (log_theta, other)
        fields["divergence"] = (p.exp() * (p - q)).sum(-1)
    return TokenBatch(chosen(log_theta), mask[:, 1:], **fields)


def twin(objective: Objective, rows: list[dict[str, Any]], model: Any, others: dict[str, Any]) -> tuple[float, Any]:
    """The loss of one step and its gradient."""
    loss = objective(twin_batch(objective, rows, model, model, others))
    value = loss.sum / loss.num_tokens
    model.zero_grad()
    value.backward()
    return float(value.detach()), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_every_objective_is_covered() -> None:
    covered = {name for name, _ in VARIANTS.values()}
    assert covered == set(OBJECTIVES)


def check_step(trainer: Any, expected_loss: float, expected_gradient: torch.Tensor) -> None:
    """One step of a trainer with a `learning_rate` of `rate_for(expected_gradient)`."""
    before = parameters(trainer)
    trainer.train()
    change = (before - parameters(trainer)) / rate_for(expected_gradient)
    # float32 forward passes of differently shaped batches differ by about 1e-6.
    assert logged(trainer)[0] == pytest.approx(expected_loss, rel=1e-5)
    assert relative_distance(change, expected_gradient) < 1e-5


def rate_for(gradient: torch.Tensor) -> float:
    """A rate after which the parameters have moved far beyond their own rounding."""
    return 100 / float(gradient.norm())


@pytest.mark.parametrize("variant", PARAMETERS)
def test_a_step_is_the_objective_on_full_logits_however_it_is_arranged(variant: str, tmp_path: Path) -> None:
    name, kwargs = VARIANTS[variant]
    objective = make_objective(name, kwargs)
    rows = rows_for(objective)
    expected_loss, expected_gradient = twin(objective, rows, build_model(), others_for(objective))
    assert expected_gradient.norm() > 1e-3
    for arrangement, config in STEP.items():
        trainer = pear_trainer(
            tmp_path / arrangement, rows, objective=name, objective_kwargs=kwargs, trainer=others_for(objective),
            **DESCENT, **config, learning_rate=rate_for(expected_gradient),
        )  # fmt: skip
        check_step(trainer, expected_loss, expected_gradient)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_an_adapter_trains_with_the_same_loss_and_is_off_in_the_reference(variant: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    name, kwargs = VARIANTS[variant]
    objective = make_objective(name, kwargs)
    rows = rows_for(objective)
    others = {key: model for key, model in others_for(objective).items() if key != "ref_model"}
    adapter = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(1)
    trainer = pear_trainer(
        tmp_path, rows, objective=name, objective_kwargs=kwargs, max_steps=2, per_device_train_batch_size=8,
        learning_rate=1e-3, gradient_checkpointing=True, trainer={**others, "peft_config": adapter},
    )  # fmt: skip
    if needs_reference(objective):
        others["ref_model"] = build_model()
    adapted = twin_batch(objective, rows, trainer.model, trainer.model, others)
    expected = objective(adapted)
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(float(expected.sum / expected.num_tokens), rel=1e-5)
    assert logged(trainer, "grad_norm")[0] > 0


@dataclass(frozen=True, kw_only=True)
class MarkedWeighting(Weighting):
    """A weight of the reward, less for failures."""

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"is_negative", "reward"})

    def __call__(self, batch: TokenBatch) -> torch.Tensor:
        assert batch.is_negative is not None
        assert batch.reward is not None
        counts = batch.counts
        share = counts.num_negative_tokens / counts.num_tokens + 1 / counts.num_sequences
        return torch.where(batch.is_negative, 0.3 * share, 1.0) * batch.reward


@dataclass(frozen=True, kw_only=True)
class Marked(Objective):
    def base(self) -> BaseLoss:
        return LogLoss()

    def weighting(self) -> Weighting:
        return MarkedWeighting()


@pytest.mark.parametrize("arrangement", STEP)
def test_columns_and_counts_of_the_step_reach_the_objective(arrangement: str, tmp_path: Path) -> None:
    objective = Marked()
    rows = rows_for(objective)
    loss, gradient = twin(objective, rows, build_model(), {})
    trainer = pear_trainer(
        tmp_path, rows, trainer={"objective": objective}, **DESCENT, **STEP[arrangement],
        learning_rate=rate_for(gradient),
    )  # fmt: skip
    assert trainer.failures == 3
    check_step(trainer, loss, gradient)


@pytest.mark.parametrize("arrangement", STEP)
@pytest.mark.parametrize("normalizer", ["weights", "sequences"])
def test_normalizers(normalizer: str, arrangement: str, tmp_path: Path) -> None:
    objective = make_objective("single_step_is", {})
    rows = rows_for(objective)
    model = build_model()
    result = objective(twin_batch(objective, rows, model, model, {}))
    products = (result.per_token * result.weights).sum(-1)
    if normalizer == "weights":
        value = products.sum() / result.weights.sum()
    else:
        value = (products / result.response_mask.sum(-1)).mean()
    value.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    trainer = pear_trainer(
        tmp_path, rows, objective="single_step_is", normalizer=normalizer, **DESCENT, **STEP[arrangement],
        learning_rate=rate_for(gradient),
    )  # fmt: skip
    check_step(trainer, float(value.detach()), gradient)


@pytest.mark.parametrize("arrangement", ["padded_8x1", "packed", "padding_free_3x3"])
def test_a_stored_top_k_that_is_the_whole_vocabulary_is_the_live_teacher(arrangement: str, tmp_path: Path) -> None:
    objective = make_objective("forward_kl", {})
    rows = rows_for(objective)
    teacher = other_model(0.06)
    loss, gradient = twin(objective, rows, build_model(), {"teacher_model": teacher})
    for row in rows:
        start, tokens = len(row["prompt_ids"]), row["prompt_ids"] + row["completion_ids"]
        with torch.no_grad():
            top = teacher(torch.tensor([tokens])).logits[0, start - 1 : -1].log_softmax(-1).topk(VOCABULARY)
        row["teacher_top_ids"], row["teacher_top_log_probs"] = top.indices.tolist(), top.values.tolist()
    trainer = pear_trainer(
        tmp_path, rows, objective="forward_kl", **DESCENT, **STEP[arrangement], learning_rate=rate_for(gradient)
    )
    check_step(trainer, loss, gradient)


PSFT: dict[str, Any] = {"objective": "psft", "learning_rate": 0.05, "snapshot_steps": 2, "max_steps": 5}


@pytest.mark.parametrize("arrangement", ["padded_8x1", "padded_1x8", "packed"])
def test_old_log_probs_are_those_of_the_last_snapshot(arrangement: str, tmp_path: Path) -> None:
    objective = make_objective("psft", {})
    rows = rows_for(objective)
    model, old = build_model(), build_model()
    losses = []
    for step in range(5):
        if step % 2 == 0:
            old.load_state_dict(model.state_dict())
        result = objective(twin_batch(objective, rows, model, old, {}))
        value = result.sum / result.num_tokens
        model.zero_grad()
        value.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.05 * parameter.grad
        losses.append(float(value.detach()))
    # At every second step old and new are one, and the loss is that of a ratio of 1.
    assert losses[1] != pytest.approx(losses[0], rel=1e-4)
    trainer = pear_trainer(tmp_path, rows, **{**DESCENT, **STEP[arrangement], **PSFT})
    trainer.train()
    assert logged(trainer) == pytest.approx(losses, rel=1e-5)
    expected = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert relative_distance(parameters(trainer), expected) < 1e-5


def test_resume_between_two_snapshots_equals_unbroken(tmp_path: Path) -> None:
    rows = rows_for(make_objective("psft", {}))
    config = {**DESCENT, **STEP["padded_8x1"], **PSFT, "save_strategy": "steps", "save_steps": 3, "snapshot_steps": 4}
    unbroken = pear_trainer(tmp_path / "run", rows, **config)
    unbroken.train()
    resumed = pear_trainer(tmp_path / "run", rows, **config)
    resumed.train(resume_from_checkpoint=tmp_path / "run" / "checkpoint-3")
    assert torch.equal(parameters(resumed), parameters(unbroken))
    assert logged(resumed) == logged(unbroken)


def test_a_reference_is_the_model_at_its_start(tmp_path: Path) -> None:
    rows = rows_for(make_objective("sft_kl", {}))
    path = str(save_model(tmp_path / "model"))
    config = {**STEP["padded_8x1"], "max_steps": 3, "learning_rate": 1e-2}
    runs = []
    for model, others in ((path, {}), (build_model(), {}), (path, {"ref_model": path})):
        trainer = pear_trainer(tmp_path, rows, objective="sft_kl", model=model, trainer=others, **config)
        trainer.train()
        runs.append(logged(trainer))
    assert runs[0] == runs[1] == runs[2]
    # At the start there is no divergence, and the loss is plain SFT's; then it is more.
    plain = pear_trainer(tmp_path, rows, objective="nll", **config)
    plain.train()
    assert runs[0][0] == pytest.approx(logged(plain)[0], rel=1e-5)
    assert runs[0][1] > logged(plain)[1] * (1 + 1e-4)


@pytest.mark.parametrize("name", ["talr", "negatives", "eaft", "psft"])
def test_an_evaluated_batch_is_a_step_of_its_own(name: str, tmp_path: Path) -> None:
    objective = make_objective(name, {})
    rows = rows_for(objective)
    expected, _ = twin(objective, rows, build_model(), {})
    trainer = pear_trainer(tmp_path, rows, objective=name, per_device_eval_batch_size=8)
    assert trainer.evaluate(Dataset.from_list(rows))["eval_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("arrangement", ["padded_8x1", "padded_1x8", "packed"])
def test_metrics_of_failures_are_of_the_whole_step(arrangement: str, tmp_path: Path) -> None:
    objective = make_objective("negatives", {})
    rows = rows_for(objective)
    expected = objective.weighting().step_metrics(twin_batch(objective, rows, build_model(), build_model(), {}))
    assert expected.keys() == {"weights/negatives/mean", "weights/negatives/released"}
    trainer = pear_trainer(tmp_path, rows, objective="negatives", **STEP[arrangement], max_steps=1)
    trainer.train()
    for key, value in expected.items():
        assert logged(trainer, key) == pytest.approx([value], rel=1e-5)


def test_metrics_of_whole_steps_are_means_over_the_log_window(tmp_path: Path) -> None:
    rows = rows_for(make_objective("talr", {}), seed=5)
    config = {**STEP["padded_1x8"], "learning_rate": 1e-2, "max_steps": 4, "objective": "talr"}
    each = pear_trainer(tmp_path / "each", rows, **config)
    window = pear_trainer(tmp_path / "window", rows, **{**config, "logging_steps": 4})
    each.train()
    window.train()
    (key,) = talr_metrics = (
        make_objective("talr", {})
        .weighting()
        .step_metrics(twin_batch(make_objective("talr", {}), rows, build_model(), build_model(), {}))
    )
    assert logged(each, key)[0] == pytest.approx(talr_metrics[key], rel=1e-5)
    assert logged(window, key) == pytest.approx([sum(logged(each, key)) / 4], rel=1e-6)
