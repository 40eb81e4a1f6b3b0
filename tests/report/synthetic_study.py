"""A study's directory with known numbers, in the files that the stages and `pear study` write."""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

from pear.runs import file_digest
from tests.report.synthetic_analyses import write_analysis, write_signal

PROBLEMS, SAMPLES = 60, 8
ANALYSES = ("weight_drift", "divergence", "token_weights", "gradient_rotation")
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


def many_arms(count: int) -> tuple[str, ...]:
    """Up to 24 arm names as a study has them: nll, direct, each objective, and sweeps of long names."""
    objectives = ("pear_token", "pear_sequence", "pear_block", "single_step", "dft", "talr", "asft", "iw_sft", "psft")
    sweeps = [f"pear_token[gamma={gamma},learning_rate={rate}]" for gamma in (0.9, 0.99, 0.999, 1.0)
              for rate in ("1e-05", "3e-05", "0.0001")]  # fmt: skip
    names = ("nll", "direct", *objectives, *sweeps, "chord")
    assert count <= len(names)
    return names[:count]


def quality(arm: str, what: str = "offline") -> float:
    """A number in [0, 1) that an arm's name decides."""
    return int(hashlib.sha256(f"{arm} {what}".encode()).hexdigest()[:8], 16) / 2**32


def spread_level(arm: str | None, unit: int, rl_step: int | None) -> float:
    """Numbers for any arm: SFT and RL agree in part, and units differ."""
    if arm is None or (arm == "direct" and rl_step == 0):
        return 0.20 + 0.03 * unit
    offline, online = quality(arm), quality(arm, "online")
    if arm == "direct":
        offline = 0.0
    gain = {0: 0.0, 20: 0.2, 60: 0.35}[rl_step or 0]
    noise = 0.02 * (quality(f"{arm} {unit} {rl_step}", "noise") - 0.5)
    return 0.30 + 0.15 * offline + gain * (1 + 0.3 * (0.5 * offline + 0.5 * online)) + 0.03 * unit + noise


@dataclass(kw_only=True)
class SyntheticStudy:
    """What to write.

    `absent` holds ids of nodes that have not been run, `failed` of nodes that failed. `dropped` arms were left behind
    by a probe after the first RL step. `levels` are drawn round robin within a task. With `rl_signal`, the models that
    RL starts from are sampled on RL's prompts.
    """

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
    levels: Sequence[str] = ("n8",)
    temperatures: Sequence[float] = (1.0,)
    analyses: Sequence[str] = ()
    rl_signal: bool = False
    dropped: Sequence[str] = ()

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
        if self.dropped:
            _write_json(directory / "probe.json", self._probe())
        for node in nodes:
            if node["id"] not in self.absent and node["id"] not in (self.failed or {}):
                self._write_run(directory / node["dir"], node)
        return directory

    def _nodes(self) -> list[dict[str, Any]]:
        nodes = [_node("collect-0", "collect", "collect", [], None, None, None)]
        if self.analyses:
            nodes.append(_node("collect-1", "collect", "calibration", [], None, None, None))
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
                steps = self.rl_steps[:1] if arm in self.dropped else self.rl_steps
                nodes += [
                    _node(f"evaluate-{name}-{step}", "evaluate", "eval", [f"grpo-{name}"], arm, unit, step)
                    for step in steps
                ]
                nodes += self._beside(arm, unit, name, start)
        return nodes

    def _beside(self, arm: str, unit: int, name: str, start: list[str]) -> list[dict[str, Any]]:
        """The nodes that no other waits for: the RL signal, and the analyses of the SFT checkpoint and of RL."""
        nodes = []
        if self.rl_signal:
            nodes.append(_node(f"evaluate-{name}-rl", "evaluate", "rl_signal", start, arm, unit, 0))
        nodes += [
            _node(f"analyze-{name}-{analysis}", "analyze", "analysis", start, arm, unit, 0, analysis)
            for analysis in (self.analyses if arm != "direct" else ())
        ]
        if "weight_drift" in self.analyses and self.rl_steps and arm not in self.dropped:
            last = self.rl_steps[-1]
            nodes.append(
                _node(f"analyze-{name}-rl", "analyze", "analysis", [f"grpo-{name}"], arm, unit, last, "weight_drift")
            )
        return nodes

    def _probe(self) -> dict[str, Any]:
        step = self.rl_steps[0]
        scores = {
            arm: {
                f"pear:affine_chain/base_{unit}, seed {unit}": self.value(arm, unit, step) for unit in range(self.units)
            }
            for arm in self.arms
        }
        means = {arm: sum(values.values()) / len(values) for arm, values in scores.items()}
        kept, dropped = [arm for arm in self.arms if arm not in self.dropped], list(self.dropped)
        rounds = [{"steps": step, "scores": means, "kept": kept, "dropped": dropped}]
        return {"steps": step, "share": 0.1, "keep": 0.5, "metric": "pass@1", "scores": means, "units": scores,
                "kept": kept, "dropped": dropped, "failed": {}, "rounds": rounds}  # fmt: skip

    def _write_run(self, directory: Path, node: Mapping[str, Any]) -> None:
        directory.mkdir(parents=True)
        use = node["uses"][0]
        results: dict[str, Any] = {}
        config: dict[str, Any] = {"output_dir": str(directory)}
        inputs: dict[str, Any] = {}
        if node["stage"] == "collect":
            counts = {"rows": 1200, "correct": 1000, "wrong": 200, "tokens": 50000, "truncated": 3}
            sampling = {"temperature": self.temperature, "top_p": 1.0, "top_k": 0, "max_tokens": 64}
            if use["role"] == "calibration":
                counts = {"rows": 269, "correct": 250, "wrong": 19, "tokens": 9000, "truncated": 0}
            record = {"behavior_model": "pear:affine_chain/behavior", "counts": counts, "sampling": sampling}
            _write_json(directory / "buffer.json", record)
        elif use["role"] == "analysis":
            results = write_analysis(directory, use["analysis"], use["arm"], use["seed"], use["rl_step"])
            config |= {"analysis": use["analysis"], "settings": {}}
        elif use["role"] == "rl_signal":
            share = (
                self.value(use["arm"], use["seed"], 0)
                if use["arm"] != "direct"
                else self.value(None, use["seed"], None)
            )
            write_signal(directory, share)
            config |= {"samples": 8}
        elif node["stage"] == "evaluate":
            value = self.value(use["arm"], use["seed"], use["rl_step"])
            results = write_evaluation(directory, value, self.tasks, self.levels, self.temperatures)
        elif node["stage"] == "sft":
            _write_lines(directory / "metrics.jsonl", _sft_lines(use["arm"], use["seed"], self.logged_steps))
            results = {"update/norm": 2.5 if use["arm"] == "nll" else 2.0, "steps": self.logged_steps}
            config |= {"model": use["base"], "objective": use["arm"]}
            inputs = {"model": {"path": use["base"], "fingerprint": "sha256:" + "d4" * 32}}
        elif node["stage"] == "grpo":
            _write_lines(directory / "metrics.jsonl", _rl_lines(use["arm"], use["seed"], self.logged_steps))
            results = {"update/norm": 1.25, "kl_reference": "e5" * 32}
            config |= {"model": f"sft-{use['arm']}", "steps": 60, "group_size": 8, "seed": 100 + use["seed"]}
        if (directory / "outcomes.parquet").is_file():
            results = {**results, "outcomes_sha256": file_digest(directory / "outcomes.parquet")}
        environment = {"pear": "0.1.0", "python": "3.11.9", "libraries": {"torch": "2.13.0", "trl": "1.16.0"}}
        manifest = {
            "stage": node["stage"], "version": 1, "fingerprint": node["id"] * 3, "config": config, "inputs": inputs,
            "parts": {}, "results": results, "seconds": 12.5, "environment": environment,
        }  # fmt: skip
        _write_json(directory / "manifest.json", manifest)


def write_evaluation(
    directory: Path,
    value: float,
    tasks: Sequence[str] = ("tiny/affine_chain",),
    levels: Sequence[str] = ("n8",),
    temperatures: Sequence[float] = (1.0,),
) -> dict[str, Any]:
    """An evaluation's files. The first temperature has this pass@1; every further one is two hundredths better."""
    columns: dict[str, list[Any]] = {}
    task_of = [tasks[problem % len(tasks)] for problem in range(PROBLEMS)]
    level_of = [levels[problem // len(tasks) % len(levels)] for problem in range(PROBLEMS)]
    by_temperature = {}
    for index, temperature in enumerate(temperatures):
        correct = _correct(value + 0.02 * index)
        for name, values in _columns(correct, task_of, level_of, temperature).items():
            columns.setdefault(name, []).extend(values)
        by_temperature[str(temperature)] = _metrics(correct, task_of, level_of, temperature)
    metrics: dict[str, Any] = dict(by_temperature[str(temperatures[0])])
    if len(temperatures) > 1:
        metrics["temperatures"] = by_temperature
    pyarrow.parquet.write_table(pyarrow.table(columns), directory / "outcomes.parquet")
    _write_json(directory / "metrics.json", metrics)
    return metrics


def _correct(value: float) -> Any:
    """(problem, sample). The same problems are hard in every evaluation, and the mean is a multiple of 1/480."""
    total = round(min(1.0, value) * PROBLEMS * SAMPLES)
    order = numpy.random.default_rng(7).permutation(PROBLEMS * SAMPLES)
    correct = numpy.zeros(PROBLEMS * SAMPLES, dtype=bool)
    correct[order[:total]] = True
    return correct.reshape(PROBLEMS, SAMPLES)


def _columns(correct: Any, task_of: Sequence[str], level_of: Sequence[str], temperature: float) -> dict[str, list[Any]]:
    rows = [(problem, sample) for problem in range(PROBLEMS) for sample in range(SAMPLES)]
    right = correct.flatten().tolist()
    return {
        "problem_id": [f"p{problem}" for problem, _ in rows],
        "task": [task_of[problem] for problem, _ in rows],
        "level": [level_of[problem] for problem, _ in rows],
        "sample": [sample for _, sample in rows],
        "correct": right,
        "well_formed": [True] * len(rows),
        "reason": ["" if found else "wrong" for found in right],
        "answer": ["42" if found else str(sample % 3) for found, (_, sample) in zip(right, rows, strict=True)],
        "finish": ["stop"] * len(rows),
        "num_tokens": [40 + sample % 4 for _, sample in rows],
        "completion": ["<answer>" + ("42" if found else "0") + "</answer>" for found in right],
        "temperature": [temperature] * len(rows),
        "accurate": right,
    }


def _metrics(correct: Any, task_of: Sequence[str], level_of: Sequence[str], temperature: float) -> dict[str, Any]:
    names = [f"{task} {level}" for task, level in zip(task_of, level_of, strict=True)]
    by_task = {task: _part(correct[[name == task for name in task_of]]) for task in dict.fromkeys(task_of)}
    by_level = {level: _part(correct[[name == level for name in names]]) for level in dict.fromkeys(names)}
    macro = {}
    for key in ("avg@n", "pass@1", "pass@2", "pass@8", "maj@n"):
        parts = [part[key] for part in by_task.values()]
        macro[key] = {end: sum(part[end] for part in parts) / len(parts) for end in ("value", "low", "high")}
        macro[key]["n"] = PROBLEMS
    decoding = {"temperature": temperature, "top_p": 1.0, "top_k": 0, "max_tokens": 64, "samples": SAMPLES, "seed": 0}
    return {**_part(correct), "macro": macro, "decoding": decoding, "tasks": by_task, "levels": by_level,
            "many_solutions": [task for task in by_task if task == "synlogic/survo"]}  # fmt: skip


def _part(correct: Any) -> dict[str, Any]:
    counts = correct.sum(axis=1)
    metrics: dict[str, Any] = {"num_problems": len(correct), "num_samples": SAMPLES}
    for k in (1, 2, 8):
        per_problem = numpy.array([1 - math.comb(SAMPLES - c, k) / math.comb(SAMPLES, k) for c in counts])
        metrics[f"pass@{k}"] = _with_error(per_problem)
    majority = numpy.where(counts * 2 > SAMPLES, 1.0, numpy.where(counts * 2 == SAMPLES, 0.5, 0.0))
    return metrics | {
        "avg@n": _with_error(correct.mean(axis=1)), "maj@n": _with_error(majority), "format": 0.96875,
        "accuracy": float(correct.mean()) + 0.01, "truncated": 0.015625, "unparsable": 0.02, "mean_tokens": 41.5,
    }  # fmt: skip


def _node(
    name: str,
    stage: str,
    role: str,
    depends: list[str],
    arm: str | None,
    unit: int | None,
    step: int | None,
    analysis: str | None = None,
) -> dict[str, Any]:
    use = {
        "arm": arm,
        "base": None if unit is None else f"pear:affine_chain/base_{unit}",
        "seed": unit,
        "role": role,
        "rl_step": step,
    }
    if analysis is not None:
        use["analysis"] = analysis
    label = " ".join(str(part) for part in (stage, analysis, arm, f"unit {unit}", step) if part is not None)
    return {"id": name, "stage": stage, "dir": f"runs/{name}", "depends": depends, "label": label, "uses": [use]}


def _with_error(values: Any) -> dict[str, float]:
    mean, error = float(values.mean()), float(values.std() / math.sqrt(len(values)))
    return {"value": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error, "n": len(values)}


def _sft_lines(arm: str, unit: int, steps: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        done = step / steps
        line: dict[str, Any] = {"step": step, "loss": 1.5 - done, "loss/nll": 1.6 - done + 0.05 * unit, "epoch": done}
        plain = arm == "nll"
        line |= {
            "weights/mean": 1.0 if plain else 0.6 + 0.2 * done,
            "weights/effective_sample_size": 1.0 if plain else 0.7 + 0.1 * done - 0.02 * unit,
            "weights/trajectory_effective_sample_size": 1.0 if plain else 0.75 + 0.1 * done,
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
