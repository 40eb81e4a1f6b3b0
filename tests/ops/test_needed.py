"""How many units, problems and samples would settle a comparison: against loops, and against simulated studies."""

import numpy as np
import pytest
from scipy import stats

from pear.ops.statistics import Needed, needed_to_settle, paired_t_interval, paired_t_test, units_to_settle
from tests.ops import naive_statistics

Pair = tuple[np.ndarray, np.ndarray]


def study(
    generator: np.random.Generator,
    *,
    units: int,
    problems: int,
    samples: int,
    mean: float,
    between_units: float = 0.0,
    between_problems: float = 0.0,
) -> list[Pair]:
    """Two arms at rates .5 + a shared difficulty +- half of a difference that varies by unit and by problem."""
    difficulty = generator.uniform(-0.1, 0.1, size=(1, problems, 1))
    difference = (
        mean
        + generator.normal(0.0, between_units, size=(units, 1, 1))
        + generator.normal(0.0, between_problems, size=(units, problems, 1))
    )
    ours, theirs = (
        generator.random((units, problems, samples)) < np.clip(0.5 + difficulty + sign * difference / 2, 0.0, 1.0)
        for sign in (1, -1)
    )
    return list(zip(ours, theirs, strict=True))


def differences(pairs: list[Pair]) -> list[float]:
    return [float(ours.mean() - theirs.mean()) for ours, theirs in pairs]


def power(generator: np.random.Generator, law: dict[str, float], *, studies: int = 40) -> float:
    """The share of simulated studies whose paired t interval leaves out 0."""
    rows = [differences(study(generator, **law)) for _ in range(studies)]  # type: ignore[arg-type]
    return float(np.mean([paired_t_test(row) < 0.05 for row in rows]))


@pytest.mark.parametrize("seed", range(8))
def test_the_numbers_are_the_first_that_do(seed: int) -> None:
    generator = np.random.default_rng(seed)
    pairs = study(
        generator, units=4, problems=12, samples=3, mean=0.12, between_units=0.1 * (seed % 2), between_problems=0.2
    )
    expected = naive_statistics.needed_to_settle(
        [(ours.tolist(), theirs.tolist()) for ours, theirs in pairs],
        lambda units: float(stats.t.ppf(0.975, units - 1)),
    )
    found = needed_to_settle(pairs)
    assert (found.units, found.problems, found.samples) == expected


# Each law leaves one thing to raise.
MORE_UNITS = {"units": 8, "problems": 20, "samples": 2, "mean": 0.05, "between_units": 0.1}
MORE_PROBLEMS = {"units": 20, "problems": 6, "samples": 2, "mean": 0.04, "between_problems": 0.2}
MORE_SAMPLES = {"units": 20, "problems": 10, "samples": 2, "mean": 0.04}


@pytest.mark.parametrize(
    ("law", "raised"), [(MORE_UNITS, "units"), (MORE_PROBLEMS, "problems"), (MORE_SAMPLES, "samples")]
)
def test_a_study_of_the_size_named_settles_it_about_half_of_the_time(law: dict[str, float], raised: str) -> None:
    """Over undecided pilots, each followed by studies whose mean is the one seen; at half the size less often."""
    generator = np.random.default_rng(11)
    powers, at_half = [], []
    for _ in range(60):
        pilot = study(generator, **law)  # type: ignore[arg-type]
        number = getattr(needed_to_settle(pilot), raised)
        if number is not None and law[raised] < number <= 6 * law[raised]:
            seen = {**law, "mean": np.mean(differences(pilot))}
            powers.append(power(generator, {**seen, raised: number}))
            at_half.append(power(generator, {**seen, raised: max(1, number // 2)}))
    assert len(powers) >= 10
    assert 0.42 <= np.mean(powers) <= 0.65
    assert np.mean(at_half) < np.mean(powers) - 0.12


def test_no_number_of_problems_or_samples_helps_where_units_differ() -> None:
    pairs = study(np.random.default_rng(1), units=10, problems=200, samples=8, mean=0.05, between_units=0.2)
    found = needed_to_settle(pairs)
    assert (found.problems, found.samples) == (None, None)
    assert found.units is not None
    assert found.units > 10


def test_no_number_of_samples_helps_where_problems_differ_within_units() -> None:
    pairs = study(np.random.default_rng(2), units=12, problems=20, samples=16, mean=0.06, between_problems=0.5)
    found = needed_to_settle(pairs)
    assert found.samples is None
    assert found.problems is not None
    assert found.problems > 20


def test_what_a_problem_adds_in_all_units_alike_is_no_spread_over_units() -> None:
    """Differences are exactly a unit's -4, 0 or 10 percent plus a problem's -20 or 20: only units differ by unit."""
    pairs = []
    for of_unit in (-4, 0, 10):
        right = np.array([50 + of_unit + of_problem for of_problem in (-20, 20) * 10])
        pairs.append((np.arange(100) < right[:, None], np.tile(np.arange(100) < 50, (20, 1))))
    found = needed_to_settle(pairs)
    assert (found.problems, found.samples) == (None, None)
    assert found.units == units_to_settle([-0.04, 0.0, 0.1])


def test_a_settled_comparison_needs_no_more_than_it_has() -> None:
    pairs = study(np.random.default_rng(4), units=6, problems=50, samples=4, mean=0.2, between_units=0.02)
    assert paired_t_interval(differences(pairs)).low > 0
    found = needed_to_settle(pairs)
    assert found.units is not None
    assert found.problems is not None
    assert found.samples is not None
    assert (found.units <= 6, found.problems <= 50, found.samples <= 4) == (True, True, True)


def test_units_are_those_of_the_t_interval_and_arms_may_be_swapped() -> None:
    pairs = study(np.random.default_rng(5), units=5, problems=30, samples=4, mean=0.05, between_units=0.05)
    found = needed_to_settle(pairs, confidence=0.9)
    assert found.units == units_to_settle(differences(pairs), confidence=0.9)
    assert needed_to_settle([(theirs, ours) for ours, theirs in pairs], confidence=0.9) == found


def test_a_problem_that_one_unit_lacks_changes_little() -> None:
    """Problems are then taken for each unit's own, which here they are."""
    pairs = study(np.random.default_rng(14), units=40, problems=40, samples=4, mean=0.02, between_problems=0.2)
    (ours, theirs), *others = pairs
    found, complete = needed_to_settle([(ours[:-1], theirs[:-1]), *others]), needed_to_settle(pairs)
    assert complete.problems is not None
    assert complete.problems > 40
    assert complete.samples is not None
    assert found.problems == pytest.approx(complete.problems, rel=0.1)
    assert found.samples == pytest.approx(complete.samples, abs=1)


def test_one_sample_a_problem_and_what_cannot_be_told() -> None:
    nothing = Needed(units=None, problems=None, samples=None)
    pairs = study(np.random.default_rng(4), units=12, problems=40, samples=1, mean=0.05)
    found = needed_to_settle(pairs)
    assert found.samples is None
    assert found.problems is not None
    assert needed_to_settle(pairs[:1]) == nothing
    assert needed_to_settle([]) == nothing
    ours, theirs = pairs[0]
    assert needed_to_settle([(ours, ours), (theirs, theirs)]) == nothing


@pytest.mark.usefixtures("unchecked")
def test_needed_refuses() -> None:
    right = np.ones((3, 2), dtype=bool)
    with pytest.raises(ValueError, match=r"A pair must have the same problems\. Got 3 and 2"):
        needed_to_settle([(right, right[:2])])
    with pytest.raises(ValueError, match=r"must be bool \(problem, sample\)\. Got float64 \(3, 2\)"):
        needed_to_settle([(right, np.ones((3, 2)))])
    with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
        needed_to_settle([(right, right)], confidence=0.0)
