"""Sparsity, spectra and subspaces against the naive twin, known answers and float64 SVDs."""

import math

import pytest
import torch
from torch import Tensor

from pear.ops.geometry import (
    left_subspace,
    principal_angles,
    singular_values,
    sparsity,
    sparsity_bf16,
    spectrum_shift,
    update_norm,
)
from tests import naive

SHAPES = [(7, 4), (4, 7), (6, 6), (1, 5), (5, 1)]


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, scale: float = 1e-3) -> tuple[Tensor, Tensor]:
    """A matrix, and one that moved a little in half of its elements."""
    before = torch.randn(shape, dtype=torch.float64).to(dtype)
    moved = torch.rand(shape) < 0.5
    return before, torch.where(moved, (before.double() * (1 + scale * torch.randn(shape))).to(dtype), before)


def rotation(size: int, plane: tuple[int, int], angle: float) -> Tensor:
    """Turns the plane of two coordinates."""
    matrix = torch.eye(size, dtype=torch.float64)
    i, j = plane
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[j, i], matrix[i, j] = math.sin(angle), -math.sin(angle)
    return matrix


def orthogonal(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float64, 53), (torch.float32, 24), (torch.bfloat16, 8)])
@pytest.mark.parametrize("scale", [1e-3, 3.0])
@pytest.mark.parametrize("shape", [(9, 13), (300, 280)])
def test_elementwise_measures_are_the_naive_ones(
    shape: tuple[int, int], scale: float, dtype: torch.dtype, bits: int
) -> None:
    before, after = pair(shape, dtype, scale)
    old, new = before.tolist(), after.tolist()
    for epsilon in (1e-5, scale):
        expected = naive.sparsity(old, new, epsilon=epsilon, bits=bits)
        assert 0.3 < expected < 1.0
        assert sparsity(before, after, epsilon=epsilon) == expected
    assert sparsity_bf16(before, after) == naive.sparsity_bf16(old, new)
    assert update_norm(before, after) == pytest.approx(naive.update_norm(old, new), rel=1e-12)


def test_the_difference_is_taken_in_the_stored_dtype() -> None:
    before, after = torch.tensor([2.0**-9]).bfloat16(), torch.tensor([1.0]).bfloat16()
    assert sparsity(before, after, epsilon=0.999) == 0.0
    assert sparsity(before.float(), after.float(), epsilon=0.999) == 1.0
    # A bfloat16 base and a model trained in float32 differ in float32.
    assert sparsity(before, after.float(), epsilon=0.999) == 1.0


def test_the_thresholds_themselves() -> None:
    before = torch.zeros(2, dtype=torch.float64)
    assert sparsity(before, torch.tensor([1e-5, 0.9999e-5], dtype=torch.float64)) == 0.5
    ones = torch.full((2,), 1000.0, dtype=torch.float64)
    assert sparsity_bf16(ones, torch.tensor([999.0, 998.9999], dtype=torch.float64)) == 0.5
    assert sparsity_bf16(torch.zeros(3), torch.tensor([0.0, 1e-30, -1e-30])) == pytest.approx(1 / 3)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_one_bfloat16_step_is_a_change_at_any_scale(scale: float) -> None:
    before = (scale * torch.randn(64, 64)).bfloat16()
    neighbors = (before.view(torch.int16) + 1).view(torch.bfloat16)
    assert sparsity_bf16(before, neighbors) == 0.0
    assert sparsity_bf16(before, before) == sparsity(before, before) == 1.0


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_are_the_naive_ones(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    found = singular_values(matrix)
    assert found.tolist() == pytest.approx(naive.singular_values(matrix.tolist()), rel=1e-10, abs=1e-10)
    assert len(found) == min(shape)
    torch.testing.assert_close(singular_values(matrix.T), found, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(singular_values(-3.0 * matrix), 3.0 * found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(320, 96), (96, 320), (200, 200)])
def test_singular_values_are_those_of_a_float64_svd(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = torch.randn(shape).to(dtype)
    expected = torch.linalg.svdvals(matrix.double())
    error = (singular_values(matrix) - expected).abs().max() / expected[0]
    assert error < 1e-13
    assert (torch.linalg.svdvals(matrix.float()).double() - expected).abs().max() / expected[0] > 1e-8


def test_singular_values_of_a_matrix_without_full_rank() -> None:
    matrix = torch.randint(-4, 5, (200, 3)).double() @ torch.randint(-4, 5, (3, 100)).double()
    found, expected = singular_values(matrix), torch.linalg.svdvals(matrix)
    assert (found - expected).abs().max() < 1e-7 * expected[0]
    assert bool(singular_values(torch.zeros(3, 2)).eq(0.0).all())


@pytest.mark.parametrize("share", [1.0, 1e-2, 1e-4])
def test_spectrum_shift_of_small_updates_is_exact(share: float) -> None:
    """What float32 singular values cannot do: their errors are not small against what training changes."""
    before = (0.02 * torch.randn(192, 256)).bfloat16()
    steps = (before.float() * (1 + 2**-7 * torch.randn(192, 256).sign())).bfloat16()
    after = torch.where(torch.rand(192, 256) < share, steps, before)
    expected = spectrum_shift(torch.linalg.svdvals(before.double()), torch.linalg.svdvals(after.double()))
    found = spectrum_shift(singular_values(before), singular_values(after))
    rounded = spectrum_shift(torch.linalg.svdvals(before.float()), torch.linalg.svdvals(after.float()))
    assert found == pytest.approx(expected, rel=1e-9)
    assert abs(rounded - expected) > 1e3 * abs(found - expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_spectrum_shift_is_the_naive_one(shape: tuple[int, int]) -> None:
    before, after = pair(shape, scale=0.3)
    found = spectrum_shift(singular_values(before), singular_values(after))
    assert found == pytest.approx(naive.spectrum_shift(before.tolist(), after.tolist()), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.001, 3.0, -1.25])
def test_a_scaled_matrix_shifts_by_its_factor(factor: float) -> None:
    matrix = torch.randn(12, 20, dtype=torch.float64)
    found = spectrum_shift(singular_values(matrix), singular_values(factor * matrix))
    assert found == pytest.approx(abs(abs(factor) - 1.0), rel=1e-11, abs=1e-15)


def test_a_rotated_matrix_keeps_its_spectrum() -> None:
    matrix = torch.randn(12, 20, dtype=torch.float64)
    turned = orthogonal(12) @ matrix @ orthogonal(20)
    assert spectrum_shift(singular_values(matrix), singular_values(turned)) < 1e-14


def test_a_shift_from_nothing_has_no_size() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    assert spectrum_shift(zero, zero) == 0.0
    with pytest.raises(ValueError, match="sigma_before must have a value above 0"):
        spectrum_shift(zero, zero + 1)


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
@pytest.mark.parametrize("k", [1, 3])
def test_angles_between_matrices_are_the_naive_ones(shape: tuple[int, int], k: int) -> None:
    first, second = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    found = principal_angles(left_subspace(first, k), left_subspace(second, k))
    expected = naive.principal_angles(naive.left_subspace(first.tolist(), k), naive.left_subspace(second.tolist(), k))
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-7)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32)])
def test_the_left_subspace_is_that_of_a_float64_svd(shape: tuple[int, int]) -> None:
    """A spectrum that falls over four orders of magnitude, as mean gradients' do, stored in float32."""
    size = min(shape)
    sigma = torch.logspace(0, -4, size, dtype=torch.float64)
    matrix = (orthogonal(shape[0])[:, :size] * sigma @ orthogonal(shape[1])[:size]).float()
    for k in (1, 5, size // 2):
        found = left_subspace(matrix, k)
        torch.testing.assert_close(found.T @ found, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-10)
        expected = torch.linalg.svd(matrix.double(), full_matrices=False).U[:, :k]
        error = (found @ found.T - expected @ expected.T).norm()
        rounded = torch.linalg.svd(matrix, full_matrices=False).U[:, :k].double()
        assert error < 1e-9
        # Strongest direction first, each up to its sign.
        torch.testing.assert_close((found * expected).sum(dim=0).abs(), torch.ones(k).double(), rtol=0, atol=1e-9)
        assert error < 0.1 * (rounded @ rounded.T - expected @ expected.T).norm()


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (9, 9)])
@pytest.mark.parametrize("angle", [1e-4, 0.3, 1.2, math.pi / 2])
def test_a_rotation_of_known_angle_gives_that_angle(shape: tuple[int, int], angle: float) -> None:
    rows, k = shape[0], 3
    basis = orthogonal(rows)
    sigma = torch.arange(min(shape), 0, -1, dtype=torch.float64)
    matrix = basis[:, : len(sigma)] * sigma @ orthogonal(shape[1])[: len(sigma)]
    # One direction inside the subspace turns towards one outside.
    turned = basis @ rotation(rows, (1, rows - 1), angle) @ basis.T @ matrix
    found = principal_angles(left_subspace(matrix, k), left_subspace(turned, k))
    assert found.tolist() == pytest.approx([0.0, 0.0, angle], abs=1e-7)


def test_identical_matrices_and_whole_spaces_have_no_angle() -> None:
    first, second = torch.randn(2, 16, 24, dtype=torch.float64)
    for k in (1, 4, 16):
        assert float(principal_angles(left_subspace(first, k), left_subspace(first, k)).max()) < 1e-7
        # Scaling and signs of the matrix leave its subspace alone, and so does what it is multiplied by on the right.
        other = left_subspace(-7.0 * first @ orthogonal(24), k)
        assert float(principal_angles(left_subspace(first, k), other).max()) < 1e-7
    # k = rows: every subspace is the whole space, so unrelated matrices show no rotation either.
    assert float(principal_angles(left_subspace(first, 16), left_subspace(second, 16)).max()) < 1e-7


def test_angles_depend_on_the_subspaces_alone() -> None:
    u, v = orthogonal(9)[:, :4], orthogonal(9)[:, :4]
    angles = principal_angles(u, v)
    assert bool((angles.diff() >= 0).all())
    assert float(angles[0]) >= 0.0
    assert float(angles[-1]) <= math.pi / 2
    for left, right in ((v, u), (u @ orthogonal(4), v @ orthogonal(4))):
        torch.testing.assert_close(principal_angles(left, right), angles, rtol=0, atol=1e-9)


def test_cosines_above_one_are_clamped() -> None:
    bases = [orthogonal(6)[:, :2] for _ in range(50)]
    assert max(float(torch.linalg.svdvals(basis.T @ basis)[0]) for basis in bases) > 1.0
    for basis in bases:
        assert bool((principal_angles(basis, basis) < 1e-7).all())


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda a: sparsity(a, a[:1]), r"after must have shape \(as before\)=\(3, 4\)\. Got \(1, 4\)\."),
        (lambda a: sparsity(a, a, epsilon=0.0), "epsilon must be above 0"),
        (lambda a: sparsity(a, a, epsilon=math.nan), "epsilon must be above 0"),
        (lambda a: sparsity_bf16(a.int(), a), "before must be of a floating dtype"),
        (lambda a: update_norm(a[:0], a[:0]), "at least one element"),
        (lambda a: singular_values(a[0]), r"matrix must have shape \(rows, columns\).*Got \(4,\)"),
        (lambda a: singular_values(a[:0]), "none of them 0"),
        (lambda a: singular_values(a / 0.0), "matrix must be finite"),
        (lambda a: singular_values(torch.where(a == a[2, 1], math.nan, a)), "matrix must be finite"),
        (lambda a: spectrum_shift(a[0], a[0, :2]), "sigma_after must have shape"),
        (lambda a: left_subspace(a, 4), r"k must be from 1 to min\(rows, columns\)=3\. Got 4\."),
        (lambda a: left_subspace(a, 0), "k must be from 1"),
        (lambda a: left_subspace(a[:, :1] @ a[:1], 2), "k must be at most the matrix's rank, 1. Got 2."),
        (lambda a: left_subspace(0.0 * a, 1), "k must be at most the matrix's rank, 0. Got 1."),
        (lambda a: principal_angles(a[:, :2], a[:, :2]), "u must have orthonormal columns"),
        (lambda a: principal_angles(torch.eye(3)[:, :2], torch.eye(3)), "v must have shape"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments(function: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        function(torch.randn(3, 4))  # type: ignore[operator]
