"""The known failures of weights, each made on purpose."""

import math

import pytest
import torch

from pear.objectives import OBJECTIVES, TokenBatch
from pear.ops import weight_warnings as module
from pear.ops.diagnostics import sum_weights
from pear.ops.weight_warnings import weight_warnings


def metrics_of(name: str, log_ratio: torch.Tensor, **settings: object) -> dict[str, float]:
    log_probs = torch.full_like(log_ratio, -1.0)
    batch = TokenBatch(log_probs, torch.ones_like(log_ratio) > 0, behavior_log_probs=log_probs - log_ratio)
    return OBJECTIVES[name](**settings).diagnostics(batch).metrics()


def test_each_failure_has_its_words() -> None:
    """The paper's clip on long traces that the model finds unlikely, and the same on a base at chance."""
    torch.manual_seed(0)
    unlikely = torch.full((2, 4000), -0.5).double()
    metrics = metrics_of("pear_token", unlikely)
    tail = weight_warnings(metrics)
    assert set(tail) == {"last_tokens", "clipped", "mean"}
    # Each token before the end has the weight of the next times 0.999 e^-0.08.
    share = math.log(0.1) / (math.log(0.999) - 0.08) / 4000
    assert metrics["weights/last_tokens_with_90_percent"] == pytest.approx(share, rel=0.1)  # even within 16 to 31
    assert "on the last 0.77% of the tokens" in tail["last_tokens"]
    assert "100% of the tokens have their log-ratio below its bounds and 0% above" in tail["clipped"]
    chance = weight_warnings(metrics_of("pear_sequence", -0.3 * torch.rand(8, 40).double(), log_ratio_clip=(-1.0, 0.3)))
    assert set(chance) == {"mean"}
    far = weight_warnings(metrics_of("pear_token", torch.linspace(-1.0, 1.24, 320).reshape(8, 40).double() - 7.0))
    assert far["log_ratio"].startswith("The mean log-ratio is -6.88 nats a token: tokens are misaligned")
    other = weight_warnings(metrics_of("pear_token", torch.full((8, 40), 1.0).double()))
    assert other["log_ratio"].startswith("The mean log-ratio is 1.00 nats")


def test_weights_at_a_bound_of_the_log_weight_are_said_to_be_clipped() -> None:
    found = weight_warnings(metrics_of("pear_sequence", torch.full((2, 200), -0.5).double()))
    assert set(found) == {"clipped", "mean", "constant"}
    wide = {"log_ratio_clip": (-9.0, 9.0)}
    found = weight_warnings(metrics_of("pear_sequence", torch.full((2, 200), -0.5).double(), **wide))
    assert "have their log-weight below its bounds" in found["clipped"]


def test_constant_weights_are_plain_sft_unless_they_are_meant_to_be() -> None:
    same = torch.zeros(4, 30).double()
    assert set(weight_warnings(metrics_of("pear_sequence", same))) == {"constant"}
    assert weight_warnings(metrics_of("nll", same)) == {}
    mask = torch.ones(1, 1000, dtype=torch.bool)
    nearly = sum_weights(1.0 + 0.01 * torch.rand(1, 1000), mask).metrics()
    assert set(weight_warnings(nearly)) == {"constant"}
    assert weight_warnings(sum_weights(torch.rand(1, 1000), mask).metrics()) == {}


def test_sound_weights_have_no_warnings() -> None:
    torch.manual_seed(1)
    ratio = torch.where(torch.rand(32, 40) < 0.15, -1.0, 0.05 * torch.randn(32, 40)).double()
    assert weight_warnings(metrics_of("pear_token", ratio)) == {}
    assert weight_warnings({}) == {}


@pytest.mark.parametrize(
    ("key", "bound", "side"),
    [
        ("weights/last_tokens_with_90_percent", module.FEW_LAST_TOKENS, -1),
        ("weights/log_ratio/mean", module.LOG_RATIO_LOW, -1),
        ("weights/log_ratio/mean", module.LOG_RATIO_HIGH, 1),
        ("weights/mean", module.SMALL_MEAN, -1),
        ("weights/effective_sample_size", module.CONSTANT, 1),
    ],
)
def test_the_bound_itself_is_sound(key: str, bound: float, side: int) -> None:
    assert weight_warnings({key: bound}) == {}
    assert len(weight_warnings({key: math.nextafter(bound, side * math.inf)})) == 1
