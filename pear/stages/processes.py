"""Training on several processes of this machine: the same stage in each, started by `accelerate launch`.

`python -m pear.stages.processes` is what every process runs. The process that starts them holds a lock, which the
system frees when that process is gone, however it went; a thread of each waits for it and then ends its process. So
nothing outlives the command, and Ctrl-C, which reaches the command alone, ends them all.
"""

import fcntl
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationInfo

from pear.configuration import StrictModel, read_yaml
from pear.errors import UserError, missing_extra, unknown_name, writing_to
from pear.runs import file_digest

# Data parallel on CPUs. TRL ships nothing for it, and without a file `accelerate` would read the user's own default.
# As MULTI_CPU it starts one process and leaves the others to MPI; as MULTI_GPU with `use_cpu`, all of them, on gloo.
_ON_CPUS = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "MULTI_GPU",
    "gpu_ids": "all",
    "machine_rank": 0,
    "main_training_function": "main",
    "mixed_precision": "no",
    "num_machines": 1,
    "use_cpu": True,
}
_ON_GPUS = "multi_gpu"
# The fields of a stage's configuration that `hashed_processes` hashes.
PROCESS_FIELDS = ("processes", "accelerate_config")
_CONFIG, _STARTER, _ALIVE, _FAILURE = "config.json", "starter.lock", "alive.lock", "failure-{rank}.json"
_POLL_SECONDS = 0.1
_OTHERS_SECONDS = 0.3


@functools.cache
def accelerate_configs() -> dict[str, Path]:
    """TRL's `accelerate` configurations by name, such as fsdp2, multi_gpu and zero2; found without importing TRL."""
    found = importlib.util.find_spec("trl")
    assert found is not None
    assert found.origin is not None
    files = sorted((Path(found.origin).parent / "accelerate_configs").glob("*.yaml"))
    return {file.stem: file for file in files if file.stem != "single_gpu"}


def check_accelerate_config(value: str | None, info: ValidationInfo) -> str | None:
    """A pydantic validator: a name in `accelerate_configs`, or a file, where there are several `processes`."""
    if value is None:
        return None
    if info.data.get("processes") == 1:
        raise ValueError("is about training on several processes; set `processes`, or leave it out")
    if value not in accelerate_configs() and not Path(value).is_file():
        raise ValueError(f"{unknown_name('accelerate configuration', value, accelerate_configs())} Or name a file")
    return value


def hashed_processes(processes: int, accelerate_config: str | None) -> dict[str, Any]:
    """What of this decides a result: nothing with one process, as before there was a choice; a file by its bytes."""
    if processes == 1:
        return {}
    if accelerate_config is None or accelerate_config in accelerate_configs():
        return {"processes": processes, "accelerate_config": accelerate_config}
    return {"processes": processes, "accelerate_config": f"sha256:{file_digest(Path(accelerate_config))}"}


def must_start(processes: int) -> bool:
    """Whether this process starts others that train, rather than training itself.

    Raises:
        UserError: this process is itself one of another number than `processes`.
    """
    if "RANK" not in os.environ:
        return processes > 1
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if processes not in (1, started):
        raise UserError(
            f"processes: {processes}, and this command is one of {started} that a launcher has started. Leave the key "
            "out, or the launcher."
        )
    return False


def run_on_processes(stage: str, config: StrictModel, *, processes: int, accelerate_config: str | None) -> None:
    """Runs a stage on `processes` processes of this machine and waits for them.

    Args:
        stage: a name in `STAGES`.
        config: its configuration, which every process gets.
        processes: how many, at least 2: one GPU each, or the CPU's cores where there is no GPU.
        accelerate_config: a name in `accelerate_configs`, or a file; by default data parallel (DDP).

    Raises:
        UserError: the machine or the configuration cannot do it, or what the stage raises.
        RuntimeError: a process failed otherwise; its traceback is on standard error.
    """
    use_cpu = _uses_cpu(config, processes)
    values = _launch_values(accelerate_config, use_cpu=use_cpu)
    folder = Path(tempfile.mkdtemp(prefix="pear-"))
    try:
        (folder / _CONFIG).write_text(json.dumps({"stage": stage, "config": config.model_dump(mode="json")}))
        file = folder / "accelerate.yaml"
        file.write_text(yaml.safe_dump({**values, "num_processes": processes}))
        with (folder / _STARTER).open("w") as starter, (folder / _ALIVE).open("w") as alive:
            fcntl.flock(starter, fcntl.LOCK_EX)
            launcher = subprocess.Popen(launch_command(file, folder), start_new_session=True)
            try:
                status = _wait(launcher, folder)
                failures = [json.loads(path.read_text()) for path in _failures(folder)]
            finally:
                fcntl.flock(starter, fcntl.LOCK_UN)
                if launcher.poll() is None:
                    os.killpg(launcher.pid, signal.SIGKILL)
                    launcher.wait()
                # The processes are ending themselves; what they held of the run's directory must be free.
                fcntl.flock(alive, fcntl.LOCK_EX)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if failures:
        # A mistake of the user first: the others may have failed for want of the process that found it.
        failure = min(failures, key=lambda found: not found["user"])
        raise UserError(failure["text"]) if failure["user"] else RuntimeError(f"{stage}: {failure['text']}")
    if status:
        raise RuntimeError(f"{stage}: a training process was ended, for want of memory perhaps (see the output above).")


def launch_command(file: Path, folder: Path) -> list[str]:
    """The command line that starts the processes of a stage whose configuration lies in `folder`."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)),
        *("--main_process_port", "0", "--num_cpu_threads_per_process", threads),
        *("-m", "pear.stages.processes", str(folder)),
    ]


def _uses_cpu(config: StrictModel, processes: int) -> bool:
    """Whether the processes train on the CPU. Raises `UserError` where there are GPUs, but too few."""
    trainer = getattr(config, "trainer", {})
    if trainer.get("use_cpu"):
        return True
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise UserError(
            f"processes: {processes} need a GPU each, and {gpus} can be seen here (CUDA_VISIBLE_DEVICES). Ask for "
            f"{gpus} or fewer, or set trainer.use_cpu."
        )
    return gpus == 0


def _launch_values(accelerate_config: str | None, *, use_cpu: bool) -> dict[str, Any]:
    """The content of the `accelerate` configuration that is used."""
    if use_cpu:
        if accelerate_config is not None:
            raise UserError(
                f"accelerate_config: {accelerate_config} is for GPUs, and this trains on the CPU. Leave it out."
            )
        return _ON_CPUS
    name = accelerate_config or _ON_GPUS
    values = read_yaml(accelerate_configs().get(name, Path(name)))
    kind = str(values.get("distributed_type", "NO"))
    if int(values.get("num_machines", 1)) > 1:
        raise UserError(
            f"accelerate_config: {name} is for {values['num_machines']} machines. Leave `processes` out and start "
            f"`accelerate launch --config_file {name} -m pear ...` on each of them."
        )
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        raise missing_extra("DeepSpeed (`accelerate_config`)", "deepspeed")
    return values


def _wait(launcher: "subprocess.Popen[bytes]", folder: Path) -> int | None:
    """Waits for the end of the launcher, or for the first process that says why it failed; then the status is None."""
    while (status := launcher.poll()) is None:
        if _failures(folder):
            # The others fail for the same reason, or wait for this one.
            time.sleep(_OTHERS_SECONDS)
            return None
        time.sleep(_POLL_SECONDS)
    return status


def _failures(folder: Path) -> list[Path]:
    return sorted(folder.glob(_FAILURE.format(rank="*")))


def _die_with_starter(folder: Path) -> None:
    """Ends this process and its children as soon as the process that started the training is gone, or lets go."""
    starter = (folder / _STARTER).open("r")

    def watch() -> None:
        fcntl.flock(starter, fcntl.LOCK_SH)
        shutil.rmtree(folder, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="watch the command", daemon=True).start()


def main() -> None:
    """One process of a training: runs the stage, and says why where it fails."""
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    alive = (folder / _ALIVE).open("a")
    fcntl.flock(alive, fcntl.LOCK_SH)
    _die_with_starter(folder)
    given = json.loads((folder / _CONFIG).read_text())
    from pear.stages import load_stage

    config_class, run = load_stage(given["stage"])
    try:
        with writing_to("the output"):
            run(config_class.parse(given["config"], source=given["stage"]))
    except BaseException as error:
        user = isinstance(error, UserError)
        if not user:
            traceback.print_exc()
        text = str(error) if user else "".join(traceback.format_exception_only(error)).strip()
        _tell(folder, rank, {"user": user, "text": text})
        # An exit would have the launcher print its own account, and end the others while they are writing theirs.
        threading.Event().wait()
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _tell(folder: Path, rank: str, failure: dict[str, Any]) -> None:
    path = folder / _FAILURE.format(rank=rank)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(failure))
    temporary.rename(path)


if __name__ == "__main__":
    main()
