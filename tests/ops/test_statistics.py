"""pass@k against enumeration; intervals cover what they should."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from pear.ops.pass_at_k import pass_at_k
from pear.ops.statistics import (
    _corrected_tails,
    bootstrap_interval,
    holm,
    paired_t_interval,
    paired_t_test,
    units_to_settle,
)
from tests import naive
from tests.ops import naive_statistics


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


@pytest.mark.parametrize("solved", [30, 150, 290])
def test_many_problems_give_the_percentiles_of_all_resamples(solved: int) -> None:
    """How many of 300 drawn problems are solved is binomial."""
    interval = bootstrap_interval([1.0] * solved + [0.0] * (300 - solved), resamples=200_000)
    expected = stats.binom.ppf([0.025, 0.975], 300, solved / 300) / 300
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1.01 / 300)
    assert interval.method == "percentile bootstrap over problems"


@pytest.mark.parametrize("macro", [False, True])
@pytest.mark.parametrize(
    "groups",
    [[[0.0, 0.11, 0.05, 0.83, 0.02, 0.3]], [[0.97, 0.8, 0.01], [0.0, 0.12, 0.05, 0.2, 0.1]]],
    ids=["one stratum", "two strata"],
)
def test_few_problems_give_bca_over_all_resamples(groups: list[list[float]], macro: bool) -> None:
    resamples, tails = naive_statistics.bca(groups, macro=macro, student=stats.t.ppf, confidence=0.8)
    arrays = [np.array(group) for group in groups]
    weights = np.array([1 if macro else len(group) for group in groups])
    shares = weights / weights.sum()
    mean = float(shares @ [group.mean() for group in arrays])
    found = _corrected_tails(np.array([0.1, 0.9]), arrays, shares, mean, np.array(resamples))
    np.testing.assert_allclose(found, tails, rtol=1e-10)

    strata = [f"task {number}" for number, group in enumerate(groups) for _ in group]
    values = [value for group in groups for value in group]
    interval = bootstrap_interval(values, strata, resamples=400_000, confidence=0.8, macro=macro)
    low, high = (naive_statistics.quantile(resamples, tail) for tail in tails)
    # 400,000 draws find a quantile of the enumerated resamples within a percent of the width or so.
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.015 * (high - low))
    assert interval.value == pytest.approx(mean)
    assert interval.method.startswith("BCa bootstrap over problems, stratified by task")


def test_a_long_tail_moves_the_interval_that_way() -> None:
    """The share of problems solved is rarely known from below: where most fail, the truth may be much higher."""
    values = np.array([0.0] * 24 + [0.125] * 3 + [0.5, 0.875, 1.0])
    rare, common = bootstrap_interval(values), bootstrap_interval(1.0 - values)
    assert rare.high - rare.value > 1.3 * (rare.value - rare.low)
    assert common.low == pytest.approx(1.0 - rare.high, abs=0.01)
    assert common.high == pytest.approx(1.0 - rare.low, abs=0.01)


def test_macro_is_the_mean_of_task_means() -> None:
    values, tasks = [0.0, 0.5] * 150 + [0.5, 1.0] * 20, ["long"] * 300 + ["short"] * 40
    micro, macro = bootstrap_interval(values, tasks), bootstrap_interval(values, tasks, macro=True)
    assert micro.value == pytest.approx((300 * 0.25 + 40 * 0.75) / 340)
    assert macro.value == pytest.approx(0.5)
    # The standard error of the mean of means: half of each task's own, in squares.
    half = 1.96 * math.sqrt(0.25**2 / 300 + 0.25**2 / 40) / 2
    assert macro.high - macro.low == pytest.approx(2 * half, rel=0.05)
    assert macro.n == 340
    assert macro.method.endswith("mean of task means")
    equal = bootstrap_interval(values[:300], ["a", "a", "b", "b"] * 75, macro=True)
    assert equal.value == pytest.approx(bootstrap_interval(values[:300]).value)


def test_a_small_task_makes_the_degrees_of_freedom_small() -> None:
    """In a mean of task means three problems count as much as 300, and so does not knowing their spread."""
    values = [0.0, 0.5] * 150 + [0.4, 0.5, 0.6]
    interval = bootstrap_interval(values, ["long"] * 300 + ["short"] * 3, macro=True)
    assert interval.method.startswith("BCa")
    assert (interval.low, interval.high) == pytest.approx((0.25 + 0.4, 0.25 + 0.6) / np.array(2), abs=0.03)


@pytest.mark.parametrize("values", [[0.3], [0.0] * 30, [1.0] * 400])
def test_values_that_are_all_equal_give_no_width_and_say_so(values: list[float]) -> None:
    interval = bootstrap_interval(values)
    assert interval.low == interval.value == interval.high == pytest.approx(values[0])
    assert interval.method == "bootstrap over problems: no width, no value varies"


def test_a_task_of_one_problem_is_held_as_it_is() -> None:
    values = np.random.default_rng(8).random(30)
    alone = bootstrap_interval(values)
    with_one = bootstrap_interval([*values, 0.5], ["a"] * 30 + ["b"])
    shrunk = 30 / 31
    assert with_one.high - with_one.value == pytest.approx(shrunk * (alone.high - alone.value), rel=1e-9)
    assert with_one.value - with_one.low == pytest.approx(shrunk * (alone.value - alone.low), rel=1e-9)


def test_two_problems_that_differ_bound_nothing_beyond_them() -> None:
    interval = bootstrap_interval([0.25, 0.75])
    assert (interval.low, interval.value, interval.high) == (0.25, 0.5, 0.75)


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


@pytest.mark.parametrize("n", [2, 3, 9])
def test_paired_t_test_equals_scipys_and_agrees_with_the_interval(n: int) -> None:
    for seed in range(20):
        values = np.random.default_rng(seed).normal(0.7, 1.0, size=n)
        found = paired_t_test(values)
        assert found == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
        interval = paired_t_interval(values)
        assert (found < 0.05) == (not interval.low <= 0 <= interval.high)


def test_paired_t_test_without_units_or_spread() -> None:
    assert (paired_t_test([]), paired_t_test([0.5])) == (1.0, 1.0)
    assert (paired_t_test([0.0, 0.0]), paired_t_test([-0.5, 0.5]), paired_t_test([0.25, 0.25])) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_holm_is_the_smallest_alpha_that_rejects(number: int) -> None:
    generator = np.random.default_rng(number)
    for _ in range(30):
        p_values = (generator.random(number) ** 3).round(2).tolist()
        assert holm(p_values) == pytest.approx(naive_statistics.holm(p_values), abs=1e-12)


def test_holm_by_hand_and_its_refusal() -> None:
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    with pytest.raises(ValueError, match="p values must be between 0 and 1"):
        holm([0.5, 1.5])


def test_holm_errs_in_one_family_of_twenty() -> None:
    """Ten true hypotheses that share a reference arm over five units: dependent tests."""
    generator = np.random.default_rng(4)
    families = 1000
    arms = generator.normal(size=(families, 10, 5)) - generator.normal(size=(families, 1, 5))
    p_values = np.asarray(stats.ttest_1samp(arms, 0.0, axis=2).pvalue)
    any_corrected = np.mean([min(holm(row.tolist())) < 0.05 for row in p_values])
    # At most 5%, with a standard deviation of 0.7%; uncorrected it is far above.
    assert any_corrected <= 0.07
    assert np.mean(p_values.min(axis=1) < 0.05) > 0.15
