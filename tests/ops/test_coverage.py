"""How often 95% intervals hold the truth, over simulated evaluations.

Success rates of problems are drawn from Beta distributions, so that the truth is known in closed form; every simulated
evaluation draws problems, and samples of them, anew.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from pear.ops.pass_at_k import pass_at_k
from pear.ops.statistics import bootstrap_interval, paired_t_interval, paired_t_test

EVALUATIONS = 2000
# 95% of 2,000 is 1,900 with a standard deviation of 9.7: an interval that covers 95% is within 93-97% but for one time
# in 20,000.
LOW, HIGH = 0.93, 0.97
SKEWED = (0.2, 1.8)
"""Mean 0.1; with 8 samples 69% of the problems are never solved."""


def mean_pass_at_k(law: tuple[float, float], k: int) -> float:
    """1 - E (1 - p)^k for p ~ Beta(a, b)."""
    a, b = law
    return 1.0 - math.prod((b + i) / (a + b + i) for i in range(k))


def scores(
    laws: Sequence[tuple[float, float]], sizes: Sequence[int], *, samples: int, k: int, generator: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """pass@k of each problem, (evaluation, problem), with the problems' tasks."""
    rates = np.concatenate(
        [generator.beta(*law, size=(EVALUATIONS, size)) for law, size in zip(laws, sizes, strict=True)], axis=1
    )
    # pass@k goes by the number of correct samples alone.
    table = pass_at_k(np.arange(samples) < np.arange(samples + 1)[:, None], k)
    tasks = [f"task {number}" for number, size in enumerate(sizes) for _ in range(size)]
    return table[generator.binomial(samples, rates)], tasks


def coverage(
    values: np.ndarray, tasks: list[str] | None, truth: float, *, resamples: int, macro: bool = False
) -> float:
    found = [
        bootstrap_interval(row, tasks, seed=seed, resamples=resamples, macro=macro) for seed, row in enumerate(values)
    ]
    return float(np.mean([interval.low <= truth <= interval.high for interval in found]))


@pytest.mark.parametrize("k", [1, 8])
def test_bootstrap_covers_with_500_problems_of_five_tasks(k: int) -> None:
    laws = [(0.3, 1.2), (0.5, 0.5), (2.0, 3.0), (0.2, 0.8), (4.0, 1.0)]
    values, tasks = scores(laws, [100] * 5, samples=16, k=k, generator=np.random.default_rng(k))
    truth = float(np.mean([mean_pass_at_k(law, k) for law in laws]))
    assert LOW <= coverage(values, tasks, truth, resamples=400) <= HIGH


def test_bootstrap_covers_a_paired_difference_with_500_problems() -> None:
    """Two arms solve the same problems, at rates p and p^2: the mean difference is E p - E p^2."""
    generator = np.random.default_rng(2)
    rates = generator.beta(0.5, 0.5, size=(EVALUATIONS, 500))
    ours, theirs = generator.binomial(8, rates) / 8, generator.binomial(8, rates**2) / 8
    assert LOW <= coverage(ours - theirs, None, 0.5 - 0.375, resamples=400) <= HIGH
    paired, apart = (bootstrap_interval(values) for values in (ours[0] - theirs[0], ours[0] - theirs[1]))
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


@pytest.mark.parametrize("sizes", [[30], [10, 10, 10]], ids=["one task", "three tasks"])
def test_bootstrap_covers_with_30_problems_of_skewed_rates(sizes: list[int]) -> None:
    values, tasks = scores([SKEWED] * len(sizes), sizes, samples=8, k=1, generator=np.random.default_rng(3))
    assert LOW <= coverage(values, tasks, 0.1, resamples=600) <= HIGH


def test_bootstrap_covers_the_mean_of_unequal_tasks() -> None:
    """Of 5 / 10 / 15 problems the five count as much as the fifteen, and each task is skewed in its own way."""
    laws = [(0.5, 1.5), (0.3, 1.2), (0.2, 0.8)]
    values, tasks = scores(laws, [5, 10, 15], samples=8, k=1, generator=np.random.default_rng(4))
    truth = (0.25 + 0.2 + 0.2) / 3
    assert LOW <= coverage(values, tasks, truth, resamples=600, macro=True) <= HIGH


@pytest.mark.slow
def test_bootstrap_covers_where_percentiles_take_over() -> None:
    values, _ = scores([SKEWED], [200], samples=8, k=1, generator=np.random.default_rng(5))
    assert LOW <= coverage(values, None, 0.1, resamples=2000) <= HIGH
    assert "percentile" in bootstrap_interval(values[0]).method
    assert "BCa" in bootstrap_interval(values[0, :199]).method


@pytest.mark.parametrize("units", [3, 5, 10])
def test_paired_t_covers_over_seeds(units: int) -> None:
    """Arms share their unit's effect; what is left is a difference between training runs and 300 x 8 samples."""
    generator = np.random.default_rng(units)
    base = generator.normal(0.5, 0.1, size=(EVALUATIONS, units))
    ours, theirs = (
        generator.binomial(2400, np.clip(base + shift + generator.normal(0.0, 0.02, size=base.shape), 0, 1)) / 2400
        for shift in (0.03, 0.0)
    )
    found = [paired_t_interval(row) for row in ours - theirs]
    assert LOW <= np.mean([interval.low <= 0.03 <= interval.high for interval in found]) <= HIGH


@pytest.mark.parametrize("units", [3, 10])
def test_paired_t_test_is_wrong_one_time_in_twenty(units: int) -> None:
    rows = np.random.default_rng(units).normal(size=(EVALUATIONS, units))
    assert 1 - HIGH <= np.mean([paired_t_test(row) < 0.05 for row in rows]) <= 1 - LOW
