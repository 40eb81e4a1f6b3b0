"""Command lines of small runs, and what came back from them."""

import json
from collections.abc import Callable
from pathlib import Path

from pear.engines.protocol import Sampling
from pear.stages import load_stage
from tests.killing import stage_values

N2 = {"task": "tiny/affine_chain", "level": "n2"}
PROBLEMS = "task=tiny/affine_chain,level=n2,split=rl,size=12"
# Words of a command line to the exit code and standard error.
Cli = Callable[..., tuple[int, str]]


def the_sentence(text: str) -> str:
    """The one line that is left of standard error without progress bars."""
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip() and "/s]" not in line]
    lines = [line for line in lines if "?it/s" not in line and "? examples/s" not in line]
    assert len(lines) == 1, text
    assert lines[0].startswith("pear: ")
    return lines[0]


def the_last(text: str) -> str:
    """The last line of standard error; training logs what it did before."""
    assert "Traceback" not in text
    return text.replace("\r", "\n").strip().splitlines()[-1]


def sft(folder: Path, *, model: Path | None = None, buffer: Path | None = None, trainer: str = "") -> list[str]:
    return [
        *("sft", "--model", str(model or folder / "model"), "--buffer", str(buffer or folder / "buffer")),
        *("--trainer", f"{{max_length: 64, max_steps: 2, {trainer}}}"),
    ]


def collect(model: Path, *words: str) -> list[str]:
    return ["collect", "--model", str(model), "--problems", PROBLEMS, "--sampling.max-tokens", "24", *words]


def score(folder: Path, *inputs: Path, model: Path | None = None) -> list[str]:
    return ["score", "--model", str(model or folder / "model"), "--inputs", *map(str, inputs)]


def calibrate(folder: Path, *words: str, model: Path | None = None, buffer: Path | None = None) -> list[str]:
    return ["calibrate", str(buffer or folder / "buffer"), "--model", str(model or folder / "model"), *words]


def grpo(model: Path, *words: str) -> list[str]:
    sizes = ["--steps", "1", "--prompts-per-step", "4", "--group-size", "2", "--max-completion-tokens", "8"]
    return ["grpo", "--model", str(model), "--problems", PROBLEMS, *sizes, *words]


def evaluate(model: Path, *words: str) -> list[str]:
    sizes = ["--samples", "2", "--k", "1", "--max-tokens", "8"]
    return ["evaluate", "--model", str(model), "--problems", PROBLEMS, *sizes, *words]


COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "collect": lambda folder, model: collect(model),
    "score": lambda folder, model: score(folder, folder / "buffer", model=model),
    "sft": lambda folder, model: sft(folder, model=model),
    "grpo": lambda folder, model: grpo(model),
    "evaluate": lambda folder, model: evaluate(model),
    "inspect": lambda folder, model: ["inspect", str(folder / "buffer"), "--model", str(model)],
}


def command_for(stage: str, folder: Path, output_dir: Path) -> list[str]:
    """The command line of the small run that `tests.killing` makes of a stage."""
    config_class, _ = load_stage(stage)
    values = config_class.parse({**stage_values(stage, folder), "output_dir": output_dir}, source="test")
    words = [stage]
    for name in values.model_fields_set:
        value = getattr(values, name)
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Sampling):
            inner = ((key, getattr(value, key)) for key in value.model_fields_set)
            words += [word for key, item in inner for word in (f"{flag}.{key}", str(item))]
        elif name == "problems":
            words += [flag, PROBLEMS]
        elif isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words
