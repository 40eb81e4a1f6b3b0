"""What an objective requires, from a trainer's batches: of its own forward pass, of other models, of the whole step.

`PearTrainer` asks for what a step's micro-batches need before the first of them (`prepare`), and for the `TokenBatch`
of each when its forward pass is there (`token_batch`).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from pear.data.alignment import SPANS
from pear.data.teacher_top import TOP_IDS, TOP_LOG_PROBS
from pear.errors import UserError
from pear.objectives import Objective, StepCounts, TokenBatch, prepare_step
from pear.objectives.step import laid_end_to_end
from pear.training.collation import taken_from
from pear.training.divergence import (
    HiddenStates,
    capture_hidden_states,
    head_of,
    token_divergence,
    token_divergence_from_top_k,
    token_entropy_of_top,
)
from pear.training.other_models import FrozenModel, Reading, Snapshot
from pear.training.sft_data import BEHAVIOR, NEGATIVE, REWARD

_REFERENCE, _OLD = "ref_log_probs", "old_log_probs"
_SUPPLIED = frozenset({BEHAVIOR, NEGATIVE, REWARD, "segment_ids", _REFERENCE, _OLD, "divergence", "entropy"})


def needed_columns(objective: Objective, *, has_teacher: bool) -> frozenset[str]:
    """The columns of the data that an objective requires.

    Args:
        objective: what is trained with.
        has_teacher: whether a `teacher_model` is given.

    Raises:
        UserError: it requires what training does not supply, or a teacher that neither a model nor a data set can be.
    """
    name = type(objective).__name__
    lacking = ", ".join(sorted(objective.requires - _SUPPLIED))
    if lacking:
        raise UserError(f"objective: {name} needs {lacking}, which this trainer does not supply.")
    columns = objective.requires & {BEHAVIOR, NEGATIVE, REWARD}
    divergence = objective.base().divergence
    if divergence is None or divergence.other != "teacher" or has_teacher:
        return columns
    if divergence.direction == "reverse":
        raise UserError(f"teacher_model: {name} reads KL(theta || teacher), which takes a live teacher. Name one.")
    return columns | {TOP_IDS, TOP_LOG_PROBS}


def needs_reference(objective: Objective) -> bool:
    """Whether an objective reads the frozen reference."""
    divergence = objective.base().divergence
    return _REFERENCE in objective.requires or (divergence is not None and divergence.other == "reference")


def needs_teacher(objective: Objective) -> bool:
    """Whether an objective reads a teacher, live or stored."""
    divergence = objective.base().divergence
    return divergence is not None and divergence.other == "teacher"


def check_named_models(objective: Objective, *, ref_model: Any, teacher_model: Any) -> None:
    """Raises `UserError` for a reference or teacher that is given and that the objective does not read."""
    for name, given, needed in (
        ("ref_model", ref_model, needs_reference(objective)),
        ("teacher_model", teacher_model, needs_teacher(objective)),
    ):
        if given is not None and not needed:
            raise UserError(f"{name}: {type(objective).__name__} does not read it. Leave it out.")


@final
@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is known of a micro-batch before its forward pass; (batch, seq - 1) tensors, as in `TokenBatch`.

    `micro_batches` is how many of them this process's part of the step has.
    """

    micro_batches: int
    step: StepCounts | None
    step_weights: Tensor | None
    ref_log_probs: Tensor | None
    old_log_probs: Tensor | None


@final
class TokenFields:
    """Supplies the fields of `TokenBatch` that an objective requires.

    Args:
        objective: whose.
        normalizer: one of `pear.objectives.step.NORMALIZERS`.
        model: gives the model that is trained, on this process.
        reference, teacher: where the objective reads them; the teacher's top k may be in the data instead.
        snapshot_steps: optimizer steps after which `old_log_probs` are those of the newer model.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        normalizer: str,
        model: Callable[[], Any],
        reference: FrozenModel | None,
        teacher: FrozenModel | None,
        snapshot_steps: int,
    ) -> None:
        self._objective = objective
        self._model = model
        self._reference, self._teacher = reference, teacher
        self._snapshot_steps = snapshot_steps
        self._snapshot: Snapshot | None = None
        self._sum_weights = normalizer == "weights"
        self._weighting, self._divergence = objective.weighting(), objective.base().divergence
        self.needs_pass = self._sum_weights or self._weighting.whole_step
        """Whether weights take a forward pass over the step's micro-batches before the first loss."""
        self.needs_snapshot = _OLD in objective.requires
        # Metrics of a whole step that no pass gives are taken from the losses' own passes.
        self._needs_marks = NEGATIVE in self._weighting.requires and not self.needs_pass
        self._seen: list[TokenBatch] = []
        self._communication: Communication | None = None
        self.needs_hidden = self._divergence is not None or self._weighting.entropy_of_top is not None

    @property
    def snapshot(self) -> Snapshot:
        """The weights that `old_log_probs` are of, kept when first asked for."""
        if self._snapshot is None:
            self._snapshot = Snapshot(self._model())
        return self._snapshot

    @property
    def has_snapshot(self) -> bool:
        """Whether there is one already."""
        return self._snapshot is not None

    def begin_step(self, number: int) -> None:
        """Before the optimizer step of that number, from 0: takes a snapshot where one is due."""
        if self.needs_snapshot and (number % self._snapshot_steps == 0 or self._snapshot is None):
            self.snapshot.take()

    @torch.no_grad()
    def prepare(
        self, micro_batches: Sequence[dict[str, Any]], communication: "Communication | None"
    ) -> tuple[list[Prepared], dict[str, float]]:
        """What each micro-batch of an optimizer step needs before its forward pass, and metrics of the step.

        Args:
            micro_batches: this process's, on its device, with the columns of `TrajectoryCollator`.
            communication: to the step's other processes; None: these are the whole step, each process for itself.
        """
        self._seen, self._communication = [], communication
        split = [self._split(batch) for batch in micro_batches]
        references: list[Tensor | None] = [None] * len(split)
        old: list[Tensor | None] = [None] * len(split)
        if _REFERENCE in self._objective.requires:
            assert self._reference is not None
            references = [self._reference.read(inputs).log_probs for inputs, _ in split]
        if self.needs_snapshot:
            with self.snapshot.active() if self.has_snapshot else nullcontext():
                old = [self._forward(inputs).log_probs for inputs, _ in split]
        parts = [
            Prepared(
                micro_batches=len(split), step=None, step_weights=None, ref_log_probs=reference, old_log_probs=earlier
            )
            for reference, earlier in zip(references, old, strict=True)
        ]
        if not self.needs_pass:
            counts = None if communication is None else communication.total([self._counts(*one) for one in split])
            return [replace(part, step=counts) for part in parts], {}
        batches = [self._passed(*one, part) for one, part in zip(split, parts, strict=True)]
        ready, metrics = prepare_step(
            self._objective,
            batches,
            gather=None if communication is None else communication.gather,
            sum_weights=self._sum_weights,
        )
        return [
            replace(part, step=batch.step, step_weights=batch.step_weights)
            for part, batch in zip(parts, ready, strict=True)
        ], metrics

    def metrics_after(self, batch: TokenBatch, prepared: Prepared) -> dict[str, float]:
        """After the last of a step's micro-batches: metrics of the step that `prepare` had no pass for."""
        if not self._needs_marks:
            return {}
        self._seen.append(laid_end_to_end([batch]))
        if len(self._seen) < prepared.micro_batches:
            return {}
        parts: Sequence[TokenBatch] = [laid_end_to_end(self._seen)]
        self._seen = []
        if self._communication is not None:
            parts, _ = self._communication.gather(parts[0])
        with torch.no_grad():
            return self._weighting.step_metrics(laid_end_to_end(parts))

    def token_batch(
        self,
        outputs: Any,
        hidden: Tensor | None,
        inputs: dict[str, Any],
        columns: dict[str, Tensor],
        prepared: Prepared,
        *,
        with_divergence: bool = True,
    ) -> TokenBatch:
        """The `TokenBatch` of a forward pass. The only place that shifts: position t of TRL's `log_probs` is about
        token t + 1, and so are those of hidden states.

        Args:
            outputs: of the model with TRL's fused head.
            hidden: the backbone's output of the same pass, (batch, seq, width), where `needs_hidden`.
            inputs: of that pass.
            columns: what `taken_from` returned.
            prepared: what `prepare` returned for it.
            with_divergence: False leaves the divergence out, for weights alone.
        """
        mask = outputs.label_mask
        segment_ids = inputs.get("seq_idx")
        fields: dict[str, Any] = {
            name: columns[name][:, 1:] for name in (BEHAVIOR, NEGATIVE, REWARD) if name in columns
        }
        if SPANS in columns:
            fields["spans"] = columns[SPANS][:, 1:]
        if hidden is not None:
            tokens = hidden[:, :-1][mask]
            if self._weighting.entropy_of_top is not None:
                entropy = token_entropy_of_top(tokens.detach(), head_of(self._model()), self._weighting.entropy_of_top)
                fields["entropy"] = _spread(entropy, mask)
            if self._divergence is not None and with_divergence:
                fields["divergence"] = _spread(self._token_divergence(tokens, mask, inputs, columns), mask)
        return TokenBatch(
            outputs.log_probs,
            mask,
            segment_ids=None if segment_ids is None else segment_ids[:, 1:],
            step=prepared.step,
            step_weights=prepared.step_weights,
            ref_log_probs=prepared.ref_log_probs,
            old_log_probs=prepared.old_log_probs,
            **fields,
        )

    def capture(self, model: torch.nn.Module) -> Any:
        """A context whose `HiddenStates` those of a forward pass inside are; of None where nobody reads them."""
        return capture_hidden_states(model) if self.needs_hidden else nullcontext()

    def _token_divergence(
        self, tokens: Tensor, mask: Tensor, inputs: dict[str, Any], columns: dict[str, Tensor]
    ) -> Tensor:
        assert self._divergence is not None
        head = head_of(self._model())
        other = self._reference if self._divergence.other == "reference" else self._teacher
        if other is None:
            top_ids, top_log_probs = (columns[name][:, 1:][mask] for name in (TOP_IDS, TOP_LOG_PROBS))
            return token_divergence_from_top_k(tokens, head, top_ids, top_log_probs)
        reading: Reading = other.read(inputs)
        return token_divergence(tokens, head, reading.hidden[:, :-1][mask], reading.head, self._divergence.direction)

    def _passed(self, inputs: dict[str, Any], columns: dict[str, Tensor], part: Prepared) -> TokenBatch:
        """The `TokenBatch` of a pass without gradients, for weights."""
        with self.capture(self._model()) as states:
            outputs = self._forward(inputs)
        return self.token_batch(outputs, _last(states), inputs, columns, part, with_divergence=False)

    def _forward(self, inputs: dict[str, Any]) -> Any:
        return self._model()(**inputs, use_cache=False, fused_lm_head=True)

    def _split(self, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        inputs = dict(batch)
        columns = taken_from(inputs)
        return inputs, columns

    def _counts(self, inputs: dict[str, Any], columns: dict[str, Tensor]) -> StepCounts:
        mask = inputs["labels"][:, 1:] != -100
        segment_ids = inputs.get("seq_idx")
        return TokenBatch(
            torch.zeros(mask.shape, device=mask.device),
            mask,
            segment_ids=None if segment_ids is None else segment_ids[:, 1:],
            is_negative=columns[NEGATIVE][:, 1:] if NEGATIVE in columns else None,
        ).counts


@final
class Communication:
    """Between the processes of an optimizer step.

    Args:
        world_size: processes.
        same_batch: how many processes in a row have the same batch (tensor parallelism).
        device: for tensors that are summed over processes.
    """

    def __init__(self, world_size: int, same_batch: int, device: torch.device) -> None:
        self._world_size, self._same_batch, self._device = world_size, same_batch, device

    def gather(self, batch: TokenBatch) -> tuple[list[TokenBatch], int]:
        """As `pear.objectives.step.Gather`."""
        if self._world_size == 1:
            return [batch], 0
        parts: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(parts, batch)
        return parts[:: self._same_batch], torch.distributed.get_rank() // self._same_batch

    def total(self, counts: Sequence[StepCounts]) -> StepCounts:
        """The sum over micro-batches and processes."""
        sums = torch.tensor(
            [(one.num_tokens, one.num_negative_tokens, one.num_sequences) for one in counts], device=self._device
        ).sum(0)
        if self._world_size > 1:
            torch.distributed.all_reduce(sums)
            sums = sums // self._same_batch
        tokens, negative, sequences = sums.tolist()
        return StepCounts(num_tokens=tokens, num_negative_tokens=negative, num_sequences=sequences)


def _last(states: HiddenStates | None) -> Tensor | None:
    return None if states is None else states.last


def _spread(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.new_zeros(mask.shape).masked_scatter(mask, tokens)
