"""How well the best of several signals would look if none of them said anything."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from jaxtyping import Float, Float64, Int
from scipy import stats

Scores = Float[numpy.ndarray, "arm unit"]
MOST_ARMS_IN_ALL_ORDERS = 6


@dataclass(frozen=True, kw_only=True)
class Chance:
    """The best mean Spearman correlation among signals, over shuffles of the arms' outcomes.

    `share` of the `shuffles` reach at least what was seen, and half of them `median`; `exact`: every order was tried.
    """

    share: float
    median: float
    shuffles: int
    exact: bool


def best_by_chance(signals: Sequence[Scores], outcome: Scores, *, seed: int = 0, shuffles: int = 1000) -> Chance | None:
    """What choosing the best of several signals reaches when outcomes are shuffled among the arms.

        best(order) = max_s mean_u spearman(signal_s[:, u], outcome[order, u])
        share       = share of orders with best(order) >= best(identity)

    One order holds for all units, since an arm is alike in all of them: units do not become independent. A permutation
    test of the maximum (Westfall and Young, 1993), so `share` is a p value that accounts for how many signals there
    are. Up to 6 arms all orders are tried; of more, `shuffles` random ones and the identity. Arms without an outcome in
    some unit are left out.

    Args:
        signals: each (arm, unit), higher is better; NaN is missing.
        outcome: (arm, unit); NaN is missing.
        seed: of the random orders.
        shuffles: how many.

    Returns:
        None where fewer than two arms have every outcome, or no signal has a correlation.

    >>> signal = numpy.array([[1.0], [2.0], [3.0]])
    >>> found = best_by_chance([signal], signal)
    >>> round(found.share, 4), found.shuffles
    (0.1667, 6)
    """
    complete = numpy.isfinite(outcome).all(axis=1)
    arms = int(complete.sum())
    if arms < 2:
        return None
    orders = _orders(arms, seed, shuffles)
    means = [_mean_correlations(signal[complete], outcome[complete], orders) for signal in signals]
    known = [mean for mean in means if numpy.isfinite(mean[0])]
    if not known:
        return None
    best = numpy.nanmax(numpy.stack(known), axis=0)
    # Equal correlations may differ in their last digits.
    share = float((best >= best[0] - 1e-9).mean())
    exact = arms <= MOST_ARMS_IN_ALL_ORDERS
    return Chance(share=share, median=float(numpy.median(best)), shuffles=len(orders), exact=exact)


def _orders(arms: int, seed: int, shuffles: int) -> Int[numpy.ndarray, "order arm"]:
    """The identity first."""
    if arms <= MOST_ARMS_IN_ALL_ORDERS:
        return numpy.array(list(itertools.permutations(range(arms))))
    generator = numpy.random.default_rng(seed)
    return numpy.array([numpy.arange(arms), *(generator.permutation(arms) for _ in range(shuffles))])


def _mean_correlations(
    signal: Scores, outcome: Scores, orders: Int[numpy.ndarray, "order arm"]
) -> Float64[numpy.ndarray, " order"]:
    """Per order, the mean over units of Spearman's correlation; units without one are left out."""
    by_unit = []
    for unit in range(signal.shape[1]):
        present = numpy.isfinite(signal[:, unit])
        if present.sum() >= 2:
            ours = _standardized(signal[present, unit][None])
            theirs = _standardized(outcome[orders, unit][:, present])
            by_unit.append((theirs * ours).sum(axis=1))
    if not by_unit:
        return numpy.full(len(orders), math.nan)
    values = numpy.stack(by_unit)
    known = numpy.isfinite(values)
    sums = numpy.where(known, values, 0.0).sum(axis=0)
    return numpy.divide(sums, known.sum(axis=0), out=numpy.full(len(orders), math.nan), where=known.any(axis=0))


def _standardized(values: Float[numpy.ndarray, "row arm"]) -> Float64[numpy.ndarray, "row arm"]:
    """Mid-ranks with mean 0 and length 1; NaN where all are equal."""
    ranks = stats.rankdata(values, axis=1)
    centered = ranks - ranks.mean(axis=1, keepdims=True)
    lengths = numpy.sqrt((centered**2).sum(axis=1, keepdims=True))
    return numpy.divide(centered, lengths, out=numpy.full(centered.shape, math.nan), where=lengths > 0)
