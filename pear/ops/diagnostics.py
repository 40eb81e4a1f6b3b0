"""What a step's weights look like: sums that add up over micro-batches and processes, and metrics read off them."""

import math
from dataclasses import dataclass, fields, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from pear.ops.masking import check_mask, check_shape, distance_from_end, in_float64

NUM_DISTANCES = 17
"""Distances from the end at which trajectories are compared: 0, 1, 2, 4, ..., 32,768 response tokens."""

GRID_LIMIT = 20.0
GRID_STEP = 0.01
NUM_GRID = 4001
"""Quantiles of log G come from counts on a grid, exact to half a step; values beyond +-20 count as +-20."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

COARSE_STEP = 0.1
NUM_COARSE = 401
"""The same range by distance from the end, exact to half a coarse step: few numbers, since there are many distances."""

COARSE_QUANTILES = (0.05, 0.5, 0.95)

NUM_RANGES = NUM_DISTANCES + 1
"""All tokens by distance from the end: 0, 1, 2 to 3, 4 to 7, ..., the last one from 65,536 on."""

MOST_WEIGHT = 0.9


@final
@dataclass(frozen=True, kw_only=True)
class WeightSums:
    """Sums over response tokens, all float64. Add them with `+`; send them as one vector with `to_vector`.

    `num_ratios` is the number of tokens with a behavior log-prob (0 where the objective uses none), and the four
    `clipped_*` count tokens strictly outside a bound before clipping. The vectors `*_at_distance` hold the tokens whose
    distance from the end is 0, 1, 2, 4, ... (`NUM_DISTANCES` of them), and `*_in_range` all tokens, by whether it is 0,
    1, 2 to 3, 4 to 7, ... (`NUM_RANGES`). `histogram` counts log G on the grid, `histogram_at_distance` on the coarse
    one.
    """

    num_tokens: Float64[Tensor, ""]
    sum_weights: Float64[Tensor, ""]
    sum_squared_weights: Float64[Tensor, ""]
    num_ratios: Float64[Tensor, ""]
    sum_log_ratios: Float64[Tensor, ""]
    clipped_log_ratio_low: Float64[Tensor, ""]
    clipped_log_ratio_high: Float64[Tensor, ""]
    clipped_log_weight_low: Float64[Tensor, ""]
    clipped_log_weight_high: Float64[Tensor, ""]
    tokens_at_distance: Float64[Tensor, " distance"]
    weights_at_distance: Float64[Tensor, " distance"]
    squared_weights_at_distance: Float64[Tensor, " distance"]
    tokens_in_range: Float64[Tensor, " range"]
    weights_in_range: Float64[Tensor, " range"]
    histogram: Float64[Tensor, " grid"]
    histogram_at_distance: Float64[Tensor, "distance coarse"]

    def __add__(self, other: "WeightSums") -> "WeightSums":
        return replace(
            self, **{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)}
        )

    def to_vector(self) -> Float64[Tensor, " numbers"]:
        """All sums in one vector, so that one all-reduce adds them over processes."""
        return torch.cat([getattr(self, item.name).reshape(-1) for item in fields(self)])

    @classmethod
    def from_vector(cls, vector: Float64[Tensor, " numbers"]) -> "WeightSums":
        """The inverse of `to_vector`."""
        shapes = {item.name: _SHAPES.get(item.name, ()) for item in fields(cls)}
        parts = torch.split(vector, [math.prod(shape) for shape in shapes.values()])
        return cls(**{name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)})

    def metrics(self) -> dict[str, float]:
        """The numbers to log, by metric key; empty when there was no response token.

        - `weights/mean`: mean weight of a response token.
        - `weights/effective_sample_size`: (sum w)^2 / (n sum w^2) over tokens, in (0, 1].
        - `weights/trajectory_effective_sample_size`: the same between trajectories at equal distance from the end;
          mean over the distances, weighted by their number of tokens. Absent unless two share a distance.
        - `weights/tokens_with_90_percent`: share of the tokens that hold 90% of the weight, heaviest first; the last of
          them counts in part, so constant weights give 0.9. Exact to the grid; absent where all weights are 0.
        - `weights/last_tokens_with_90_percent`: the same from the trajectories' ends; exact to a doubling of the
          distance, within which weight is taken to be even.
        - `weights/log_weight/q05` ... `q95`: quantiles of log G-hat over tokens, on the grid.
        - `weights/log_weight/distance_{d}/q05`, `q50`, `q95`: the same over the tokens at distance d from the end, on
          the coarse grid; absent where there are none.
        - `weights/log_ratio/mean`: mean of log pi_theta - log pi_beta, before clipping.
        - `weights/clipped/{log_ratio,log_weight}_{low,high}`: share of tokens beyond that bound.

        The last two kinds are absent where the objective uses no behavior log-probs.
        """
        n = self.num_tokens.item()
        if n == 0:
            return {}
        result = {
            "weights/mean": self.sum_weights.item() / n,
            "weights/effective_sample_size": _share(self.sum_weights, self.sum_squared_weights, self.num_tokens).item(),
        }
        shared = self.tokens_at_distance > 1
        if bool(shared.any()):
            counts = self.tokens_at_distance[shared]
            sizes = _share(self.weights_at_distance[shared], self.squared_weights_at_distance[shared], counts)
            result["weights/trajectory_effective_sample_size"] = ((sizes * counts).sum() / counts.sum()).item()
        if self.sum_weights.item() > 0:
            result["weights/tokens_with_90_percent"] = self._heaviest().item() / n
            ranges = _until(self.tokens_in_range, self.weights_in_range)
            result["weights/last_tokens_with_90_percent"] = ranges.item() / n
        for key, value in zip(QUANTILES, _quantiles(self.histogram, QUANTILES, GRID_STEP), strict=True):
            result[f"weights/log_weight/{_name(key)}"] = value
        for index in (self.tokens_at_distance > 0).nonzero().flatten().tolist():
            values = _quantiles(self.histogram_at_distance[index], COARSE_QUANTILES, COARSE_STEP)
            for key, value in zip(COARSE_QUANTILES, values, strict=True):
                result[f"weights/log_weight/distance_{2**index // 2}/{_name(key)}"] = value
        if self.num_ratios.item() > 0:
            result["weights/log_ratio/mean"] = (self.sum_log_ratios / self.num_ratios).item()
            for bound in ("log_ratio_low", "log_ratio_high", "log_weight_low", "log_weight_high"):
                result[f"weights/clipped/{bound}"] = (getattr(self, f"clipped_{bound}") / self.num_ratios).item()
        return result

    def _heaviest(self) -> Float64[Tensor, ""]:
        """How many of the heaviest tokens hold 90% of the weight. The grid's lowest value holds weights of 0 too, and
        counts for nothing unless no weight is above it."""
        weights = (torch.arange(NUM_GRID, dtype=torch.float64) * GRID_STEP - GRID_LIMIT).exp()
        if bool(self.histogram[1:].any()):
            weights[0] = 0.0
        counts = self.histogram.flip(0)
        return _until(counts, counts * weights.flip(0).to(counts.device))


_SHAPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("tokens_at_distance", "weights_at_distance", "squared_weights_at_distance"), (NUM_DISTANCES,)),
    **dict.fromkeys(("tokens_in_range", "weights_in_range"), (NUM_RANGES,)),
    "histogram": (NUM_GRID,),
    "histogram_at_distance": (NUM_DISTANCES, NUM_COARSE),
}


def _name(quantile: float) -> str:
    return f"q{round(100 * quantile):02d}"


def _quantiles(counts: Float64[Tensor, " grid"], quantiles: tuple[float, ...], step: float) -> list[float]:
    """The lowest values of the grid at or below which lie these shares of what was counted."""
    cumulative = counts.cumsum(0)
    wanted = cumulative[-1] * cumulative.new_tensor(quantiles)
    indices = torch.searchsorted(cumulative, wanted).clamp(max=len(counts) - 1)
    return [round(index * step - GRID_LIMIT, 6) for index in indices.tolist()]


def _until(counts: Float64[Tensor, " part"], weights: Float64[Tensor, " part"]) -> Float64[Tensor, ""]:
    """How many tokens, part after part, hold 90% of the weight; within the last part weight is taken to be even."""
    cumulative = weights.cumsum(0)
    wanted = MOST_WEIGHT * cumulative[-1]
    last = torch.searchsorted(cumulative, wanted).clamp(max=len(counts) - 1)
    lacking = (wanted - (cumulative[last] - weights[last])) / weights[last]
    return counts[:last].sum() + lacking.clamp(0.0, 1.0) * counts[last]


def _share(
    total: Float64[Tensor, "*any"], squares: Float64[Tensor, "*any"], counts: Float64[Tensor, "*any"]
) -> Float64[Tensor, "*any"]:
    return torch.where(squares > 0, total.square() / (counts * squares), 0.0)


def effective_sample_size(
    weights: Float[Tensor, "batch seq"], response_mask: Bool[Tensor, "batch seq"]
) -> Float64[Tensor, ""]:
    """Effective share of the response tokens, (sum w)^2 / (n sum w^2) (Kish); 0 for an empty mask or zero weights.

    >>> effective_sample_size(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.ones(1, 4) > 0).item()
    0.5
    """
    check_mask(response_mask, weights)
    kept = in_float64(torch.where(response_mask, weights, 0.0))
    return _share(kept.sum(), kept.square().sum(), response_mask.sum().to(kept))


def sum_weights(
    weights: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    *,
    segment_ids: Int[Tensor, "batch seq"] | None = None,
) -> WeightSums:
    """The sums for non-negative weights of any kind; those about log-ratios and clipping are 0.

    Raises:
        ValueError: shapes or dtypes do not fit, or a weight of a response token is negative or NaN.

    >>> sums = sum_weights(torch.tensor([[1.0, 3.0]]), torch.tensor([[True, True]]))
    >>> sums.metrics()["weights/mean"], (sums + sums).num_tokens.item()
    (2.0, 4.0)
    """
    check_mask(response_mask, weights, segment_ids)
    kept = in_float64(weights[response_mask.to(weights.device)])
    if not bool((kept >= 0).all()):
        raise ValueError("weights must not be negative or NaN: describe verified failures apart from what is imitated.")
    distance = distance_from_end(response_mask, segment_ids=segment_ids)[response_mask].to(kept.device)
    # The exponent of d = m 2^e, 1/2 <= m < 1, is 0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7, ...
    exponent = torch.frexp(distance.to(kept.dtype)).exponent.long()
    # 0 and the powers of two are the numbers that share no bit with the number before them.
    listed = ((distance & (distance - 1)) == 0) & (exponent < NUM_DISTANCES)
    index, at = exponent[listed], kept[listed]
    ranges = exponent.clamp(max=NUM_RANGES - 1)
    height = kept.log().clamp_(-GRID_LIMIT, GRID_LIMIT).add_(GRID_LIMIT)
    grid = height.div(GRID_STEP).round().long()
    coarse = height[listed].div(COARSE_STEP).round().long() + index * NUM_COARSE
    zero = kept.new_zeros(())
    return WeightSums(
        num_tokens=kept.new_tensor(float(kept.numel())),
        sum_weights=kept.sum(),
        sum_squared_weights=kept.square().sum(),
        num_ratios=zero,
        sum_log_ratios=zero,
        clipped_log_ratio_low=zero,
        clipped_log_ratio_high=zero,
        clipped_log_weight_low=zero,
        clipped_log_weight_high=zero,
        tokens_at_distance=torch.bincount(index, minlength=NUM_DISTANCES).to(kept.dtype),
        weights_at_distance=kept.new_zeros(NUM_DISTANCES).index_add(0, index, at),
        squared_weights_at_distance=kept.new_zeros(NUM_DISTANCES).index_add(0, index, at.square()),
        tokens_in_range=torch.bincount(ranges, minlength=NUM_RANGES).to(kept.dtype),
        weights_in_range=kept.new_zeros(NUM_RANGES).index_add(0, ranges, kept),
        histogram=torch.bincount(grid, minlength=NUM_GRID).to(kept.dtype),
        histogram_at_distance=torch.bincount(coarse, minlength=NUM_DISTANCES * NUM_COARSE)
        .to(kept.dtype)
        .reshape(NUM_DISTANCES, NUM_COARSE),
    )


def sum_clipped(
    sums: WeightSums,
    log_ratio: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    *,
    log_ratio_clip: tuple[float, float],
    log_weights: Float[Tensor, "batch seq"] | None = None,
    log_weight_clip: tuple[float, float] = (-torch.inf, torch.inf),
) -> WeightSums:
    """`sums` with the log-ratios' mean and the four clipped counts filled in.

    Args:
        sums: from `sum_weights` on the same tokens.
        log_ratio: before clipping, (batch, seq).
        response_mask: bool, same shape.
        log_ratio_clip: the bounds of log Delta_t.
        log_weights: log G before its clip; None where nothing clips it.
        log_weight_clip: the bounds of log G.
    """
    check_mask(response_mask, log_ratio)
    kept = in_float64(log_ratio)
    mask = response_mask.to(kept.device)
    kept = kept[mask]
    low, high = _outside(kept, log_ratio_clip)
    filled = replace(
        sums,
        num_ratios=sums.num_tokens,
        sum_log_ratios=kept.sum(),
        clipped_log_ratio_low=low,
        clipped_log_ratio_high=high,
    )
    if log_weights is None:
        return filled
    check_shape("log_weights", log_weights, log_ratio)
    low, high = _outside(in_float64(log_weights)[mask], log_weight_clip)
    return replace(filled, clipped_log_weight_low=low, clipped_log_weight_high=high)


def _outside(
    values: Float64[Tensor, " token"], bounds: tuple[float, float]
) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
    return (values < bounds[0]).sum().to(values), (values > bounds[1]).sum().to(values)
