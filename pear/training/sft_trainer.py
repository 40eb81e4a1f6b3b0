"""`PearTrainer`: `trl.SFTTrainer` whose token losses are an objective's.

TRL keeps the divisor (the global token count), the scaling under DDP, the auxiliary loss, the metrics, packing and
padding-free batches. This subclass carries more columns, and hands TRL's loss `-per_token * weights` in place of
the token log-probs. It relies on names of TRL 1.16 that are private or undocumented: `_prepare_dataset`,
`_set_signature_columns_if_needed`, `_send_telemetry`, `_save_checkpoint`, `_run_epoch`, `_prepare_inputs`,
`get_batch_samples`, `get_tp_size`, what is summed between two logs
(`_tr_loss`, `_globalstep_last_logged`, `_metrics`, `_total_train_tokens`), what its model card is made of (`_name`,
`_paper`, `_tag_names`), the `seq_idx` of its collator, and that
`compute_loss` calls `model(..., fused_lm_head=True)` and reads `log_probs` and `label_mask` of what it returns. So the
minor version is pinned, and `tests/training/test_sft_trainer.py` holds `nll` equal to `trl.SFTTrainer`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.data_utils import pack_dataset
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import global_then_local_main_first

from pear.data.buffer import load_buffer, read_manifest
from pear.data.teacher_top import TOP_IDS
from pear.data.token_map import fit_tokenizer
from pear.errors import UserError
from pear.objectives import Objective, TokenBatch, make_objective
from pear.objectives.step import normalized
from pear.ops.diagnostics import WeightSums
from pear.ops.weight_warnings import weight_warnings
from pear.runs import is_main_process, note
from pear.training.checkpoints import CompleteCheckpoint, checkpoint_path, checkpoint_to_resume
from pear.training.collation import TrajectoryCollator, taken_from
from pear.training.model_card import complete_card, describe_buffer, describe_rows, paper_of
from pear.training.other_models import FrozenModel, frozen_copy, frozen_model
from pear.training.refusals import (
    is_adapted,
    refuse_ids_without_logits,
    refuse_prompts,
    refuse_split_trajectories,
    refuse_two_normalizations,
    refuse_what_would_differ,
)
from pear.training.sft_config import PearConfig
from pear.training.sft_data import (
    NEGATIVE,
    TOKEN_COLUMNS,
    DataNeeds,
    check_dataset,
    checked_trajectories,
    training_rows,
)
from pear.training.token_fields import (
    Communication,
    TokenFields,
    check_named_models,
    needed_columns,
    needs_reference,
)

Source: TypeAlias = Dataset | str | Path
OtherModel: TypeAlias = str | Path | PreTrainedModel
# Where a micro-batch carries what was prepared for it; an object that is no mapping goes through `Trainer` as it is.
_PREPARED = "prepared_fields"


class PearTrainer(SFTTrainer):
    """`trl.SFTTrainer` on trajectories, with a reweighted token loss.

        L = sum_t weights_t * per_token_t / N,  N = target tokens of the optimizer step over all micro-batches and ranks

    Source: PEAR, arXiv 2602.01058, Section 3.2. With the objective `nll` it equals `trl.SFTTrainer`.

    Args:
        model: a model, or a path or hub id.
        args: a `PearConfig`.
        train_dataset: a buffer's directory, or a `datasets.Dataset` with `prompt` (messages) or `prompt_ids`,
            `completion_ids` and, where the objective requires them, `behavior_log_probs`, `correct` or `reward`. The
            ids are trained as they are: nothing is tokenised again, appended or cut.
        eval_dataset: the same, or a mapping from names to such. Each batch of an evaluation is a step of its own.
        objective: overrides `args.objective`.
        ref_model: overrides `args.ref_model`; where the objective reads a reference and none is named, it is the model
            as it is given here, and with PEFT the model with its adapter off, which needs no copy.
        teacher_model: overrides `args.teacher_model`. Without one, distillation takes the teacher's top k from the
            data.
        processing_class, peft_config and the others: as in `trl.SFTTrainer`.

    Raises:
        UserError: before the first step, for what `PearConfig` and `checked_trajectories` refuse, for an objective that
            needs more than this trainer supplies, for a reference or teacher of another vocabulary, for dropout where
            weights take a pass of their own, for adapters that are prompts, and under context or sequence parallelism.

    Logs, besides TRL's metrics and over the same steps, `loss/nll` (mean -log pi_theta of the target tokens, without
    weights, so comparable between objectives), those of `pear.ops.diagnostics.WeightSums.metrics`, and those of the
    weighting about whole steps, averaged over the steps. On several processes an evaluation counts the rows that
    `accelerate` repeats to fill the last batch.

    The model card that TRL writes also names the objective with its fields, `trained_on` (a buffer by its digest, other
    data by that of its rows) and the paper.
    """

    _name = "pear"
    _tag_names = [*SFTTrainer._tag_names, "pear"]

    objective: Objective
    trained_on: str
    trajectories: int
    failures: int

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: PearConfig,
        *,
        train_dataset: Source,
        eval_dataset: Source | dict[str, Source] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        objective: Objective | None = None,
        ref_model: OtherModel | None = None,
        teacher_model: OtherModel | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        quantization_config: Any = None,
        peft_config: Any = None,
    ) -> None:
        if not isinstance(args, PearConfig):
            raise UserError(f"args: expected a PearConfig, got {type(args).__name__}. It takes the same fields.")
        assert isinstance(args.objective_kwargs, dict)
        self.objective = objective or make_objective(args.objective, args.objective_kwargs)
        reference = args.ref_model if ref_model is None else ref_model
        teacher = args.teacher_model if teacher_model is None else teacher_model
        check_named_models(self.objective, ref_model=reference, teacher_model=teacher)
        refuse_two_normalizations(self.objective, args.normalizer)
        self._needs = DataNeeds(
            columns=needed_columns(self.objective, has_teacher=teacher is not None),
            token_ratios=self.objective.token_ratios,
            behavior=args.behavior,
            max_negative_share=args.max_negative_share,
            seed=args.seed,
        )
        refuse_prompts(model, peft_config)
        refuse_split_trajectories(args.parallelism_config)
        adapter_off = peft_config is not None or is_adapted(model)
        if needs_reference(self.objective) and reference is None and not adapter_off:
            reference = model if isinstance(model, str) else frozen_copy(model)
        self._paper = paper_of(self.objective)
        self.dropped: dict[str, int] = {}
        self._buffers: dict[str, Path] = {}
        self._prepared: set[str] = set()
        # Sums since the last log: of -log pi_theta over the target tokens, then those of `WeightSums`.
        self._sums: dict[str, Tensor] = {}
        self._warned: set[str] = set()
        self._resumed: Path | None = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._opened(train_dataset, "train"),
            eval_dataset=self._opened_evaluation(eval_dataset),
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=[*(callbacks or []), CompleteCheckpoint(), _KeepLogWindow(self)],
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        # TRL refuses a collator as an argument of padding-free training, so its own is wrapped.
        self.data_collator = TrajectoryCollator(self.data_collator)
        refuse_split_trajectories(self.accelerator.parallelism_config)
        self._fields = TokenFields(
            self.objective,
            normalizer=args.normalizer,
            model=lambda: self.model,
            reference=self._reference(reference),
            teacher=None if teacher is None else frozen_model(teacher, self, "teacher_model"),
            snapshot_steps=args.snapshot_steps,
        )
        refuse_what_would_differ(self, self._fields, self.objective)
        if TOP_IDS in self._needs.columns:
            refuse_ids_without_logits(self.train_dataset, self.model, "train dataset")

    def _reference(self, source: OtherModel | None) -> FrozenModel | None:
        if not needs_reference(self.objective):
            return None
        if source is None:
            adapted: Any = self.model
            return FrozenModel(adapted, adapted.disable_adapter)
        return frozen_model(source, self, "ref_model")

    def _opened(self, source: Source, name: str) -> Dataset:
        if isinstance(source, str | Path):
            self._buffers[name] = Path(source)
            columns = self._needs.columns
            return load_buffer(source, correct_only=NEGATIVE not in columns, teacher_top=TOP_IDS in columns)
        check_dataset(source, f"{name} dataset")
        return source

    def _opened_evaluation(self, source: Source | dict[str, Source] | None) -> Dataset | dict[str, Dataset] | None:
        if isinstance(source, dict):
            return {name: self._opened(one, name) for name, one in source.items()}
        return None if source is None else self._opened(source, "eval")

    def _prepare_dataset(
        self,
        dataset: Dataset,
        processing_class: Any,
        args: Any,
        packing: bool,
        formatting_func: Any,
        dataset_name: str,
    ) -> Dataset:
        """Replaces TRL's tokenisation, EOS, truncation and packing by checked trajectories; the order stays TRL's."""
        if dataset._fingerprint in self._prepared:
            return dataset
        buffer = self._buffers.pop(dataset_name, None)
        if buffer is not None:
            dataset = fit_tokenizer(dataset, read_manifest(buffer), processing_class)
        with global_then_local_main_first():
            trajectories, self.dropped[dataset_name] = checked_trajectories(
                dataset,
                processing_class,
                needs=self._needs,
                max_length=args.max_length,
                overflow=args.overflow,
                name=f"{dataset_name} dataset",
                num_proc=args.dataset_num_proc,
            )
            if dataset_name == "train":
                self._describe(trajectories, buffer)
            rows = training_rows(trajectories, num_proc=args.dataset_num_proc)
            if packing:
                if args.shuffle_dataset:
                    rows = rows.shuffle(seed=args.seed)
                rows = pack_dataset(rows, args.max_length, "bfd", {"num_proc": args.dataset_num_proc})
        if args.shuffle_dataset:
            rows = rows.shuffle(seed=args.seed)
        if self.dropped[dataset_name] and is_main_process():
            note(
                f"{dataset_name} dataset: dropped {self.dropped[dataset_name]} of {len(dataset)} trajectories, longer "
                f"than max_length={args.max_length}."
            )
        self._prepared.add(rows._fingerprint)
        return rows

    def _describe(self, trajectories: Dataset, buffer: Path | None) -> None:
        """Notes what is trained on, for the model card, and that there are failures where there must be."""
        self.trajectories = len(trajectories)
        self.trained_on = describe_rows(trajectories) if buffer is None else describe_buffer(buffer)
        self.failures = sum(trajectories[NEGATIVE]) if NEGATIVE in self._needs.columns else 0
        if NEGATIVE in self._needs.columns and self.failures == 0 and self._needs.max_negative_share > 0:
            raise UserError(
                f"train dataset: {type(self.objective).__name__} pushes failures away, and there are none. Give data "
                "with wrong trajectories, or use an objective without negatives."
            )

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        assert self._signature_columns is not None
        self._signature_columns += [name for name in TOKEN_COLUMNS if name not in self._signature_columns]

    def evaluate(
        self,
        eval_dataset: Source | dict[str, Source] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As in TRL; also takes a buffer's directory."""
        # `Trainer` passes the names of a mapping one by one.
        known = self.eval_dataset if isinstance(self.eval_dataset, dict) else {}
        named = isinstance(eval_dataset, str) and eval_dataset in known
        opened = eval_dataset if named else self._opened_evaluation(eval_dataset)
        return super().evaluate(eval_dataset=opened, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix)

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """As in TRL, but resumes only from checkpoints that were written to the end.

        Raises:
            UserError: the checkpoint, or with True every checkpoint in `output_dir`, is incomplete.
        """
        assert self.args.output_dir is not None
        checkpoint = self._resumed = checkpoint_to_resume(resume_from_checkpoint, Path(self.args.output_dir))
        return super().train(
            resume_from_checkpoint=None if checkpoint is None else str(checkpoint),
            trial=trial,
            ignore_keys_for_eval=ignore_keys_for_eval,
        )

    def _run_epoch(self, *arguments: Any, **named: Any) -> None:
        """Trains an epoch; nothing where the run was resumed at its last step, when `Trainer` would do one more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **named)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As in TRL, and what was counted since the last log, so that a resumed run logs what an unbroken one does."""
        super()._save_checkpoint(model, trial)
        assert self.args.output_dir is not None
        window = {
            "loss": self._tr_loss,
            "last_logged": self._globalstep_last_logged,
            "metrics": dict(self._metrics["train"]),
            "tokens": self._total_train_tokens,
            "sums": self._sums.get("train"),
        }
        checkpoint = checkpoint_path(Path(self.args.output_dir), self.state.global_step)
        torch.save(window, self._log_window(checkpoint))
        if self._fields.needs_snapshot and (self._fields.snapshot.is_sharded or self.args.should_save):
            torch.save(self._fields.snapshot.state(), self._snapshot_file(checkpoint))

    def restore_log_window(self) -> None:
        """Goes on counting where the checkpoint did that this run was resumed from, and from its snapshot."""
        if self._resumed is None:
            return
        if self._fields.needs_snapshot:
            file = self._snapshot_file(self._resumed)
            self._fields.snapshot.restore(torch.load(file, map_location=self.args.device, weights_only=True))
        window = torch.load(self._log_window(self._resumed), map_location=self.args.device, weights_only=True)
        self._tr_loss = window["loss"]
        self._globalstep_last_logged = window["last_logged"]
        self._metrics["train"].update(window["metrics"])
        self._total_train_tokens = window["tokens"]
        if window["sums"] is not None:
            self._sums["train"] = window["sums"]

    def _snapshot_file(self, checkpoint: Path) -> Path:
        rank = f"_{self.args.process_index}" if self._fields.snapshot.is_sharded else ""
        return checkpoint / f"snapshot{rank}.pt"

    def _log_window(self, checkpoint: Path) -> Path:
        return checkpoint / f"log_window_{self.args.process_index}.pt"

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | int | None]:
        """As in `Trainer`, and gives each micro-batch of the optimizer step what is known once all are there."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, num_items
        self._fields.begin_step(self.state.global_step)
        communication = Communication(self.accelerator.num_processes, self.get_tp_size(), self.args.device)
        prepared, metrics = self._fields.prepare([self._prepare_inputs(batch) for batch in batches], communication)
        # Before the first step the model may still be in evaluation mode.
        self._keep(metrics, "train")
        return [{**batch, _PREPARED: one} for batch, one in zip(batches, prepared, strict=True)], num_items

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """TRL's loss over the objective's token losses. A batch that no step was prepared for is a step of its own."""
        inputs = dict(inputs)
        prepared = inputs.pop(_PREPARED, None)
        if prepared is None:
            (prepared,), metrics = self._fields.prepare([inputs], None)
            self._keep(metrics, self._mode())
        columns = taken_from(inputs)
        own = dict(inputs)

        def weighted(**kwargs: Any) -> Any:
            if not kwargs.get("fused_lm_head"):
                return model(**kwargs)
            with self._fields.capture(model) as states:
                outputs = model(**kwargs)
            hidden = None if states is None else states.last
            batch = self._fields.token_batch(outputs, hidden, own, columns, prepared)
            outputs.log_probs = -self._token_losses(batch)
            self._keep(self._fields.metrics_after(batch, prepared), self._mode())
            return outputs

        return super().compute_loss(
            weighted, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )

    def _keep(self, metrics: dict[str, float], mode: str) -> None:
        """Adds metrics of a step to the log's window, which TRL averages."""
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)

    def _token_losses(self, batch: TokenBatch) -> Tensor:
        """`per_token * weights` (batch, seq - 1), normalized, 0 at masked positions."""
        assert isinstance(self.args, PearConfig)
        loss = self.objective(batch)
        self._record(batch)
        try:
            weights = normalized(loss.weights, batch, self.args.normalizer)
        except ValueError as error:
            raise UserError(f"normalizer: {error}") from None
        return loss.per_token * weights.to(loss.per_token.dtype)

    @torch.no_grad()
    def _record(self, batch: TokenBatch) -> None:
        nll = -torch.where(batch.response_mask, batch.log_probs, 0.0).sum(dtype=torch.float64).reshape(1)
        sums = torch.cat([nll, self.objective.diagnostics(batch).to_vector()])
        mode = self._mode()
        self._sums[mode] = sums + self._sums[mode] if mode in self._sums else sums

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the weight diagnostics of the window to TRL's metrics; all processes call it together."""
        sums = self._sums.pop(self._mode(), None)
        if sums is not None:
            # Every process has run the same number of micro-batches, so all of them are here.
            sums = self.accelerator.reduce(sums)
            weights = WeightSums.from_vector(sums[1:])
            metrics = weights.metrics()
            if metrics:
                metrics["loss/nll"] = (sums[0] / weights.num_tokens).item()
            prefix = "" if self._mode() == "train" else "eval_"
            logs.update({f"{prefix}{name}": value for name, value in metrics.items()})
            if not prefix and is_main_process():
                self._warn(metrics)
        super().log(logs, start_time)

    def _warn(self, metrics: dict[str, float]) -> None:
        """Says in words what the weights show, each kind of failure once."""
        for kind, sentence in weight_warnings(metrics).items():
            if kind not in self._warned:
                self._warned.add(kind)
                note(sentence)

    def create_model_card(self, *arguments: Any, **named: Any) -> None:
        """TRL's card, and what was minimized on what."""
        super().create_model_card(*arguments, **named)
        if self.is_world_process_zero():
            assert isinstance(self.args, PearConfig)
            assert self.args.output_dir is not None
            dropped = self.dropped["train"]
            left_out = f"; {dropped} longer than {self.args.max_length} tokens left out" if dropped else ""
            failures = f"; with {self.failures} of its failures" if self.failures else ""
            complete_card(
                Path(self.args.output_dir) / "README.md", self.objective, self.trained_on + failures + left_out
            )

    def _mode(self) -> str:
        assert self.model is not None
        return "train" if self.model.training else "eval"

    def _send_telemetry(self) -> None:
        """Sends none: the environment variable alone is too late where `huggingface_hub` was imported before."""


class _KeepLogWindow(TrainerCallback):
    """Restores the log's window once `Trainer` has set it back."""

    def __init__(self, trainer: PearTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.restore_log_window()
