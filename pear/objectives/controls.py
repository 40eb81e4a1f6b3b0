"""Controls for PEAR on long traces: is it which trajectories are weighted, or only where in them the weight lies?

The discount and the clips alone put weight on a trajectory's end. `position_mean` keeps just that, `permuted` keeps
every weight but gives it to another trajectory, and `tail_nll` trains on the end with no weights at all. All are ours.
"""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from pear.objectives.base_losses import LogLoss
from pear.objectives.batch import TokenBatch
from pear.objectives.composed import named
from pear.objectives.objective import BaseLoss, Objective, Weighting
from pear.ops.masking import distance_from_end, find_sequences, in_float64


@dataclass(frozen=True, kw_only=True)
class StepControl(Weighting, ABC):
    """Another weighting's weights, rearranged over the whole optimizer step.

    Logged are the weights as they are used. Log-ratios and clipping belong to `of` and are not logged.
    """

    of: Weighting

    def __post_init__(self) -> None:
        if "is_negative" in self.of.requires:
            raise ValueError("weights of verified failures mix with no others. Wrap the objective of the positives.")

    @property
    def requires(self) -> frozenset[str]:
        """What the other weighting requires."""
        return self.of.requires

    @property
    def entropy_of_top(self) -> int | None:
        """As the other weighting has it."""
        return self.of.entropy_of_top

    @property
    def token_ratios(self) -> bool:
        """As the other weighting has it."""
        return self.of.token_ratios

    @property
    def whole_step(self) -> bool:
        """Always: a weight depends on the step's other sequences."""
        return True

    def step_metrics(self, batch: TokenBatch) -> dict[str, float]:
        """Those of the other weighting."""
        return self.of.step_metrics(batch)


@final
@dataclass(frozen=True, kw_only=True)
class PositionMeanWeighting(StepControl):
    """w_t = the mean over the step of `of`'s weights at the same distance T - t from the end."""

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The means; 0 at masked positions."""
        weights, distance, mask = _weights_at_distance(self.of, batch)
        result = torch.zeros_like(weights)
        if not bool(mask.any()):
            return result
        # Each sequence has every distance below its length, so that no count is 0.
        means = torch.bincount(distance[mask], weights=weights[mask]) / torch.bincount(distance[mask])
        result[mask] = means[distance[mask]]
        return result


@final
@dataclass(frozen=True, kw_only=True)
class PermutedWeighting(StepControl):
    """Each sequence gets, at each distance from the end, `of`'s weight of another sequence that is as long."""

    seed: int

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """The exchanged weights; 0 at masked positions."""
        weights, distance, mask = _weights_at_distance(self.of, batch)
        result = torch.zeros_like(weights)
        if not bool(mask.any()):
            return result
        kept = weights[mask]
        ranks, lengths = _random_ranks(batch, kept, self.seed)
        # By distance and within it by rank: the next one is the next of the ring, but for the last, whose is the first.
        order = (distance[mask] * len(ranks) + ranks.repeat_interleave(lengths)).argsort()
        sizes = torch.bincount(distance[mask])
        ends = sizes.cumsum(0)
        following = torch.arange(len(order), device=order.device) + 1
        following[ends - 1] = ends - sizes
        exchanged = torch.empty_like(kept)
        exchanged[order] = kept[order[following]]
        result[mask] = exchanged
        return result


def _weights_at_distance(
    weighting: Weighting, batch: TokenBatch
) -> tuple[Float64[Tensor, "batch seq"], Int64[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]:
    """The weighting's weights, T - t, and the response mask, on one device."""
    weights = in_float64(weighting(batch))
    distance = distance_from_end(batch.response_mask, segment_ids=batch.segment_ids)
    return weights, distance.to(weights.device), batch.response_mask.to(weights.device)


def _random_ranks(
    batch: TokenBatch, weights: Float64[Tensor, " token"], seed: int
) -> tuple[Int64[Tensor, " sequence"], Int64[Tensor, " sequence"]]:
    """A random rank for each sequence with response tokens, in the batch's order, and its length.

    The draw goes over the sequences in an order of their content: by length, then by behavior log-probs, log-probs and
    weights. So it is the same however they are packed, ordered or spread over processes. Behavior log-probs come first
    because they are stored, and a pass of the model in another batch shape rounds otherwise.
    """
    sequences = find_sequences(batch.response_mask, batch.segment_ids)
    prefix = batch.response_mask.reshape(-1).long().cumsum(0)
    lengths = (sequences.at_end(prefix) - sequences.before_start(prefix)).cpu()
    lengths = lengths[lengths > 0]
    columns = [weights.tolist()]
    for values in (batch.log_probs, batch.behavior_log_probs):
        if values is not None:
            columns.insert(0, values.detach()[batch.response_mask].tolist())
    ends = lengths.cumsum(0)
    spans = list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))
    contents = [(end - start, *(column[start:end] for column in columns)) for start, end in spans]
    by_content = torch.tensor(sorted(range(len(contents)), key=contents.__getitem__), dtype=torch.long)
    ranks = torch.empty_like(by_content)
    ranks[by_content] = torch.randperm(len(contents), generator=torch.Generator().manual_seed(seed))
    return ranks.to(weights.device), lengths.to(weights.device)


@final
@dataclass(frozen=True, kw_only=True)
class TailWeighting(Weighting):
    """Weight 1 for the last `tokens` response tokens of each sequence, 0 before them."""

    tokens: int

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise ValueError(f"tokens must be an integer of at least 1. Got {self.tokens!r}.")

    def __call__(self, batch: TokenBatch) -> Float64[Tensor, "batch seq"]:
        """Ones and zeros."""
        distance = distance_from_end(batch.response_mask, segment_ids=batch.segment_ids)
        return in_float64(distance < self.tokens)


@dataclass(frozen=True, kw_only=True)
class Rearranged(Objective, ABC):
    """Another objective's base loss and, rearranged, its weights.

    Attributes:
        weighting_of: the other objective, and `weighting_kwargs`, its fields.
    """

    weighting_of: str = "pear_token"
    weighting_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def other(self) -> Objective:
        """The other objective. Raises `ValueError` for what `make_objective` refuses."""
        return named(self.weighting_of, self.weighting_kwargs)

    @property
    def requires(self) -> frozenset[str]:
        """What the other objective requires."""
        return self.other.requires

    def base(self) -> BaseLoss:
        """The other objective's."""
        return self.other.base()


@final
@dataclass(frozen=True, kw_only=True)
class PositionMean(Rearranged):
    """Another objective with averaged weights: w_t = the step's mean of its weights at distance T - t from the end.

    What is left of the other objective is where along a sequence it weights, not which sequences.

    >>> PositionMean(weighting_of="single_step_is").requires
    frozenset({'behavior_log_probs'})
    """

    def weighting(self) -> Weighting:
        """Means of the other objective's weights."""
        return PositionMeanWeighting(of=self.other.weighting())


@final
@dataclass(frozen=True, kw_only=True)
class Permuted(Rearranged):
    """Another objective whose weights go to other sequences of the step, at equal distance from the end.

    Each sequence of the step draws a rank. At each distance, those that are long enough form a ring by rank, and each
    takes the weight of the next. So at each distance the weights are the same numbers as before, and a sequence that is
    alone at a distance keeps its own.

    Attributes:
        seed: of the draw.
    """

    seed: int = 0

    def weighting(self) -> Weighting:
        """The other objective's weights, exchanged."""
        return PermutedWeighting(of=self.other.weighting(), seed=self.seed)


@final
@dataclass(frozen=True, kw_only=True)
class TailNll(Objective):
    """NLL of each sequence's last `tokens` response tokens; the default number is ours.

    The tokens before them have weight 0 and still count in the number of tokens that the sum is divided by.

    >>> batch = TokenBatch(torch.tensor([[-1.0, -2.0, -4.0]]), torch.tensor([[True, True, True]]))
    >>> TailNll(tokens=2)(batch).sum
    tensor(6.)
    """

    tokens: int = 8

    def base(self) -> BaseLoss:
        """The SFT loss."""
        return LogLoss()

    def weighting(self) -> Weighting:
        """1 at the end, 0 before."""
        return TailWeighting(tokens=self.tokens)
