"""Ratios of spans against loops, and what must hold of them."""

import math
from typing import Any

import pytest
import torch

from pear.ops.ratios import precise_log_weights
from pear.ops.spans import pooled_log_ratios, span_block_log_weights
from tests import naive

CLIPS: Any = {"log_ratio_clip": (-0.08, 0.3), "log_weight_clip": (-1.5, 1.0)}


def runs_of(tokens: list[tuple[int, int]], spans: list[list[int]]) -> list[list[tuple[int, int]]]:
    """The tokens of one sequence, split where the span changes."""
    found: list[list[tuple[int, int]]] = []
    for row, position in tokens:
        last = found[-1][-1] if found else None
        if last is None or spans[last[0]][last[1]] != spans[row][position]:
            found.append([])
        found[-1].append((row, position))
    return found


def naive_weights(ratio: Any, mask: Any, spans: Any, ids: Any, *, block_size: int, gamma: float) -> Any:
    """Merges whole spans into blocks, one after another, and sums what comes after each block."""
    result = [[0.0] * len(row) for row in mask]
    low, high = CLIPS["log_ratio_clip"]
    for tokens in naive.sequences_of(mask, ids):
        blocks: list[list[tuple[int, int]]] = [[]]
        shares: dict[tuple[int, int], float] = {}
        count = 0
        for run in runs_of(tokens, spans):
            share = math.fsum(ratio[row][position] for row, position in run) / len(run)
            shares.update(dict.fromkeys(run, naive.clip(share, (low, high))))
            blocks[-1] += run
            if any((count + step) % block_size == 0 for step in range(1, len(run) + 1)):
                blocks.append([])
            count += len(run)
        for number, block in enumerate(blocks):
            after = [token for later in blocks[number + 1 :] for token in later]
            weight = len(after) * math.log(gamma) + math.fsum(shares[token] for token in after)
            for row, position in block:
                result[row][position] = naive.clip(weight, CLIPS["log_weight_clip"])
    return result


def random_spans(seed: int, *, seq: int = 40) -> tuple[Any, Any, Any, Any]:
    torch.manual_seed(seed)
    ratio = torch.randn(3, seq, dtype=torch.float64) * 0.2
    mask = torch.rand(3, seq) < 0.8
    segments = (torch.rand(3, seq) < 0.15).cumsum(1)
    # Numbers start again in every sequence, as those of a buffer do.
    numbers = (torch.rand(3, seq) < 0.5).cumsum(1)
    first = torch.zeros_like(numbers)
    for row in range(3):
        for segment in segments[row].unique():
            inside = segments[row] == segment
            first[row, inside] = numbers[row, inside].min()
    return ratio, mask, numbers - first, segments


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("block_size", [1, 2, 5, 64])
@pytest.mark.parametrize("seed", range(5))
def test_weights_are_what_loops_give(seed: int, block_size: int, packed: bool) -> None:
    ratio, mask, spans, segments = random_spans(seed)
    ids = segments if packed else None
    pooled = pooled_log_ratios(ratio.masked_fill(~mask, math.nan), mask, spans, segment_ids=ids)
    found = span_block_log_weights(pooled, mask, spans, block_size=block_size, gamma=0.9, segment_ids=ids, **CLIPS)
    expected = naive_weights(
        ratio.tolist(),
        mask.tolist(),
        spans.tolist(),
        ids.tolist() if ids is not None else None,
        block_size=block_size,
        gamma=0.9,
    )
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("block_size", [1, 3, 8])
def test_spans_of_one_token_are_ordinary_blocks(block_size: int) -> None:
    ratio, mask, _, segments = random_spans(9)
    spans = torch.arange(ratio.shape[1]).expand(3, -1)
    pooled = pooled_log_ratios(ratio, mask, spans, segment_ids=segments)
    torch.testing.assert_close(pooled, torch.where(mask, ratio, 0.0))
    arguments: Any = {"block_size": block_size, "gamma": 0.99, "segment_ids": segments, **CLIPS}
    torch.testing.assert_close(
        span_block_log_weights(pooled, mask, spans, **arguments),
        precise_log_weights(ratio, mask, level="block", **arguments),
    )


def test_where_in_a_span_the_log_probs_lie_does_not_matter() -> None:
    ratio, mask, spans, segments = random_spans(3)
    pooled = pooled_log_ratios(ratio, mask, spans, segment_ids=segments)
    torch.testing.assert_close(pooled.sum(), torch.where(mask, ratio, 0.0).sum())
    torch.testing.assert_close(pooled_log_ratios(pooled, mask, spans, segment_ids=segments), pooled)
    moved = ratio.clone()
    for tokens in naive.sequences_of(mask.tolist(), segments.tolist()):
        for run in runs_of(tokens, spans.tolist()):
            total = sum(ratio[place] for place in run)
            for place in run:
                moved[place] = total if place == run[0] else 0.0
    torch.testing.assert_close(pooled_log_ratios(moved, mask, spans, segment_ids=segments), pooled)


def test_nothing_to_weigh() -> None:
    empty = torch.zeros(2, 4)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    spans = torch.zeros(2, 4, dtype=torch.int64)
    assert pooled_log_ratios(empty, mask, spans).eq(0).all()
    assert span_block_log_weights(empty, mask, spans, block_size=2, gamma=1.0, **CLIPS).eq(0).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("spans", [torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 3) > 0])
def test_spans_that_do_not_fit_are_refused(spans: Any) -> None:
    ratio = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="spans must"):
        pooled_log_ratios(ratio, ratio == 0, spans)
