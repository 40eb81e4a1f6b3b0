"""Tokens binned by weight and by distance from the end, with intervals that resample whole trajectories."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
from jaxtyping import Bool, Float64, Int

_CONFIDENCE = 0.95
_LEAST_TOKENS = 3
"""Fewer tokens at one distance have no rank correlation but +1 and -1, and count for nothing."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Response tokens end to end, one value each, trajectories in order.

    Attributes:
        trajectory: 0, 1, 2, ...
        distance: response tokens that follow in the trajectory, T - t.
        log_weight: log G.
        kl: KL(after || before) of the distributions at this token, nats.
        nll: -log pi_before(token), nats.
    """

    trajectory: Int[numpy.ndarray, " token"]
    distance: Int[numpy.ndarray, " token"]
    log_weight: Float64[numpy.ndarray, " token"]
    kl: Float64[numpy.ndarray, " token"]
    nll: Float64[numpy.ndarray, " token"]


def resampled_counts(trajectories: int, resamples: int, *, seed: int) -> Int[numpy.ndarray, "resample trajectory"]:
    """How often each trajectory is in each resample of as many trajectories, drawn with replacement."""
    generator = numpy.random.default_rng(seed)
    shares = numpy.full(trajectories, 1.0 / trajectories)
    # 32 bits halve what the largest array here takes.
    return generator.multinomial(trajectories, shares, size=resamples).astype(numpy.int32)


def bin_rows(
    tokens: Tokens, counts: Int[numpy.ndarray, "resample trajectory"], *, weight_bins: int
) -> list[dict[str, Any]]:
    """Mean KL and NLL by weight, by distance from the end, and by both.

    `by` is "weight", "distance" or "weight_and_distance", and `level` counts the bins of the first two; for both, it is
    that of the weight. `low` and `high` are the least and largest log-weight that lie in the bin, `distance_low` and
    `distance_high` likewise. `kl_low` and `kl_high` are a 95% percentile interval over resampled trajectories; null
    where one trajectory alone has tokens in the bin. Bins without tokens are left out.

    Args:
        tokens: all of them.
        counts: from `resampled_counts`.
        weight_bins: wanted number of bins by weight.
    """
    weight = quantile_bins(tokens.log_weight, weight_bins)
    distance = doubling_bins(tokens.distance)
    levels, places = range(weight.max() + 1), range(distance.max() + 1)
    rows = [
        *(_row(tokens, counts, weight == level, by="weight", level=level) for level in levels),
        *(_row(tokens, counts, distance == place, by="distance", level=place) for place in places),
        *(
            _row(tokens, counts, (distance == place) & (weight == level), by="weight_and_distance", level=level)
            for place in places
            for level in levels
        ),
    ]
    return [row for row in rows if row is not None]


def quantile_bins(values: Float64[numpy.ndarray, " token"], bins: int) -> Int[numpy.ndarray, " token"]:
    """The bin of each value, 0, 1, ..., between quantiles, so that about equally many values are in each.

    Equal values share a bin: where many do (log-weights at a clip), there are fewer bins than asked for.

    >>> quantile_bins(numpy.array([0.0, 1.0, 2.0, 3.0]), 2).tolist()
    [0, 0, 1, 1]
    >>> quantile_bins(numpy.array([-10.0, -10.0, -10.0, 1.0]), 3).tolist()
    [0, 0, 0, 0]
    """
    edges = numpy.unique(numpy.quantile(values, numpy.linspace(0, 1, bins + 1)[1:-1]))
    found = numpy.searchsorted(edges, values, side="right")
    return numpy.unique(found, return_inverse=True)[1]


def doubling_bins(distances: Int[numpy.ndarray, " token"]) -> Int[numpy.ndarray, " token"]:
    """0 for the last token, then 1, 2-3, 4-7, 8-15, ... tokens from the end.

    >>> doubling_bins(numpy.array([0, 1, 2, 3, 4, 7, 8])).tolist()
    [0, 1, 2, 2, 3, 3, 4]
    """
    return numpy.frexp(distances.astype(numpy.float64))[1].astype(numpy.int64)


def _row(
    tokens: Tokens,
    counts: Int[numpy.ndarray, "resample trajectory"],
    inside: Bool[numpy.ndarray, " token"],
    *,
    by: str,
    level: int,
) -> dict[str, Any] | None:
    if not inside.any():
        return None
    low, high = _mean_interval(tokens.kl[inside], tokens.trajectory[inside], counts)
    return {
        "by": by,
        "level": level,
        "low": float(tokens.log_weight[inside].min()),
        "high": float(tokens.log_weight[inside].max()),
        "distance_low": int(tokens.distance[inside].min()),
        "distance_high": int(tokens.distance[inside].max()),
        "tokens": int(inside.sum()),
        "kl": float(tokens.kl[inside].mean()),
        "kl_low": low,
        "kl_high": high,
        "nll": float(tokens.nll[inside].mean()),
    }


def _mean_interval(
    values: Float64[numpy.ndarray, " token"],
    trajectory: Int[numpy.ndarray, " token"],
    counts: Int[numpy.ndarray, "resample trajectory"],
) -> tuple[float | None, float | None]:
    """Percentile interval of a mean over tokens, where trajectories are drawn and bring all their tokens."""
    present, place = numpy.unique(trajectory, return_inverse=True)
    if len(present) < 2:
        return None, None
    drawn = counts[:, present].astype(numpy.float64)
    sums, sizes = drawn @ numpy.bincount(place, weights=values), drawn @ numpy.bincount(place)
    return _percentiles(sums[sizes > 0] / sizes[sizes > 0])


def _percentiles(values: Float64[numpy.ndarray, " resample"]) -> tuple[float | None, float | None]:
    values = values[numpy.isfinite(values)]
    if len(values) == 0:
        return None, None
    tail = (1.0 - _CONFIDENCE) / 2.0
    low, high = numpy.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def rank_correlation(
    tokens: Tokens, counts: Int[numpy.ndarray, "resample trajectory"], *, within_distance: bool
) -> dict[str, Any] | None:
    """Spearman correlation of log-weight and KL over tokens, with a 95% interval over resampled trajectories.

        rho = sum_d n_d rho_d / sum_d n_d,    rho_d among the n_d tokens at distance d from the end

    A distance counts where it has at least 3 tokens and neither the weights nor the KLs are all equal (at distance 0
    every weight of token level is 1). None where no distance counts.

    Args:
        tokens: all of them.
        counts: from `resampled_counts`.
        within_distance: False: all tokens are ranked together, so position counts as weight.
    """
    strata = tokens.distance if within_distance else numpy.zeros_like(tokens.distance)
    log_weight, kl = _Ranks(tokens.log_weight, strata), _Ranks(tokens.kl, strata)
    once = numpy.ones(len(strata), dtype=numpy.int64)
    value = _stratified_correlation(log_weight(once), kl(once), strata, once)
    if value is None:
        return None
    drawn = (
        _stratified_correlation(log_weight(times), kl(times), strata, times)
        for times in _token_counts(counts, tokens.trajectory)
    )
    low, high = _percentiles(numpy.array([numpy.nan if found is None else found for found in drawn]))
    return {"value": value, "low": low, "high": high, "n": counts.shape[1]}


def _token_counts(
    counts: Int[numpy.ndarray, "resample trajectory"], trajectory: Int[numpy.ndarray, " token"]
) -> Iterator[Int[numpy.ndarray, " token"]]:
    for row in counts:
        yield row[trajectory]


class _Ranks:
    """Ranks in samples that have each value some number of times, counted on from stratum to stratum; sorts once."""

    def __init__(self, values: Float64[numpy.ndarray, " token"], strata: Int[numpy.ndarray, " token"]) -> None:
        self._order = numpy.lexsort((values, strata))
        changes = [numpy.diff(column[self._order]) != 0 for column in (values, strata)]
        is_new = numpy.concatenate([[True], changes[0] | changes[1]])
        self._starts = numpy.flatnonzero(is_new)
        self._value = numpy.cumsum(is_new) - 1

    def __call__(self, times: Int[numpy.ndarray, " token"]) -> Float64[numpy.ndarray, " token"]:
        """Each value's rank, from 1, in the sample that has it `times` times; equal values share the middle."""
        sizes = numpy.add.reduceat(times[self._order].astype(numpy.float64), self._starts)
        middle = numpy.cumsum(sizes) - (sizes - 1.0) / 2.0
        ranks = numpy.empty(len(times))
        ranks[self._order] = middle[self._value]
        return ranks


def _stratified_correlation(
    first: Float64[numpy.ndarray, " token"],
    second: Float64[numpy.ndarray, " token"],
    strata: Int[numpy.ndarray, " token"],
    times: Int[numpy.ndarray, " token"],
) -> float | None:
    """Mean over strata, by their size, of the Pearson correlation within each; None where none has one."""
    sizes = numpy.bincount(strata, weights=times)

    def centered(values: Float64[numpy.ndarray, " token"]) -> Float64[numpy.ndarray, " token"]:
        means = numpy.bincount(strata, weights=times * values) / numpy.maximum(sizes, 1)
        return values - means[strata]

    x, y = centered(first), centered(second)
    products, squares_x, squares_y = (numpy.bincount(strata, weights=times * term) for term in (x * y, x * x, y * y))
    counted = (sizes >= _LEAST_TOKENS) & (squares_x > 0) & (squares_y > 0)
    if not counted.any():
        return None
    correlations = products[counted] / numpy.sqrt(squares_x[counted] * squares_y[counted])
    return float(numpy.average(correlations, weights=sizes[counted]))
