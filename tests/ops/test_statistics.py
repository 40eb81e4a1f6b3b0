"""pass@k against enumeration; intervals cover what they should."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from pear.ops.pass_at_k import pass_at_k
from pear.ops.statistics import bootstrap_interval, paired_t_interval, units_to_settle
from tests import naive


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_choices_with_a_correct_one(n: int) -> None:
    correct = np.array([[i < c for i in range(n)] for c in range(n + 1)])
    for k in range(1, n + 1):
        expected = [naive.pass_at_k(row.tolist(), k) for row in correct]
        np.testing.assert_allclose(pass_at_k(correct, k), expected, atol=1e-12)
        np.testing.assert_array_equal(pass_at_k(torch.from_numpy(correct), k), pass_at_k(correct, k))


def test_pass_at_k_stays_finite_where_binomials_overflow() -> None:
    correct = np.zeros((3, 5000), dtype=bool)
    correct[1, :10] = True
    correct[2, :] = True
    exact = 1 - math.comb(4990, 2000) / math.comb(5000, 2000)
    np.testing.assert_allclose(pass_at_k(correct, 2000), [0.0, exact, 1.0], rtol=1e-12)
    np.testing.assert_allclose(pass_at_k(correct, 1), correct.mean(axis=1), rtol=1e-12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("correct", "k", "message"),
    [
        (np.ones((2, 3), dtype=bool), 4, "k must be from 1 to the number of samples, 3. Got 4"),
        (np.ones((2, 3), dtype=bool), 0, "k must be from 1 to the number of samples, 3. Got 0"),
        (np.ones((2, 3)), 1, r"correct must be bool of shape \(problem, sample\). Got float64 \(2, 3\)"),
        (np.ones(3, dtype=bool), 1, r"Got bool \(3,\)"),
    ],
)
def test_pass_at_k_refuses(correct: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_at_k(correct, k)


def test_bootstrap_covers_the_mean() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        interval = bootstrap_interval(generator.beta(2, 3, size=80), seed=seed, resamples=500)
        hits += interval.low <= 0.4 <= interval.high
    # 95% of 200 is 190; a binomial falls below 180 or above 199 once in a thousand.
    assert 180 <= hits <= 199


def test_bootstrap_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(1).random(400)
    interval = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.05)
    assert interval.n == 400
    assert interval == bootstrap_interval(values.tolist())
    assert interval != bootstrap_interval(values, seed=1)


def test_strata_keep_their_sizes() -> None:
    """Two tasks with constant scores: only which task is drawn varies, and stratified it does not."""
    values = [0.0] * 30 + [1.0] * 10
    stratified = bootstrap_interval(values, strata=["a"] * 30 + ["b"] * 10)
    assert (stratified.low, stratified.value, stratified.high) == (0.25, 0.25, 0.25)
    assert "stratified" in stratified.method
    plain = bootstrap_interval(values)
    assert plain.low < 0.25 < plain.high


def test_bootstrap_resamples_every_choice_for_two_problems() -> None:
    """Resamples of {0, 1} average 0, 1/2 and 1 with chances 1/4, 1/2, 1/4."""
    interval = bootstrap_interval([0.0, 1.0], confidence=0.4)
    assert (interval.low, interval.high) == (0.5, 0.5)
    interval = bootstrap_interval([0.0, 1.0], confidence=0.6)
    assert (interval.low, interval.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values_per_problem": []}, "at least one problem"),
        ({"values_per_problem": [0.0, math.nan]}, "Number 1 is not"),
        ({"values_per_problem": [0.0], "strata": ["a", "b"]}, "one entry per problem, 1. Got 2"),
        ({"values_per_problem": [0.0], "resamples": 0}, "resamples must be at least 1"),
        ({"values_per_problem": [0.0], "confidence": 1.0}, "confidence must be between 0 and 1"),
    ],
)
def test_bootstrap_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [2, 3, 9])
def test_paired_t_equals_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(0.3, 1.0, size=n)
    interval = paired_t_interval(values, confidence=0.9)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert (interval.value, interval.n) == (pytest.approx(values.mean()), n)


def test_paired_t_covers_zero_for_small_samples() -> None:
    generator = np.random.default_rng(2)
    intervals = [paired_t_interval(generator.normal(size=3)) for _ in range(2000)]
    # 95% of 2000 is 1900; three standard deviations are 29.
    assert 1871 <= sum(item.low <= 0 <= item.high for item in intervals) <= 1929


def test_too_few_units_bound_nothing() -> None:
    assert (paired_t_interval([0.5]).value, paired_t_interval([0.5]).low, paired_t_interval([0.5]).high) == (
        0.5,
        -math.inf,
        math.inf,
    )
    empty = paired_t_interval([])
    assert math.isnan(empty.value)
    assert (empty.n, empty.low, empty.high) == (0, -math.inf, math.inf)
    assert units_to_settle([0.5]) is None
    assert units_to_settle([-0.5, 0.5]) is None


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_units_to_settle_is_the_first_number_that_does(scale: float, sign: float) -> None:
    values = sign * (1.0 + scale * np.array([-1.0, 0.0, 1.0]))
    mean, deviation = abs(values.mean()), values.std(ddof=1)
    enough = (n for n in itertools.count(2) if stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n) < mean)
    assert units_to_settle(values) == next(enough)


def test_units_to_settle_when_all_agree_or_nothing_helps() -> None:
    assert units_to_settle([0.5, 0.5, 0.5]) == 2
    assert units_to_settle([-1.0, 1.0 + 1e-6]) is None
