"""The one concept: an objective multiplies a differentiable base loss by detached weights."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from pear.objectives.batch import TokenBatch, TokenLoss
from pear.ops.diagnostics import WeightSums, sum_weights

Other = Literal["reference", "teacher"]
Direction = Literal["forward", "reverse"]


@final
@dataclass(frozen=True, kw_only=True)
class Divergence:
    """A full-vocabulary KL at each token between the target policy and another model.

    Attributes:
        other: the `reference`, a frozen model such as SFT's start; or the `teacher`, the behavior policy.
        direction: "forward" is KL(other || theta), "reverse" is KL(theta || other).
    """

    other: Other
    direction: Direction


@dataclass(frozen=True, kw_only=True)
class BaseLoss(ABC):
    """From a `TokenBatch` to the unweighted loss of each token. Subclasses are final frozen dataclasses."""

    @property
    def requires(self) -> frozenset[str]:
        """The fields of `TokenBatch`, beyond log_probs and response_mask, that must be given."""
        return frozenset() if self.divergence is None else frozenset({"divergence"})

    @property
    def divergence(self) -> Divergence | None:
        """Which divergence `TokenBatch.divergence` must hold; None where the loss uses none."""
        return None

    @abstractmethod
    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The loss of each token, differentiable, 0 at masked positions, whatever lies there."""


@dataclass(frozen=True, kw_only=True)
class Weighting(ABC):
    """From a `TokenBatch` to the weight of each token. Subclasses are final frozen dataclasses."""

    @property
    def requires(self) -> frozenset[str]:
        """The fields of `TokenBatch`, beyond log_probs and response_mask, that must be given."""
        return frozenset()

    @property
    def entropy_of_top(self) -> int | None:
        """Over how many of the likeliest tokens `TokenBatch.entropy` must be taken; None where it is not used."""
        return None

    @property
    def whole_step(self) -> bool:
        """Whether a weight depends on other sequences of the optimizer step. Then `pear.objectives.step` works the
        weights out before the step's first loss; a batch without `step_weights` is taken as a whole step."""
        return False

    @property
    def token_ratios(self) -> bool:
        """Whether it reads the ratio of each token, so that the ratios of spans (`TokenBatch.spans`) are not enough."""
        return "behavior_log_probs" in self.requires

    @abstractmethod
    def __call__(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The weights; anything at masked positions. `Objective` cuts gradients through them off."""

    def step_metrics(self, batch: TokenBatch) -> dict[str, float]:
        """What to log about a whole step beyond `sums`, by metric key; `batch` holds all of the step."""
        return {}

    def sums(self, batch: TokenBatch) -> WeightSums:
        """The weights' sums for logging; a weighting by ratios adds those and their clipping."""
        weights = self(batch) if batch.step_weights is None else batch.step_weights
        return sum_weights(weights, batch.response_mask, segment_ids=batch.segment_ids)


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A base loss x a weighting. Subclasses are final frozen dataclasses whose fields are the hyper-parameters.

    Attributes:
        version: raised whenever the objective's numbers change.
    """

    version: ClassVar[int] = 1

    @abstractmethod
    def base(self) -> BaseLoss:
        """The base loss that these hyper-parameters describe. Raises `ValueError` for one outside its domain."""

    @abstractmethod
    def weighting(self) -> Weighting:
        """The weighting, likewise."""

    def __post_init__(self) -> None:
        self.base()
        self.weighting()

    @property
    def requires(self) -> frozenset[str]:
        """The fields of `TokenBatch`, beyond log_probs and response_mask, that must be given."""
        return self.base().requires | self.weighting().requires

    @property
    def token_ratios(self) -> bool:
        """Whether it reads the ratio of each token, so that the ratios of spans (`TokenBatch.spans`) are not enough."""
        return self.weighting().token_ratios

    @final
    def __call__(self, batch: TokenBatch) -> TokenLoss:
        """sum_t sg[weight_t] x loss_t over the response tokens (arXiv 2602.01058, Section 3.2), as a `TokenLoss`.

        Raises:
            ValueError: a required field is missing, verified failures are given to an objective that would imitate
                them, or a value at a response token is not finite (names the row).
        """
        self._check_fields(batch)
        wide = torch.promote_types(batch.log_probs.dtype, torch.float32)
        weights = self.weights(batch).to(device=batch.log_probs.device, dtype=wide)
        return TokenLoss(
            per_token=self.base()(batch),
            weights=torch.where(batch.response_mask, weights, 0.0),
            response_mask=batch.response_mask,
        )

    @final
    def weights(self, batch: TokenBatch) -> Float[Tensor, "batch seq"]:
        """The detached weights; anything at masked positions. Those of the whole step where they are in the batch."""
        weights = self.weighting()(batch) if batch.step_weights is None else batch.step_weights
        # The one place where gradients through the weights end.
        return weights.detach()

    @final
    def diagnostics(self, batch: TokenBatch) -> WeightSums:
        """Sums for logging the weights; add them over the micro-batches and processes of a step, then `.metrics()`.

        Raises:
            ValueError: as when called.
        """
        self._check_fields(batch)
        with torch.no_grad():
            return self.weighting().sums(batch)

    def _check_fields(self, batch: TokenBatch) -> None:
        name = type(self).__name__
        missing = sorted(field for field in self.requires if getattr(batch, field) is None)
        if missing:
            raise ValueError(f"{name} requires {', '.join(missing)} in the TokenBatch. Got None.")
        if batch.spans is not None and self.token_ratios:
            raise ValueError(
                f"{name} reads the behavior policy's log-prob of each token, and these are known for spans alone."
            )
        if "is_negative" in self.requires or batch.is_negative is None:
            return
        if bool((batch.is_negative & batch.response_mask).any()):
            raise ValueError(f"{name} has no term for verified failures and would imitate them. Remove the negatives.")
