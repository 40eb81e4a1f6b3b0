"""The objectives by name."""

from typing import Any

from pear.errors import UserError, unknown_name
from pear.objectives.clipped import Psft
from pear.objectives.composed import Composed
from pear.objectives.controls import Permuted, PositionMean, TailNll
from pear.objectives.entropy import Eaft
from pear.objectives.family import GeneralFamily, PlainP
from pear.objectives.fields import read_fields
from pear.objectives.full_vocabulary import Asft, ForwardKl, SftKl
from pear.objectives.negatives import Negatives
from pear.objectives.nll import Nll
from pear.objectives.objective import Objective
from pear.objectives.pear import PearBlock, PearSequence, PearToken
from pear.objectives.probability import ChordPhi, Dft
from pear.objectives.reference import IwSft
from pear.objectives.single_step import SingleStep
from pear.objectives.talr import Talr
from pear.objectives.thresholds import BottomLogP, BottomP, TopLogP, TopP

OBJECTIVES: dict[str, type[Objective]] = {
    "nll": Nll,
    "composed": Composed,
    "pear_token": PearToken,
    "pear_block": PearBlock,
    "pear_sequence": PearSequence,
    "single_step_is": SingleStep,
    "sft_kl": SftKl,
    "general_family": GeneralFamily,
    "plain_p": PlainP,
    "top_p": TopP,
    "bottom_p": BottomP,
    "top_log_p": TopLogP,
    "bottom_log_p": BottomLogP,
    "talr": Talr,
    "dft": Dft,
    "iw_sft": IwSft,
    "asft": Asft,
    "psft": Psft,
    "chord_phi": ChordPhi,
    "eaft": Eaft,
    "forward_kl": ForwardKl,
    "negatives": Negatives,
    "position_mean": PositionMean,
    "permuted": Permuted,
    "tail_nll": TailNll,
}


def make_objective(name: str, kwargs: dict[str, Any]) -> Objective:
    """The named objective with hyper-parameters as a recipe gives them: YAML's lists and numbers in text are read.

    Raises:
        UserError: unknown name or key (offers the nearest), or a value outside its domain.

    >>> make_objective("single_step_is", {"log_ratio_clip": [-1, "3e-1"]})
    SingleStep(log_ratio_clip=(-1.0, 0.3), policy='current')
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    objective = OBJECTIVES[name]
    values = read_fields(objective, kwargs, source=f"objective {name}")
    try:
        return objective(**values)
    except ValueError as error:
        raise UserError(f"objective {name}: {error}") from None
