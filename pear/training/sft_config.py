"""`PearConfig`: `trl.SFTConfig` with an objective."""

from dataclasses import dataclass, field
from typing import Any

from trl.trainer.sft_config import SFTConfig

from pear.errors import UserError
from pear.objectives import make_objective
from pear.objectives.step import NORMALIZERS
from pear.training.trackers import check_trackers

OVERFLOW = ("error", "drop")
BEHAVIORS = ("raw", "processed")


@dataclass
class PearConfig(SFTConfig):
    """The configuration of `PearTrainer`: all fields of `trl.SFTConfig`, and these.

    Args:
        objective: a name in `pear.objectives.OBJECTIVES`.
        objective_kwargs: fields of that objective, such as `{"gamma": 0.99}`; the defaults are the paper's.
        overflow: what to do with trajectories longer than `max_length`: "error" refuses them, "drop" leaves them out
            and says how many. They are never cut, because that would change the weights of the tokens that remain.
        normalizer: what a step's sum of weight x loss is divided by: its target tokens ("tokens"), its sum of weights
            ("weights"), or each sequence by its tokens and all by the number of sequences ("sequences"); see
            `pear.objectives.step.normalized`.
        snapshot_steps: optimizer steps after which `old_log_probs` (psft) are those of the newer model. 4 is ours; its
            authors ask for at least 4 (arXiv 2508.17784).
        behavior: which of the data's log-probs of the behavior policy are used: "raw", of the full vocabulary at
            temperature 1, or "processed", of the distribution that was sampled.
        max_negative_share: failures beyond this share of all trajectories are left out, by `seed`, where the objective
            uses failures (arXiv 2602.01058, Section 4.5: half and half).
        ref_model: path or hub id of the reference, where the objective reads one; by default the model at its start.
        teacher_model: path or hub id of the live teacher, where the objective reads one.

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
    normalizer: str = field(
        default="tokens",
        metadata={
            "help": "What a step's sum of weight x loss is divided by: tokens, weights or sequences.",
            "choices": list(NORMALIZERS),
        },
    )
    snapshot_steps: int = field(
        default=4, metadata={"help": "Optimizer steps after which `old_log_probs` are those of the newer model."}
    )
    behavior: str = field(
        default="raw",
        metadata={
            "help": "Log-probs of the behavior policy: 'raw', or 'processed' as it was sampled.",
            "choices": list(BEHAVIORS),
        },
    )
    max_negative_share: float = field(
        default=0.5, metadata={"help": "Most failures, as a share of all trajectories, where the objective uses them."}
    )
    ref_model: str | None = field(default=None, metadata={"help": "The reference, where the objective reads one."})
    teacher_model: str | None = field(default=None, metadata={"help": "The teacher, where the objective reads one."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("overflow", OVERFLOW), ("normalizer", NORMALIZERS), ("behavior", BEHAVIORS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name}: '{getattr(self, name)}' is unknown. Use one of: {', '.join(known)}.")
        if self.snapshot_steps < 1:
            raise UserError(f"snapshot_steps: must be at least 1, got {self.snapshot_steps}.")
        if not 0 <= self.max_negative_share < 1:
            raise UserError(f"max_negative_share: must be at least 0 and below 1, got {self.max_negative_share}.")
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
