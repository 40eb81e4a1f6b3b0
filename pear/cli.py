"""The `pear` command: tyro over the stages and the study. It adds nothing that Python cannot do."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro
import yaml
from pydantic import ValidationError

import pear
from pear.configuration import StrictModel, read_yaml, sentences, with_override
from pear.doctor import doctor
from pear.errors import UserError, unknown_name, writing_to
from pear.models import resolve_recipe
from pear.runs import note, read_manifest
from pear.stages import STAGES, load_stage
from pear.tasks.problems import ProblemSet

_INTERRUPTED = 130
_HELP = {
    "pretrain": "Train a tiny model from scratch on a task's solver traces.",
    "collect": "Sample a behavior model on tasks, verify, and write an offline buffer with log-probs.",
    "score": "Add behavior log-probs to trajectories from elsewhere.",
    "sft": "Train a model on a buffer with an SFT objective.",
    "rescale": "Scale a model's update to the norm of another model's update.",
    "grpo": "Train a model by GRPO with the tasks' verifiers as reward.",
    "evaluate": "Sample a model on held-out problems: avg@n, pass@k and maj@n with intervals.",
    "analyze": "Compare a trained model with its start: weights, KL, token weights, gradients.",
}


def study(
    recipe: tyro.conf.Positional[Path],
    output_dir: Path | None = None,
    variant: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    probe: tyro.conf.FlagCreatePairsOff[bool] = False,
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
    executor: Literal["local", "ray"] = "local",
) -> int:
    """Run a study: base models x arms x seeds, one RL budget, and a report.

    Args:
        recipe: the study's YAML file, or a shipped one such as recipes/demo.yaml.
        output_dir: where it goes; `studies/NAME` by default.
        variant: of the file's `variants`, run only this one; repeatable.
        set: override one key, such as `--set rl.steps=10`; repeatable.
        probe: give every arm a tenth of RL first and the better half all of it; the block `probe` changes both shares.
        dry_run: run nothing; print the stages, their commands, tokens at most and memory. Needs no model and no file.
        executor: local, or ray: stages as tasks of the cluster that RAY_ADDRESS names, or of Ray on this machine.
    """
    from pear.study import dry_run_text, parse_studies, run_studies

    path = resolve_recipe(recipe)
    values = read_yaml(path)
    for assignment in set:
        values = with_override(values, assignment)
    studies = parse_studies(values, source=str(path))
    if variant and None in studies:
        raise UserError(f"--variant: {path} has no variants.")
    for name in variant:
        if name not in studies:
            raise UserError(f"--variant: {unknown_name('variant', name, [known for known in studies if known])}")
    chosen = {name: config for name, config in studies.items() if not variant or name in variant}
    directory = output_dir or Path("studies") / str(values.get("name", path.stem))
    if dry_run:
        print(dry_run_text(chosen, directory, probe=probe))
        return 0
    results = run_studies(chosen, directory, probe=probe, executor=executor)
    return max(result.exit_code for result in results.values())


_Runs = Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="")]


def report(
    runs: tyro.conf.Positional[_Runs],
    output_dir: Path | None = None,
    allow_different: tyro.conf.FlagCreatePairsOff[bool] = False,
    reference: str | None = None,
) -> int:
    """Write the report of a study, or of runs that were not one study.

    One study: its report is written again from its files, into its directory.

    Several studies, or finished runs of sft, grpo, evaluate and analyze: they are compared. What they were made from is
    found by itself. Arms are told apart by objective, units by base and seed; scores come from runs of evaluate.

    Args:
        runs: a study's directory, or several directories of studies or runs.
        output_dir: where report.html, figures/ and tables/ go: a study's own directory, or `report` for a comparison.
        allow_different: compare runs that had different RL or evaluations all the same; the page says what differs.
        reference: the arm that others are compared with; plain SFT in a comparison. A study's file names its own.
    """
    from pear.report import DEFAULT_DIRECTORY, write_comparison, write_report

    if not runs:
        raise UserError("Name a study's directory, or directories of finished runs.")
    if len(runs) > 1 or not (runs[0] / "plan.json").is_file():
        page = write_comparison(
            runs, output_dir or DEFAULT_DIRECTORY, allow_different=allow_different, reference=reference
        )
    elif allow_different or reference is not None:
        given = "--allow-different" if allow_different else "--reference"
        raise UserError(f"{given}: is for runs that were not one study, and {runs[0]} is one. Leave it out.")
    else:
        page = write_report(runs[0], output_dir)
    print(page)
    return 0


def inspect(
    source: tyro.conf.Positional[Path],
    output_dir: Path,
    model: str | None = None,
    objective: str = "pear_token",
    objective_kwargs: dict[str, Any] = {},  # noqa: B006, tyro shows the default
    trajectories: int = 500,
    sort: Literal["effective_sample_size", "clipped", "buffer"] = "effective_sample_size",
    show: int = 50,
    device: str = "auto",
) -> int:
    """Make a page to look at: a buffer's tokens tinted by weight, or an evaluation's problems with every completion.

    Args:
        source: a buffer, or the directory of a `pear evaluate` run.
        output_dir: where the page goes.
        model: for a buffer: the target policy, such as the model that SFT starts from.
        objective: for a buffer: whose weights, and `objective_kwargs`, its fields.
        objective_kwargs: fields of the objective.
        trajectories: for a buffer: how many are scored.
        sort: for a buffer: lowest effective sample size first, most clipped first, or as they are.
        show: most trajectories or problems on the page.
        device: auto, cpu, cuda or cuda:N.
    """
    from pear.report.inspection import write_outcome_page, write_weight_page
    from pear.stages.inspect import InspectConfig, run

    if (source / "outcomes.parquet").is_file():
        print(write_outcome_page(source, output_dir, shown=show))
        return 0
    if model is None:
        raise UserError(f"{source}: is no `pear evaluate` run; for a buffer, name --model, the target policy.")
    config = InspectConfig(
        buffer=str(source),
        model=model,
        objective=objective,
        objective_kwargs=objective_kwargs,
        trajectories=trajectories,
        device=device,
        output_dir=output_dir,
    )
    print(write_weight_page(run(config), order=sort, shown=show))
    return 0


def calibrate(
    buffer: tyro.conf.Positional[Path],
    model: str,
    output_dir: Path,
    ess: float = 0.7,
    levels: tuple[str, ...] = ("token", "block", "sequence"),
    log_ratio_lows: tuple[float, ...] = (-0.02, -0.04, -0.08, -0.15, -0.25, -0.5, -1.0, -2.0),
    block_sizes: tuple[int, ...] = (8, 32),
    trajectories: int = 500,
    device: str = "auto",
) -> int:
    """Show how strong PEAR's weights are on a buffer, by clip, level and block size, and recommend a setting.

    Args:
        buffer: a buffer with behavior log-probs.
        model: the target policy: the model that SFT starts from.
        output_dir: where the numbers and the page go.
        ess: the wanted effective sample size, a share of the tokens.
        levels: of token, block and sequence.
        log_ratio_lows: lower clips of the log-ratio; the upper one stays at 0.3.
        block_sizes: for block level.
        trajectories: how many are scored.
        device: auto, cpu, cuda or cuda:N.
    """
    from pear.report.calibration import recommendations, write_calibration_page
    from pear.stages.calibrate import CalibrateConfig, run

    config = CalibrateConfig(
        buffer=str(buffer),
        model=model,
        levels=levels,
        log_ratio_lows=log_ratio_lows,
        block_sizes=block_sizes,
        ess=ess,
        trajectories=trajectories,
        device=device,
        output_dir=output_dir,
    )
    run_dir = run(config)
    for sentence in recommendations(read_manifest(run_dir)["results"]["recommended"], ess=ess):
        note(sentence)
    print(write_calibration_page(run_dir))
    return 0


def tasks(
    name: tyro.conf.Positional[str | None] = None,
    level: str | None = None,
    seed: int = 0,
    markdown: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """List the tasks, or show one: its levels and knobs, a problem and a right answer.

    Args:
        name: a task, such as synlogic/survo; all are listed without one.
        level: of the problem shown, also with knobs set otherwise: `easy(rows=4)`.
        seed: of the problem shown.
        markdown: print the page docs/tasks.md in place of the list.
    """
    from pear.stages.tasks import task_list, task_markdown, task_page

    if name is not None:
        if markdown:
            raise UserError("--markdown: is the page of all tasks; leave the task's name out.")
        print(task_page(name, level=level, seed=seed))
        return 0
    if level is not None or seed:
        raise UserError("--level and --seed: are for the problem of one task; name the task.")
    print(task_markdown() if markdown else task_list(), end="" if markdown else "\n")
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
        kinds = {get_origin(kind) or kind for kind in (info.type, *get_args(info.type))}
        optional = type(None) in kinds
        if get_origin(info.type) is not dict and not (optional and dict in kinds):
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="{KEY: VALUE}",
            instance_from_str=lambda words: None if optional and words[0] == "None" else _mapping(words[0]),
            is_instance=lambda value: isinstance(value, dict) or (optional and value is None),
            str_from_instance=lambda value: [json.dumps(value) if value is not None else "None"],
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


@contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Send a Ctrl-C again that Python dropped, as it drops all that a destructor or a callback of its own raises."""
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):  # later: here it would be dropped as well
            main_thread = threading.main_thread().ident
            threading.Timer(0.01, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


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
        "inspect": inspect,
        "calibrate": calibrate,
        "tasks": tasks,
    }
    try:
        with _no_interrupt_lost(), writing_to("the output"):
            code = tyro.extras.subcommand_cli_from_dict(
                commands, prog="pear", description=pear.__doc__, registry=_registry()
            )
    except ValidationError as error:
        note(f"pear: {sentences(error)}")
        sys.exit(2)
    except UserError as error:
        note(f"pear: {error}")
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has left, such as `head`; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        note("pear: interrupted. The same command goes on from here.")
        sys.exit(_INTERRUPTED)
    sys.exit(code)
