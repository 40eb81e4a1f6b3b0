"""`PearTrainer`: `trl.SFTTrainer` whose token losses are an objective's.

TRL keeps the divisor (the global token count), the scaling under DDP, the auxiliary loss, the metrics, packing and
padding-free batches. This subclass carries one more column, and hands TRL's loss `-per_token * weights` in place of
the token log-probs. It relies on names of TRL 1.16 that are private or undocumented: `_prepare_dataset`,
`_set_signature_columns_if_needed`, `_send_telemetry`, `_save_checkpoint`, `_run_epoch`, what is summed between two logs
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
from transformers import DataCollator, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.data_utils import pack_dataset
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import global_then_local_main_first

from pear.data.buffer import check_tokenizer, load_buffer, read_manifest
from pear.errors import UserError
from pear.objectives import Objective, TokenBatch, make_objective
from pear.ops.diagnostics import WeightSums
from pear.runs import is_main_process, note
from pear.training.checkpoints import CompleteCheckpoint, checkpoint_path, checkpoint_to_resume
from pear.training.model_card import complete_card, describe_buffer, describe_rows, paper_of
from pear.training.sft_config import PearConfig
from pear.training.sft_data import BEHAVIOR, check_dataset, checked_trajectories, training_rows

_SUPPLIED = frozenset({BEHAVIOR, "segment_ids"})
Source: TypeAlias = Dataset | str | Path


class PearTrainer(SFTTrainer):
    """`trl.SFTTrainer` on trajectories, with a reweighted token loss.

        L = sum_t weights_t * per_token_t / N,  N = target tokens of the optimizer step over all micro-batches and ranks

    Source: PEAR, arXiv 2602.01058, Section 3.2. With the objective `nll` it equals `trl.SFTTrainer`.

    Args:
        model: a model, or a path or hub id.
        args: a `PearConfig`.
        train_dataset: a buffer's directory, or a `datasets.Dataset` with `prompt` (messages) or `prompt_ids`,
            `completion_ids` and, where the objective requires them, `behavior_log_probs`. The ids are trained as they
            are: nothing is tokenised again, appended or cut.
        eval_dataset: the same, or a mapping from names to such.
        objective: overrides `args.objective`.
        processing_class, peft_config and the others: as in `trl.SFTTrainer`.

    Raises:
        UserError: before the first step, for what `PearConfig` and `checked_trajectories` refuse, for an objective that
            needs more than this trainer supplies, and under context or sequence parallelism.

    Logs, besides TRL's metrics and over the same steps, `loss/nll` (mean -log pi_theta of the target tokens, without
    weights, so comparable between objectives) and those of `pear.ops.diagnostics.WeightSums.metrics`. On several
    processes an evaluation counts the rows that `accelerate` repeats to fill the last batch.

    The model card that TRL writes also names the objective with its fields, `trained_on` (a buffer by its digest, other
    data by that of its rows) and the paper.
    """

    _name = "pear"
    _tag_names = [*SFTTrainer._tag_names, "pear"]

    objective: Objective
    trained_on: str

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: PearConfig,
        *,
        train_dataset: Source,
        eval_dataset: Source | dict[str, Source] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        objective: Objective | None = None,
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
        lacking = ", ".join(sorted(self.objective.requires - _SUPPLIED))
        if lacking:
            name = type(self.objective).__name__
            raise UserError(f"objective: {name} needs {lacking}, which this trainer does not supply.")
        self._paper = paper_of(self.objective)
        self.dropped: dict[str, int] = {}
        self._buffers: dict[str, Path] = {}
        self._prepared: set[str] = set()
        # Sums since the last log: of -log pi_theta over the target tokens, then those of `WeightSums`.
        self._sums: dict[str, Tensor] = {}
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
        parallelism = self.accelerator.parallelism_config
        if parallelism is not None and (parallelism.sp_enabled or parallelism.cp_enabled):
            raise UserError(
                "parallelism_config: context and sequence parallelism split a trajectory over processes, and its "
                "weights need all of it. Use data, tensor or fully sharded parallelism."
            )

    def _opened(self, source: Source, name: str) -> Dataset:
        if isinstance(source, str | Path):
            self._buffers[name] = Path(source)
            return load_buffer(source)
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
            check_tokenizer(read_manifest(buffer), processing_class)
        with global_then_local_main_first():
            trajectories, self.dropped[dataset_name] = checked_trajectories(
                dataset,
                processing_class,
                needs_behavior=BEHAVIOR in self.objective.requires,
                max_length=args.max_length,
                overflow=args.overflow,
                name=f"{dataset_name} dataset",
                num_proc=args.dataset_num_proc,
            )
            if dataset_name == "train":
                self.trained_on = describe_rows(trajectories) if buffer is None else describe_buffer(buffer)
            rows = training_rows(trajectories, num_proc=args.dataset_num_proc)
            if packing:
                if args.shuffle_dataset:
                    rows = rows.shuffle(seed=args.seed)
                rows = pack_dataset(rows, args.max_length, "bfd", {"num_proc": args.dataset_num_proc})
        if args.shuffle_dataset:
            rows = rows.shuffle(seed=args.seed)
        if self.dropped[dataset_name] and is_main_process():
            total = len(trajectories) + self.dropped[dataset_name]
            note(
                f"{dataset_name} dataset: dropped {self.dropped[dataset_name]} of {total} trajectories, longer than "
                f"max_length={args.max_length}."
            )
        self._prepared.add(rows._fingerprint)
        return rows

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        assert self._signature_columns is not None
        if BEHAVIOR not in self._signature_columns:
            self._signature_columns.append(BEHAVIOR)

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
        torch.save(window, self._log_window(checkpoint_path(Path(self.args.output_dir), self.state.global_step)))

    def restore_log_window(self) -> None:
        """Goes on counting where the checkpoint did that this run was resumed from."""
        if self._resumed is None:
            return
        window = torch.load(self._log_window(self._resumed), map_location=self.args.device, weights_only=True)
        self._tr_loss = window["loss"]
        self._globalstep_last_logged = window["last_logged"]
        self._metrics["train"].update(window["metrics"])
        self._total_train_tokens = window["tokens"]
        if window["sums"] is not None:
            self._sums["train"] = window["sums"]

    def _log_window(self, checkpoint: Path) -> Path:
        return checkpoint / f"log_window_{self.args.process_index}.pt"

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """TRL's loss over the objective's token losses."""
        behavior = inputs.pop(BEHAVIOR, None)
        segment_ids = inputs.get("seq_idx")

        def weighted(**kwargs: Any) -> Any:
            outputs = model(**kwargs)
            if kwargs.get("fused_lm_head"):
                outputs.log_probs = -self._token_losses(outputs, behavior, segment_ids)
            return outputs

        return super().compute_loss(
            weighted, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )

    def _token_losses(self, outputs: Any, behavior: Tensor | None, segment_ids: Tensor | None) -> Tensor:
        """`per_token * weights` (batch, seq - 1), 0 at masked positions.

        The only place that shifts: position t of TRL's `log_probs` is about token t + 1.
        """
        batch = TokenBatch(
            outputs.log_probs,
            outputs.label_mask,
            behavior_log_probs=None if behavior is None else behavior[:, 1:].view(torch.float32),
            segment_ids=None if segment_ids is None else segment_ids[:, 1:],
        )
        loss = self.objective(batch)
        self._record(batch)
        return loss.per_token * loss.weights.to(loss.per_token.dtype)

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
        super().log(logs, start_time)

    def create_model_card(self, *arguments: Any, **named: Any) -> None:
        """TRL's card, and what was minimized on what."""
        super().create_model_card(*arguments, **named)
        if self.is_world_process_zero():
            assert isinstance(self.args, PearConfig)
            assert self.args.output_dir is not None
            dropped = self.dropped["train"]
            left_out = f"; {dropped} longer than {self.args.max_length} tokens left out" if dropped else ""
            complete_card(Path(self.args.output_dir) / "README.md", self.objective, self.trained_on + left_out)

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


class TrajectoryCollator:
    """TRL's collator, with `behavior_log_probs` padded or flattened as its `input_ids` are.

    The float32 bits travel as int32, because under DeepSpeed `Trainer` casts floating-point inputs to bfloat16.
    """

    def __init__(self, collator: DataCollator) -> None:
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns TRL's batch; `behavior_log_probs` is int32 (batch, seq), to be viewed as float32."""
        batch: dict[str, Any] = self.collator(examples)
        if BEHAVIOR not in examples[0]:
            return batch
        rows = [torch.tensor(example[BEHAVIOR], dtype=torch.float32) for example in examples]
        if getattr(self.collator, "padding_free", False):
            rows = [torch.cat(rows)]
        values = torch.zeros(batch["input_ids"].shape, dtype=torch.float32)
        for row, value in zip(rows, values, strict=True):
            value[: len(row)] = row
        batch[BEHAVIOR] = values.view(torch.int32)
        return batch
