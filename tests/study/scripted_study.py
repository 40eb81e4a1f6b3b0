"""The stages of a study as scripts: real run directories and no model, so that a whole study takes seconds.

`script.json` beside the study says what happens: `scores`, each arm's pass@1; `fail` and `hang`, names of runs. A run
is named by its stage, its arm, its base and the steps of RL: `sft nll base_0`, `grpo nll base_0 2`.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from pear.errors import UserError
from pear.runs import open_run, write_json
from pear.stages import STAGES as REAL

STAGES = {name: (__name__, config) for name, (_, config) in REAL.items()}
LINEAGE = "lineage.json"


def run(config: Any) -> Path:
    """Writes a run directory that knows where it comes from; an evaluation also its score."""
    stage = next(name for name, (_, known) in REAL.items() if known == type(config).__name__)
    study_dir = Path(config.output_dir).parents[1]
    script = json.loads((study_dir.parent / "script.json").read_text())
    lineage = _lineage(stage, config)
    name = " ".join(str(part) for part in (stage, *lineage.values()) if part is not None)
    if name in script.get("fail", ()):
        raise UserError(f"{name}: fails.")
    with open_run(stage, 1, config, config.output_dir) as opened:
        if opened.complete:
            return opened.output_dir
        with (study_dir.parent / "ran.txt").open("a") as file:
            file.write(f"{name}\n")
        if name in script.get("hang", ()):
            (study_dir.parent / "hangs").write_text(str(os.getpid()))
            time.sleep(60)
        write_json(opened.work / LINEAGE, lineage)
        for step in getattr(config, "checkpoint_steps", ()):
            (opened.work / f"checkpoint-{step}").mkdir()
            write_json(opened.work / f"checkpoint-{step}" / LINEAGE, {**lineage, "steps": step})
        results: dict[str, Any] = {}
        if stage == "evaluate":
            value = _score(script, lineage)
            results = {"pass@1": {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 8}}
            write_json(opened.work / "metrics.json", results)
        return opened.finish(results)


def _lineage(stage: str, config: Any) -> dict[str, Any]:
    """Which arm, which base and how many steps of RL."""
    if stage == "analyze":
        return {"analysis": config.analysis, **_of(config.after or config.before)}
    if stage == "collect":
        held_out = {item.split for item in config.problems} == {"dev"}
        return {"arm": None, "base": "calibration" if held_out else "buffer", "steps": None}
    found = _of(config.model)
    if stage == "sft":
        return {**found, "arm": "/".join([config.objective, *map(str, config.objective_kwargs.values())])}
    if stage == "grpo":
        return {**found, "steps": config.steps}
    return found


def _of(model: str) -> dict[str, Any]:
    path = Path(model) / LINEAGE
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return {"arm": None, "base": Path(model).name, "steps": None}


def _score(script: dict[str, Any], lineage: dict[str, Any]) -> float:
    value = script["scores"].get(lineage["arm"] or "direct", 0.0)
    return float(value) + 0.01 * (lineage["steps"] or 0)
