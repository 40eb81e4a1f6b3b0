"""Any weighting on any base loss, from a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from pear.errors import UserError
from pear.objectives.objective import BaseLoss, Objective, Weighting


def named(name: str, kwargs: Mapping[str, Any]) -> Objective:
    """The objective of that name and those fields, as part of another one's hyper-parameters.

    Raises:
        ValueError: what `make_objective` refuses.
    """
    from pear.objectives.registry import make_objective

    try:
        return make_objective(name, dict(kwargs))
    except UserError as error:
        raise ValueError(str(error)) from None


@final
@dataclass(frozen=True, kw_only=True)
class Composed(Objective):
    """The base loss of one objective x the weighting of another: sum_t sg[w_t] x l_t (arXiv 2602.01058, Section 3.2).

    Attributes:
        base_of: the objective whose base loss is taken, and `base_kwargs`, its fields.
        weighting_of: the objective whose weighting is taken, and `weighting_kwargs`, its fields.

    >>> Composed(base_of="nll", weighting_of="single_step_is").weighting()
    SingleStepWeighting(log_ratio_clip=(-0.08, 0.3), policy='current')
    """

    base_of: str = "nll"
    base_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    weighting_of: str = "nll"
    weighting_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def base(self) -> BaseLoss:
        """The first objective's."""
        return named(self.base_of, self.base_kwargs).base()

    def weighting(self) -> Weighting:
        """The second objective's."""
        return named(self.weighting_of, self.weighting_kwargs).weighting()
