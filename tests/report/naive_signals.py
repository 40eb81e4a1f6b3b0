"""Plain loops over plain lists: rank correlation, and the best of several signals over all orders of the outcomes."""

import itertools
import math


def midranks(values: list[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their places."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def spearman(first: list[float], second: list[float]) -> float:
    """The correlation of mid-ranks; NaN where either has one value."""
    x, y = midranks(first), midranks(second)
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    product = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    size = math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))
    return product / size if size else math.nan


def mean_spearman(signal: list[list[float]], outcome: list[list[float]]) -> float:
    """[arm][unit]: within each unit over the arms that have the signal, then the mean over units that have one."""
    found = []
    for unit in range(len(outcome[0])):
        arms = [arm for arm in range(len(outcome)) if not math.isnan(signal[arm][unit])]
        if len(arms) >= 2:
            found.append(spearman([signal[arm][unit] for arm in arms], [outcome[arm][unit] for arm in arms]))
    known = [value for value in found if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def best_over_orders(signals: list[list[list[float]]], outcome: list[list[float]]) -> tuple[float, float]:
    """(share of orders at least as good as the given one, median of the best), over every order of the arms."""
    best = []
    for order in itertools.permutations(range(len(outcome))):
        shuffled = [outcome[place] for place in order]
        values = [mean_spearman(signal, shuffled) for signal in signals]
        best.append(max(value for value in values if not math.isnan(value)))
    ordered = sorted(best)
    middle = len(ordered) // 2
    return sum(value >= best[0] - 1e-9 for value in best) / len(best), (ordered[middle - 1] + ordered[middle]) / 2
