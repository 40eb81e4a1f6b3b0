"""Rank agreement against loops and enumeration; intervals that know which units belong together."""

import math

import numpy as np
import pytest

from pear.ops.ranks import clustered_interval, rank_agreement, rank_reversals
from tests.ops import naive_statistics as naive

UNITS = {"bases": ["a", "a", "b", "b"], "seeds": [1, 2, 1, 2]}


def table(arms: int, *, seed: int, decimals: int = 1) -> np.ndarray:
    """(arm, unit) for the four units; few decimals, so that there are ties."""
    return np.random.default_rng(seed).random((arms, 4)).round(decimals)


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("arms", [3, 5, 8])
def test_agreement_is_the_mean_over_units_of_what_loops_find(arms: int, higher_is_better: bool) -> None:
    signal, outcome = table(arms, seed=arms), table(arms, seed=arms + 100)
    sign = 1 if higher_is_better else -1
    columns = list(zip((sign * signal).T.tolist(), outcome.T.tolist(), strict=True))
    found = rank_agreement(signal, outcome, higher_is_better=higher_is_better, **UNITS)  # type: ignore[arg-type]
    for interval, twin in (
        (found.spearman, naive.spearman),
        (found.kendall, naive.kendall),
        (found.regret, naive.regret),
    ):
        assert interval.value == pytest.approx(np.mean([twin(*column) for column in columns]), abs=1e-12)
        assert interval.n == 4
    assert (found.arms, found.units, found.left_out) == (arms, 4, 0)


def test_intervals_are_quantiles_over_all_resamples_of_bases_and_seeds() -> None:
    values = np.array([0.11, 0.42, -0.63, 0.94])
    means = naive.two_stage_means([[0.11, 0.42], [-0.63, 0.94]])
    assert len(means) == 2**2 * 2**4
    found = clustered_interval(values, UNITS["bases"], resamples=100_000)  # type: ignore[arg-type]
    # Some resampled means lie at the quantiles with a chance of a percent and more, so the draws find just these.
    assert (found.low, found.high) == pytest.approx((naive.quantile(means, 0.025), naive.quantile(means, 0.975)))
    assert (found.value, found.n) == (pytest.approx(0.21), 4)


def test_a_perfect_signal_an_opposite_one_and_a_low_one() -> None:
    outcome = np.array([[0.1, 0.6, 0.2, 0.5], [0.2, 0.7, 0.3, 0.6], [0.3, 0.8, 0.5, 0.7]])
    perfect = rank_agreement(np.exp(outcome), outcome, higher_is_better=True, **UNITS)  # type: ignore[arg-type]
    assert (perfect.spearman.value, perfect.kendall.value, perfect.regret.value) == pytest.approx((1, 1, 0))
    assert (perfect.reversals, perfect.pairs) == (0, 3)
    assert (perfect.spearman.low, perfect.spearman.high) == pytest.approx((1, 1))
    assert "no width" in perfect.spearman.method
    opposite = rank_agreement(-outcome, outcome, higher_is_better=True, **UNITS)  # type: ignore[arg-type]
    assert (opposite.spearman.value, opposite.kendall.value) == pytest.approx((-1, -1))
    assert opposite.regret.value == pytest.approx((0.2 + 0.2 + 0.3 + 0.2) / 4)
    assert (opposite.reversals, opposite.pairs) == (3, 3)
    low = rank_agreement(-outcome, outcome, higher_is_better=False, **UNITS)  # type: ignore[arg-type]
    assert (low.spearman, low.reversals, low.regret) == (perfect.spearman, 0, perfect.regret)


def test_units_are_not_pooled() -> None:
    """Better units have a lower signal, but within each unit the signal is right."""
    within = np.array([[0.0], [0.1], [0.2]])
    between = np.array([[0.0, 1.0, 2.0, 3.0]])
    found = rank_agreement(within - between, within + between, higher_is_better=True, **UNITS)  # type: ignore[arg-type]
    assert found.spearman.value == pytest.approx(1)
    assert found.reversals == 0


def test_what_is_missing_or_constant_is_left_out_and_counted() -> None:
    signal = np.array([[1.0, 1.0, 3.0, math.nan], [2.0, 1.0, math.nan, math.nan], [3.0, 1.0, 1.0, 5.0]])
    outcome = np.array([[0.1, 0.1, 0.2, 0.1], [0.2, 0.2, 0.9, 0.1], [0.3, 0.6, 0.4, 0.1]])
    found = rank_agreement(signal, outcome, higher_is_better=True, **UNITS)  # type: ignore[arg-type]
    # Unit 1 agrees, unit 2 has one signal for all, unit 3 has two arms that disagree, unit 4 has a single arm.
    assert (found.spearman.value, found.spearman.n, found.kendall.n) == (pytest.approx(0.0), 2, 2)
    assert (found.units, found.left_out, found.arms) == (3, 1, 3)
    assert found.regret.n == 3
    assert found.regret.value == pytest.approx((0.0 + (0.6 - 0.3) + (0.4 - 0.2)) / 3)
    # Arms 1 and 3 meet in units 1 to 3: signals 1-3, 1-1, 3-1 add to 0, a tie.
    assert (found.reversals, found.pairs) == (0, 3)


def test_nothing_to_compare() -> None:
    missing = np.full((3, 4), math.nan)
    found = rank_agreement(missing, missing, higher_is_better=True, **UNITS)  # type: ignore[arg-type]
    assert math.isnan(found.spearman.value)
    assert (found.spearman.low, found.spearman.high, found.spearman.n) == (-math.inf, math.inf, 0)
    assert (found.arms, found.units, found.pairs, found.left_out) == (0, 0, 0, 0)
    one = rank_agreement(
        np.array([[1.0], [2.0]]), np.array([[1.0], [2.0]]), bases=["a"], seeds=[1], higher_is_better=True
    )
    assert (one.spearman.value, one.spearman.low, one.spearman.high) == (pytest.approx(1.0), -math.inf, math.inf)


def test_reversals_go_by_means_over_the_units_both_arms_have() -> None:
    signal = np.array([[1.0, 9.0], [2.0, math.nan], [3.0, 3.0]])
    outcome = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    # Arms 1 and 2 meet in unit 1 alone, where the order holds; 1 and 3 in both, with mean signals 5 and 3.
    assert rank_reversals(signal, outcome, higher_is_better=True) == (1, 3)
    assert rank_reversals(signal, outcome, higher_is_better=False) == (2, 3)
    assert rank_reversals(signal[::-1], outcome[::-1], higher_is_better=True) == (1, 3)


def test_bases_with_more_seeds_bring_more_units() -> None:
    """Drawn twice, the base of three seeds gives a mean of 1 and that of one seed 10; both once: 13 / 4."""
    found = clustered_interval(np.array([1.0, 1.0, 1.0, 10.0]), ["a", "a", "a", "b"])
    assert (found.low, found.value, found.high) == (1.0, 3.25, 10.0)


def test_a_base_with_one_seed_is_drawn_as_it_is_and_one_base_is_said() -> None:
    values = np.array([0.0, 0.1, 0.5, 0.9])
    apart = clustered_interval(values, ["a", "b", "c", "d"], resamples=50_000)
    draws = np.random.default_rng(1).choice(values, size=(50_000, 4)).mean(axis=1)
    assert (apart.low, apart.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.02)
    assert "bases" in apart.method
    one = clustered_interval(values, ["a"] * 4, resamples=50_000)
    assert (one.low, one.high) == pytest.approx((apart.low, apart.high), abs=0.02)
    assert one.method == "bootstrap over seeds of one base"


def clustered_rows(evaluations: int, *, num_bases: int, num_seeds: int, seed: int) -> np.ndarray:
    """Units with mean 0 whose bases vary twice as much as the seeds on one base; (evaluation, unit)."""
    generator = np.random.default_rng(seed)
    bases = generator.normal(0.0, 1.0, size=(evaluations, num_bases, 1))
    return (bases + generator.normal(0.0, 0.5, size=(evaluations, num_bases, num_seeds))).reshape(evaluations, -1)


def test_intervals_respect_that_units_on_one_base_depend_on_each_other() -> None:
    """Over 20 bases with 3 seeds each about 95% hold the mean; resampling the 60 units as if independent does not."""
    rows = clustered_rows(400, num_bases=20, num_seeds=3, seed=0)
    shared = [f"base {unit // 3}" for unit in range(60)]
    alone = [f"base {unit}" for unit in range(60)]
    found = [clustered_interval(row, shared, seed=seed, resamples=400) for seed, row in enumerate(rows)]
    naively = [clustered_interval(row, alone, seed=seed, resamples=400) for seed, row in enumerate(rows)]
    covered, covered_naively = (
        np.mean([interval.low <= 0 <= interval.high for interval in intervals]) for intervals in (found, naively)
    )
    # 95% of 400 has a standard deviation of 1.1%; percentiles over 20 bases are a little short.
    assert 0.90 <= covered <= 0.98
    assert covered_naively < 0.82
    assert np.mean([i.high - i.low for i in found]) > 1.4 * np.mean([i.high - i.low for i in naively])


def test_few_bases_make_intervals_short_as_the_docstring_says() -> None:
    rows = clustered_rows(400, num_bases=3, num_seeds=1, seed=1)
    found = [clustered_interval(row, ["a", "b", "c"], seed=seed, resamples=400) for seed, row in enumerate(rows)]
    assert 0.66 <= np.mean([interval.low <= 0 <= interval.high for interval in found]) <= 0.82


def test_agreement_of_clustered_units_is_wider_than_of_independent_ones() -> None:
    """On half of the bases the signal is right, on the others it is noise: what counts is which bases are drawn."""
    generator = np.random.default_rng(3)
    outcome = generator.random((6, 24))
    signal = generator.random((6, 24))
    signal[:, :12] = outcome[:, :12]
    arguments = {"seeds": list(range(24)), "higher_is_better": True}
    clustered = rank_agreement(signal, outcome, bases=[f"{unit // 6}" for unit in range(24)], **arguments)  # type: ignore[arg-type]
    independent = rank_agreement(signal, outcome, bases=[f"{unit}" for unit in range(24)], **arguments)  # type: ignore[arg-type]
    assert clustered.spearman.value == independent.spearman.value
    width, width_independent = (found.spearman.high - found.spearman.low for found in (clustered, independent))
    assert width > 1.4 * width_independent


def test_equal_seeds_give_equal_intervals() -> None:
    units = {"bases": ["a", "a", "b", "b"], "seeds": [1, 2, 1, 2], "resamples": 50}
    arguments = {"signal": table(6, seed=1), "outcome": table(6, seed=2), "higher_is_better": True, **units}
    assert rank_agreement(**arguments) == rank_agreement(**arguments)  # type: ignore[arg-type]
    assert rank_agreement(**arguments) != rank_agreement(**arguments, seed=1)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signal": np.ones((3, 3))}, r"shape \(arm, unit\). Got \(3, 3\) and \(2, 4\)"),
        ({"bases": ["a"]}, "one entry per unit, 4. Got 1 and 4"),
        ({"bases": ["a"] * 4}, "Every unit must have its own base and seed"),
        ({"signal": np.full((2, 4), math.inf)}, "must be finite, or NaN"),
        ({"resamples": 0}, "resamples must be at least 1. Got 0"),
    ],
)
def test_agreement_refuses(changes: dict[str, object], message: str) -> None:
    arguments = {"signal": np.ones((2, 4)), "outcome": np.ones((2, 4)), "higher_is_better": True, **UNITS, **changes}
    with pytest.raises(ValueError, match=message):
        rank_agreement(**arguments)  # type: ignore[arg-type]
