"""How well a signal known before RL orders the arms as they come out after it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import final

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from pear.ops.statistics import Interval

Scores = Float[np.ndarray, "arm unit"]


@final
@dataclass(frozen=True, kw_only=True)
class RankAgreement:
    """A signal against an outcome over arms, each within its unit.

    `spearman` and `kendall` (tau-b) are means over units, positive where the signal predicts the outcome; their `n` is
    the number of units in the mean. `regret` is what choosing by the signal loses, in the outcome's unit of measure.
    `reversals` of `pairs` pairs of arms change order between signal and outcome. `arms` and `units` are those with
    something to compare; `left_out` of these units have no correlation, as the signal or the outcome is constant.
    """

    spearman: Interval
    kendall: Interval
    reversals: int
    pairs: int
    regret: Interval
    arms: int
    units: int
    left_out: int


def rank_agreement(
    signal: Scores,
    outcome: Scores,
    *,
    bases: Sequence[str],
    seeds: Sequence[int],
    higher_is_better: bool,
    seed: int = 0,
    resamples: int = 2000,
) -> RankAgreement:
    """Spearman's and Kendall's correlation of a signal with an outcome over arms, rank reversals, and regret.

        rho_u  = corr_arms(rank(+-signal_u), rank(outcome_u))                      rho = mean_u rho_u
        tau_u  = (concordant - discordant) / sqrt((pairs - ties_s)(pairs - ties_o))    tau = mean_u tau_u   (tau-b)
        regret = mean_u (max_a outcome_au - outcome of the arm that the signal puts first)

    Arms of one unit share a base and a seed, so they are compared within it and never pooled over units. The sign is
    minus where a low signal is good. Where the signal puts several arms first, their regrets are averaged. An arm
    without signal or outcome (NaN) is missing from that unit; a unit with fewer than two arms says nothing.

    95% intervals are percentiles of a bootstrap over bases and then over the seeds within each drawn base, since
    units on one base are dependent; a base with one seed is drawn as it is. They take the arms as given. With few
    bases they are too short (percentiles over 3 / 5 / 10 independent units cover about 74 / 84 / 90%), and where all
    units agree they have no width, as `method` says. With a single base they say nothing about another. A single unit
    gives none: (-inf, inf).

    Args:
        signal: (arm, unit).
        outcome: (arm, unit), higher is better.
        bases: each unit's base.
        seeds: each unit's seed; no two units have both base and seed in common.
        higher_is_better: whether a high signal is meant to be good.
        seed: of the resamples; equal seeds give equal intervals.
        resamples: how many.

    Raises:
        ValueError: shapes or lengths differ, a unit comes twice, a value is infinite, or `resamples` is below 1.

    >>> signal = np.array([[0.1, 0.2], [0.3, 0.1], [0.5, 0.6]])
    >>> found = rank_agreement(signal, signal**2, bases=["a", "b"], seeds=[1, 1], higher_is_better=True)
    >>> found.spearman.value, found.reversals, found.pairs, found.regret.value
    (1.0, 0, 3, 0.0)
    """
    signal, outcome = np.asarray(signal, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    _check(signal, outcome, bases, seeds, resamples)
    signal = signal if higher_is_better else -signal
    present = ~(np.isnan(signal) | np.isnan(outcome))
    compared = present.sum(axis=0) >= 2

    def over_units(of_unit: Callable[[np.ndarray, np.ndarray], float]) -> Float64[np.ndarray, " unit"]:
        values = np.full(len(bases), math.nan)
        for unit in np.flatnonzero(compared):
            rows = present[:, unit]
            values[unit] = of_unit(signal[rows, unit], outcome[rows, unit])
        return values

    def interval(values: Float64[np.ndarray, " unit"]) -> Interval:
        return clustered_interval(values, bases, seed=seed, resamples=resamples)

    spearman = over_units(_spearman)
    reversals, pairs = rank_reversals(signal, outcome, higher_is_better=True)
    return RankAgreement(
        spearman=interval(spearman),
        kendall=interval(over_units(_kendall)),
        reversals=reversals,
        pairs=pairs,
        regret=interval(over_units(_regret)),
        arms=int(present[:, compared].any(axis=1).sum()),
        units=int(compared.sum()),
        left_out=int((compared & np.isnan(spearman)).sum()),
    )


def rank_reversals(signal: Scores, outcome: Scores, *, higher_is_better: bool) -> tuple[int, int]:
    """How many pairs of arms the signal puts in the opposite order of the outcome, and how many could be compared.

        reversed(a, b):  mean_u (signal_a - signal_b) and mean_u (outcome_a - outcome_b) have opposite signs

    Means are over the units that have both arms' signals and outcomes. A tie is no reversal.

    Raises:
        ValueError: shapes differ.

    >>> rank_reversals(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [3.0], [2.0]]), higher_is_better=True)
    (1, 3)
    """
    if signal.shape != outcome.shape:
        raise ValueError(f"outcome must have the shape of signal, {signal.shape}. Got {outcome.shape}.")
    sign = 1.0 if higher_is_better else -1.0
    present = ~(np.isnan(signal) | np.isnan(outcome))
    reversals = pairs = 0
    for one, other in combinations(range(len(signal)), 2):
        both = present[one] & present[other]
        if both.any():
            before = sign * float((signal[one, both] - signal[other, both]).mean())
            after = float((outcome[one, both] - outcome[other, both]).mean())
            pairs += 1
            reversals += (before > 0 > after) or (before < 0 < after)
    return reversals, pairs


def clustered_interval(
    values: Float64[np.ndarray, " unit"], bases: Sequence[str], *, seed: int = 0, resamples: int = 2000
) -> Interval:
    """95% percentile bootstrap interval of the mean over units, drawing bases and then the units within each.

    Each resample draws, with replacement, as many bases as there are and, for each drawn base, as many of its units as
    it has; its mean is over all drawn units. Units that are NaN are left out first. Too short with few bases; a single
    unit gives (-inf, inf).

    Raises:
        ValueError: lengths differ.

    >>> clustered_interval(np.array([0.0, 0.0, 1.0, 1.0]), ["a", "a", "b", "b"]).high
    1.0
    """
    if len(values) != len(bases):
        raise ValueError(f"bases must have one entry per unit, {len(values)}. Got {len(bases)}.")
    known = np.isfinite(values)
    n = int(known.sum())
    mean = float(values[known].mean()) if n else math.nan
    if n < 2:
        return Interval(value=mean, low=-math.inf, high=math.inf, n=n, method="no interval from fewer than two units")
    if np.ptp(values[known]) == 0:
        return Interval(value=mean, low=mean, high=mean, n=n, method="no width, all units are equal")
    names, labels = np.unique(np.asarray(bases)[known], return_inverse=True)
    generator = np.random.default_rng(seed)
    sizes = np.bincount(labels)
    # Row of a base: its units, then fillers that are never counted.
    members = np.zeros((len(sizes), sizes.max()))
    taken = np.arange(sizes.max()) < sizes[:, None]
    members[taken] = values[known][np.argsort(labels, kind="stable")]
    bases_drawn = generator.integers(len(sizes), size=(resamples, len(sizes)))
    units_drawn = generator.integers(sizes[bases_drawn][:, :, None], size=(*bases_drawn.shape, sizes.max()))
    drawn = np.where(taken[bases_drawn], members[bases_drawn[:, :, None], units_drawn], 0.0)
    means = drawn.sum(axis=(1, 2)) / sizes[bases_drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    method = "bootstrap over seeds of one base" if len(names) == 1 else "bootstrap over bases, then seeds within a base"
    return Interval(value=mean, low=float(low), high=float(high), n=n, method=method)


def _spearman(signal: Float64[np.ndarray, " arm"], outcome: Float64[np.ndarray, " arm"]) -> float:
    if np.ptp(signal) == 0 or np.ptp(outcome) == 0:
        return math.nan
    return float(stats.spearmanr(signal, outcome).statistic)


def _kendall(signal: Float64[np.ndarray, " arm"], outcome: Float64[np.ndarray, " arm"]) -> float:
    if np.ptp(signal) == 0 or np.ptp(outcome) == 0:
        return math.nan
    return float(stats.kendalltau(signal, outcome, variant="b").statistic)


def _regret(signal: Float64[np.ndarray, " arm"], outcome: Float64[np.ndarray, " arm"]) -> float:
    return float(outcome.max() - outcome[signal == signal.max()].mean())


def _check(signal: np.ndarray, outcome: np.ndarray, bases: Sequence[str], seeds: Sequence[int], resamples: int) -> None:
    if signal.ndim != 2 or signal.shape != outcome.shape:
        raise ValueError(
            f"signal and outcome must both have shape (arm, unit). Got {signal.shape} and {outcome.shape}."
        )
    if not len(bases) == len(seeds) == signal.shape[1]:
        raise ValueError(
            f"bases and seeds must have one entry per unit, {signal.shape[1]}. Got {len(bases)} and {len(seeds)}."
        )
    if len(set(zip(bases, seeds, strict=True))) < len(bases):
        raise ValueError("Every unit must have its own base and seed. Two have both in common.")
    if np.isinf(signal).any() or np.isinf(outcome).any():
        raise ValueError("signal and outcome must be finite, or NaN where they are missing.")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1. Got {resamples}.")
