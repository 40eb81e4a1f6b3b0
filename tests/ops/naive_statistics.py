"""Naive twins of the statistics: float64 Python loops that enumerate. They never import `pear.ops`."""

import itertools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist


def mixed_at_k(correct: list[bool], k: int) -> float:
    """The share of all choices of k samples that hold both a correct and a wrong one."""
    choices = list(itertools.combinations(correct, k))
    return sum(any(choice) and not all(choice) for choice in choices) / len(choices)


def majority_at_k(answers: list[int], correct: list[bool], k: int) -> float:
    """Every choice of k samples votes; -1 has no vote; tied answers share; a winner counts by its correct voters."""
    scores = []
    for choice in itertools.combinations(range(len(answers)), k):
        voters: dict[int, list[bool]] = {}
        for sample in choice:
            if answers[sample] != -1:
                voters.setdefault(answers[sample], []).append(correct[sample])
        most = max((len(group) for group in voters.values()), default=0)
        winners = [sum(group) / len(group) for group in voters.values() if len(group) == most]
        scores.append(sum(winners) / len(winners) if winners else 0.0)
    return math.fsum(scores) / len(scores)


def holm(p_values: list[float]) -> list[float]:
    """Each test's smallest alpha at which Holm's step-down procedure rejects it."""

    def rejected(alpha: float) -> set[int]:
        order = sorted(range(len(p_values)), key=lambda test: p_values[test])
        found = set()
        for passed, test in enumerate(order):
            if p_values[test] * (len(p_values) - passed) > alpha:
                break
            found.add(test)
        return found

    levels = sorted({min(1.0, p * multiple) for p in p_values for multiple in range(1, len(p_values) + 1)})
    return [next((alpha for alpha in levels if test in rejected(alpha)), 1.0) for test in range(len(p_values))]


def quantile(values: list[float], share: float) -> float:
    """Linear between the order statistics, as numpy's default."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    lower = math.floor(place)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (place - lower) * (ordered[upper] - ordered[lower])


def variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def bca(
    strata: list[list[float]], *, macro: bool, student: Callable[[float, float], float], confidence: float = 0.95
) -> tuple[list[float], list[float]]:
    """The mean of every resample, and at which two of their quantiles BCa with Student's tails reads the interval.

    `student(share, freedom)` is a quantile.
    """
    total = sum(len(group) for group in strata)
    shares = [1 / len(strata) if macro else len(group) / total for group in strata]

    def mean_of(groups: Sequence[Sequence[float]]) -> float:
        return math.fsum(share * math.fsum(group) / len(group) for share, group in zip(shares, groups, strict=True))

    resamples = [
        mean_of(drawn)
        for drawn in itertools.product(*(list(itertools.product(group, repeat=len(group))) for group in strata))
    ]
    mean = mean_of(strata)
    below = sum((value < mean - 1e-12) + 0.5 * (abs(value - mean) <= 1e-12) for value in resamples) / len(resamples)
    parts = [share**2 * variance(group) / len(group) for share, group in zip(shares, strata, strict=True)]
    freedom = math.fsum(parts) ** 2 / math.fsum(
        part**2 / (len(group) - 1) for part, group in zip(parts, strata, strict=True)
    )
    of_resamples = math.fsum((value - mean) ** 2 for value in resamples) / len(resamples)
    influence = []
    for place, group in enumerate(strata):
        for left_out in range(len(group)):
            others = [*strata[:place], group[:left_out] + group[left_out + 1 :], *strata[place + 1 :]]
            influence.append(mean - mean_of(others))
    acceleration = math.fsum(d**3 for d in influence) / (6 * math.fsum(d**2 for d in influence) ** 1.5)
    normal = NormalDist()
    bias = normal.inv_cdf(below)
    tails = []
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = bias + student(share, freedom) * math.sqrt(math.fsum(parts) / of_resamples)
        tails.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    return resamples, tails


def needed_to_settle(
    pairs: list[tuple[list[list[bool]], list[list[bool]]]], student: Callable[[int], float]
) -> tuple[int | None, int | None, int | None]:
    """Units, problems, samples for evaluations of one size, by counting up; `student(units)`: two-sided quantiles."""
    units, problems, samples = len(pairs), len(pairs[0][0]), len(pairs[0][0][0])
    table = [
        [sum(one) / len(one) - sum(two) / len(two) for one, two in zip(ours, theirs, strict=True)]
        for ours, theirs in pairs
    ]
    of_unit = [math.fsum(row) / problems for row in table]
    of_problem = [math.fsum(row[problem] for row in table) / units for problem in range(problems)]
    mean = math.fsum(of_unit) / units
    residuals = [
        (table[unit][problem] - of_unit[unit] - of_problem[problem] + mean) ** 2
        for unit in range(units)
        for problem in range(problems)
    ]
    within = math.fsum(residuals) / ((units - 1) * (problems - 1))
    rates = [sum(row) / samples for pair in pairs for outcomes in pair for row in outcomes]
    from_samples = 2 * math.fsum(rate * (1 - rate) for rate in rates) / len(rates) * samples / (samples - 1)
    total = variance(of_unit)
    within = min(within, total * problems)
    from_samples = min(from_samples, within * samples)
    between, from_problems = total - within / problems, within - from_samples / samples

    def first(settled: Callable[[int], bool], start: int) -> int | None:
        return next((number for number in range(start, 5000) if settled(number)), None)

    def settles(variance_of_unit: float, number: int) -> bool:
        return student(number) * math.sqrt(variance_of_unit / number) < abs(mean)

    return (
        first(lambda number: settles(total, number), 2),
        first(lambda number: settles(between + within / number, units), 1),
        first(lambda number: settles(between + (from_problems + from_samples / number) / problems, units), 1),
    )


def middle_ranks(values: list[float]) -> list[float]:
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]


def spearman(one: list[float], other: list[float]) -> float:
    """Pearson's correlation of the ranks."""
    ranks = [middle_ranks(one), middle_ranks(other)]
    centered = [[rank - math.fsum(row) / len(row) for rank in row] for row in ranks]
    product = math.fsum(a * b for a, b in zip(*centered, strict=True))
    return product / math.sqrt(math.prod(math.fsum(value**2 for value in row) for row in centered))


def kendall(one: list[float], other: list[float]) -> float:
    """tau-b: concordant minus discordant pairs, over those without a tie."""
    score = untied_one = untied_other = 0
    for i, j in itertools.combinations(range(len(one)), 2):
        first, second = one[i] - one[j], other[i] - other[j]
        score += (first * second > 0) - (first * second < 0)
        untied_one += first != 0
        untied_other += second != 0
    return score / math.sqrt(untied_one * untied_other)


def regret(signal: list[float], outcome: list[float]) -> float:
    picked = [value for guess, value in zip(signal, outcome, strict=True) if guess == max(signal)]
    return max(outcome) - math.fsum(picked) / len(picked)


def two_stage_means(groups: list[list[float]]) -> list[float]:
    """The mean of every resample of groups and then of the members of each drawn group, as often as it is drawn.

    Groups of one size only, so that all resamples are equally likely.
    """
    means = []
    for drawn in itertools.product(groups, repeat=len(groups)):
        for members in itertools.product(*(itertools.product(group, repeat=len(group)) for group in drawn)):
            flat = [value for part in members for value in part]
            means.append(math.fsum(flat) / len(flat))
    return means
