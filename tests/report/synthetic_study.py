"""A study's directory with known numbers, in the files that the stages and `pear study` write."""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

PROBLEMS, SAMPLES = 60, 8
Value = Callable[[str | None, int, int | None], float]

# pass@1 by arm and RL step, and what each unit adds to it: base, nll, pear_token, pear_sequence.
_LEVELS: Mapping[tuple[str | None, int | None], float] = {
    (None, None): 0.20,
    ("nll", 0): 0.40, ("nll", 20): 0.70, ("nll", 60): 0.85,
    ("pear_token", 0): 0.42, ("pear_token", 20): 0.71, ("pear_token", 60): 0.852,
    ("pear_sequence", 0): 0.36, ("pear_sequence", 20): 0.76, ("pear_sequence", 60): 0.90,
    ("direct", 0): 0.20, ("direct", 20): 0.30, ("direct", 60): 0.45,
}  # fmt: skip
_UNIT_SHIFTS = (0.0, 0.05, -0.05, 0.02, -0.03)
_ARM_SHIFTS = {
    "pear_token": (0.01, -0.012, 0.004, -0.008, 0.006),
    "pear_sequence": (0.005, -0.01, 0.005, 0.002, -0.002),
}


def level(arm: str | None, unit: int, rl_step: int | None) -> float:
    """The default numbers: pear_sequence is clearly better after RL and worse after SFT, pear_token is undecided."""
    known = arm if (arm, rl_step) in _LEVELS else "pear_token"
    return _LEVELS[known, rl_step] + _UNIT_SHIFTS[unit] + _ARM_SHIFTS.get(str(known), (0.0,) * 5)[unit]


@dataclass(kw_only=True)
class SyntheticStudy:
    """What to write. `absent` holds ids of nodes that have not been run, `failed` of nodes that failed."""

    arms: Sequence[str] = ("nll", "pear_token", "pear_sequence")
    units: int = 3
    rl_steps: Sequence[int] = (20, 60)
    value: Value = level
    reference: str | None = None
    absent: Collection[str] = ()
    failed: Mapping[str, str] | None = None
    logged_steps: int = 60
    tasks: Sequence[str] = ("tiny/affine_chain",)
    temperature: float = 1.0

    def write(self, directory: Path) -> Path:
        """Writes the study and returns its directory."""
        directory.mkdir(parents=True, exist_ok=True)
        nodes = self._nodes()
        arms = {arm: None if arm == "direct" else {"objective": arm, "objective_kwargs": {}} for arm in self.arms}
        config = {"name": "synthetic", "arms": arms, "seeds": list(range(self.units)), "rl": {"steps": 60}}
        if self.reference is not None:
            config["reference"] = self.reference
        digests = {"rl": "a1" * 32, "evaluation": "b2" * 32, "buffer": "c3" * 32}
        plan = {"name": "synthetic", "config": config, "digests": digests, "nodes": nodes}
        _write_json(directory / "plan.json", plan)
        if self.failed:
            failures = {name: {"error": error, "log": f"logs/{name}.log"} for name, error in self.failed.items()}
            _write_json(directory / "failures.json", failures)
        for node in nodes:
            if node["id"] not in self.absent and node["id"] not in (self.failed or {}):
                self._write_run(directory / node["dir"], node)
        return directory

    def _nodes(self) -> list[dict[str, Any]]:
        nodes = [_node("collect-0", "collect", "collect", [], None, None, None)]
        for unit in range(self.units):
            nodes.append(_node(f"evaluate-base-{unit}", "evaluate", "eval", [], None, unit, None))
            for index, arm in enumerate(self.arms):
                name = f"{index}-{unit}"
                start = []
                if arm != "direct":
                    start = [f"sft-{name}"]
                    nodes.append(_node(f"sft-{name}", "sft", "sft", ["collect-0"], arm, unit, None))
                    nodes.append(_node(f"evaluate-{name}-0", "evaluate", "eval", start, arm, unit, 0))
                if self.rl_steps:
                    nodes.append(_node(f"grpo-{name}", "grpo", "grpo", start, arm, unit, None))
                nodes += [
                    _node(f"evaluate-{name}-{step}", "evaluate", "eval", [f"grpo-{name}"], arm, unit, step)
                    for step in self.rl_steps
                ]
        return nodes

    def _write_run(self, directory: Path, node: Mapping[str, Any]) -> None:
        directory.mkdir(parents=True)
        use = node["uses"][0]
        results: dict[str, Any] = {}
        config: dict[str, Any] = {"output_dir": str(directory)}
        inputs: dict[str, Any] = {}
        if node["stage"] == "collect":
            counts = {"rows": 1200, "correct": 1000, "wrong": 200, "tokens": 50000, "truncated": 3}
            sampling = {"temperature": self.temperature, "top_p": 1.0, "top_k": 0, "max_tokens": 64}
            record = {"behavior_model": "pear:affine_chain/behavior", "counts": counts, "sampling": sampling}
            _write_json(directory / "buffer.json", record)
        elif node["stage"] == "evaluate":
            results = self._write_evaluation(directory, self.value(use["arm"], use["seed"], use["rl_step"]))
        elif node["stage"] == "sft":
            _write_lines(directory / "metrics.jsonl", _sft_lines(use["arm"], use["seed"], self.logged_steps))
            results = {"update/norm": 2.5 if use["arm"] == "nll" else 2.0, "steps": self.logged_steps}
            config |= {"model": use["base"], "objective": use["arm"]}
            inputs = {"model": {"path": use["base"], "fingerprint": "sha256:" + "d4" * 32}}
        elif node["stage"] == "grpo":
            _write_lines(directory / "metrics.jsonl", _rl_lines(use["arm"], use["seed"], self.logged_steps))
            results = {"update/norm": 1.25, "kl_reference": "e5" * 32}
            config |= {"model": f"sft-{use['arm']}", "steps": 60, "seed": 100 + use["seed"]}
        environment = {"pear": "0.1.0", "python": "3.11.9", "libraries": {"torch": "2.13.0", "trl": "1.16.0"}}
        manifest = {
            "stage": node["stage"], "version": 1, "fingerprint": node["id"] * 3, "config": config, "inputs": inputs,
            "parts": {}, "results": results, "seconds": 12.5, "environment": environment,
        }  # fmt: skip
        _write_json(directory / "manifest.json", manifest)

    def _write_evaluation(self, directory: Path, value: float) -> dict[str, Any]:
        total = round(value * PROBLEMS * SAMPLES)
        # The same problems are hard in every evaluation, and pass@1 is exactly total / (problems x samples).
        order = numpy.random.default_rng(7).permutation(PROBLEMS * SAMPLES)
        correct = numpy.zeros(PROBLEMS * SAMPLES, dtype=bool)
        correct[order[:total]] = True
        correct = correct.reshape(PROBLEMS, SAMPLES)
        rows = [(problem, sample) for problem in range(PROBLEMS) for sample in range(SAMPLES)]
        task_of = [self.tasks[problem % len(self.tasks)] for problem in range(PROBLEMS)]
        table = {
            "problem_id": [f"p{problem}" for problem, _ in rows],
            "task": [task_of[problem] for problem, _ in rows],
            "sample": [sample for _, sample in rows],
            "correct": correct.flatten().tolist(),
        }
        pyarrow.parquet.write_table(pyarrow.table(table), directory / "outcomes.parquet")
        counts = correct.sum(axis=1)
        metrics: dict[str, Any] = {"num_problems": PROBLEMS, "num_samples": SAMPLES}
        for k in (1, 2, 8):
            per_problem = numpy.array([1 - math.comb(SAMPLES - c, k) / math.comb(SAMPLES, k) for c in counts])
            metrics[f"pass@{k}"] = _with_error(per_problem)
        by_task = {
            task: {"pass@1": _with_error(correct.mean(axis=1)[[name == task for name in task_of]])}
            for task in self.tasks
        }
        metrics |= {
            "avg@n": _with_error(correct.mean(axis=1)), "format": 0.96875, "truncated": 0.015625,
            "mean_tokens": 41.5, "decoding": {"temperature": 1.0}, "tasks": by_task,
        }  # fmt: skip
        _write_json(directory / "metrics.json", metrics)
        return metrics


def _node(
    name: str, stage: str, role: str, depends: list[str], arm: str | None, unit: int | None, step: int | None
) -> dict[str, Any]:
    use = {
        "arm": arm,
        "base": None if unit is None else f"pear:affine_chain/base_{unit}",
        "seed": unit,
        "role": role,
        "rl_step": step,
    }
    label = " ".join(str(part) for part in (stage, arm, f"unit {unit}", step) if part is not None)
    return {"id": name, "stage": stage, "dir": f"runs/{name}", "depends": depends, "label": label, "uses": [use]}


def _with_error(values: Any) -> dict[str, float]:
    mean, error = float(values.mean()), float(values.std() / math.sqrt(len(values)))
    return {"value": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error}


def _sft_lines(arm: str, unit: int, steps: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        done = step / steps
        line: dict[str, Any] = {"step": step, "loss": 1.5 - done, "loss/nll": 1.6 - done + 0.05 * unit, "epoch": done}
        plain = arm == "nll"
        line |= {
            "weights/mean": 1.0 if plain else 0.6 + 0.2 * done,
            "weights/effective_sample_size": 1.0 if plain else 0.7 + 0.1 * done - 0.02 * unit,
            "weights/effective_sample_size/between_trajectories": 1.0 if plain else 0.75 + 0.1 * done,
            "weights/log_weight/q05": 0.0 if plain else -2.5 + done,
            "weights/log_weight/q50": 0.0 if plain else -0.4 + 0.2 * done,
            "weights/log_weight/q95": 0.0 if plain else 0.3 + 0.1 * done,
        }
        if not plain:
            for index, name in enumerate(("log_ratio_low", "log_ratio_high", "log_weight_low", "log_weight_high")):
                line[f"weights/clipped/{name}"] = 0.18 / (index * 8 + 1) * (1 - 0.3 * done)
            line["weights/log_ratio/mean"] = -0.2 + 0.1 * done
        lines.append(line)
    lines.append({"step": steps, "train_loss": 1.0})
    return lines


def _rl_lines(arm: str, unit: int, steps: int) -> list[dict[str, Any]]:
    rate = {"nll": 18.0, "pear_token": 17.0, "pear_sequence": 11.0}.get(arm, 40.0)
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        reward = 0.95 - 0.55 * math.exp(-step / rate) - 0.03 * unit + 0.02 * math.sin(2.1 * step + unit)
        lines.append(
            {
                "step": step,
                "rl/reward": reward,
                "rl/groups_without_variance": min(1.0, max(0.0, reward - 0.3)),
                "rl/completion_length": 40 + 4 * math.exp(-step / rate) + unit,
                "rl/truncated": 0.02 * math.exp(-step / rate),
                "rl/entropy": 0.5 * math.exp(-step / 30) + 0.02 * unit,
                "rl/kl_to_start": 0.002 * step,
                "rl/generated_tokens": 5200 * step,
                "learning_rate": 5e-4,
            }
        )
    return lines


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
