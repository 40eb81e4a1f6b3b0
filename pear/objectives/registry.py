"""The objectives by name."""

from typing import Any

from pear.errors import UserError, unknown_name
from pear.objectives.composed import Composed
from pear.objectives.fields import read_fields
from pear.objectives.nll import Nll
from pear.objectives.objective import Objective
from pear.objectives.pear import PearBlock, PearSequence, PearToken
from pear.objectives.single_step import SingleStep

OBJECTIVES: dict[str, type[Objective]] = {
    "nll": Nll,
    "composed": Composed,
    "pear_token": PearToken,
    "pear_block": PearBlock,
    "pear_sequence": PearSequence,
    "single_step_is": SingleStep,
}


def make_objective(name: str, kwargs: dict[str, Any]) -> Objective:
    """The named objective with hyper-parameters as a recipe gives them: YAML's lists and numbers in text are read.

    Raises:
        UserError: unknown name or key (offers the nearest), or a value outside its domain.

    >>> make_objective("pear_token", {"gamma": "99e-2", "log_ratio_clip": [-1, 1]})
    PearToken(gamma=0.99, log_ratio_clip=(-1.0, 1.0), log_weight_clip=(-10.0, 5.0))
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    objective = OBJECTIVES[name]
    values = read_fields(objective, kwargs, source=f"objective {name}")
    try:
        return objective(**values)
    except ValueError as error:
        raise UserError(f"objective {name}: {error}") from None
