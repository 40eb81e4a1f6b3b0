"""Base losses against the naive twin, value and gradient."""

import math

import pytest
import torch

from pear.ops.losses import negative_log_likelihood, weighted_sum
from tests import naive


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_weighted_nll(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    mask = torch.rand(4, 9) < 0.7
    log_probs = torch.where(mask, -torch.rand(4, 9).exp(), math.nan).to(dtype)
    weights = torch.where(mask, torch.rand(4, 9), math.inf).to(dtype)
    log_probs.requires_grad_()
    value = weighted_sum(negative_log_likelihood(log_probs, mask), weights, response_mask=mask)
    value.backward()
    expected, gradient = naive.weighted_nll(log_probs.tolist(), weights.tolist(), mask.tolist())
    torch.testing.assert_close(value, torch.tensor(expected, dtype=dtype), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(log_probs.grad, torch.tensor(gradient, dtype=dtype), rtol=tolerance, atol=tolerance)


def test_weights_are_constants_of_the_sum() -> None:
    per_token, weights = torch.ones(1, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    weighted_sum(per_token, weights, response_mask=torch.tensor([[True, False]])).backward()
    assert weights.grad is None
    assert per_token.grad is not None
    assert per_token.grad.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_log_probs_name_their_row(value: float) -> None:
    with pytest.raises(ValueError, match=r"log_probs must be finite at response tokens\. Row 1 has .* at position 0"):
        negative_log_likelihood(torch.tensor([[-1.0], [value]]), torch.tensor([[True], [True]]))
