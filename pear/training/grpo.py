"""GRPO on TRL as the paper runs it: the same prompts for every arm, and the KL taken to the run's own start."""

import hashlib
import importlib.util
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from pear.errors import UserError, missing_extra
from pear.tasks import Problem
from pear.tasks.protocol import Tags
from pear.training.grpo_callbacks import StepSeed
from pear.training.rewards import verifier_reward
from pear.training.trackers import check_trackers
from pear.training.trainer_arguments import checked_arguments, machine_defaults

# GRPO as the paper cites it (Shao et al., 2024, Equations 3 and 4), where TRL's defaults are others. The rate is
# constant so that an early evaluation is a real smaller budget, and dropout is off so that the KL starts at 0.
GRPO_DEFAULTS: dict[str, Any] = {
    "loss_type": "grpo",
    "scale_rewards": "group",
    "use_bias_correction_kl": False,
    "lr_scheduler_type": "constant",
    "disable_dropout": True,
    "hub_strategy": "end",
    "report_to": "none",
    "disable_tqdm": True,
}

# Arguments that follow from the stage's own keys, and the key to use instead.
SET_BY_STAGE: dict[str, str] = {
    "beta": "beta",
    "learning_rate": "learning_rate",
    "temperature": "temperature",
    "num_generations": "group_size",
    "max_completion_length": "max_completion_tokens",
    "max_steps": "steps",
    "num_train_epochs": "steps",
    "per_device_train_batch_size": "micro_batch",
    "gradient_accumulation_steps": "prompts_per_step and micro_batch",
    "generation_batch_size": "prompts_per_step",
    "steps_per_generation": "prompts_per_step",
    "seed": "seed",
    "data_seed": "seed",
    "shuffle_dataset": "seed",
    "save_steps": "save_every and checkpoint_steps",
    "save_strategy": "save_every and checkpoint_steps",
    "save_total_limit": "save_every and checkpoint_steps",
    "output_dir": "output_dir",
}
# Arguments that would break what a study compares, and why.
FIXED: dict[str, str] = {
    "num_iterations": "one generation batch makes one optimizer step",
    "sync_ref_model": "the KL is taken to the run's own start",
    "chat_template_kwargs": "prompts are rendered as SFT and sampling render them",
    "remove_unused_columns": "the reward reads its columns",
    "logging_strategy": "every step is logged",
    "logging_steps": "every step is logged",
    "save_only_model": "a run goes on from its checkpoints",
    "ignore_data_skip": "a resumed run sees the prompts that an unbroken one would",
    "resume_from_checkpoint": "a run finds its own checkpoint",
    "eval_strategy": "models are evaluated by `pear evaluate`",
    "hub_strategy": "a run is pushed at its end",
    "hub_token": "it would be written into the manifest; log in with `hf auth login`, or set HF_TOKEN",
}


def grpo_arguments(
    *,
    output_dir: Path,
    prompts_per_step: int,
    group_size: int,
    micro_batch: int,
    steps: int,
    max_completion_tokens: int,
    temperature: float,
    beta: float,
    learning_rate: float,
    seed: int,
    trainer: Mapping[str, Any],
    processes: int = 1,
) -> GRPOConfig:
    """TRL's arguments for steps of `prompts_per_step` prompts with `group_size` completions each.

    TRL counts completions and derives how often it generates from three batch sizes; here one generation batch is one
    optimizer step, in micro-batches of `micro_batch` completions on each process.

    Args:
        output_dir: where TRL puts its checkpoints.
        trainer: further fields of `trl.GRPOConfig`, over `GRPO_DEFAULTS`.
        processes: how many train side by side, where no launcher has started them yet.

    Raises:
        UserError: an argument that is unknown, set by the stage, or refused by TRL; a batch that does not divide.
    """
    for name in trainer:
        if name in SET_BY_STAGE:
            raise UserError(f"trainer.{name}: follows from the stage's own keys; set `{SET_BY_STAGE[name]}` instead.")
        if name in FIXED:
            raise UserError(f"trainer.{name}: cannot be changed ({FIXED[name]}). Leave it out.")
    chosen = checked_arguments(GRPOConfig, trainer, source="trainer")
    if chosen.get("use_vllm") and importlib.util.find_spec("vllm") is None:
        raise missing_extra("vLLM (`trainer.use_vllm`)", "vllm")
    if chosen.get("push_to_hub") and not chosen.get("hub_model_id"):
        raise UserError("trainer.push_to_hub: needs trainer.hub_model_id, the repository to push to.")
    completions = prompts_per_step * group_size
    processes = int(os.environ.get("WORLD_SIZE", processes))
    if completions % (micro_batch * processes):
        raise UserError(
            f"micro_batch: a step has {prompts_per_step} prompts x {group_size} = {completions} completions, which "
            f"{processes} process(es) x {micro_batch} do not divide. Choose a divisor."
        )
    values = {
        **GRPO_DEFAULTS,
        **machine_defaults(chosen),
        **chosen,
        "output_dir": str(output_dir),
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": completions // (micro_batch * processes),
        "num_generations": group_size,
        "max_steps": steps,
        "max_completion_length": max_completion_tokens,
        "temperature": temperature,
        "beta": beta,
        "learning_rate": learning_rate,
        "seed": seed,
        "shuffle_dataset": False,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    try:
        args = GRPOConfig(**values)
    except (ValueError, ImportError) as error:
        raise UserError(f"trainer: TRL refuses these arguments ({str(error).splitlines()[0]}).") from None
    check_trackers(args.report_to)
    return args


def prompt_order(num_problems: int, prompts_per_step: int, steps: int, seed: int) -> list[int]:
    """Which problem each prompt of each step is: it depends on these four numbers and on no model.

    Every pass over the problems has its own order; a pass ends with its last full step, so that no step has a problem
    twice. A longer run begins with the prompts of a shorter one.

    >>> order = prompt_order(5, 2, 3, seed=0)
    >>> len(order), order[:4] == prompt_order(5, 2, 2, seed=0), len(set(order[:4]))
    (6, True, 4)
    """
    assert prompts_per_step <= num_problems
    wanted = prompts_per_step * steps
    order: list[int] = []
    number = 0
    while len(order) < wanted:
        one_pass = list(range(num_problems))
        random.Random(f"{seed}/grpo/prompts/{number}").shuffle(one_pass)
        order += one_pass[: num_problems - num_problems % prompts_per_step]
        number += 1
    return order[:wanted]


def prompt_dataset(problems: Sequence[Problem], order: Sequence[int]) -> Dataset:
    """GRPO's data: messages, which TRL renders with the tokenizer's template, and what the reward reads."""
    rows = Dataset.from_dict(
        {
            "prompt": [[dict(message) for message in problem.prompt] for problem in problems],
            "task": [problem.task for problem in problems],
            "problem": [problem.to_json() for problem in problems],
        }
    )
    return rows.select(order)


def make_trainer(
    model: str,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Sequence[int],
    dataset: Dataset,
    args: GRPOConfig,
    callbacks: Sequence[TrainerCallback] = (),
    tags: Tags = "strict",
) -> GRPOTrainer:
    """TRL's trainer with the verifier's reward, on the prompts as they are ordered in `dataset`.

    Args:
        model: a directory or hub id, never a model in memory: TRL loads the reference by this name, and for a model in
            memory it takes whatever that model was once loaded from.
        stop_ids: the tokens that end a completion, those that SFT taught.
        tags: the reward's rule about the format (`verifier_reward`).
    """
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=verifier_reward(tokenizer, stop_ids, tags),
        args=args,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[StepSeed(), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    assert set(trainer.eos_token_ids) == set(stop_ids), (trainer.eos_token_ids, stop_ids)
    return trainer


def check_reference(trainer: GRPOTrainer) -> str | None:
    """The digest of the KL reference, which equals that of the policy before its first step; None where `beta` is 0.

    Raises:
        RuntimeError: TRL loaded another model.
    """
    if trainer.beta == 0:
        return None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        # Sharded parameters cannot be compared by their bytes; both were loaded from this name.
        return None
    reference = parameters_digest(trainer.accelerator.unwrap_model(trainer.ref_model))
    if reference != parameters_digest(trainer.accelerator.unwrap_model(trainer.model)):
        raise RuntimeError("The KL reference that TRL loaded is not the model that RL starts from.")
    return reference


def parameters_digest(model: PreTrainedModel) -> str:
    """A sha256 over the names and bytes of a model's parameters."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}\0{parameter.dtype}\0{tuple(parameter.shape)}\0".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
