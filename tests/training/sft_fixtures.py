"""A random tiny Qwen3, its tokenizer, trajectories with log-probs of another policy, and short runs on them."""

import gc
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, PrinterCallback, Qwen3Config, Qwen3ForCausalLM
from trl import SFTConfig, SFTTrainer

from pear.training import PearConfig, PearTrainer

# `accelerate` collects garbage at the start of every training; without this it walks over all that was imported.
gc.freeze()

VOCABULARY = 64
EOS = 1
_CHAT_TEMPLATE = (
    "{% for m in messages %}user {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)
_FAST: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "max_steps": 20,
    "learning_rate": 1e-2,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 3,
}


def build_tokenizer(words: int = VOCABULARY) -> PreTrainedTokenizerFast:
    vocabulary = ["<pad>", "<eos>", "<unk>", "user", "assistant", *(f"w{i}" for i in range(words - 5))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=4096
    )
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def build_model(seed: int = 0) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, pad_token_id=0, eos_token_id=EOS,
        initializer_range=0.3,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def save_model(path: Path) -> Path:
    build_model().save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


def build_rows(count: int = 64, seed: int = 0, longest: int = 24) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt = [draw.randrange(5, VOCABULARY) for _ in range(draw.randrange(1, 7))]
        completion = [*(draw.randrange(5, VOCABULARY) for _ in range(draw.randrange(1, longest))), EOS]
        log_probs = [-draw.expovariate(0.2) for _ in completion]
        rows.append({"prompt_ids": prompt, "completion_ids": completion, "behavior_log_probs": log_probs})
    return rows


def as_trl_rows(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "input_ids": row["prompt_ids"] + row["completion_ids"],
                "labels": [-100] * len(row["prompt_ids"]) + row["completion_ids"],
            }
            for row in rows
        ]
    )


def pear_trainer(
    output_dir: Path, rows: Any, *, objective: str = "pear_token", model: Any = None, trainer: Any = None, **config: Any
) -> PearTrainer:
    """A `PearTrainer` on rows or a data set; `trainer` are arguments of the trainer, the rest of its configuration."""
    args = PearConfig(output_dir=str(output_dir), objective=objective, **{**_FAST, **config})
    dataset = Dataset.from_list(rows) if isinstance(rows, list) else rows
    built = PearTrainer(
        model or build_model(), args, train_dataset=dataset, processing_class=build_tokenizer(), **(trainer or {})
    )
    built.remove_callback(PrinterCallback)
    return built


def trl_trainer(output_dir: Path, rows: list[dict[str, Any]], **config: Any) -> SFTTrainer:
    args = SFTConfig(output_dir=str(output_dir), **{**_FAST, **config})
    built = SFTTrainer(build_model(), args, train_dataset=as_trl_rows(rows), processing_class=build_tokenizer())
    built.remove_callback(PrinterCallback)
    return built


def logged(trainer: SFTTrainer, key: str = "loss") -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def parameters(trainer: SFTTrainer) -> torch.Tensor:
    assert trainer.model is not None
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def relative_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm())


def run_on_two_processes(script: Path, *arguments: str) -> None:
    """Runs a script on two gloo ranks of one thread each."""
    root = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script), *arguments],
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        timeout=280,
    )
