"""Finished runs of sft, grpo and evaluate, with real manifests and small made-up numbers instead of models."""

import json
import math
from pathlib import Path
from typing import Any

from pear.runs import file_digest, open_run, write_json
from pear.stages.analyze import AnalyzeConfig
from pear.stages.evaluate import EvaluateConfig
from pear.stages.grpo import GrpoConfig
from pear.stages.rescale import RescaleConfig
from pear.stages.sft import SftConfig
from pear.tasks.problems import task_versions
from tests.report.synthetic_analyses import write_analysis
from tests.report.synthetic_study import write_evaluation

RL = [{"task": "tiny/affine_chain", "level": "n8", "split": "rl", "size": 100}]
EVAL = [{"task": "tiny/affine_chain", "level": "n8", "split": "eval", "size": 60}]


class RunDirectories:
    """Makes runs under one directory, each from what it is given."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def base(self, name: str) -> Path:
        """A model directory of its own content."""
        path = self.root / "models" / name
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps({"name": name}))
        return path

    def buffer(self, name: str = "buffer") -> Path:
        """A buffer made elsewhere."""
        path = self.root / name
        path.mkdir(exist_ok=True)
        counts = {"rows": 100, "correct": 90, "wrong": 10, "tokens": 3000, "truncated": 0}
        sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
        record = {"behavior_model": name, "counts": counts, "sampling": sampling}
        (path / "buffer.json").write_text(json.dumps(record))
        return path

    def sft(self, name: str, model: Path, objective: str, seed: int, **config: Any) -> Path:
        """A run of SFT."""
        buffer = config.pop("buffer", None) or self.buffer()
        values = {"model": str(model), "buffer": str(buffer), "objective": objective, "seed": seed, **config}
        parsed = SftConfig.parse({**values, "output_dir": self.root / name}, source=name)
        inputs: dict[str, str | Path] = {"model": model, "buffer": buffer}
        with open_run("sft", 1, parsed, parsed.output_dir, inputs=inputs, parts={f"objective:{objective}": 1}) as run:
            lines = [{"step": step, "loss/nll": 1 / step, "weights/effective_sample_size": 0.8} for step in (1, 2)]
            (run.work / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            return run.finish({"update/norm": 2.0})

    def rescale(self, name: str, base: Path, model: Path, norm_of: Path) -> Path:
        """A model at the update norm of another one."""
        inputs: dict[str, str | Path] = {"base": base, "model": model, "norm_of": norm_of}
        values = {key: str(path) for key, path in inputs.items()}
        parsed = RescaleConfig.parse({**values, "output_dir": self.root / name}, source=name)
        with open_run("rescale", 1, parsed, parsed.output_dir, inputs=inputs) as run:
            return run.finish({"scale": 1.5, "update/norm": 3.0})

    def grpo(self, name: str, model: Path, seed: int, **config: Any) -> Path:
        """A run of RL with the model of step 20 beside its last, of step 60."""
        values = {"steps": 60, "max_completion_tokens": 64, "prompts_per_step": 16, "checkpoint_steps": [20], **config}
        values = {"problems": RL, **values, "model": str(model), "seed": seed, "output_dir": self.root / name}
        parsed = GrpoConfig.parse(values, source=name)
        parts = task_versions(parsed.problems)
        with open_run("grpo", 1, parsed, parsed.output_dir, inputs={"model": model}, parts=parts) as run:
            lines = [{"step": step, "rl/reward": 1 - math.exp(-step)} for step in (1, 2)]
            (run.work / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            for step in parsed.checkpoint_steps:
                (run.work / f"checkpoint-{step}").mkdir()
            return run.finish({"update/norm": 1.0})

    def evaluate(self, name: str, model: Path, share: float, **config: Any) -> Path:
        """An evaluation with this pass@1."""
        values = {"problems": EVAL, "samples": 8, "k": [1, 2], "max_tokens": 64, **config}
        parsed = EvaluateConfig.parse({**values, "model": str(model), "output_dir": self.root / name}, source=name)
        parts = task_versions(parsed.problems)
        with open_run("evaluate", 2, parsed, parsed.output_dir, inputs={"model": model}, parts=parts) as run:
            metrics = write_evaluation(run.work, share)
            metrics["decoding"] = parsed.samplings[0].model_dump(mode="json")
            write_json(run.work / "metrics.json", metrics)
            return run.finish({**metrics, "outcomes_sha256": file_digest(run.work / "outcomes.parquet")})

    def analyze(self, name: str, analysis: str, before: Path, after: Path, buffer: Path | None = None) -> Path:
        """An analysis of what training did."""
        inputs: dict[str, str | Path] = {"before": before, "after": after}
        if buffer is not None:
            inputs["buffer"] = buffer
        values = {"analysis": analysis, **{key: str(path) for key, path in inputs.items()}}
        parsed = AnalyzeConfig.parse({**values, "output_dir": self.root / name}, source=name)
        with open_run("analyze", 1, parsed, parsed.output_dir, inputs=inputs, parts={}) as run:
            return run.finish(write_analysis(run.work, analysis, name, 0, 0))

    def arm(self, objective: str, base: str, seed: int, shares: tuple[float, float], **config: Any) -> list[Path]:
        """SFT, RL and the evaluations after each, as one arm on one unit; RL's settings are in `rl`."""
        name = f"{objective}-{base}-{seed}" + config.pop("suffix", "")
        rl, evaluate = config.pop("rl", {}), config.pop("evaluate", {})
        sft = self.sft(f"sft-{name}", self.base(base), objective, seed, **config)
        grpo = self.grpo(f"grpo-{name}", sft, 100 + seed, **rl)
        return [
            self.evaluate(f"offline-{name}", sft, shares[0], **evaluate),
            self.evaluate(f"online-{name}", grpo, shares[1], **evaluate),
        ]
