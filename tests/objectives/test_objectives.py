"""Every entry of OBJECTIVES against its naive twin, value and gradient, and the laws of the loss."""

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pear.errors import UserError
from pear.objectives import OBJECTIVES, Objective, TokenBatch, make_objective
from pear.objectives.base_losses import LogLoss
from pear.objectives.objective import BaseLoss, Weighting
from tests import naive

NAMES = sorted(OBJECTIVES)
PEAR = ["pear_token", "pear_block", "pear_sequence"]
INFINITE = (-math.inf, math.inf)
IDS = [[4, 4, 4, 4, 4, 4, 9, 9, 9, 9, 9, 9, 9, 2, 2, 2]] * 3


def random_inputs(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    log_probs = -torch.rand(3, 16, dtype=torch.float64).exp()
    behavior = log_probs + 0.2 * torch.randn(3, 16, dtype=torch.float64)
    mask = torch.rand(3, 16) < 0.8
    return {"log_probs": log_probs.to(dtype), "behavior_log_probs": behavior.to(dtype), "response_mask": mask}


def token_batch(inputs: dict[str, Tensor], **more: Any) -> TokenBatch:
    """A batch with a fresh leaf for the log-probs."""
    log_probs = inputs["log_probs"].clone().requires_grad_()
    return TokenBatch(log_probs, inputs["response_mask"], behavior_log_probs=inputs["behavior_log_probs"], **more)


def gradient_of(objective: Objective, batch: TokenBatch) -> Tensor:
    (gradient,) = torch.autograd.grad(objective(batch).sum, batch.log_probs)
    return gradient


SETTINGS = [
    *[(name, {}) for name in NAMES],
    ("pear_token", {"gamma": 0.7, "log_ratio_clip": (-1.0, 1.0), "log_weight_clip": (-0.5, 0.2)}),
    ("pear_block", {"block_size": 3, "gamma": 0.9}),
    ("pear_sequence", {"log_ratio_clip": INFINITE, "log_weight_clip": INFINITE}),
    ("single_step_is", {"log_ratio_clip": (-0.5, 0.1)}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_value_and_gradient_equal_the_naive_twin(
    name: str, settings: dict[str, Any], packed: bool, dtype: torch.dtype, tolerance: float
) -> None:
    inputs = random_inputs(0, dtype)
    ids = IDS if packed else None
    batch = token_batch(inputs, segment_ids=None if ids is None else torch.tensor(ids))
    objective = OBJECTIVES[name](**settings)
    loss = objective(batch)
    log_probs, mask = inputs["log_probs"].tolist(), inputs["response_mask"].tolist()
    full = {"block_size": 8, **settings} if name == "pear_block" else settings
    weights = naive.objective_weights(name, log_probs, inputs["behavior_log_probs"].tolist(), mask, ids, **full)
    value, gradient = naive.weighted_nll(log_probs, weights, mask)
    expected: dict[str, Any] = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(loss.weights, torch.tensor(weights, dtype=dtype), **expected)
    torch.testing.assert_close(loss.sum, torch.tensor(value, dtype=dtype), **expected)
    torch.testing.assert_close(gradient_of(objective, batch), torch.tensor(gradient, dtype=dtype), **expected)
    assert loss.num_tokens == sum(map(sum, mask))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_by_finite_differences_at_fixed_weights(name: str) -> None:
    batch = token_batch(random_inputs(1))
    loss = OBJECTIVES[name]()(batch)
    gradient = gradient_of(OBJECTIVES[name](), batch)
    step = 1e-6
    nll = -(batch.log_probs.detach() + step)
    difference = torch.where(batch.response_mask, loss.weights * (nll - loss.per_token.detach()) / step, 0.0)
    torch.testing.assert_close(gradient, difference, rtol=1e-6, atol=1e-6)  # rounding of the difference quotient


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_flows_through_the_weights(name: str) -> None:
    inputs = random_inputs(2)
    batch = token_batch(inputs)
    behavior = inputs["behavior_log_probs"].requires_grad_()
    batch = dataclasses.replace(batch, behavior_log_probs=behavior)
    loss = OBJECTIVES[name]()(batch)
    assert not loss.weights.requires_grad
    loss.sum.backward()
    assert behavior.grad is None
    torch.testing.assert_close(batch.log_probs.grad, torch.where(batch.response_mask, -loss.weights, 0.0))


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
    batch = token_batch(random_inputs(11))
    loss = Foreign()(batch)
    assert not loss.weights.requires_grad
    expected = torch.where(batch.response_mask, -batch.log_probs.detach().exp(), 0.0)
    torch.testing.assert_close(gradient_of(Foreign(), batch), expected)
    mean = Foreign().diagnostics(batch).metrics()["weights/mean"]
    assert mean == pytest.approx(-expected.sum().item() / int(batch.response_mask.sum()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_masked_garbage_changes_neither_loss_nor_gradient(name: str, garbage: float) -> None:
    inputs = random_inputs(3)
    mask = inputs["response_mask"]
    dirty = {**inputs, **{key: torch.where(mask, inputs[key], garbage) for key in ("log_probs", "behavior_log_probs")}}
    objective, batch = OBJECTIVES[name](), token_batch(dirty)
    clean = token_batch(inputs)
    assert torch.equal(objective(batch).sum, objective(clean).sum)
    gradient = gradient_of(objective, batch)
    assert torch.equal(gradient, gradient_of(objective, clean))
    assert (gradient[~mask] == 0).all()
    assert objective.diagnostics(batch).metrics() == objective.diagnostics(clean).metrics()


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_mask_gives_zero(name: str) -> None:
    inputs = random_inputs(4)
    batch = token_batch({**inputs, "response_mask": torch.zeros(3, 16, dtype=torch.bool)})
    loss = OBJECTIVES[name]()(batch)
    assert loss.sum == 0
    assert loss.num_tokens == 0
    assert (gradient_of(OBJECTIVES[name](), batch) == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_equal_policies_are_plain_sft(name: str) -> None:
    inputs = random_inputs(5)
    inputs["behavior_log_probs"] = inputs["log_probs"]
    settings = {"gamma": 1.0} if name in ("pear_token", "pear_block") else {}
    batch = token_batch(inputs)
    loss = OBJECTIVES[name](**settings)(batch)
    assert (loss.weights[batch.response_mask] == 1).all()
    assert torch.equal(loss.sum, OBJECTIVES["nll"]()(batch).sum)


def test_blocks_of_one_are_token_level_and_long_ones_plain_sft() -> None:
    batch = token_batch(random_inputs(6), segment_ids=torch.tensor(IDS))
    token = OBJECTIVES["pear_token"]()(batch)
    assert torch.equal(OBJECTIVES["pear_block"](block_size=1)(batch).weights, token.weights)
    assert torch.equal(OBJECTIVES["pear_block"](block_size=7)(batch).sum, OBJECTIVES["nll"]()(batch).sum)


@pytest.mark.parametrize("name", NAMES)
def test_packed_rows_and_micro_batches_sum_to_the_whole(name: str) -> None:
    inputs = random_inputs(7)
    objective = OBJECTIVES[name]()
    packed = objective(token_batch(inputs, segment_ids=torch.tensor(IDS)))
    ends = [0, 6, 13, 16]
    alone = [
        objective(token_batch({key: value[row : row + 1, low:high] for key, value in inputs.items()}))
        for row in range(3)
        for low, high in itertools.pairwise(ends)
    ]
    torch.testing.assert_close(packed.sum, sum(part.sum for part in alone), rtol=1e-12, atol=1e-12)
    assert packed.num_tokens == sum(part.num_tokens for part in alone)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """Loss and gradient keep the input's dtype; the weights are float32 or wider."""
    batch = token_batch(random_inputs(8, dtype))
    loss = OBJECTIVES[name]()(batch)
    assert loss.per_token.dtype == loss.sum.dtype == gradient_of(OBJECTIVES[name](), batch).dtype == dtype
    assert loss.weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_token_of_probability_zero_has_the_floor_and_no_gradient() -> None:
    batch = TokenBatch(torch.tensor([[-math.inf, -1.0]], requires_grad=True), torch.tensor([[True, True]]))
    loss = OBJECTIVES["nll"]()(batch)
    assert loss.per_token.tolist() == [[1e4, 1.0]]
    assert gradient_of(OBJECTIVES["nll"](), batch).tolist() == [[0.0, -1.0]]


@pytest.mark.parametrize("name", NAMES)
def test_non_finite_values_name_their_row(name: str) -> None:
    inputs = random_inputs(9)
    inputs["response_mask"][1, 2] = True
    inputs["log_probs"][1, 2] = math.nan
    with pytest.raises(ValueError, match=r"log_probs must be finite at response tokens\. Row 1 has nan at position 2"):
        OBJECTIVES[name]()(token_batch(inputs))


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_of_an_objective(name: str) -> None:
    objective = OBJECTIVES[name]()
    assert dataclasses.is_dataclass(objective)
    assert objective.version >= 1
    assert objective.requires <= {field.name for field in dataclasses.fields(TokenBatch)} - {
        "log_probs",
        "response_mask",
    }
    assert make_objective(name, dataclasses.asdict(objective)) == objective
    assert hash(objective) == hash(OBJECTIVES[name]())
    assert type(objective).__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.anything = 1  # type: ignore[attr-defined]
    for field in objective.requires:
        with pytest.raises(ValueError, match=f"requires {field} in the TokenBatch"):
            objective(TokenBatch(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)))
    negatives = token_batch(random_inputs(10), is_negative=torch.ones(3, 16, dtype=torch.bool))
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
