"""Kills runs of real stages at random moments and compares what comes of them with unbroken runs, byte for byte.

`python -m tests.killing FOLDER STAGE=KILLS ...` in a process of its own: it imports TRL once and forks, so that a run
starts within a fraction of a second, and nothing else (threads, CUDA) is in the forked processes. `study` is the real
command. Every kill is SIGKILL to the whole process group. Moments are drawn in turn from the seconds that an unbroken
run takes, and from the times that it opens, renames or removes a file; one when the run was over is drawn again.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pear.runs import MANIFEST, partial_path, write_json
from pear.tasks.problems import ProblemSet

# A small run to its stage. `inspect` is the command: what it measures, and the page.
INSPECT = "inspect"
RUNS = {
    **{stage: stage for stage in ("pretrain", "collect", "score", "sft", "grpo", "evaluate", "rescale", INSPECT)},
    "lora": "sft",
    "estimate": "score",
    **dict.fromkeys(("weight_drift", "divergence", "token_weights", "gradient_rotation"), "analyze"),
}
STUDY = "study"
_SEED = 4
_PATIENCE = 300.0
_KILLS_OF_A_RUN = 3
_FILE_EVENTS = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"})
_N2 = {"task": "tiny/affine_chain", "level": "n2"}
_PROBLEMS = ProblemSet(**_N2, split="rl", size=12).model_dump(exclude_none=True)
_TRAINER = {
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "max_length": 64,
    "max_steps": 12,
    "save_steps": 3,
    "logging_steps": 1,
}
_RL = {"steps": 5, "prompts_per_step": 4, "group_size": 4, "micro_batch": 16, "max_completion_tokens": 20}


def stage_values(run: str, folder: Path) -> dict[str, Any]:
    """The configuration of a small run with several shards or checkpoints, without `output_dir`."""
    model, after, buffer = (str(folder / name) for name in ("model", "after", "buffer"))
    compared = {"before": model, "after": after, "device": "cpu"}
    pilots = {"steps": 2, "sft": {"per_device_train_batch_size": 4}, "rl": {**_RL, "problems": [_PROBLEMS]}}
    return {
        "pretrain": {"problems": [_PROBLEMS], "hidden_size": 16, "num_layers": 1, "num_heads": 2, "trainer": _TRAINER},
        "collect": {
            "model": model,
            "problems": [_PROBLEMS],
            "sampling": {"samples": 6, "max_tokens": 24},
            "shard_problems": 2,
        },
        "score": {"model": model, "inputs": [buffer], "shard_rows": 8},
        "estimate": {
            "model": model,
            "inputs": [buffer],
            "shard_rows": 8,
            "behavior": "estimate",
            "folds": 2,
            "fit": {**_TRAINER, "max_steps": 4, "save_steps": 1},
        },
        "sft": {"model": model, "buffer": buffer, "trainer": _TRAINER},
        "lora": {"model": model, "buffer": buffer, "trainer": _TRAINER, "lora": {}},
        "grpo": {
            "model": model,
            "problems": [_PROBLEMS],
            **_RL,
            "learning_rate": 1e-3,
            "checkpoint_steps": [2, 5],
            "save_every": 1,
        },
        "evaluate": {
            "model": model,
            "problems": [_PROBLEMS],
            "samples": 6,
            "k": [3],
            "max_tokens": 20,
            "shard_problems": 2,
            "temperature": [1.0, 0.5],
        },
        "rescale": {"base": model, "model": after, "norm_of": str(folder / "further")},
        INSPECT: {"model": model, "buffer": buffer, "device": "cpu"},
        "weight_drift": {**compared, "analysis": "weight_drift"},
        "divergence": {**compared, "analysis": "divergence", "buffer": buffer},
        "token_weights": {**compared, "analysis": "token_weights", "buffer": buffer, "settings": {"resamples": 20}},
        "gradient_rotation": {
            "analysis": "gradient_rotation",
            "before": model,
            "buffer": buffer,
            "settings": pilots,
            "device": "cpu",
        },
    }[run]


def study_values(folder: Path) -> dict[str, Any]:
    """A study of three arms whose stages take about a second each."""
    return {
        "name": "killed",
        "base": str(folder / "model"),
        "behavior": {"model": str(folder / "model"), "sampling": {"max_tokens": 24, "samples": 6}},
        "tasks": {name: [{**_N2, "split": name, "size": 12}] for name in ("sft", "rl", "eval")},
        "arms": {
            "nll": {"objective": "nll"},
            "pear_token": {"objective": "pear_token"},
            "nll_matched": {"objective": "nll", "match_update_norm": "pear_token"},
        },
        "seeds": [3],
        "sft": {"trainer": _TRAINER},
        "rl": {**_RL, "steps": 2, "save_every": 1},
        "evaluate": {"samples": 2, "k": [1], "max_tokens": 20},
    }


def run_stage(run: str, folder: Path, output_dir: Path) -> None:
    """One call of a stage, as a study makes it, or of `pear inspect`."""
    from pear.stages import load_stage

    values = {**stage_values(run, folder), "output_dir": output_dir}
    if run == INSPECT:
        from pear.report.inspection import write_weight_page
        from pear.stages import inspect

        write_weight_page(inspect.run(inspect.InspectConfig.parse(values, source="test")))
        return
    config_class, stage = load_stage(RUNS[run])
    stage(config_class.parse(values, source="test"))


def forked(work: Callable[[], None], log: Path) -> int:
    """Runs `work` in a forked process of its own group, with its output in `log`; the process' id."""
    process = os.fork()
    if process:
        return process
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def count_file_events(directories: Sequence[Path], stop_at: int | None = None) -> list[str]:
    """Collects what this process does to files in some directories; kills its group just before the n-th of it."""
    prefixes = tuple(str(directory) for directory in directories)
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FILE_EVENTS and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(prefixes):
            seen.append(f"{event} {Path(arguments[0]).name}")
            if len(seen) == stop_at:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def contents(directory: Path, folder: Path) -> dict[str, bytes | dict[str, Any]]:
    """What must be equal: every file of the finished runs in a directory, manifests without their times."""
    found: dict[str, bytes | dict[str, Any]] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_dir() or path.name == ".lock":
            continue
        if path.name == MANIFEST:
            text = path.read_text().replace(str(directory), "RUN").replace(str(folder), "FOLDER")
            found[name] = {
                key: value for key, value in json.loads(text).items() if key not in ("seconds", "environment")
            }
        else:
            found[name] = path.read_bytes()
    return found


class Killer:
    """Draws moments, kills, and says where it hit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.draw = random.Random(_SEED)
        self.log: list[dict[str, Any]] = []

    def stage(self, stage: str, kills: int) -> None:
        """Kills a stage so often; its runs must end like an unbroken one."""
        whole = self.folder / f"{stage}-unbroken"
        began = time.monotonic()
        assert _end(self._start(stage, whole)) == 0, self._text(stage)
        seconds = time.monotonic() - began
        events = len((self.folder / f"{stage}-unbroken.events").read_text().splitlines())
        number = left = 0
        output_dir = whole
        while kills:
            if not left:
                output_dir, left, number = self.folder / f"{stage}-killed-{number}", _KILLS_OF_A_RUN, number + 1
            by_time = kills % 2 == 0
            moment = self.draw.uniform(seconds / 4, seconds) if by_time else self.draw.randint(1, events)
            began = time.time()
            if by_time:
                process = self._start(stage, output_dir)
                time.sleep(moment)
                hit = _kill(process)
            else:
                hit = os.WIFSIGNALED(os.waitpid(self._start(stage, output_dir, stop_at=int(moment)), 0)[1])
            if hit:
                text = f"{moment:.2f} s" if by_time else f"file event {moment}"
                self._note(stage, text, [output_dir, partial_path(output_dir)], began)
                kills, left = kills - 1, left - 1
            else:
                left = 0
            if not kills or not left:
                assert _end(self._start(stage, output_dir)) == 0, self._text(stage)
                self._compare(stage, output_dir, whole)

    def study(self, kills: int) -> None:
        """The same for the whole `pear study` command."""
        import yaml

        recipe = self.folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(study_values(self.folder)))
        whole = self.folder / "study-unbroken"
        process, began = self._start_study(recipe, whole)
        assert process.wait(_PATIENCE) == 0, self._text(STUDY)
        seconds = time.monotonic() - began
        number = 0
        while kills:
            output_dir, number, hit = self.folder / f"study-killed-{number}", number + 1, True
            while kills and hit:
                process, _ = self._start_study(recipe, output_dir)
                # What is left of the work gets less with every kill.
                moment, opened = self.draw.uniform(seconds / 10, seconds / 2), time.time()
                time.sleep(moment)
                hit = process.poll() is None
                if hit:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    kills -= 1
                    self._note(STUDY, f"{moment:.2f} s", sorted(output_dir.glob("runs/*")), opened)
            process, _ = self._start_study(recipe, output_dir)
            assert process.wait(_PATIENCE) == 0, self._text(STUDY)
            assert (output_dir / "report.html").is_file()
            self._compare(STUDY, output_dir / "runs", whole / "runs")

    def _start_study(self, recipe: Path, output_dir: Path) -> tuple["subprocess.Popen[bytes]", float]:
        """Starts the command and waits until it has begun to write."""
        command = [sys.executable, "-m", "pear", "study", str(recipe), "--output-dir", str(output_dir)]
        with (self.folder / f"{STUDY}.log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        lock = output_dir / ".lock"
        before = lock.stat().st_mtime_ns if lock.is_file() else 0
        end = time.monotonic() + _PATIENCE
        while process.poll() is None and time.monotonic() < end:
            if lock.is_file() and lock.stat().st_mtime_ns != before:
                break
            time.sleep(0.02)
        return process, time.monotonic()

    def _start(self, stage: str, output_dir: Path, stop_at: int | None = None) -> int:
        def work() -> None:
            events = count_file_events([output_dir], stop_at)
            run_stage(stage, self.folder, output_dir)
            (self.folder / f"{output_dir.name}.events").write_text("\n".join(events))

        return forked(work, self.folder / f"{stage}.log")

    def _note(self, stage: str, moment: str, directories: Sequence[Path], began: float) -> None:
        """Records a kill, and whether a run had been opened by then: what comes before writes nothing."""
        locks = [path / ".lock" for path in directories if (path / ".lock").is_file()]
        at_work = any(lock.stat().st_mtime >= began for lock in locks)
        left = sum(path.is_file() for directory in directories for path in directory.rglob("*"))
        self.log.append({"stage": stage, "moment": moment, "at_work": at_work, "files": left})
        print(f"{stage} killed at {moment}, {'at work' if at_work else 'before'}: {left} files", flush=True)

    def _compare(self, stage: str, directory: Path, whole: Path) -> None:
        killed, unbroken = contents(directory, self.folder), contents(whole, self.folder)
        different = [name for name in killed.keys() | unbroken.keys() if killed.get(name) != unbroken.get(name)]
        assert not different, f"{stage}: {different} of {directory} are not as in {whole}"

    def _text(self, stage: str) -> str:
        return (self.folder / f"{stage}.log").read_text()[-4000:]


def _kill(process: int) -> bool:
    """Kills a process group; whether its first process was alive."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(process, signal.SIGKILL)  # it has not come to be a group of its own
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def _end(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def prepare(folder: Path) -> None:
    """A model, two whose weights moved from there, and a buffer."""
    import torch
    from safetensors.torch import load_file, save_file

    from tests.training.grpo_fixtures import save_solver

    save_solver(folder / "model", seed=0)
    draw = torch.Generator().manual_seed(_SEED)
    for name, size in (("after", 1e-2), ("further", 2e-2)):
        shutil.copytree(folder / "model", folder / name)
        weights = load_file(folder / "model" / "model.safetensors")
        moved = {key: value + size * torch.randn(value.shape, generator=draw) for key, value in weights.items()}
        save_file(moved, folder / name / "model.safetensors", metadata={"format": "pt"})
    run_stage("collect", folder, folder / "buffer")


def main() -> None:
    """Kills the stages named on the command line and writes where it hit to `kills.json`."""
    folder = Path(sys.argv[1])
    wanted = {stage: int(kills) for stage, _, kills in (word.partition("=") for word in sys.argv[2:])}
    # Loaded once, for all forks; nothing is computed in this process.
    import peft  # noqa: F401
    import scipy.stats  # noqa: F401
    import trl.trainer.grpo_trainer
    import trl.trainer.sft_trainer  # noqa: F401

    import pear.data.buffer
    import pear.engines.transformers_engine
    import pear.report.inspection
    import pear.training.grpo
    import pear.training.sft_trainer  # noqa: F401

    killer = Killer(folder)
    assert _end(forked(lambda: prepare(folder), folder / "prepare.log")) == 0
    for stage, kills in wanted.items():
        if stage == STUDY:
            killer.study(kills)
        else:
            killer.stage(stage, kills)
    write_json(folder / "kills.json", killer.log)


if __name__ == "__main__":
    main()
