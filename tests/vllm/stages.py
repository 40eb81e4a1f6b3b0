"""Runs collect, score and evaluate with one engine in a process of its own: `python -m tests.vllm.stages ...`.

Arguments: a model, a directory for the runs, an engine, and its settings as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import psutil

from pear.stages import collect, evaluate, score

PROBLEMS = [{"task": "tiny/affine_chain", "level": "n8", "split": "sft", "size": 8}]
GREEDY = {"temperature": 0.0, "max_tokens": 24}
TEMPERED = {"temperature": 0.7, "top_p": 0.9, "top_k": 12, "max_tokens": 24, "samples": 2}


def run_all(model: str, folder: Path, engine: str, kwargs: dict[str, Any]) -> None:
    shared = {"model": model, "engine": engine, "engine_kwargs": kwargs, "device": "cpu"}
    for name, sampling in (("greedy", GREEDY), ("tempered", TEMPERED)):
        values = {**shared, "problems": PROBLEMS, "sampling": sampling, "output_dir": folder / name}
        collect.run(collect.CollectConfig.parse(values, source="collect"))
    values = {**shared, "inputs": [str(folder / "tempered")], "teacher_top_k": 5, "output_dir": folder / "scored"}
    score.run(score.ScoreConfig.parse(values, source="score"))
    values = {**shared, "problems": PROBLEMS, "samples": 1, "k": [1], **GREEDY, "output_dir": folder / "evaluated"}
    evaluate.run(evaluate.EvaluateConfig.parse(values, source="evaluate"))


if __name__ == "__main__":
    run_all(sys.argv[1], Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
    left = [process.name() for process in psutil.Process().children(recursive=True) if "VLLM" in process.name()]
    assert not left, f"still running: {left}"
