"""The contract: every entry of OBJECTIVES against its naive twin, value and gradient, and the laws of the loss."""

import dataclasses
import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pear.errors import UserError
from pear.objectives import OBJECTIVES, Objective, TokenBatch, make_objective, prepare_step
from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import FLOAT_FIELDS
from pear.objectives.objective import BaseLoss, Weighting
from tests import naive_objectives, naive_options
from tests.naive_options import twin_of

NAMES = sorted(OBJECTIVES)
PEAR = ["pear_token", "pear_block", "pear_sequence"]
INFINITE = (-math.inf, math.inf)
IDS = [[4, 4, 4, 4, 4, 4, 9, 9, 9, 9, 9, 9, 9, 2, 2, 2]] * 3
ENDS = [0, 6, 13, 16]
COLUMNS = ("log_probs", *(name for name in FLOAT_FIELDS if name != "step_weights"))
DIFFERENTIABLE = ("log_probs", "divergence")
# The loss is the divergence alone.
WITHOUT_LOG_PROBS = ["forward_kl"]

Inputs = dict[str, Tensor]


def random_inputs(seed: int, dtype: torch.dtype = torch.float64, *, packed: bool = False) -> Inputs:
    """Every field of a `TokenBatch`, (3, 16); `reward` and `is_negative` are those of a sequence."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(3, 16, dtype=torch.float64, generator=generator)

    log_probs = -torch.rand(3, 16, dtype=torch.float64, generator=generator).exp()
    mask = torch.rand(3, 16, generator=generator) < 0.8
    # Every sequence has a token.
    mask[:, [0, 7, 14]] = True
    ids = torch.tensor(IDS) if packed else torch.zeros(3, 16, dtype=torch.long)
    sequence = ids + torch.tensor([[0], [1], [2]])
    inputs = {
        "log_probs": log_probs,
        "behavior_log_probs": log_probs + 0.2 * normal(),
        "ref_log_probs": log_probs + 0.3 * normal(),
        "old_log_probs": log_probs + 0.2 * normal(),
        "divergence": normal().square(),
        "entropy": 3.0 * torch.rand(3, 16, dtype=torch.float64, generator=generator),
        "reward": 1.0 / (1.0 + sequence),
    }
    inputs = {name: values.to(dtype) for name, values in inputs.items()}
    return {**inputs, "response_mask": mask, "is_negative": sequence % 2 == 1}


def token_batch(objective: Objective, inputs: Inputs, **more: Any) -> TokenBatch:
    """A batch with fresh leaves; verified failures only where the objective has a term for them."""
    fields = {name: values.clone() for name, values in inputs.items()}
    if "is_negative" not in objective.requires:
        fields.pop("is_negative")
    for name in DIFFERENTIABLE:
        fields[name].requires_grad_()
    return TokenBatch(fields.pop("log_probs"), fields.pop("response_mask"), **fields, **more)


def as_packed(objective: Objective, inputs: Inputs, packed: bool) -> TokenBatch:
    return token_batch(objective, inputs, segment_ids=torch.tensor(IDS) if packed else None)


def gradients_of(total: Tensor, batch: TokenBatch) -> dict[str, Tensor]:
    """By field; 0 where the loss does not use it."""
    leaves = [getattr(batch, name) for name in DIFFERENTIABLE]
    found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return dict(zip(DIFFERENTIABLE, found, strict=True))


def gradient_of(objective: Objective, batch: TokenBatch) -> Tensor:
    return gradients_of(objective(batch).sum, batch)["log_probs"]


def as_lists(inputs: Inputs) -> dict[str, Any]:
    return {name: values.tolist() for name, values in inputs.items() if name != "response_mask"}


def naive_weights(name: str, settings: dict[str, Any], inputs: Inputs, ids: list[list[int]] | None) -> Any:
    return twin_of(name, settings).weighting(as_lists(inputs), inputs["response_mask"].tolist(), ids)


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in NAMES],
    ("pear_token", {"gamma": 0.7, "log_ratio_clip": (-1.0, 1.0), "log_weight_clip": (-0.5, 0.2)}),
    ("pear_block", {"block_size": 3, "gamma": 0.9}),
    ("pear_sequence", {"log_ratio_clip": INFINITE, "log_weight_clip": INFINITE}),
    ("single_step_is", {"log_ratio_clip": (-0.5, 0.1)}),
    ("sft_kl", {"beta": 1.5, "direction": "forward"}),
    ("general_family", {"alpha": 0.0}),
    ("general_family", {"alpha": 1e-4}),
    ("general_family", {"alpha": 0.5}),
    *[(name, {"denominator": "kept"}) for name in ("top_p", "bottom_p", "top_log_p", "bottom_log_p")],
    ("top_p", {"q": 0.3}),
    ("bottom_log_p", {"q": 0.1}),
    ("talr", {"w_min": 0.5}),
    ("iw_sft", {"level": "token"}),
    ("iw_sft", {"temperature": 9.0}),
    ("asft", {"beta": 2.0}),
    ("psft", {"clip": (0.1, 0.05)}),
    ("eaft", {"alpha": 2.0}),
    ("composed", {"base_of": "forward_kl", "weighting_of": "pear_token", "weighting_kwargs": {"gamma": 0.8}}),
    ("composed", {"base_of": "sft_kl", "base_kwargs": {"beta": 2.0}, "weighting_of": "talr"}),
    ("pear_token", {"ess_target": 0.9}),
    ("pear_sequence", {"policy": "reference", "graded": True}),
    ("position_mean", {"weighting_of": "iw_sft"}),
    ("permuted", {"weighting_of": "talr", "seed": 3}),
    ("tail_nll", {"tokens": 2}),
    ("negatives", {"positive": "nll", "negative_weight": 0.5, "release": 1.5}),
]
# Weights of switched-off clips have no bound.
BOUNDED = [(name, settings) for name, settings in SETTINGS if INFINITE not in settings.values()]
# bfloat16 has 8 significant bits and float16 has 11; weights are computed in more.
TOLERANCES = [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)]


def test_every_objective_has_a_naive_twin() -> None:
    assert set(naive_objectives.TWINS) | set(naive_options.TWINS) == set(OBJECTIVES)


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_value_and_gradient_equal_the_naive_twin(
    name: str, settings: dict[str, Any], packed: bool, dtype: torch.dtype, tolerance: float
) -> None:
    inputs = random_inputs(0, dtype, packed=packed)
    objective = OBJECTIVES[name](**settings)
    batch = as_packed(objective, inputs, packed)
    loss = objective(batch)
    mask = inputs["response_mask"].tolist()
    weights = naive_weights(name, settings, inputs, IDS if packed else None)
    value, gradient = naive_objectives.value_and_gradient(twin_of(name, settings).base, weights, as_lists(inputs), mask)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.weights.dtype == wide
    weight_tolerance = min(tolerance, 1e-5)
    torch.testing.assert_close(
        loss.weights, torch.tensor(weights, dtype=wide), rtol=weight_tolerance, atol=weight_tolerance
    )
    assert loss.per_token.dtype == loss.sum.dtype == dtype
    expected: dict[str, Any] = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(loss.sum, torch.tensor(value, dtype=dtype), **expected)
    for field, found in gradients_of(loss.sum, batch).items():
        assert found.dtype == dtype
        torch.testing.assert_close(found, torch.tensor(gradient[field], dtype=dtype), **expected)
    assert loss.num_tokens == sum(map(sum, mask))


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_gradient_by_finite_differences_at_fixed_weights(name: str, settings: dict[str, Any]) -> None:
    inputs = random_inputs(1)
    objective = OBJECTIVES[name](**settings)
    batch = token_batch(objective, inputs)
    weights = objective(batch).weights.tolist()
    fields, mask, base = as_lists(inputs), inputs["response_mask"].tolist(), twin_of(name, settings).base
    for field, gradient in gradients_of(objective(batch).sum, batch).items():
        difference = naive_objectives.central_differences(base, weights, fields, mask, field=field, step=1e-5)
        # The quotient's own error: step^2, and rounding by 1e-16 / step.
        torch.testing.assert_close(gradient, torch.tensor(difference, dtype=torch.float64), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_no_gradient_flows_through_the_weights(name: str, settings: dict[str, Any]) -> None:
    objective = OBJECTIVES[name](**settings)
    batch = token_batch(objective, random_inputs(2))
    for field in COLUMNS:
        getattr(batch, field).requires_grad_()
    loss = objective(batch)
    assert not loss.weights.requires_grad
    found = gradients_of(loss.sum, batch)
    constant = (objective.base()(batch) * loss.weights.detach().clone()).sum()
    for field, expected in gradients_of(constant, batch).items():
        torch.testing.assert_close(found[field], expected)
    others = [getattr(batch, field) for field in COLUMNS if field not in DIFFERENTIABLE]
    assert torch.autograd.grad(objective(batch).sum, others, allow_unused=True) == (None,) * len(others)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByProbability(Weighting):
    """Weights that carry gradient: an objective's author may forget to cut it off."""

    def __call__(self, batch: TokenBatch) -> Tensor:
        return batch.log_probs.exp()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foreign(Objective):
    """An objective from outside the package: NLL x p."""

    def base(self) -> BaseLoss:
        return LogLoss()

    def weighting(self) -> Weighting:
        return ByProbability()


def test_any_weighting_is_cut_off_from_the_gradient() -> None:
    batch = token_batch(Foreign(), random_inputs(11))
    loss = Foreign()(batch)
    assert not loss.weights.requires_grad
    expected = torch.where(batch.response_mask, -batch.log_probs.detach().exp(), 0.0)
    torch.testing.assert_close(gradient_of(Foreign(), batch), expected)
    mean = Foreign().diagnostics(batch).metrics()["weights/mean"]
    assert mean == pytest.approx(-expected.sum().item() / int(batch.response_mask.sum()))


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_masked_garbage_changes_neither_loss_nor_gradient(name: str, settings: dict[str, Any], garbage: float) -> None:
    inputs = random_inputs(3)
    mask = inputs["response_mask"]
    dirty = {**inputs, **{key: torch.where(mask, inputs[key], garbage) for key in COLUMNS}}
    dirty["is_negative"] = inputs["is_negative"] ^ ~mask
    objective = OBJECTIVES[name](**settings)
    batch, clean = token_batch(objective, dirty), token_batch(objective, inputs)
    loss = objective(batch)
    assert torch.equal(loss.sum, objective(clean).sum)
    assert (loss.per_token[~mask] == 0).all()
    assert (loss.weights[~mask] == 0).all()
    expected = gradients_of(objective(clean).sum, clean)
    for field, gradient in gradients_of(loss.sum, batch).items():
        assert torch.equal(gradient, expected[field])
        assert (gradient[~mask] == 0).all()
    assert objective.diagnostics(batch).metrics() == objective.diagnostics(clean).metrics()


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_an_empty_mask_gives_zero(name: str, settings: dict[str, Any]) -> None:
    inputs = random_inputs(4)
    objective = OBJECTIVES[name](**settings)
    batch = token_batch(objective, {**inputs, "response_mask": torch.zeros(3, 16, dtype=torch.bool)})
    loss = objective(batch)
    assert loss.sum == 0
    assert loss.num_tokens == 0
    assert all((gradient == 0).all() for gradient in gradients_of(loss.sum, batch).values())
    assert objective.diagnostics(batch).metrics() == {}


def sum_of_step(objective: Objective, batches: Sequence[TokenBatch]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The loss of an optimizer step in these micro-batches, and the gradients of each."""
    prepared, _ = prepare_step(objective, batches)
    losses = [objective(batch).sum for batch in prepared]
    return torch.stack(losses).sum(), [gradients_of(*pair) for pair in zip(losses, prepared, strict=True)]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_padding_packing_splitting_and_order_change_nothing(name: str, settings: dict[str, Any]) -> None:
    """Nine sequences: as three packed rows, as nine micro-batches in two orders, and padded with NaN into one batch."""
    inputs = random_inputs(7, packed=True)
    objective = OBJECTIVES[name](**settings)
    packed = token_batch(objective, inputs, segment_ids=torch.tensor(IDS))
    total, (gradient,) = sum_of_step(objective, [packed])
    torch.testing.assert_close(objective(packed).sum, total, rtol=1e-12, atol=1e-12)
    places = [(row, low, high) for row in range(3) for low, high in itertools.pairwise(ENDS)]
    close: dict[str, float] = {"rtol": 1e-12, "atol": 1e-12}

    for order in (places, places[::-1]):
        alone = [
            token_batch(objective, {key: value[row : row + 1, low:high] for key, value in inputs.items()})
            for row, low, high in order
        ]
        value, gradients = sum_of_step(objective, alone)
        torch.testing.assert_close(value, total, **close)
        for (row, low, high), found in zip(order, gradients, strict=True):
            for field in DIFFERENTIABLE:
                torch.testing.assert_close(found[field][0], gradient[field][row, low:high], **close)

    rows: dict[str, list[Tensor]] = {key: [] for key in inputs}
    for index, (row, low, high) in enumerate(places):
        before = 3 * (index % 2)
        padding = (before, 10 - (high - low) - before)
        for key, values in inputs.items():
            filler = math.nan if values.dtype.is_floating_point else False
            rows[key].append(torch.nn.functional.pad(values[row, low:high], padding, value=filler))
    padded = token_batch(objective, {key: torch.stack(values) for key, values in rows.items()})
    value, (found,) = sum_of_step(objective, [padded])
    torch.testing.assert_close(value, total, **close)
    for field in DIFFERENTIABLE:
        kept = padded.response_mask
        torch.testing.assert_close(found[field][kept], gradient[field][packed.response_mask], **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "settings"), BOUNDED)
def test_extreme_values_stay_finite(name: str, settings: dict[str, Any], dtype: torch.dtype) -> None:
    """|log-ratio| = 100, and log p = 0, below the floor, and -inf."""
    log_probs = torch.tensor([[0.0, -101.0, -1.0, -math.inf, -2e4, -1e-30, -101.0, -1.0]] * 2)
    other = torch.tensor([[-100.0, -1.0, -101.0, -1.0, -1.0, -100.0, -1.0, -101.0]] * 2)
    # A second sequence whose tokens are all certain.
    log_probs[1] = 0.0
    inputs = {name: torch.where(log_probs.isfinite(), other, -1.0) for name in COLUMNS if name.endswith("log_probs")}
    inputs |= {
        "log_probs": log_probs,
        "divergence": torch.full((2, 8), 100.0),
        "entropy": torch.tensor([[0.0, 3.0] * 4] * 2),
        "reward": torch.tensor([[1.0] * 8, [0.0] * 8]),
    }
    inputs = {key: values.to(dtype) for key, values in inputs.items()}
    inputs["response_mask"] = torch.ones(2, 8, dtype=torch.bool)
    inputs["is_negative"] = torch.zeros(2, 8, dtype=torch.bool)
    inputs["is_negative"][1] = True
    objective = OBJECTIVES[name](**settings)
    batch = token_batch(objective, inputs)
    loss = objective(batch)
    assert loss.weights.isfinite().all()
    assert loss.per_token.isfinite().all()
    assert loss.sum.isfinite()
    gradients = gradients_of(loss.sum, batch)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert (gradients["log_probs"][0, 3:5] == 0).all()
    assert all(math.isfinite(value) for value in objective.diagnostics(batch).metrics().values())


def test_equal_policies_are_plain_sft() -> None:
    inputs = random_inputs(5)
    inputs["behavior_log_probs"] = inputs["log_probs"]
    for name in (*PEAR, "single_step_is"):
        objective = OBJECTIVES[name](**({"gamma": 1.0} if name in ("pear_token", "pear_block") else {}))
        batch = token_batch(objective, inputs)
        loss = objective(batch)
        assert (loss.weights[batch.response_mask] == 1).all()
        assert torch.equal(loss.sum, OBJECTIVES["nll"]()(batch).sum)


def test_blocks_of_one_are_token_level_and_long_ones_plain_sft() -> None:
    batch = token_batch(OBJECTIVES["nll"](), random_inputs(6), segment_ids=torch.tensor(IDS))
    token = OBJECTIVES["pear_token"]()(batch)
    assert torch.equal(OBJECTIVES["pear_block"](block_size=1)(batch).weights, token.weights)
    assert torch.equal(OBJECTIVES["pear_block"](block_size=7)(batch).sum, OBJECTIVES["nll"]()(batch).sum)


def test_a_token_of_probability_zero_has_the_floor_and_no_gradient() -> None:
    batch = TokenBatch(torch.tensor([[-math.inf, -1.0]], requires_grad=True), torch.tensor([[True, True]]))
    loss = OBJECTIVES["nll"]()(batch)
    assert loss.per_token.tolist() == [[1e4, 1.0]]
    (gradient,) = torch.autograd.grad(loss.sum, batch.log_probs)
    assert gradient.tolist() == [[0.0, -1.0]]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_non_finite_values_name_their_row(name: str, settings: dict[str, Any]) -> None:
    objective = OBJECTIVES[name](**settings)
    for field in COLUMNS:
        used = field in objective.requires or (field == "log_probs" and name not in WITHOUT_LOG_PROBS)
        if not used:
            continue
        inputs = random_inputs(9)
        inputs["response_mask"][1, 2] = True
        inputs[field][1, 2] = math.nan
        with pytest.raises(
            ValueError, match=f"{field} must be finite at response tokens\\. Row 1 has nan at position 2"
        ):
            objective(token_batch(objective, inputs))


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_the_contract_of_an_objective(name: str, settings: dict[str, Any]) -> None:
    objective = OBJECTIVES[name](**settings)
    assert dataclasses.is_dataclass(objective)
    assert objective.version >= 1
    assert objective.requires <= {field.name for field in dataclasses.fields(TokenBatch)} - {
        "log_probs",
        "response_mask",
    }
    again = make_objective(name, dataclasses.asdict(objective))
    assert again == objective
    assert hash(again) == hash(objective)
    assert type(objective).__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.anything = 1  # type: ignore[attr-defined]
    for field in objective.requires:
        with pytest.raises(ValueError, match=f"requires .*{field}.* in the TokenBatch"):
            objective(TokenBatch(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)))
    if "is_negative" not in objective.requires:
        negatives = dataclasses.replace(
            token_batch(objective, random_inputs(10)), is_negative=torch.ones(3, 16, dtype=torch.bool)
        )
        with pytest.raises(ValueError, match="would imitate them"):
            objective(negatives)


def test_defaults_are_the_papers() -> None:
    for name in PEAR:
        objective = OBJECTIVES[name]()
        assert (objective.log_ratio_clip, objective.log_weight_clip) == ((-0.08, 0.3), (-10.0, 5.0))  # type: ignore[attr-defined]
    assert OBJECTIVES["pear_token"]().gamma == OBJECTIVES["pear_block"]().gamma == 0.999  # type: ignore[attr-defined]


def test_recipe_values_are_read() -> None:
    objective = make_objective("pear_block", {"gamma": "99e-2", "block_size": 4.0, "log_weight_clip": [-3, "1e0"]})
    assert dataclasses.asdict(objective) == {
        "gamma": 0.99,
        "block_size": 4,
        "log_ratio_clip": (-0.08, 0.3),
        "log_weight_clip": (-3.0, 1.0),
        "policy": "current",
        "graded": False,
        "ess_target": None,
    }


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("pear_tokn", {}, "Unknown objective 'pear_tokn'. Did you mean 'pear_token'?"),
        ("pear_token", {"gama": 1.0}, "objective pear_token: Unknown key 'gama'. Did you mean 'gamma'?"),
        ("pear_sequence", {"gamma": 1.0}, "objective pear_sequence: Unknown key 'gamma'"),
        ("nll", {"gamma": 1.0}, "objective nll: has no hyper-parameters, got 'gamma'"),
        ("pear_token", {"gamma": "high"}, "gamma must be a number, got 'high'"),
        ("pear_token", {"gamma": True}, "gamma must be a number, got True"),
        ("pear_token", {"gamma": None}, "gamma must be a number, got None"),
        ("pear_token", {"gamma": 0}, "objective pear_token: gamma must be above 0 and at most 1. Got 0.0"),
        ("pear_block", {"block_size": 2.5}, "block_size must be a whole number, got 2.5"),
        ("pear_block", {"block_size": 0}, "block_size must be an integer of at least 1. Got 0"),
        ("pear_token", {"log_ratio_clip": [1]}, r"log_ratio_clip must be a list of 2 numbers, got \[1\]"),
        ("pear_token", {"log_ratio_clip": 0.2}, "log_ratio_clip must be a list of 2 numbers, got 0.2"),
        ("pear_token", {"log_ratio_clip": [1, 0]}, r"log_ratio_clip must be \(low, high\) with low <= high"),
        ("single_step_is", {"log_ratio_clip": [1, 0]}, r"log_ratio_clip must be \(low, high\) with low <= high"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_objective(name, kwargs)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs": torch.zeros(2, 3, dtype=torch.long)}, "log_probs must be of a floating dtype. Got torch.int64"),
        ({"log_probs": torch.zeros(6)}, r"must have shape \(batch, seq\). Got \(6,\)"),
        ({"response_mask": torch.ones(2, 4) > 0}, r"response_mask must have shape .*=\(2, 3\). Got \(2, 4\)"),
        ({"response_mask": torch.ones(2, 3)}, "response_mask must be of dtype torch.bool"),
        ({"behavior_log_probs": torch.zeros(2, 4)}, r"behavior_log_probs must have shape .*=\(2, 3\). Got \(2, 4\)"),
        ({"entropy": torch.zeros(2, 3, dtype=torch.int32)}, "entropy must be of a floating dtype. Got torch.int32"),
        ({"segment_ids": torch.zeros(2, 3)}, "segment_ids must be of an integer dtype"),
        ({"is_negative": torch.zeros(2, 3)}, "is_negative must be of dtype torch.bool"),
        ({"ref_log_probs": torch.zeros(2, 3, device="meta")}, "ref_log_probs must be on the device of log_probs, cpu"),
    ],
)
def test_a_token_batch_checks_itself(change: dict[str, Any], message: str) -> None:
    fields = {"log_probs": torch.zeros(2, 3), "response_mask": torch.ones(2, 3, dtype=torch.bool), **change}
    with pytest.raises(ValueError, match=message):
        TokenBatch(**fields)


def test_importing_needs_torch_alone() -> None:
    """In a fresh interpreter whose import system refuses everything heavy."""
    code = (
        "import sys\n"
        "blocked = ['transformers', 'trl', 'datasets', 'accelerate', 'pydantic', 'scipy', 'yaml', 'peft', 'pyarrow']\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"
        "import pear.ops, pear.ops.ratios, pear.ops.losses, pear.ops.diagnostics, pear.objectives\n"
        "print(pear.objectives.make_objective('pear_token', {}))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert done.stdout.startswith("PearToken(gamma=0.999"), done.stderr
