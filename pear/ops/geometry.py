"""How far two matrices lie apart: sparsity of the update, singular values, subspaces (arXiv 2602.01058, A.2 to A.4).

Everything is worked out in float64 and in parts, whatever the dtype and size of the matrices.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pear.ops.masking import check_floating, check_shape

_PART = 1 << 16
"""Elements that are compared at once: 512 KiB in float64. Parts that leave the cache take up to ten times as long."""
_RELATIVE = 1e-3
"""A bfloat16 number is at least 2^-8 of itself away from its neighbors, so a smaller change is none."""


def sparsity(before: Float[Tensor, "*shape"], after: Float[Tensor, "*shape"], *, epsilon: float = 1e-5) -> float:
    """Share of the elements that an update leaves where they are, by an absolute threshold.

        Delta W = W_after - W_before,    sparsity = (1 / |Delta W|) sum_ij 1(|Delta W_ij| < epsilon)

    Source: arXiv 2602.01058, A.2, which states no epsilon; 1e-5 is that of a public script on bfloat16 weights. The
    difference is taken in the dtype of the tensors (the wider of the two), as stored.

    Args:
        before: any shape, any floating dtype.
        after: same shape.
        epsilon: threshold, above 0.

    Raises:
        ValueError: shapes differ, a tensor is empty or not floating, or epsilon is not above 0.

    >>> sparsity(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 2.5, 3.0, 4.0]))
    0.75
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0. Got {epsilon!r}.")
    unchanged = sum(int(((new - old).double().abs() < epsilon).sum()) for old, new in _parts(before, after))
    return unchanged / before.numel()


def sparsity_bf16(before: Float[Tensor, "*shape"], after: Float[Tensor, "*shape"]) -> float:
    """Share of the elements that an update leaves where they are, as far as bfloat16 can tell.

        (1 / |W|) sum_ij 1(|w'_ij - w_ij| <= 1e-3 max(|w_ij|, |w'_ij|))

    Source: Mukherjee et al. 2025 and Zhu et al. 2025 (the bfloat16-aware test). Neighboring bfloat16 numbers differ by
    2^-8 to 2^-7 of themselves, so on bfloat16 weights this counts those that are equal, at any scale.

    Raises:
        ValueError: shapes differ, or a tensor is empty or not floating.

    >>> sparsity_bf16(torch.tensor([1.0, 1e-6]), torch.tensor([1.0005, 2e-6]))
    0.5
    """
    unchanged = 0
    for old, new in _parts(before, after):
        wide_old, wide_new = old.double(), new.double()
        scale = torch.maximum(wide_old.abs(), wide_new.abs())
        unchanged += int(((wide_new - wide_old).abs() <= _RELATIVE * scale).sum())
    return unchanged / before.numel()


def update_norm(before: Float[Tensor, "*shape"], after: Float[Tensor, "*shape"]) -> float:
    """Length of an update, ||W_after - W_before||_2 over all elements, in float64.

    Raises:
        ValueError: shapes differ, or a tensor is empty or not floating.

    >>> update_norm(torch.zeros(2), torch.tensor([3.0, 4.0]))
    5.0
    """
    return math.sqrt(
        math.fsum(float((new.double() - old.double()).square().sum()) for old, new in _parts(before, after))
    )


def _parts(before: Tensor, after: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    check_floating("before", before)
    check_floating("after", after)
    check_shape("after", after, before, "as before")
    if before.numel() == 0:
        raise ValueError("before must have at least one element.")
    yield from zip(before.flatten().split(_PART), after.flatten().split(_PART), strict=True)


def singular_values(matrix: Float[Tensor, "rows columns"]) -> Float64[Tensor, " rank"]:
    """All min(rows, columns) singular values, descending.

        sigma_i = sqrt(lambda_i(M)),    M = W^T W or W W^T, whichever is smaller

    M and its eigenvalues are in float64. For weights stored in float32 or less this is exact to about 1e-16 sigma_1^2 /
    sigma_i, at worst 1e-8 sigma_1 where sigma_i is 0; `torch.linalg.svdvals` in float32 errs by 1e-7 to 1e-5 sigma_1
    everywhere and takes longer (`benchmarks/analyze.py`). No singular value is left out or sampled.

    Args:
        matrix: (rows, columns), any floating dtype. It is read in parts: beside it, about 4 min(rows, columns)^2
            float64 numbers are held.

    Returns:
        Float64 (min(rows, columns),), on the matrix's device.

    Raises:
        ValueError: not a floating matrix, empty, or a value is NaN or infinite.

    >>> singular_values(torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]))
    tensor([3., 2.], dtype=torch.float64)
    """
    return torch.linalg.eigvalsh(_gram(matrix)).clamp(min=0.0).sqrt().flip(0)


def _gram(matrix: Tensor) -> Float64[Tensor, "rank rank"]:
    """W^T W, or W W^T where W has fewer rows than columns."""
    check_floating("matrix", matrix)
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ValueError(f"matrix must have shape (rows, columns), none of them 0. Got {tuple(matrix.shape)}.")
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    size = tall.shape[1]
    gram = torch.zeros(size, size, dtype=torch.float64, device=matrix.device)
    for part in tall.split(size):
        wide = part.double()
        gram.addmm_(wide.T, wide)
    if not bool(gram.diagonal().isfinite().all()):
        raise ValueError("matrix must be finite. It holds NaN or infinite values.")
    return gram


def spectrum_shift(sigma_before: Float[Tensor, " rank"], sigma_after: Float[Tensor, " rank"]) -> float:
    """Normalized spectrum shift (NSS) of one matrix.

        NSS(W) = ||sigma(W_after) - sigma(W_before)||_2 / ||sigma(W_before)||_2

    Source: arXiv 2602.01058, A.3.

    Args:
        sigma_before: all singular values of the matrix before, descending.
        sigma_after: those of the matrix after, as many.

    Returns:
        0 where nothing changed, also where both are 0.

    Raises:
        ValueError: lengths differ, or everything is 0 before and not after.

    >>> spectrum_shift(torch.tensor([3.0, 4.0]), torch.tensor([3.3, 4.4]))  # doctest: +ELLIPSIS
    0.1000...
    """
    check_floating("sigma_before", sigma_before)
    check_floating("sigma_after", sigma_after)
    check_shape("sigma_after", sigma_after, sigma_before, "rank")
    shift = float((sigma_after.double() - sigma_before.double()).norm())
    size = float(sigma_before.double().norm())
    if shift == 0.0:
        return 0.0
    if size == 0.0:
        raise ValueError("sigma_before must have a value above 0, since the shift is relative to it.")
    return shift / size


def left_subspace(matrix: Float[Tensor, "rows columns"], k: int) -> Float64[Tensor, "rows k"]:
    """An orthonormal basis of the top-k left singular subspace, U_k of W = U Sigma V^T, strongest direction first.

    Source: arXiv 2602.01058, A.4. By the eigenvectors of W W^T in float64; where W has more rows than columns, by those
    of W^T W, times W. For a matrix stored in float32 the directions are as exact as those of a float64 SVD, because
    rounding the entries to float32 turns them further.

    Args:
        matrix: (rows, columns), any floating dtype.
        k: from 1 to min(rows, columns).

    Returns:
        Float64 (rows, k). Signs, and the basis within equal singular values, are arbitrary.

    Raises:
        ValueError: not a floating matrix, empty, not finite, k out of range, or the matrix's rank is below k, so that
            there is no such subspace.

    >>> left_subspace(torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0]]), 1).abs()
    tensor([[0.],
            [1.],
            [0.]], dtype=torch.float64)
    """
    squares, vectors = torch.linalg.eigh(_gram(matrix))
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(squares):
        raise ValueError(f"k must be from 1 to min(rows, columns)={len(squares)}. Got {k!r}.")
    rank = int((squares > max(matrix.shape) * torch.finfo(torch.float64).eps * squares[-1]).sum())
    if rank < k:
        raise ValueError(f"k must be at most the matrix's rank, {rank}. Got {k}.")
    top = vectors[:, -k:].flip(1)
    if matrix.shape[0] < matrix.shape[1]:
        return top
    return torch.linalg.qr(matrix.double() @ top).Q


def principal_angles(u: Float[Tensor, "rows k"], v: Float[Tensor, "rows k"]) -> Float64[Tensor, " k"]:
    """Angles between two subspaces, ascending, in radians from 0 to pi/2.

        cos theta_i = sigma_i(U^T V), clamped to [0, 1],   i = 1, ..., k

    Source: arXiv 2602.01058, A.4. An arc cosine tells angles below 1e-8 from 0 no better than that.

    Args:
        u: orthonormal columns that span one subspace (`left_subspace`).
        v: likewise, same shape.

    Raises:
        ValueError: shapes differ, or the columns are not orthonormal (to 1e-6).

    >>> basis = torch.eye(3, dtype=torch.float64)
    >>> principal_angles(basis[:, :2], basis[:, 1:])
    tensor([0.0000, 1.5708], dtype=torch.float64)
    """
    check_shape("v", v, u, "rows, k")
    for name, basis in (("u", u.double()), ("v", v.double())):
        error = (basis.T @ basis - torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)).abs().max()
        if not float(error) < 1e-6:
            raise ValueError(f"{name} must have orthonormal columns. Products of its columns are off by {error:.1e}.")
    return torch.linalg.svdvals(u.double().T @ v.double()).clamp(0.0, 1.0).arccos()
