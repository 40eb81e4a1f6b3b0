"""The tempering exponent against its naive twin, and its laws."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from pear.ops.diagnostics import effective_sample_size
from pear.ops.tempering import log_effective_sample_size, tempering_exponent
from tests import naive_options


def random_suffixes(seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    mask = torch.rand(4, 12) < 0.7
    values = scale * torch.randn(4, 12, dtype=torch.float64)
    return torch.where(mask, values, math.nan), mask


@pytest.mark.parametrize("target", [0.15, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("scale", [0.5, 3.0, 50.0])
def test_exponent_and_share_equal_the_naive_twin(target: float, scale: float) -> None:
    values, mask = random_suffixes(0, scale)
    kept = values[mask].tolist()
    exponent = tempering_exponent(values, mask, ess_target=target)
    assert exponent == pytest.approx(naive_options.exponent_for(kept, target), abs=1e-10)
    for a in (0.0, 0.01, exponent, 1.0):
        share = log_effective_sample_size(values, mask, exponent=a)
        assert share == pytest.approx(naive_options.share(kept, a), rel=1e-10)


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
@pytest.mark.parametrize("target", [0.2, 0.7, 0.99])
def test_the_target_is_met_by_the_largest_exponent(scale: float, target: float) -> None:
    values, mask = random_suffixes(1, scale)
    exponent = tempering_exponent(values, mask, ess_target=target)
    if exponent < 1.0:
        assert log_effective_sample_size(values, mask, exponent=exponent) == pytest.approx(target, abs=1e-6)
        assert log_effective_sample_size(values, mask, exponent=min(1.01 * exponent, 1.0)) < target
    else:
        assert log_effective_sample_size(values, mask) >= target


def test_a_higher_target_has_a_lower_exponent_and_the_share_falls_in_it() -> None:
    values, mask = random_suffixes(2, 4.0)
    targets = [0.1, 0.3, 0.5, 0.7, 0.9, 0.99]
    exponents = [tempering_exponent(values, mask, ess_target=target) for target in targets]
    assert all(later < earlier for earlier, later in itertools.pairwise(exponents))
    shares = [log_effective_sample_size(values, mask, exponent=a / 50) for a in range(51)]
    assert shares[0] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(shares))


def test_weights_that_have_the_target_are_left_alone() -> None:
    values, mask = random_suffixes(3, 0.2)
    share = log_effective_sample_size(values, mask)
    assert 0.5 < share < 1.0
    assert tempering_exponent(values, mask, ess_target=share) == 1.0
    assert 0.0 < tempering_exponent(values, mask, ess_target=share + 1e-3) < 1.0


@pytest.mark.parametrize("value", [0.0, 0.3, -7.0, 1e4])
@pytest.mark.parametrize("target", [0.5, 1.0])
def test_equal_weights_need_no_tempering(value: float, target: float) -> None:
    values, mask = random_suffixes(4)
    equal = torch.where(mask, value, values)
    assert tempering_exponent(equal, mask, ess_target=target) == 1.0
    noisy = torch.where(mask, value + 1e-15 * values, math.nan)
    assert tempering_exponent(noisy, mask, ess_target=target) == 1.0


def test_a_target_of_one_makes_unequal_weights_equal() -> None:
    values, mask = random_suffixes(5)
    assert tempering_exponent(values, mask, ess_target=1.0) == 0.0


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_huge_log_weights_stay_finite(sign: float) -> None:
    values = sign * torch.tensor([[1e4, 1.0, 0.0, 9.9e3]], dtype=torch.float64)
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert log_effective_sample_size(values, mask) == pytest.approx(0.5 if sign < 0 else 0.25, rel=0.2)
    exponent = tempering_exponent(values, mask, ess_target=0.8)
    assert 0.0 < exponent < 1e-3
    assert log_effective_sample_size(values, mask, exponent=exponent) == pytest.approx(0.8, abs=1e-6)


def test_the_share_is_that_of_the_exponentiated_weights() -> None:
    values, mask = random_suffixes(6)
    expected = effective_sample_size(values.exp(), mask).item()
    assert log_effective_sample_size(values, mask) == pytest.approx(expected, rel=1e-12)


def test_tokens_count_one_by_one_where_they_share_a_weight() -> None:
    """A sequence of nine tokens beside one of a single token: nine of ten tokens are equal."""
    values = torch.tensor([[-3.0] * 9 + [0.0]], dtype=torch.float64)
    mask = torch.ones(1, 10, dtype=torch.bool)
    small = math.exp(-3.0)
    assert log_effective_sample_size(values, mask) == pytest.approx((1 + 9 * small) ** 2 / (10 * (1 + 9 * small**2)))


def test_no_token_has_nothing_to_temper() -> None:
    for shape in ((2, 3), (2, 0)):
        empty = torch.zeros(shape, dtype=torch.bool)
        assert tempering_exponent(torch.full(shape, math.nan), empty, ess_target=0.5) == 1.0
        assert log_effective_sample_size(torch.full(shape, math.nan), empty) == 0.0


@pytest.mark.parametrize("target", [0.0, -0.1, 1.1, math.nan])
def test_a_target_outside_its_domain_is_refused(target: float) -> None:
    values, mask = random_suffixes(7)
    with pytest.raises(ValueError, match="ess_target must be above 0 and at most 1"):
        tempering_exponent(values, mask, ess_target=target)


def test_a_log_weight_that_is_not_finite_names_its_row() -> None:
    values = torch.tensor([[0.0, 1.0], [2.0, -math.inf]])
    with pytest.raises(
        ValueError, match=r"log_weights must be finite at response tokens\. Row 1 has -inf at position 1"
    ):
        tempering_exponent(values, torch.ones(2, 2, dtype=torch.bool), ess_target=0.5)
