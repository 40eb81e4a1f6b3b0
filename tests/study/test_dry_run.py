"""`pear study --dry-run`: every shipped recipe without a network, numbers by hand, commands that can be run."""

import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from transformers import Qwen2Config, Qwen3Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from trl.trainer.grpo_config import GRPOConfig

from pear.cli import _registry, main
from pear.configuration import StrictModel, read_yaml
from pear.models import recipes_directory
from pear.stages import load_stage
from pear.study import parse_studies
from pear.study.dry_run import command, estimate_stages
from pear.study.estimates import training_memory
from pear.study.shapes import SHAPES, Shape, read_shape, shape_of
from pear.training.trainer_arguments import checked_arguments

RECIPES = sorted(recipes_directory().glob("*.yaml"))
_STUDY: dict[str, Any] = {
    "name": "small",
    "base": "Qwen/Qwen3-0.6B-Base",
    "behavior": {"model": "somebody/else", "sampling": {"samples": 4, "max_tokens": 50}, "max_correct_per_problem": 1,
                 "max_wrong_per_problem": 0},
    "tasks": {
        "sft": [{"task": "maths/file", "path": "none.jsonl", "size": 100}],
        "rl": [{"task": "tiny/affine_chain", "split": "rl", "size": 40}],
        "eval": [{"task": "tiny/affine_chain", "split": "eval", "size": 30}],
    },
    "arms": {"nll": {"objective": "nll"}},
    "sft": {"trainer": {"max_length": 80, "num_train_epochs": 2}},
    "rl": {"steps": 5, "prompts_per_step": 8, "group_size": 4, "max_completion_tokens": 60},
    "evaluate": {"samples": 16, "k": [1], "max_tokens": 70},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a dry run must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_looked_at(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pear", "study", str(recipe), "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "unknown" not in text
    assert "GiB per device" in text
    assert not list(tmp_path.iterdir())


def test_tokens_are_those_of_the_recipe(tmp_path: Path) -> None:
    config = parse_studies(_STUDY, source="test")[None]
    stages = {stage.node.stage: stage for stage in estimate_stages(config, tmp_path)}
    assert {name: stage.tokens for name, stage in stages.items()} == {
        "evaluate": 30 * 16 * 70,
        "collect": 100 * 4 * 50,
        "sft": 100 * 1 * 80 * 2,
        "grpo": 5 * 8 * 4 * 60,
    }
    assert stages["collect"].memory == "unknown: nothing is known of the shape of somebody/else"
    # 32 completions of 60 tokens and a prompt need less than the backward pass of one micro-batch.
    assert "activations" in stages["grpo"].memory
    assert "KV cache" not in stages["grpo"].memory


def test_what_a_recipe_does_not_say_is_unknown(tmp_path: Path) -> None:
    sets = {**_STUDY["tasks"], "sft": [{"task": "maths/file", "path": "none.jsonl"}]}
    config = parse_studies({**_STUDY, "tasks": sets}, source="test")[None]
    stages = {stage.node.stage: stage.tokens for stage in estimate_stages(config, tmp_path)}
    assert stages["collect"] is None
    assert stages["sft"] is None


def test_the_commands_give_the_stages_of_the_study(tmp_path: Path) -> None:
    """As the command line reads them, they are the same configuration."""
    config = parse_studies(read_yaml(recipes_directory() / "grpo_vllm.yaml"), source="test")["server"]
    for stage in estimate_stages(config, tmp_path):
        words = shlex.split(command(stage.node.stage, stage.node.config))
        config_class: type[StrictModel] = load_stage(words[1])[0]
        assert tyro.cli(config_class, args=words[2:], registry=_registry()) == stage.node.config


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_have_as_many_weights_as_the_models(name: str) -> None:
    shape = SHAPES[name]
    config_class = {"qwen2": Qwen2Config, "qwen3": Qwen3Config}[shape.family]
    config = config_class(
        hidden_size=shape.hidden, intermediate_size=shape.feed_forward, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads, head_dim=shape.head_size,
        vocab_size=shape.vocabulary, tie_word_embeddings=shape.tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


def test_a_model_on_this_machine_is_read(tmp_path: Path) -> None:
    shape = shape_of("pear:affine_chain/base_1")
    assert shape is not None
    assert (shape.hidden, shape.layers, shape.weight_bytes, shape.tied) == (64, 2, 4, True)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert read_shape(tmp_path / "config.json") is None
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    assert read_shape(tmp_path / "config.json") is None


def test_memory_by_hand() -> None:
    shape = Shape(
        family="llama", hidden=8, feed_forward=16, layers=2, heads=2, key_value_heads=1, head_size=4, vocabulary=10,
        tied=True,
    )  # fmt: skip
    attention, feed_forward, norms = 8 * (8 + 8 + 4 + 4), 3 * 8 * 16, 2 * 8
    weights = 10 * 8 + 2 * (attention + feed_forward + norms) + 8
    assert shape.parameters == weights
    memory = training_memory(shape, tokens=6, checkpointing=False, references=1, processes=4, sharding="gradients")
    block = 13 * 8 + 5 * 16 + 5 * 16
    assert memory.parts == {
        "weights": 2 * weights,
        "gradients": 2 * weights / 4,
        "Adam": 4 * weights / 4,
        "reference": 2 * weights,
        "activations": 2 * 6 * 3 * block,
        "head": 4 * (80 + 4 * 60),
    }
    sampled = training_memory(shape, tokens=1, checkpointing=True, cached_tokens=10**6)
    assert sampled.parts["KV cache"] == 10**6 * 2 * 2 * 4 * 2
    assert "activations" not in sampled.parts


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["plain 4 256 4", "checkpointing 8 256 8", "plain 2 64 4"])
def test_the_estimate_is_within_a_factor_of_two_of_what_a_process_takes(setting: str) -> None:
    root = Path(__file__).resolve().parents[2]
    script = Path(__file__).with_name("measured_memory.py")
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "", "CUDA_VISIBLE_DEVICES": ""}
    told = subprocess.run(
        [sys.executable, str(script), *setting.split()], capture_output=True, text=True, check=True, env=environment
    )
    measured, estimated = map(float, told.stdout.split()[-2:])
    assert measured / 2 < estimated < measured * 2


@pytest.mark.parametrize("variant", ["colocate", "server"])
def test_the_grpo_recipes_are_arguments_of_trl(variant: str, tmp_path: Path) -> None:
    config = parse_studies(read_yaml(recipes_directory() / "grpo_vllm.yaml"), source="test")[variant]
    values = checked_arguments(GRPOConfig, config.rl["trainer"], source="rl.trainer")
    parsed = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **values)
    assert (parsed.use_vllm, parsed.vllm_mode) == (True, variant)
