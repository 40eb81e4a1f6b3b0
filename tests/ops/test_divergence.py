"""Divergences of distributions: against naive loops and `torch.distributions`, and the laws that they keep."""

import math

import pytest
import torch
from torch import Tensor

from pear.ops.divergence import entropy_of_top, kl_divergence, top_k_forward_kl
from tests import naive_divergence as naive

DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def draw(*shape: int, seed: int = 0, spread: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1).to(dtype)


def lumped(log_q: Tensor, log_p: Tensor, k: int) -> Tensor:
    """`top_k_forward_kl` from both distributions in full."""
    ids = log_p.topk(k, dim=-1).indices
    rest = log_q.scatter(-1, ids, -torch.inf)
    log_rest = rest.logsumexp(-1) if k < log_q.shape[-1] else torch.full_like(rest[..., 0], -torch.inf)
    return top_k_forward_kl(log_q.gather(-1, ids), log_p.gather(-1, ids), student_log_rest=log_rest)


def gradient_by_differences(function: object, at: list[float], step: float = 1e-6) -> list[float]:
    assert callable(function)
    result = []
    for place in range(len(at)):
        up, down = ([*at[:place], at[place] + sign * step, *at[place + 1 :]] for sign in (1, -1))
        result.append((function(up) - function(down)) / (2 * step))
    return result


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_kl_equals_the_naive_loop(dtype: torch.dtype, tolerance: float) -> None:
    log_p, log_q = draw(5, 13, dtype=dtype), draw(5, 13, seed=1, dtype=dtype)
    wanted = [naive.kl_divergence(p, q) for p, q in zip(log_p.tolist(), log_q.tolist(), strict=True)]
    torch.testing.assert_close(
        kl_divergence(log_p, log_q), torch.tensor(wanted, dtype=dtype), rtol=tolerance, atol=tolerance
    )


def test_kl_is_that_of_torch_distributions() -> None:
    log_p, log_q = draw(7, 11), draw(7, 11, seed=1)
    pair = (torch.distributions.Categorical(logits=log_p), torch.distributions.Categorical(logits=log_q))
    torch.testing.assert_close(kl_divergence(log_p, log_q), torch.distributions.kl_divergence(*pair))


@pytest.mark.parametrize("of_first", [True, False])
def test_gradient_of_the_kl(of_first: bool) -> None:
    logits, other = draw(9).tolist(), draw(9, seed=1)

    def value(logits: list[float]) -> float:
        pair = (naive.log_softmax(logits), other.tolist())
        return naive.kl_divergence(*(pair if of_first else pair[::-1]))

    leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    pair = (leaf.log_softmax(-1), other)
    kl_divergence(*(pair if of_first else pair[::-1])).backward()
    assert leaf.grad is not None
    # Central differences with steps of 1e-6 are good to about 1e-9.
    assert leaf.grad.tolist() == pytest.approx(gradient_by_differences(value, logits), abs=1e-8)


@pytest.mark.parametrize("impossible", ["first", "second"])
def test_probability_0_leaves_value_and_gradient_finite(impossible: str) -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    even = torch.zeros(1, 3).log_softmax(-1)
    pair = (logits.log_softmax(-1), even) if impossible == "first" else (even, logits.log_softmax(-1))
    value = kl_divergence(*pair)
    value.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    # 1/3 of the mass lies where the log-prob is -1e4.
    wanted = math.log(1.5) if impossible == "first" else 1e4 / 3 - math.log(3) + 2 / 3 * math.log(2)
    assert value.item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("k", [1, 4, 12, 13])
def test_top_k_equals_the_naive_loop(dtype: torch.dtype, tolerance: float, k: int) -> None:
    log_q, log_p = draw(6, 13, dtype=dtype), draw(6, 13, seed=1, dtype=dtype)
    wanted = [naive.lumped_kl(p, q, naive.top_k(p, k)) for p, q in zip(log_p.tolist(), log_q.tolist(), strict=True)]
    torch.testing.assert_close(
        lumped(log_q, log_p, k), torch.tensor(wanted, dtype=dtype), rtol=tolerance, atol=tolerance
    )


def test_gradient_of_the_top_k() -> None:
    logits, teacher = draw(9).tolist(), draw(9, seed=1)

    def value(logits: list[float]) -> float:
        return naive.lumped_kl(teacher.tolist(), naive.log_softmax(logits), naive.top_k(teacher.tolist(), 3))

    leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    lumped(leaf.log_softmax(-1)[None], teacher[None], 3).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == pytest.approx(gradient_by_differences(value, logits), abs=1e-8)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0, 30.0])
def test_top_k_is_a_lower_bound_that_grows_with_k(spread: float) -> None:
    """The log-sum inequality: splitting an outcome in two never lowers a KL, and all outcomes give all of it."""
    log_q, log_p = draw(50, 17, spread=spread), draw(50, 17, seed=1, spread=spread)
    values = torch.stack([lumped(log_q, log_p, k) for k in range(1, 18)])
    full = kl_divergence(log_p, log_q)
    assert (values >= -1e-9).all()
    assert (values[1:] >= values[:-1] - 1e-9).all()
    assert (values[0] < full - 1e-3 * spread).any()
    torch.testing.assert_close(values[-1], full, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [1, 5, 11])
def test_what_the_top_k_leaves_out_is_the_kl_within_the_rest(k: int) -> None:
    """The chain rule: KL = lumped KL + r_p KL(teacher within the rest || student within the rest)."""
    log_q, log_p = draw(20, 12), draw(20, 12, seed=1)
    ids = log_p.topk(k).indices
    rest_p, rest_q = (one.scatter(-1, ids, -torch.inf) for one in (log_p, log_q))
    within = kl_divergence(rest_p.log_softmax(-1), rest_q.log_softmax(-1))
    full = lumped(log_q, log_p, k) + rest_p.exp().sum(-1) * within
    torch.testing.assert_close(full, kl_divergence(log_p, log_q), rtol=1e-10, atol=1e-10)


def test_top_k_is_exact_where_the_rest_is_shared_out_alike() -> None:
    log_p = draw(1, 9)
    ids = log_p.topk(3).indices
    moved = log_p.scatter_add(-1, ids, torch.tensor([[0.7, -0.2, 0.4]], dtype=torch.float64))
    log_q = moved.log_softmax(-1)
    torch.testing.assert_close(lumped(log_q, log_p, 3), kl_divergence(log_p, log_q), rtol=1e-10, atol=1e-12)
    assert lumped(log_q, log_p, 3).item() > 0.01


def test_equal_models_have_divergence_0_and_gradient_0() -> None:
    leaf = draw(4, 11).requires_grad_()
    value = lumped(leaf.log_softmax(-1), leaf.detach(), 4)
    value.sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-12, rtol=0)
    torch.testing.assert_close(leaf.grad, torch.zeros_like(leaf.grad), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("student", ["certain", "elsewhere", "even"])
@pytest.mark.parametrize("teacher_rest", [0.0, 1e-9, 1e-3])
def test_a_rest_of_nothing_leaves_value_and_gradient_finite(
    dtype: torch.dtype, student: str, teacher_rest: float
) -> None:
    log_p = torch.tensor([[math.log1p(-teacher_rest), -math.inf, -math.inf, -math.inf]], dtype=dtype)
    logits = {"certain": [200.0, 0.0, 0.0, 0.0], "elsewhere": [-200.0, -200.0, 0.0, 0.0], "even": [0.0] * 4}[student]
    leaf = torch.tensor([logits], dtype=dtype, requires_grad=True)
    log_q = leaf.log_softmax(-1)
    ids = torch.tensor([[0, 1]])
    rest = log_q.scatter(-1, ids, -torch.inf).logsumexp(-1)
    value = top_k_forward_kl(log_q.gather(-1, ids), log_p.gather(-1, ids), student_log_rest=rest)
    value.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().max() <= 1
    # The student gives the rest e^-199 with "certain", and the likeliest token e^-200 with "elsewhere".
    inside = {"certain": 0.0, "elsewhere": 200 + math.log(2), "even": math.log(4)}[student]
    outside = {"certain": 200 - math.log(2), "elsewhere": 0.0, "even": math.log(2)}[student]
    entropy = teacher_rest * math.log(teacher_rest) if teacher_rest else 0.0
    wanted = (1 - teacher_rest) * (math.log1p(-teacher_rest) + inside) + entropy + teacher_rest * outside
    assert value.item() == pytest.approx(wanted, abs=1e-4 if dtype == torch.float32 else 1e-10)


def test_teacher_gets_no_gradient() -> None:
    teacher = draw(2, 3).requires_grad_()
    student = draw(2, 3, seed=1).requires_grad_()
    top_k_forward_kl(student[:, :2], teacher[:, :2], student_log_rest=student[:, 2]).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("count", [1, 2, 9, 20])
def test_entropy_of_the_top_equals_the_naive_loop(dtype: torch.dtype, tolerance: float, count: int) -> None:
    logits = draw(6, 9, dtype=dtype)
    wanted = [naive.entropy_of_top(row, count) for row in logits.tolist()]
    torch.testing.assert_close(
        entropy_of_top(logits, count), torch.tensor(wanted, dtype=dtype), rtol=tolerance, atol=tolerance
    )


def test_entropy_of_impossible_tokens_is_finite() -> None:
    assert entropy_of_top(torch.tensor([0.0, -math.inf, -math.inf]), 3).item() == 0.0
