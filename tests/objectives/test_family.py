"""Laws of the objectives that the paper compares PEAR with."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pear.errors import UserError
from pear.objectives import OBJECTIVES, Divergence, TokenBatch, TokenLoss, make_objective, prepare_step
from tests import naive_objectives

LOG_PROBS = torch.tensor([[-0.1, -1.7, -0.9], [-3.0, -0.2, -1.2]], dtype=torch.float64)
MASK = torch.ones(2, 3, dtype=torch.bool)


def batch_of(log_probs: Tensor = LOG_PROBS, **fields: Any) -> TokenBatch:
    mask = fields.pop("response_mask", torch.ones_like(log_probs, dtype=torch.bool))
    return TokenBatch(log_probs.clone().requires_grad_(), mask, **fields)


def loss_of(name: str, batch: TokenBatch, **settings: Any) -> TokenLoss:
    return OBJECTIVES[name](**settings)(batch)


def gradient_of(loss: TokenLoss, batch: TokenBatch) -> Tensor:
    (gradient,) = torch.autograd.grad(loss.sum, batch.log_probs)
    return gradient


def test_the_power_one_is_plain_p() -> None:
    batch = batch_of()
    family, plain = loss_of("general_family", batch, alpha=1.0), loss_of("plain_p", batch)
    assert torch.equal(family.per_token, plain.per_token)
    torch.testing.assert_close(plain.per_token, 1.0 - LOG_PROBS.exp())
    torch.testing.assert_close(gradient_of(plain, batch), -LOG_PROBS.exp())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1e-21, 1e-19, 1e-12, 1e-8])
def test_small_powers_are_plain_sft(alpha: float, dtype: torch.dtype) -> None:
    """They differ by alpha (log p)^2 / 2."""
    batch = batch_of(torch.tensor([[-50.0, -1.0, -1e-4, 0.0, -1e4, -math.inf]], dtype=dtype))
    family, nll = loss_of("general_family", batch, alpha=alpha), loss_of("nll", batch)
    # The last two lose alpha 1e8 / 2 of 1e4; float16 and bfloat16 may round to the next number.
    tolerance = max(1e-4 if alpha == 1e-8 else alpha * 1e4, 1e-6 if dtype != torch.float64 else 1e-14)
    torch.testing.assert_close(family.per_token, nll.per_token, rtol=tolerance, atol=0.0)
    torch.testing.assert_close(gradient_of(family, batch), gradient_of(nll, batch), rtol=2 * tolerance, atol=0.0)


def test_a_power_beyond_every_probability_leaves_certain_tokens_alone() -> None:
    batch = batch_of(torch.tensor([[0.0, -0.5, -1e4]]))
    loss = loss_of("general_family", batch, alpha=1e6)
    assert loss.per_token[0].tolist() == pytest.approx([0.0, 1e-6, 1e-6])
    assert gradient_of(loss, batch).tolist() == [[-1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("top", "bottom", "whole"), [("top_p", "bottom_p", "plain_p"), ("top_log_p", "bottom_log_p", "nll")]
)
@pytest.mark.parametrize("q", [0.0, 0.2, 0.35, 1.0])
def test_top_and_bottom_partition_the_tokens(top: str, bottom: str, whole: str, q: float) -> None:
    batch = batch_of()
    above, below, all_of_it = loss_of(top, batch, q=q), loss_of(bottom, batch, q=q), loss_of(whole, batch)
    assert torch.equal(above.weights, (LOG_PROBS.exp() >= q).double())
    assert torch.equal(above.weights + below.weights, all_of_it.weights)
    torch.testing.assert_close(above.sum + below.sum, all_of_it.sum)


def test_a_token_at_the_threshold_is_in_both() -> None:
    batch = batch_of(torch.tensor([[0.5, 1.0]], dtype=torch.float64).log())
    assert loss_of("top_p", batch, q=0.5).weights.tolist() == [[1.0, 1.0]]
    assert loss_of("bottom_p", batch, q=0.5).weights.tolist() == [[1.0, 0.0]]


def test_rounding_above_probability_one_is_one() -> None:
    batch = batch_of(torch.tensor([[1e-7]]))
    assert loss_of("bottom_p", batch, q=1.0).weights.tolist() == [[1.0]]
    assert loss_of("dft", batch).weights.tolist() == [[1.0]]
    assert loss_of("chord_phi", batch).weights.tolist() == [[0.0]]


def test_the_denominator_of_kept_tokens_gives_their_mean() -> None:
    """Over the whole step: 3 of the 6 tokens are kept, 2 in one micro-batch and 1 in the other."""
    objective = OBJECTIVES["top_log_p"](q=0.35, denominator="kept")
    kept = LOG_PROBS.exp() >= 0.35
    assert kept.sum(dim=1).tolist() == [2, 1]
    prepared, _ = prepare_step(objective, [batch_of(LOG_PROBS[:1]), batch_of(LOG_PROBS[1:])])
    losses = [objective(batch) for batch in prepared]
    torch.testing.assert_close(torch.cat([loss.weights for loss in losses]), 2.0 * kept.double())
    torch.testing.assert_close(sum(loss.sum for loss in losses) / 6, -LOG_PROBS[kept].mean())


def test_a_step_that_keeps_no_token_has_no_loss() -> None:
    loss = loss_of("top_p", batch_of(), q=1.0, denominator="kept")
    assert loss.sum == 0


@pytest.mark.parametrize("rows", [2, 3])
def test_the_temperature_of_talr_is_the_median_of_sequences(rows: int) -> None:
    """Sequences of mean loss 1, 2 and 6; a fourth row has no response token."""
    log_probs = torch.tensor([[-0.5, -1.5], [-3.0, -1.0], [-6.0, -99.0], [-9.0, -9.0]], dtype=torch.float64)[
        [*range(rows), 3]
    ]
    mask = torch.tensor([[True, True], [True, True], [True, False], [False, False]])[[*range(rows), 3]]
    tau = 1.5 if rows == 2 else 2.0
    objective = OBJECTIVES["talr"]()
    prepared, metrics = prepare_step(
        objective,
        [batch_of(log_probs[row : row + 1], response_mask=mask[row : row + 1]) for row in range(rows + 1)],
    )
    assert metrics == {"weights/talr_tau": pytest.approx(tau, abs=1e-15)}
    assert naive_objectives.talr_tau({"log_probs": log_probs.tolist()}, mask.tolist(), None) == tau
    expected = (log_probs / tau).exp().clamp(min=0.01)
    for row, batch in enumerate(prepared):
        torch.testing.assert_close(objective(batch).weights, torch.where(mask[row], expected[row], 0.0)[None])


def test_talr_where_most_sequences_are_certain() -> None:
    """tau = 0: certain tokens keep weight 1, others get the floor."""
    loss = loss_of("talr", batch_of(torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, -1e-6]])))
    torch.testing.assert_close(loss.weights, torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.01]]))


def test_talr_without_tokens_has_no_temperature() -> None:
    objective = OBJECTIVES["talr"]()
    assert objective.weighting().step_metrics(batch_of(response_mask=~MASK)) == {}
    assert objective.weighting().step_metrics(batch_of(torch.zeros(1, 0))) == {}


def test_dft_and_chord_phi_weigh_by_probability() -> None:
    batch, p = batch_of(), LOG_PROBS.exp()
    torch.testing.assert_close(gradient_of(loss_of("dft", batch), batch), -p)
    torch.testing.assert_close(loss_of("chord_phi", batch).weights, p * (1.0 - p))
    nearly = batch_of(torch.tensor([[-1e-12]], dtype=torch.float64))
    assert loss_of("chord_phi", nearly).weights.item() == pytest.approx(1e-12, rel=1e-9)


def test_iw_sft_clamps() -> None:
    """A mean log-ratio of 0.5; far up to 16, far down to 0; token ratios within 0.2 and 1.8."""
    reference = LOG_PROBS - torch.tensor([[0.0, 1.0, 0.5], [9.0, 9.0, 9.0]])
    batch = batch_of(ref_log_probs=reference)
    assert loss_of("iw_sft", batch).weights[:, 0].tolist() == pytest.approx([math.exp(0.5), 16.0])
    assert loss_of("iw_sft", batch, temperature=2.0).weights[0, 0].item() == pytest.approx(math.e)
    tokens = loss_of("iw_sft", batch, level="token").weights
    assert tokens[0].tolist() == pytest.approx([1.0, 1.8, math.exp(0.5)])
    below = batch_of(ref_log_probs=torch.zeros_like(LOG_PROBS))
    assert loss_of("iw_sft", below, level="token").weights[1].tolist() == pytest.approx(
        [0.2, math.exp(-0.2), math.exp(-1.2)]
    )
    assert loss_of("iw_sft", batch_of(LOG_PROBS - 1e3, ref_log_probs=LOG_PROBS)).weights.tolist() == [[0.0] * 3] * 2


def test_iw_sft_takes_a_reference_of_probability_zero() -> None:
    impossible = batch_of(LOG_PROBS[:1], ref_log_probs=torch.full((1, 3), -math.inf, dtype=torch.float64))
    assert loss_of("iw_sft", impossible).weights.tolist() == [[16.0] * 3]
    assert loss_of("iw_sft", impossible, level="token").weights.tolist() == [[1.8] * 3]


def test_eaft_divides_by_three() -> None:
    entropy = torch.tensor([[3.0, 1.5, 0.0], [math.log(20.0), -1e-9, 0.3]], dtype=torch.float64)
    batch = batch_of(entropy=entropy)
    torch.testing.assert_close(loss_of("eaft", batch).weights, entropy.clamp(min=0) / 3.0)
    torch.testing.assert_close(loss_of("eaft", batch, alpha=0.5).weights, (entropy.clamp(min=0) / 3.0).sqrt())
    assert torch.equal(loss_of("eaft", batch, alpha=0.0).sum, loss_of("nll", batch).sum)
    assert OBJECTIVES["eaft"]().weighting().entropy_of_top == 20


def test_no_penalty_is_plain_sft_and_no_anchor_is_dft() -> None:
    batch = batch_of(divergence=torch.rand(2, 3, dtype=torch.float64))
    for penalized, plain in (("sft_kl", "nll"), ("asft", "dft")):
        loss = loss_of(penalized, batch, beta=0.0)
        torch.testing.assert_close(loss.sum, loss_of(plain, batch).sum)
        torch.testing.assert_close(gradient_of(loss, batch), gradient_of(loss_of(plain, batch), batch))


def test_the_anchor_is_not_multiplied_by_the_probability() -> None:
    divergence = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    loss_of("asft", batch_of(divergence=divergence)).sum.backward()
    torch.testing.assert_close(divergence.grad, torch.full((2, 3), 0.1, dtype=torch.float64))


def test_each_loss_names_its_divergence() -> None:
    def divergence(name: str, **settings: Any) -> Divergence | None:
        return OBJECTIVES[name](**settings).base().divergence

    assert divergence("sft_kl") == Divergence(other="reference", direction="reverse")
    assert divergence("sft_kl", direction="forward") == Divergence(other="reference", direction="forward")
    assert divergence("asft") == Divergence(other="reference", direction="forward")
    assert divergence("forward_kl") == Divergence(other="teacher", direction="forward")
    assert divergence("nll") is None


def test_psft_starts_as_plain_sft() -> None:
    batch = batch_of(old_log_probs=LOG_PROBS)
    loss = loss_of("psft", batch)
    torch.testing.assert_close(loss.per_token, -torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(gradient_of(loss, batch), gradient_of(loss_of("nll", batch), batch))


def test_psft_stops_above_the_clip_and_goes_on_below() -> None:
    """Ratios 1.27, 1.29 and 0.5: the lower clip does not act at advantage 1."""
    log_ratio = torch.tensor([[1.27, 1.29, 0.5]], dtype=torch.float64).log()
    batch = batch_of(LOG_PROBS[:1], old_log_probs=LOG_PROBS[:1] - log_ratio)
    loss = loss_of("psft", batch)
    assert loss.per_token.tolist()[0] == pytest.approx([-1.27, -1.28, -0.5])
    assert gradient_of(loss, batch).tolist()[0] == pytest.approx([-1.27, 0.0, -0.5])


def test_distillation_composes_with_pear() -> None:
    divergence = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    batch = batch_of(divergence=divergence, behavior_log_probs=LOG_PROBS.flip(1))
    objective = make_objective("composed", {"base_of": "forward_kl", "weighting_of": "pear_token"})
    assert objective.requires == {"divergence", "behavior_log_probs"}
    weights = loss_of("pear_token", batch).weights
    torch.testing.assert_close(objective(batch).sum, (weights * divergence).sum())
    (gradient,) = torch.autograd.grad(objective(batch).sum, divergence)
    torch.testing.assert_close(gradient, weights)


def test_a_composition_keeps_what_its_parts_need_to_know() -> None:
    objective = make_objective(
        "composed",
        {
            "base_of": "sft_kl",
            "base_kwargs": {"direction": "forward"},
            "weighting_of": "top_p",
            "weighting_kwargs": {"denominator": "kept", "q": "1e-1"},
        },
    )
    assert objective.base().divergence == Divergence(other="reference", direction="forward")
    assert objective.weighting().whole_step
    assert make_objective("composed", {"weighting_of": "eaft"}).weighting().entropy_of_top == 20
    with pytest.raises(UserError, match=r"objective composed: objective talr: w_min must be from 0 to 1\. Got 2\.0"):
        make_objective("composed", {"weighting_of": "talr", "weighting_kwargs": {"w_min": 2}})


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("general_family", {"alpha": -1}, r"alpha must be from 0 \(the NLL\) to 1e6. Got -1.0"),
        ("general_family", {"alpha": "nan"}, "alpha must be from 0"),
        ("top_p", {"q": 1.5}, "q must be a probability, from 0 to 1. Got 1.5"),
        ("bottom_log_p", {"denominator": "some"}, "denominator must be one of all, kept, got 'some'"),
        ("talr", {"w_min": -0.1}, "w_min must be from 0 to 1. Got -0.1"),
        ("iw_sft", {"level": "block"}, "level must be one of sequence, token, got 'block'"),
        ("iw_sft", {"temperature": "inf"}, "temperature must be a number of at least 0. Got inf"),
        ("eaft", {"alpha": -1}, "alpha must be a number of at least 0. Got -1.0"),
        ("sft_kl", {"beta": -1}, "beta must be a number of at least 0. Got -1.0"),
        ("sft_kl", {"direction": "backward"}, "direction must be one of forward, reverse, got 'backward'"),
        ("asft", {"beta": "nan"}, "beta must be a number of at least 0. Got nan"),
        ("psft", {"clip": [1.5, 0.2]}, r"clip must be \(low, high\) with low from 0 to 1"),
        ("forward_kl", {"beta": 1}, "objective forward_kl: has no hyper-parameters, got 'beta'"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_objective(name, kwargs)


def test_defaults_are_the_papers() -> None:
    """And the authors' where the paper states none."""

    def defaults(name: str) -> dict[str, Any]:
        return dataclasses.asdict(OBJECTIVES[name]())

    assert defaults("talr") == {"w_min": 0.01}
    assert defaults("top_log_p") == {"q": 0.2, "denominator": "all"}
    assert defaults("psft") == {"clip": (0.2, 0.28)}
    assert defaults("asft") == {"beta": 0.1}
    assert defaults("iw_sft") == {"level": "sequence", "temperature": 1.0}
    assert defaults("eaft") == {"alpha": 1.0}
    assert defaults("sft_kl")["direction"] == "reverse"
