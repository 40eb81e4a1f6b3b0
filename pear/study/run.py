"""`pear study`: plans, runs what is missing, and reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from pear.errors import UserError
from pear.runs import locked, note, replacing, write_json
from pear.stages import STAGES
from pear.study.checks import check_trainers
from pear.study.config import StudyConfig
from pear.study.executor import Executor, Executors, Outcome
from pear.study.graph import Node
from pear.study.plan import Plan, make_plan
from pear.study.probe import PROBE, Choice, choose, probe_nodes, probe_scores, probe_steps, write_choice
from pear.study.progress import make_display

STUDY_FILE = "study.yaml"
PLAN = "plan.json"
REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study came to.

    Args:
        study_dir: its directory.
        report: the page.
        verdict: which checkpoint to take to RL, in a sentence; None for a study without arms.
        ran: stages that were run now.
        reused: stages that were finished already.
        failures: node id to {"error", "log"}.
        blocked: ids of the nodes that wait for a failed one.
    """

    study_dir: Path
    report: Path
    verdict: str | None
    ran: int
    reused: int
    failures: Mapping[str, Mapping[str, str]]
    blocked: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 where every stage is finished, otherwise 1."""
        return 1 if self.failures else 0


def run_studies(
    studies: Mapping[str | None, StudyConfig], directory: Path, *, probe: bool = False, executor: Executors = "local"
) -> dict[str | None, StudyResult]:
    """Runs the studies of one file, one after another: each as `run_study`, in a directory of its name.

    Args:
        studies: what `parse_studies` returns.
        directory: holds one study's directory each, or is the one study's that has no name.
        probe, executor: as in `run_study`.

    Raises:
        UserError: anything in any of them that cannot be used; none is started then.
    """
    places = {name: directory if name is None else directory / name for name in studies}
    for name, config in studies.items():
        make_plan(config, places[name].absolute(), probe=probe)
    return {name: run_study(config, places[name], probe=probe, executor=executor) for name, config in studies.items()}


def run_study(
    config: StudyConfig, study_dir: Path, *, probe: bool = False, executor: Executors = "local"
) -> StudyResult:
    """Runs every stage of a study that is not finished, side by side, and writes its report.

    Nodes are named by what goes into them. So the same call goes on after a kill and does nothing when all is done, and
    a study whose file was changed (more seeds, another arm) reuses each stage that stayed the same; the others stay on
    disk and leave the plan.

    Args:
        config: the study, `StudyConfig.parse(read_yaml(path), source=...)`.
        study_dir: where everything goes: study.yaml, plan.json, runs/, logs/, report.html, and failures.json if any.
        probe: give every arm a little RL first (`config.probe`), and all of it to the better ones. Which those are
            stands in probe.json. A later call without it runs the others too.
        executor: where stages run: "local", or "ray", on the cluster that the variable RAY_ADDRESS names or on this
            machine. It changes no number; a study may go on under the other.

    Returns:
        The verdict, the report and what failed. A failed stage stops those that need it and no others.

    Raises:
        UserError: anything in the study that cannot be used; nothing is written then. Or another process is at work.
        KeyboardInterrupt: on Ctrl-C, after the stages were stopped.
    """
    study_dir = study_dir.absolute()
    _check_directory(study_dir)
    plan = make_plan(config, study_dir, probe=probe)
    if probe and all(node.complete for node in probe_nodes(plan.nodes)):
        plan = _narrowed(plan, study_dir, _choose(plan))
    missing = [node for node in plan.nodes if not node.complete]
    if missing:
        check_trainers(missing, config.machine)
    try:
        study_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{study_dir}: cannot be written ({error.strerror}).") from None
    with locked(study_dir):
        before = _files(study_dir)
        if probe:
            plan, outcome = _run_probe(plan, study_dir, executor)
        else:
            (study_dir / PROBE).unlink(missing_ok=True)
            _write_plan(plan, study_dir)
            _note_count(config.name, plan.nodes)
            outcome = _execute(plan, plan.nodes, study_dir, executor)
        _note_failures(plan, outcome)
        return _report(plan, study_dir, outcome, changed=before != _files(study_dir))


def _run_probe(plan: Plan, study_dir: Path, executor: Executors) -> tuple[Plan, Outcome]:
    """Every arm up to the probe's step, then the better ones to the end; returns the plan without the others' end.

    Where the study was stopped on the way, the finished stages are there, and all the rest follows from them.
    """
    config, first = plan.config, probe_nodes(plan.nodes)
    steps = probe_steps(config, plan.arms)
    if not all(node.complete for node in first):
        # It is about to be chosen anew.
        (study_dir / PROBE).unlink(missing_ok=True)
        _write_plan(plan, study_dir)
    _note_count(f"{config.name}, probe of {steps} in {config.rl['steps']} RL steps", first)
    probed = _execute(plan, first, study_dir, executor)
    choice = _choose(plan)
    note(choice.sentence)
    write_choice(study_dir / PROBE, choice.record(steps, config.probe))
    if not choice.comparable:
        note("The rest is not run: there are not two arms with a result, of which one is the reference.")
        return plan, probed
    plan = _narrowed(plan, study_dir, choice)
    _write_plan(plan, study_dir)
    _note_count(config.name, plan.nodes)
    # What failed a moment ago would fail again; the next call tries it.
    outcome = _execute(plan, plan.nodes, study_dir, executor, given_up=probed.failures)
    return plan, replace(outcome, ran=probed.ran + outcome.ran, reused=outcome.reused - probed.ran)


def _choose(plan: Plan) -> Choice:
    scores = probe_scores(plan.nodes, list(plan.arms))
    return choose(scores, reference=plan.config.reference, keep=plan.config.probe.keep)


def _narrowed(plan: Plan, study_dir: Path, choice: Choice) -> Plan:
    """The plan in which the arms that were not chosen end with the probe."""
    if plan.dropped == frozenset(choice.dropped):
        return plan
    return make_plan(plan.config, study_dir, probe=True, dropped=choice.dropped)


def _execute(
    plan: Plan,
    nodes: Sequence[Node],
    study_dir: Path,
    executor: Executors,
    given_up: Mapping[str, Mapping[str, str]] | None = None,
) -> Outcome:
    return Executor(
        nodes=nodes,
        stages=STAGES,
        study_dir=study_dir,
        machine=plan.config.machine,
        display=make_display(),
        given_up=given_up or {},
        executor=executor,
    ).run()


def _note_count(name: str, nodes: Sequence[Node]) -> None:
    finished = sum(node.complete for node in nodes)
    note(f"{name}: {len(nodes)} stages, {finished} of them finished already.")


def _check_directory(study_dir: Path) -> None:
    if study_dir.exists() and not study_dir.is_dir():
        raise UserError(f"{study_dir}: is a file. Choose another directory for the study.")
    if study_dir.is_dir() and not (study_dir / PLAN).is_file():
        # A kill, or a full disk, may have come while the first files were written.
        begun = {".lock", STUDY_FILE, f"{STUDY_FILE}.tmp", f"{PLAN}.tmp"}
        others = [entry.name for entry in study_dir.iterdir() if entry.name not in begun]
        if others:
            raise UserError(f"{study_dir}: is not empty and holds no study. Choose another directory.")


def _write_plan(plan: Plan, study_dir: Path) -> None:
    text = yaml.safe_dump(plan.config.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    with replacing(study_dir / STUDY_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_json(study_dir / PLAN, plan.record(study_dir))


def _files(study_dir: Path) -> list[bytes]:
    """What of a study's own files the report is written from."""
    paths = [study_dir / name for name in (STUDY_FILE, PLAN, PROBE)]
    return [path.read_bytes() if path.is_file() else b"" for path in paths]


def _note_failures(plan: Plan, outcome: Outcome) -> None:
    if not outcome.failures:
        return
    labels = {node.id: node.label for node in plan.nodes}
    note(f"{len(outcome.failures)} failed, {len(outcome.blocked)} could not run for that:")
    for node_id, failure in outcome.failures.items():
        note(f"  {labels[node_id]}: {failure['error']} (see {failure['log']})")


def _report(plan: Plan, study_dir: Path, outcome: Outcome, *, changed: bool) -> StudyResult:
    from pear.report import verdict_sentence, write_report

    report = study_dir / REPORT
    if outcome.ran or outcome.failures or changed or not report.is_file():
        report = write_report(study_dir)
    verdict = verdict_sentence(study_dir) if plan.arms else None
    if verdict is not None:
        note(verdict)
    note(f"Report: {report}")
    return StudyResult(
        study_dir=study_dir,
        report=report,
        verdict=verdict,
        ran=outcome.ran,
        reused=outcome.reused,
        failures=outcome.failures,
        blocked=outcome.blocked,
    )
