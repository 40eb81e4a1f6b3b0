"""The `pear` command: tyro over the stages and the study. It adds nothing that Python cannot do."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml
from pydantic import ValidationError

import pear
from pear.configuration import StrictModel, read_yaml, sentences, with_override
from pear.doctor import doctor
from pear.errors import UserError
from pear.models import resolve_recipe
from pear.runs import note
from pear.stages import STAGES, load_stage
from pear.tasks.problems import ProblemSet

_INTERRUPTED = 130
_HELP = {
    "pretrain": "Train a tiny model from scratch on a task's solver traces.",
    "collect": "Sample a behavior model on tasks, verify, and write an offline buffer with log-probs.",
    "score": "Add behavior log-probs to trajectories from elsewhere.",
    "sft": "Train a model on a buffer with an SFT objective.",
    "grpo": "Train a model by GRPO with the tasks' verifiers as reward.",
    "evaluate": "Sample a model on held-out problems: avg@n and pass@k with intervals.",
}


def study(
    recipe: tyro.conf.Positional[Path],
    output_dir: Path | None = None,
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
) -> int:
    """Run a study: base models x arms x seeds, one RL budget, and a report.

    Args:
        recipe: the study's YAML file, or a shipped one such as recipes/demo.yaml.
        output_dir: where it goes; `studies/NAME` by default.
        set: override one key, such as `--set rl.steps=10`; repeatable.
    """
    from pear.study import StudyConfig, run_study

    path = resolve_recipe(recipe)
    values = read_yaml(path)
    for assignment in set:
        values = with_override(values, assignment)
    config = StudyConfig.parse(values, source=str(path))
    return run_study(config, output_dir or Path("studies") / config.name).exit_code


def report(study_dir: tyro.conf.Positional[Path]) -> int:
    """Write a study's report again from its files.

    Args:
        study_dir: the directory that `pear study` wrote.
    """
    from pear.report import write_report

    print(write_report(study_dir))
    return 0


def _problem_set(text: str) -> ProblemSet:
    pairs = [part.partition("=") for part in text.split(",")]
    return ProblemSet.parse({key: value for key, _, value in pairs}, source=f"--problems {text}")


def _mapping(text: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"'{text}' is not valid YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(values, dict):
        raise UserError(f"'{text}': expected a YAML mapping such as '{{learning_rate: 1e-5}}'.")
    return values


def _registry() -> tyro.constructors.ConstructorRegistry:
    """How a problem set (`task=tiny/affine_chain,split=sft,size=100`) and a mapping (YAML) are written as one word."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def problem_set(info: Any) -> Any:
        if info.type is not ProblemSet:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="task=NAME,split=SPLIT,size=N",
            instance_from_str=lambda words: _problem_set(words[0]),
            is_instance=lambda value: isinstance(value, ProblemSet),
            str_from_instance=lambda value: [
                ",".join(f"{key}={item}" for key, item in value.model_dump(mode="json", exclude_defaults=True).items())
            ],
        )

    @registry.primitive_rule
    def mapping(info: Any) -> Any:
        if getattr(info.type, "__origin__", None) is not dict:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="{KEY: VALUE}",
            instance_from_str=lambda words: _mapping(words[0]),
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda value: [json.dumps(value)],
        )

    return registry


def _stage_command(name: str) -> Callable[..., int]:
    config_class, run = load_stage(name)

    def command(config: StrictModel) -> int:
        print(run(config))
        return 0

    command.__annotations__ = {"config": Annotated[config_class, tyro.conf.arg(name="")], "return": int}
    command.__doc__ = _HELP[name]
    return command


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 something failed, 2 a mistake in what was given, 130 interrupted."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if sys.argv[1:] == ["--version"]:
        print(f"pear {pear.__version__}")
        return
    commands: dict[str, Callable[..., Any]] = {
        "doctor": doctor,
        "study": study,
        **{name: _stage_command(name) for name in STAGES},
        "report": report,
    }
    try:
        code = tyro.extras.subcommand_cli_from_dict(
            commands, prog="pear", description=pear.__doc__, registry=_registry()
        )
    except ValidationError as error:
        note(f"pear: {sentences(error)}")
        sys.exit(2)
    except UserError as error:
        note(f"pear: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        note("pear: interrupted. The same command goes on from here.")
        sys.exit(_INTERRUPTED)
    sys.exit(code)
