"""Intervals for reported numbers: sampling error over problems, and paired differences over runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float64, Num
from scipy import stats

Values = Num[np.ndarray, " unit"] | Sequence[float | int]

CHUNK = 4_000_000
"""Random indices held at a time by the bootstrap."""

MAX_UNITS = 1_000_000


@final
@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its interval, the number of units behind it and how the interval was made."""

    value: float
    low: float
    high: float
    n: int
    method: str


def bootstrap_interval(
    values_per_problem: Values,
    strata: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of the mean over problems, resampling whole problems within their strata.

    Each resample draws, with replacement, as many problems from each stratum (task) as it has; the interval lies
    between the (1 +- confidence) / 2 quantiles of the resamples' means. A problem's samples stay together, since they
    are not independent. With few problems (below about 20) percentile intervals are too short.

    Args:
        values_per_problem: one number per problem, such as its pass@k.
        strata: each problem's task, same length; None: one stratum.
        seed: of the resamples; equal seeds give equal intervals.
        resamples: how many.
        confidence: in (0, 1).

    Raises:
        ValueError: no problems, lengths differ, a value is not finite, or `resamples` or `confidence` is out of range.

    >>> bootstrap_interval([0.0, 1.0] * 50).value
    0.5
    """
    values = _vector(values_per_problem)
    if len(values) == 0:
        raise ValueError("values_per_problem must hold at least one problem. Got none.")
    if strata is not None and len(strata) != len(values):
        raise ValueError(f"strata must have one entry per problem, {len(values)}. Got {len(strata)}.")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1. Got {resamples}.")
    _check_confidence(confidence)
    labels = (
        np.zeros(len(values), dtype=np.int64) if strata is None else np.unique(list(strata), return_inverse=True)[1]
    )
    generator = np.random.default_rng(seed)
    sums = np.zeros(resamples)
    for label in range(labels.max() + 1):
        sums += _resampled_sums(values[labels == label], resamples, generator)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(sums / len(values), [tail, 1.0 - tail])
    name = "bootstrap over problems" + ("" if strata is None else ", stratified by task")
    return Interval(value=float(values.mean()), low=float(low), high=float(high), n=len(values), method=name)


def _resampled_sums(
    values: Float64[np.ndarray, " member"], resamples: int, generator: np.random.Generator
) -> Float64[np.ndarray, " resample"]:
    n = len(values)
    rows = max(1, CHUNK // n)
    parts = [
        values[generator.integers(n, size=(min(rows, resamples - start), n))].sum(axis=1)
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(parts)


def paired_t_interval(differences: Values, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of paired differences, one per (base, seed) unit.

        mean +- t_{n-1, (1 + confidence) / 2} s / sqrt(n)

    With fewer than two units nothing bounds the mean: the interval is (-inf, inf).

    Raises:
        ValueError: a difference is not finite, or `confidence` is out of range.

    >>> interval = paired_t_interval([0.1, 0.2, 0.3])
    >>> round(interval.low, 4), round(interval.high, 4)
    (-0.0484, 0.4484)
    """
    values = _vector(differences)
    _check_confidence(confidence)
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:
        return Interval(value=mean, low=-math.inf, high=math.inf, n=n, method="paired t")
    half = _half_width(float(values.std(ddof=1)), n, confidence)
    return Interval(value=mean, low=mean - half, high=mean + half, n=n, method="paired t")


def units_to_settle(differences: Values, confidence: float = 0.95) -> int | None:
    """The smallest number of units whose paired t interval, at this mean and standard deviation, excludes 0.

    None where no number is known: fewer than two units, a mean of 0, or more than a million units.

    Raises:
        ValueError: a difference is not finite, or `confidence` is out of range.

    >>> units_to_settle([0.1, 0.2, 0.3])
    4
    """
    values = _vector(differences)
    _check_confidence(confidence)
    if len(values) < 2 or values.mean() == 0:
        return None
    mean, deviation = abs(float(values.mean())), float(values.std(ddof=1))
    low, high = 1, MAX_UNITS
    if _half_width(deviation, high, confidence) >= mean:
        return None
    # The half-width falls with n: bisect for the first n that is enough (low is not, high is).
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _half_width(deviation, middle, confidence) < mean else (middle, high)
    return high


def _half_width(deviation: float, n: int, confidence: float) -> float:
    return float(stats.t.ppf((1.0 + confidence) / 2.0, df=n - 1)) * deviation / math.sqrt(n)


def _vector(values: Values) -> Float64[np.ndarray, " unit"]:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"Expected one number per unit, a vector. Got shape {vector.shape}.")
    if not np.isfinite(vector).all():
        raise ValueError(f"Every value must be finite. Number {int(np.flatnonzero(~np.isfinite(vector))[0])} is not.")
    return vector


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1. Got {confidence}.")
