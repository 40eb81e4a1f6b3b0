"""A probe is the start of the whole run: the same prompts, the same draws, the same weights."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from pear.stages import grpo
from pear.study import StudyConfig
from pear.study.graph import Node
from pear.study.plan import make_plan
from tests.training.grpo_fixtures import PROBLEM_SET, save_solver


def log_of(run: Path) -> list[dict[str, Any]]:
    """What each step did; TRL's `epoch` is a share of the whole run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "epoch"} for line in lines]


def test_the_probes_model_is_the_whole_runs_model_at_that_step(tmp_path: Path) -> None:
    model = save_solver(tmp_path / "model", seed=0)
    rl = PROBLEM_SET.model_dump(exclude_none=True)
    values = {
        "name": "prefix",
        "base": model,
        "behavior": {"model": model},
        "tasks": {"sft": [{**rl, "split": "sft"}], "rl": [rl], "eval": [{**rl, "split": "eval", "size": 4}]},
        "arms": {"nll": {"objective": "nll"}, "pear_token": {"objective": "pear_token"}, "direct": None},
        # The prompts are shuffled anew on every pass: two steps of one pass, and one of the next.
        "rl": {
            "steps": 4, "prompts_per_step": 6, "group_size": 4, "micro_batch": 8, "max_completion_tokens": 20,
            "learning_rate": "1e-3",
        },
        "evaluate": {"at_rl_steps": [3]},
        "probe": {"share": 0.7},
    }  # fmt: skip
    plan = make_plan(StudyConfig.parse(values, source="test"), tmp_path / "study", probe=True)

    (probe,) = [node for node in plan.nodes if is_rl(node, "probe")]
    (whole,) = [node for node in plan.nodes if is_rl(node, "grpo")]
    assert (probe.config.steps, whole.config.steps, whole.config.checkpoint_steps) == (3, 4, [3])
    short, long = grpo.run(probe.config), grpo.run(whole.config)
    start, end, inside, last = (
        load_file(path / "model.safetensors") for path in (Path(model), short, long / "checkpoint-3", long)
    )
    assert all(end[name].equal(inside[name]) for name in inside)
    assert not all(end[name].equal(start[name]) for name in start)
    assert not all(end[name].equal(last[name]) for name in last)
    assert log_of(short) == log_of(long)[:3]


def is_rl(node: Node, role: str) -> bool:
    return node.stage == "grpo" and any(use.arm == "direct" and use.role == role for use in node.uses)
