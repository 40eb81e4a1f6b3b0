"""Majority votes and mixed groups against enumeration of all choices, and laws."""

import numpy as np
import pytest
import torch
from scipy import stats

from pear.ops.majority import majority_at_k
from pear.ops.pass_at_k import mixed_at_k, pass_at_k
from tests.ops import naive_statistics as naive


def random_votes(
    problems: int, samples: int, *, answers: int, seed: int, share_right: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Answers, some of them unreadable, and verdicts that go by the answer; several answers may be right."""
    generator = np.random.default_rng(seed)
    votes = generator.integers(-1, answers, size=(problems, samples))
    right = generator.random((problems, answers)) < share_right
    return votes, np.where(votes >= 0, np.take_along_axis(right, np.maximum(votes, 0), axis=1), False)


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
@pytest.mark.parametrize("answers", [1, 2, 4, 8])
def test_majority_is_the_mean_over_all_choices(samples: int, answers: int) -> None:
    votes, correct = random_votes(25, samples, answers=answers, seed=10 * samples + answers)
    for k in range(1, samples + 1):
        expected = [naive.majority_at_k(*row, k) for row in zip(votes.tolist(), correct.tolist(), strict=True)]
        np.testing.assert_allclose(majority_at_k(votes, correct, k), expected, atol=1e-12)


def test_an_answer_with_both_verdicts_counts_by_its_correct_voters() -> None:
    """The same answer may be correct in one completion and, out of format, not in another."""
    generator = np.random.default_rng(0)
    votes = generator.integers(-1, 3, size=(40, 7))
    correct = generator.random((40, 7)) < 0.5
    for k in range(1, 8):
        expected = [naive.majority_at_k(*row, k) for row in zip(votes.tolist(), correct.tolist(), strict=True)]
        np.testing.assert_allclose(majority_at_k(votes, correct, k), expected, atol=1e-12)


def test_known_votes() -> None:
    votes = np.array([[0, 0, 1, 2], [0, 0, 1, 1], [0, 1, 2, 2], [-1, -1, -1, 0], [-1, -1, -1, -1], [5, 5, -1, -1]])
    correct = np.array(
        [
            [True, True, False, False],
            [True, True, False, False],
            [True, False, False, False],
            [False, False, False, True],
            [False] * 4,
            [False] * 4,
        ]
    )
    np.testing.assert_allclose(majority_at_k(votes, correct, 4), [1.0, 0.5, 0.0, 1.0, 0.0, 0.0])
    # Of the 6 choices of 2 in the first row: one {0, 0}, four {0, other} that tie, one {1, 2}.
    assert majority_at_k(votes, correct, 2)[0] == pytest.approx((1 + 4 * 0.5) / 6)


@pytest.mark.parametrize(("samples", "k"), [(64, 33), (255, 127)])
def test_two_answers_are_a_hypergeometric_tail(samples: int, k: int) -> None:
    """k is odd and nobody is unreadable: the right answer wins where more than half of the k have it."""
    num_right = np.array([0, samples // 3, samples // 2, samples * 2 // 3, samples])
    correct = np.arange(samples) < num_right[:, None]
    expected = stats.hypergeom.sf(k // 2, samples, num_right, k)
    np.testing.assert_allclose(majority_at_k((~correct).astype(np.int64), correct, k), expected, atol=1e-10)


def test_many_answers_agree_with_random_choices() -> None:
    votes, correct = random_votes(6, 64, answers=12, seed=3)
    exact = majority_at_k(votes, correct, 32)
    generator = np.random.default_rng(4)
    for row, flags, expected in zip(votes, correct, exact, strict=True):
        drawn = [generator.permutation(64)[:32] for _ in range(1500)]
        scores = [naive.majority_at_k(row[chosen].tolist(), flags[chosen].tolist(), 32) for chosen in drawn]
        assert np.mean(scores) == pytest.approx(expected, abs=max(4 * np.std(scores) / np.sqrt(1500), 1e-3))


def test_majority_of_one_is_the_share_of_correct_readable_samples() -> None:
    votes, correct = random_votes(50, 16, answers=5, seed=5)
    np.testing.assert_allclose(majority_at_k(votes, correct, 1), correct.mean(axis=1), atol=1e-12)


def test_majority_goes_by_who_agrees_and_not_by_names_or_order() -> None:
    votes, correct = random_votes(30, 12, answers=4, seed=6)
    expected = majority_at_k(votes, correct, 5)
    renamed = np.where(votes >= 0, 1000 - 7 * votes, -1)
    order = np.random.default_rng(7).permutation(12)
    np.testing.assert_array_equal(majority_at_k(renamed, correct, 5), expected)
    np.testing.assert_array_equal(majority_at_k(votes[:, order], correct[:, order], 5), expected)


def test_each_of_several_right_answers_votes_on_its_own() -> None:
    """Four different right answers lose to two equal wrong ones."""
    correct = np.array([[True] * 4 + [False] * 2])
    assert majority_at_k(np.array([[0, 1, 2, 3, 4, 4]]), correct, 6) == 0.0
    assert majority_at_k(np.array([[0, 0, 0, 0, 4, 4]]), correct, 6) == 1.0


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("answers", "correct", "k", "message"),
    [
        (np.zeros((2, 3)), np.ones((2, 3), dtype=bool), 1, r"answers must be integers .* Got float64 \(2, 3\)"),
        (np.zeros((2, 3), dtype=int), np.ones((3, 2), dtype=bool), 1, r"shape of answers, \(2, 3\). Got bool \(3, 2\)"),
        (np.zeros((2, 3), dtype=int), np.ones((2, 3)), 1, r"correct must be bool .* Got float64"),
        (np.full((2, 3), -2), np.ones((2, 3), dtype=bool), 1, "at least -1, which is unreadable. Got -2"),
        (np.zeros((2, 3), dtype=int), np.ones((2, 3), dtype=bool), 4, "k must be from 1 to .* 3. Got 4"),
        (np.zeros((2, 3), dtype=int), np.ones((2, 3), dtype=bool), 0, "k must be from 1 to .* 3. Got 0"),
    ],
)
def test_majority_refuses(answers: np.ndarray, correct: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        majority_at_k(answers, correct, k)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_mixed_is_the_share_of_choices_with_both(n: int) -> None:
    correct = np.array([[i < c for i in range(n)] for c in range(n + 1)])
    for k in range(1, n + 1):
        expected = [naive.mixed_at_k(row.tolist(), k) for row in correct]
        np.testing.assert_allclose(mixed_at_k(correct, k), expected, atol=1e-12)
        np.testing.assert_array_equal(mixed_at_k(torch.from_numpy(correct), k), mixed_at_k(correct, k))
        # A group is mixed where it passes, and its complement passes too.
        both = pass_at_k(correct, k) + pass_at_k(~correct, k) - 1.0
        np.testing.assert_allclose(mixed_at_k(correct, k), both, atol=1e-12)


@pytest.mark.usefixtures("unchecked")
def test_mixed_refuses() -> None:
    with pytest.raises(ValueError, match=r"k must be from 1 to the number of samples, 3\. Got 4"):
        mixed_at_k(np.ones((2, 3), dtype=bool), 4)
    with pytest.raises(ValueError, match="correct must be bool"):
        mixed_at_k(np.ones((2, 3)), 1)
