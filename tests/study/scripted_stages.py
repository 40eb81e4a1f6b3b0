"""Small stages that do as they are told, on real run directories: the executor's tests run them."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.runs import open_run

NAME = "scripted"
VERSION = 1
STAGES = {NAME: (__name__, "ScriptedConfig")}

Behavior = Literal["write", "refuse", "raise", "die", "give_up", "hang", "count", "spawn"]


class ScriptedConfig(StrictModel):
    """What a scripted stage does.

    Args:
        output_dir: its run directory.
        behavior: write (a file and end), refuse (a UserError), raise (another error), die (by a signal), give_up (end
            without finishing), hang (until killed), count (steps of 0.1 s, resumable), spawn (hang, with a child).
        name: makes nodes differ.
        seconds: how long `write` takes.
        steps: how far `count` counts.
        inputs: directories that must be there.
        processes: how many slots it takes.
    """

    output_dir: Annotated[Path, NotHashed()]
    behavior: Behavior = "write"
    name: str = ""
    seconds: float = 0.0
    steps: int = 0
    inputs: Annotated[tuple[Path, ...], NotHashed()] = ()
    processes: int = 1


def run(config: ScriptedConfig) -> Path:
    """Does as it is told."""
    print(f"out {config.name}")
    print(f"err {config.name}", file=sys.stderr)
    if config.behavior == "refuse":
        raise UserError(f"{config.name}: refused,\nover two lines.")
    inputs = {str(index): path for index, path in enumerate(config.inputs)}
    assert all(path.is_dir() for path in config.inputs)
    with open_run(NAME, VERSION, config, config.output_dir, inputs=inputs) as opened:
        if opened.complete:
            return opened.output_dir
        (opened.work / "pid").write_text(str(os.getpid()))
        began = time.time()
        if config.behavior == "raise":
            raise ValueError(f"{config.name}: broken")
        if config.behavior == "die":
            os.kill(os.getpid(), 9)
        if config.behavior == "give_up":
            return opened.output_dir
        if config.behavior == "spawn":
            child = subprocess.Popen(["sleep", "60"])
            (opened.work / "child").write_text(str(child.pid))
        if config.behavior in ("hang", "spawn"):
            time.sleep(60)
        if config.behavior == "count":
            counted = opened.work / "counted"
            for step in range(len(counted.read_text()) if counted.exists() else 0, config.steps):
                time.sleep(0.1)
                with counted.open("a") as file:
                    file.write(".")
                opened.progress(step + 1, config.steps, "steps")
        time.sleep(config.seconds)
        facts = {
            "began": began,
            "ended": time.time(),
            "folder": str(Path.cwd()),
            "threads": os.environ["OMP_NUM_THREADS"],
            "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "telemetry": os.environ["HF_HUB_DISABLE_TELEMETRY"],
            "preloaded": sorted(name for name in sys.modules if name.startswith("trl.trainer")),
        }
        return opened.finish(facts)
