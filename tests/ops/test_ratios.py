"""`log_importance_weights` against the naive twin, its laws, and what it refuses."""

import itertools
import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from pear.ops.masking import distance_from_end
from pear.ops.ratios import clipped_log_ratios, log_importance_weights, log_ratios, precise_log_weights
from tests import naive

LEVELS = [("token", 1), ("block", 1), ("block", 3), ("block", 8), ("block", 1000), ("sequence", 1)]
INFINITE = (-math.inf, math.inf)


def random_batch(seed: int, batch: int = 5, seq: int = 37) -> tuple[Tensor, Tensor, Tensor]:
    """Log-ratios around the clip bounds, a mask with holes, and packed rows whose ids are any ints."""
    generator = random.Random(seed)
    ids: list[list[int]] = []
    for _ in range(batch):
        row: list[int] = []
        while len(row) < seq:
            choices = [value for value in (-7, 0, 1, 3, 2**40) if not row or value != row[-1]]
            row += [generator.choice(choices)] * generator.randint(1, 12)
        ids.append(row[:seq])
    torch.manual_seed(seed)
    log_ratio = torch.randn(batch, seq, dtype=torch.float64) * 0.3
    return log_ratio, torch.rand(batch, seq) < 0.7, torch.tensor(ids)


def naive_weights(log_ratio: Tensor, mask: Tensor, segment_ids: Tensor | None, **settings: Any) -> Tensor:
    ids = None if segment_ids is None else segment_ids.tolist()
    values = naive.log_importance_weights(log_ratio.tolist(), mask.tolist(), segment_ids=ids, **settings)
    return torch.tensor(values, dtype=torch.float64).reshape(mask.shape)


@pytest.mark.parametrize(("level", "block_size"), LEVELS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_algorithm_1(level: Any, block_size: int, packed: bool, seed: int) -> None:
    log_ratio, mask, ids = random_batch(seed)
    for settings in (
        {},
        {"gamma": 0.5, "log_weight_clip": (-1.0, 0.7)},
        {"gamma": 1.0, "log_ratio_clip": INFINITE, "log_weight_clip": INFINITE},
        {"gamma": 0.9, "log_ratio_clip": (0.1, 0.2), "log_weight_clip": (0.3, 0.4)},
    ):
        arguments: Any = {"level": level, "block_size": block_size, **settings}
        segment_ids = ids if packed else None
        expected = naive_weights(log_ratio, mask, segment_ids, **arguments)
        precise = precise_log_weights(log_ratio, mask, segment_ids=segment_ids, **arguments)
        torch.testing.assert_close(precise, expected, atol=1e-10, rtol=1e-10)
        weights = log_importance_weights(log_ratio, mask, segment_ids=segment_ids, **arguments)
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights, expected.float(), atol=1e-5, rtol=1e-5)
        assert (weights[~mask] == 0).all()


@pytest.mark.parametrize(("level", "block_size"), LEVELS)
@pytest.mark.parametrize("log_ratio_clip", [(-0.08, 0.3), INFINITE])
def test_is_exact_over_a_long_packed_row(level: Any, block_size: int, log_ratio_clip: tuple[float, float]) -> None:
    torch.manual_seed(0)
    seq = 32_768
    log_ratio = torch.randn(1, seq) + 0.4
    mask = torch.rand(1, seq) < 0.9
    ids = (torch.rand(1, seq) < 1 / 200).cumsum(1)
    arguments: Any = {"level": level, "block_size": block_size, "log_ratio_clip": log_ratio_clip}
    weights = log_importance_weights(log_ratio, mask, segment_ids=ids, **arguments)
    expected = naive_weights(log_ratio, mask, ids, **arguments).float()
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=0)


def test_is_exact_for_one_long_sequence() -> None:
    torch.manual_seed(0)
    log_ratio, mask = torch.randn(1, 32_768) * 0.02, torch.ones(1, 32_768, dtype=torch.bool)
    arguments: Any = {"level": "token", "gamma": 1.0, "log_weight_clip": INFINITE}
    weights = log_importance_weights(log_ratio, mask, **arguments)
    torch.testing.assert_close(weights, naive_weights(log_ratio, mask, None, **arguments).float(), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(("level", "block_size"), LEVELS)
def test_packed_is_as_alone(level: Any, block_size: int) -> None:
    torch.manual_seed(1)
    pieces = [(torch.randn(1, n), torch.rand(1, n) < 0.8) for n in (5, 1, 17, 9)]
    packed = log_importance_weights(
        torch.cat([ratio for ratio, _ in pieces], dim=1),
        torch.cat([mask for _, mask in pieces], dim=1),
        level=level,
        block_size=block_size,
        segment_ids=torch.cat([torch.full((1, ratio.shape[1]), 9 - i) for i, (ratio, _) in enumerate(pieces)], dim=1),
    )
    alone = [log_importance_weights(*piece, level=level, block_size=block_size) for piece in pieces]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("level", "block_size"), LEVELS)
def test_holes_and_padding_do_not_exist(level: Any, block_size: int) -> None:
    log_ratio, mask, _ = random_batch(2, batch=1)
    with_holes = log_importance_weights(log_ratio, mask, level=level, block_size=block_size)
    dense = log_ratio[mask][None]
    without = log_importance_weights(dense, torch.ones_like(dense) > 0, level=level, block_size=block_size)
    torch.testing.assert_close(with_holes[mask][None], without)


@pytest.mark.parametrize(("level", "block_size"), LEVELS)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
def test_masked_garbage_changes_nothing(level: Any, block_size: int, garbage: float) -> None:
    log_ratio, mask, ids = random_batch(3)
    arguments: Any = {"level": level, "block_size": block_size, "segment_ids": ids}
    dirty = torch.where(mask, log_ratio, garbage)
    clean = log_importance_weights(torch.where(mask, log_ratio, 0.0), mask, **arguments)
    assert torch.equal(log_importance_weights(dirty, mask, **arguments), clean)


def test_padding_may_carry_any_segment_id() -> None:
    log_ratio, mask = torch.randn(1, 6), torch.tensor([[False, True, True, True, False, False]])
    expected = log_importance_weights(log_ratio, mask, level="token")
    for ids in ([9, 4, 4, 4, 4, 4], [4, 4, 4, 4, 0, 1], [-1, 4, 4, 4, -1, -1]):
        assert torch.equal(
            log_importance_weights(log_ratio, mask, level="token", segment_ids=torch.tensor([ids])), expected
        )


def test_an_id_that_comes_back_starts_a_new_sequence() -> None:
    log_ratio, mask = torch.full((1, 6), 0.1), torch.ones(1, 6, dtype=torch.bool)
    weights = log_importance_weights(log_ratio, mask, level="sequence", segment_ids=torch.tensor([[0, 0, 1, 1, 1, 0]]))
    torch.testing.assert_close(weights, torch.tensor([[0.2, 0.2, 0.3, 0.3, 0.3, 0.1]]))


@pytest.mark.parametrize("level", ["token", "block", "sequence"])
def test_equal_policies_give_weight_one(level: Any) -> None:
    _, mask, ids = random_batch(4)
    weights = log_importance_weights(
        torch.zeros(mask.shape), mask, level=level, block_size=4, gamma=1.0, segment_ids=ids
    )
    assert (weights == 0).all()


def test_blocks_of_one_are_token_level_and_long_ones_plain_sft() -> None:
    log_ratio, mask, ids = random_batch(5)
    token = log_importance_weights(log_ratio, mask, level="token", segment_ids=ids)
    assert torch.equal(log_importance_weights(log_ratio, mask, level="block", block_size=1, segment_ids=ids), token)
    for block_size in (12, 13, 10**9):
        weights = log_importance_weights(log_ratio, mask, level="block", block_size=block_size, segment_ids=ids)
        assert (weights == 0).all()


def test_limits_of_the_discount() -> None:
    log_ratio, mask, _ = random_batch(6, batch=1)
    tiny = log_importance_weights(log_ratio, mask, level="token", gamma=1e-300)[mask]
    assert tiny[-1] == 0
    assert (tiny[:-1] == -10).all()
    ones = torch.zeros_like(log_ratio)
    discount = log_importance_weights(ones, mask, level="token", gamma=0.9)
    expected = distance_from_end(mask) * math.log(0.9)
    torch.testing.assert_close(discount[mask], expected[mask].clamp(min=-10.0).float())


def test_no_gradient_leaves_the_weights() -> None:
    log_ratio = torch.randn(2, 5, requires_grad=True)
    mask = torch.ones(2, 5, dtype=torch.bool)
    for level in ("token", "block", "sequence"):
        assert not log_importance_weights(log_ratio, mask, level=level, block_size=2).requires_grad  # type: ignore[arg-type]
    assert not clipped_log_ratios(log_ratio, mask).requires_grad
    assert not log_ratios(log_ratio, log_ratio, response_mask=mask).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_any_floating_dtype_gives_float32(dtype: torch.dtype) -> None:
    log_ratio, mask, ids = random_batch(7)
    log_ratio = log_ratio.to(dtype)
    weights = log_importance_weights(log_ratio, mask, level="token", segment_ids=ids)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(
        weights, naive_weights(log_ratio, mask, ids, level="token").float(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("level", ["token", "block", "sequence"])
def test_empty_tensors(shape: tuple[int, int], level: Any) -> None:
    mask = torch.zeros(shape, dtype=torch.bool)
    ids = torch.zeros(shape, dtype=torch.long)
    weights = log_importance_weights(torch.zeros(shape), mask, level=level, block_size=2, segment_ids=ids)
    assert weights.shape == shape
    assert distance_from_end(mask).shape == shape


@pytest.mark.parametrize(("level", "block_size"), LEVELS)
def test_an_empty_mask_gives_zeros(level: Any, block_size: int) -> None:
    log_ratio, mask, ids = random_batch(8)
    mask = torch.zeros_like(mask)
    weights = log_importance_weights(log_ratio, mask, level=level, block_size=block_size, segment_ids=ids)
    assert (weights == 0).all()


def test_inputs_are_left_as_they_were() -> None:
    log_ratio, mask, ids = random_batch(9)
    before = log_ratio.clone()
    for level, block_size in LEVELS:
        log_importance_weights(log_ratio, mask, level=level, block_size=block_size, segment_ids=ids)  # type: ignore[arg-type]
    assert torch.equal(log_ratio, before)


def test_strided_inputs() -> None:
    log_ratio, mask, ids = random_batch(10)
    for level, block_size in LEVELS:
        arguments: Any = {"level": level, "block_size": block_size}
        sliced = log_importance_weights(log_ratio[:, 1:], mask[:, 1:], segment_ids=ids[:, 1:], **arguments)
        copied = log_importance_weights(
            log_ratio[:, 1:].contiguous(), mask[:, 1:].contiguous(), segment_ids=ids[:, 1:].contiguous(), **arguments
        )
        assert torch.equal(sliced, copied)


def test_appendix_b_by_enumeration() -> None:
    """E_beta[w_{t+1:T} phi | y_<=t] = E_theta[phi | y_<=t], over every sequence of three tokens and four steps."""
    vocabulary, length = 3, 4
    generator = random.Random(0)

    def policy() -> dict[tuple[int, ...], list[float]]:
        prefixes = itertools.chain.from_iterable(itertools.product(range(vocabulary), repeat=n) for n in range(length))
        return {prefix: _normalized([generator.random() + 0.05 for _ in range(vocabulary)]) for prefix in prefixes}

    target, behavior = policy(), policy()
    sequences = list(itertools.product(range(vocabulary), repeat=length))
    phi = {tokens: generator.random() for tokens in sequences}
    ratios = torch.tensor(
        [[math.log(target[s[:t]][s[t]] / behavior[s[:t]][s[t]]) for t in range(length)] for s in sequences],
        dtype=torch.float64,
    )
    mask = torch.ones_like(ratios, dtype=torch.bool)
    unclipped: Any = {"gamma": 1.0, "log_ratio_clip": INFINITE, "log_weight_clip": INFINITE}
    suffix = precise_log_weights(ratios, mask, level="token", **unclipped).exp()
    blocks = precise_log_weights(ratios, mask, level="block", block_size=2, **unclipped).exp()
    whole = precise_log_weights(ratios, mask, level="sequence", **unclipped).exp()
    for t in range(1, length + 1):
        end_of_block = 2 * math.ceil(t / 2)
        for prefix in itertools.product(range(vocabulary), repeat=t):
            inside = [(i, s) for i, s in enumerate(sequences) if s[:t] == prefix]
            weighted = sum(
                naive.joint_probability(behavior, s, after=t) * suffix[i, t - 1].item() * phi[s] for i, s in inside
            )
            expected = sum(naive.joint_probability(target, s, after=t) * phi[s] for _, s in inside)
            assert weighted == pytest.approx(expected, abs=1e-10)
            # At block level the tokens up to the block's end come from the behavior policy, the rest from the target.
            weighted = sum(
                naive.joint_probability(behavior, s, after=t) * blocks[i, t - 1].item() * phi[s] for i, s in inside
            )
            expected = sum(
                naive.joint_probability(behavior, s[:end_of_block], after=t)
                * naive.joint_probability(target, s, after=end_of_block)
                * phi[s]
                for _, s in inside
            )
            assert weighted == pytest.approx(expected, abs=1e-10)
    weighted = sum(naive.joint_probability(behavior, s) * whole[i, 0].item() * phi[s] for i, s in enumerate(sequences))
    assert weighted == pytest.approx(sum(naive.joint_probability(target, s) * phi[s] for s in sequences), abs=1e-10)


def _normalized(values: list[float]) -> list[float]:
    return [value / sum(values) for value in values]


def test_log_ratios_floor_the_target_and_refuse_the_rest() -> None:
    mask = torch.tensor([[True, True, False]])
    target = torch.tensor([[-math.inf, -2.0, math.nan]])
    behavior = torch.tensor([[-1.0, -1.5, math.inf]])
    ratio = log_ratios(target, behavior, response_mask=mask)
    assert ratio.tolist() == [[-9999.0, -0.5, 0.0]]
    for name, values in (("log_probs", (math.nan, math.inf)), ("behavior_log_probs", (math.nan, math.inf, -math.inf))):
        for value in values:
            bad = torch.tensor([[-1.0, value, 0.0]])
            pair = (bad, behavior) if name == "log_probs" else (target, bad)
            with pytest.raises(
                ValueError, match=rf"^{name} must be finite at response tokens. Row 0 has .* at position 1"
            ):
                log_ratios(*pair, response_mask=mask)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("level", ["token", "block", "sequence"])
def test_a_non_finite_log_ratio_names_its_row(value: float, level: Any) -> None:
    log_ratio = torch.zeros(4, 3)
    log_ratio[2, 1] = value
    mask = torch.ones(4, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"log_ratio must be finite at response tokens. Row 2 has .* at position 1"):
        log_importance_weights(log_ratio, mask, level=level, block_size=2)
    mask[2, 1] = False
    log_importance_weights(log_ratio, mask, level=level, block_size=2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"response_mask": torch.ones(4, 3) > 0},
            r"response_mask must have shape \(batch, seq\)=\(3, 4\). Got \(4, 3\)",
        ),
        ({"response_mask": torch.ones(3, 4)}, "response_mask must be of dtype torch.bool. Got torch.float32"),
        ({"log_ratio": torch.zeros(3)}, r"shape \(batch, seq\). Got \(3,\)"),
        ({"log_ratio": torch.zeros(3, 4, dtype=torch.long)}, "log_ratio must be of a floating dtype. Got torch.int64"),
        (
            {"segment_ids": torch.zeros(3, 5, dtype=torch.long)},
            r"segment_ids must have shape .*=\(3, 4\). Got \(3, 5\)",
        ),
        ({"segment_ids": torch.zeros(3, 4)}, "segment_ids must be of an integer dtype. Got torch.float32"),
        ({"level": "word"}, "level must be one of token, block, sequence. Got 'word'"),
        ({"block_size": 0}, "block_size must be an integer of at least 1. Got 0"),
        ({"block_size": 2.0}, "block_size must be an integer of at least 1. Got 2.0"),
        ({"gamma": 0.0}, "gamma must be above 0 and at most 1. Got 0.0"),
        ({"gamma": 1.01}, "gamma must be above 0 and at most 1. Got 1.01"),
        ({"gamma": math.nan}, "gamma must be above 0 and at most 1. Got nan"),
        (
            {"log_ratio_clip": (0.3, -0.08)},
            r"log_ratio_clip must be \(low, high\) with low <= high. Got \(0.3, -0.08\)",
        ),
        ({"log_weight_clip": (math.nan, 5.0)}, r"log_weight_clip must be \(low, high\) with low <= high"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "log_ratio": torch.zeros(3, 4),
        "response_mask": torch.ones(3, 4, dtype=torch.bool),
        "level": "block",
        **change,
    }
    with pytest.raises(ValueError, match=message):
        log_importance_weights(arguments.pop("log_ratio"), arguments.pop("response_mask"), **arguments)


def test_shapes_are_checked_in_tests() -> None:
    """The annotations themselves are live here: the test run installs jaxtyping's hook."""
    with pytest.raises(Exception, match="response_mask"):
        log_importance_weights(torch.zeros(3, 4), torch.ones(4, 3) > 0, level="token")


@pytest.mark.parametrize("level", ["token", "block", "sequence"])
@pytest.mark.parametrize("part", [1, 7, 40])
def test_parts_of_a_batch_give_the_weights_of_the_whole(level: str, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(part)
    log_ratio = torch.randn(5, 33, generator=generator)
    response_mask = torch.rand(5, 33, generator=generator) < 0.7
    segment_ids = (torch.rand(5, 33, generator=generator) < 0.2).cumsum(dim=1)
    settings = {"level": level, "block_size": 3, "log_ratio_clip": (-1.0, 1.0), "segment_ids": segment_ids}
    whole = log_importance_weights(log_ratio, response_mask, **settings)
    monkeypatch.setattr("pear.ops.ratios._CPU_PART", part)
    torch.testing.assert_close(log_importance_weights(log_ratio, response_mask, **settings), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        log_importance_weights(log_ratio, response_mask, **{**settings, "segment_ids": None}),
        torch.cat([log_importance_weights(a, b, **{**settings, "segment_ids": None})
                   for a, b in zip(log_ratio.split(1), response_mask.split(1), strict=True)]),
        rtol=0, atol=1e-6,
    )  # fmt: skip
    log_ratio[3, response_mask[3].nonzero()[0]] = float("nan")
    with pytest.raises(ValueError, match="Row 3"):
        log_importance_weights(log_ratio, response_mask, **settings)
