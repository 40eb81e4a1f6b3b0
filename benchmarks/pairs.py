"""Ratios of interleaved pairs, as they are printed."""

from scipy import stats


def median_with_interval(ratios: list[float], digits: int = 1) -> str:
    """The median and the order statistics that enclose the true one with 95% confidence; below six pairs, the range.

    >>> median_with_interval([3.0, 1.0, 2.0])
    '2.0 [1.0, 3.0]'
    """
    ordered, n = sorted(ratios), len(ratios)
    rank = int(stats.binom.ppf(0.025, n, 0.5))
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return f"{middle:.{digits}f} [{ordered[rank]:.{digits}f}, {ordered[n - 1 - rank]:.{digits}f}]"
