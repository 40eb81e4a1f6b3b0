"""`PearConfig`: `trl.SFTConfig` with an objective."""

from dataclasses import dataclass, field
from typing import Any

from trl.trainer.sft_config import SFTConfig

from pear.errors import UserError
from pear.objectives import make_objective
from pear.training.trackers import check_trackers

OVERFLOW = ("error", "drop")


@dataclass
class PearConfig(SFTConfig):
    """The configuration of `PearTrainer`: all fields of `trl.SFTConfig`, and these.

    Args:
        objective: a name in `pear.objectives.OBJECTIVES`.
        objective_kwargs: fields of that objective, such as `{"gamma": 0.99}`; the defaults are the paper's.
        overflow: what to do with trajectories longer than `max_length`: "error" refuses them, "drop" leaves them out
            and says how many. They are never cut, because that would change the weights of the tokens that remain.

    Raises:
        UserError: unknown objective or field of it, a tracker that is not installed, or a setting of TRL under which
            weights would be dropped, computed over the wrong tokens or applied to something else than the completions.
    """

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "objective_kwargs"]

    objective: str = field(
        default="pear_token", metadata={"help": "Name of the objective: a key of `pear.objectives.OBJECTIVES`."}
    )
    objective_kwargs: dict[str, Any] | str = field(
        default_factory=dict, metadata={"help": "Fields of the objective, such as `{'gamma': 0.99}`."}
    )
    overflow: str = field(
        default="error",
        metadata={
            "help": "Trajectories longer than `max_length`: 'error' refuses them, 'drop' leaves them out.",
            "choices": list(OVERFLOW),
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overflow not in OVERFLOW:
            raise UserError(f"overflow: '{self.overflow}' is unknown. Use one of: {', '.join(OVERFLOW)}.")
        if not isinstance(self.objective_kwargs, dict):
            raise UserError(f"objective_kwargs: expected a mapping of fields, got {self.objective_kwargs!r}.")
        make_objective(self.objective, self.objective_kwargs)
        check_trackers(self.report_to)
        for refused, sentence in self._refusals():
            if refused:
                raise UserError(sentence)

    def _refusals(self) -> list[tuple[bool, str]]:
        """Settings that `PearTrainer` cannot honor without changing what is trained, and what to do instead."""
        return [
            (
                self.loss_type != "nll",
                f"loss_type: '{self.loss_type}' would replace the objective. Leave it at 'nll' and choose `objective`.",
            ),
            (
                self.label_smoothing_factor != 0,
                "label_smoothing_factor: TRL computes the smoothed loss apart from the token weights. Leave it at 0.",
            ),
            (
                self.use_liger_kernel,
                "use_liger_kernel: Liger patches the model's forward, which yields the token log-probs here. Leave it "
                "off; model_init_kwargs={'use_kernels': True} gives its layer kernels.",
            ),
            (
                self.packing and self.packing_strategy != "bfd",
                f"packing_strategy: '{self.packing_strategy}' cuts trajectories, which changes weights. Use 'bfd'.",
            ),
            (
                self.packing and self.max_length is None,
                "max_length: packing needs the length of a packed row. Set max_length, or packing to false.",
            ),
            (
                bool(self.eval_packing) and not self.packing,
                "eval_packing: without `packing` the ends of packed trajectories would be lost. Set both, or neither.",
            ),
            (
                self.completion_only_loss is False,
                "completion_only_loss: only completions have log-probs of the behavior policy. Leave it unset.",
            ),
            (
                self.assistant_only_loss,
                "assistant_only_loss: the completion ids are trained as they are, whatever their roles. Leave it off.",
            ),
            (
                isinstance(self.dataset_kwargs, dict) and bool(self.dataset_kwargs.get("skip_prepare_dataset")),
                "dataset_kwargs.skip_prepare_dataset: trajectories are checked while they are prepared. Remove it.",
            ),
            (
                not self.average_tokens_across_devices and self.world_size > 1,
                "average_tokens_across_devices: false divides by each process's own token count. Leave it on.",
            ),
        ]
