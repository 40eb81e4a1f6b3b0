"""`pear study`: plans, runs what is missing, and reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from pear.errors import UserError
from pear.runs import locked, note, write_json
from pear.stages import STAGES
from pear.study.checks import check_trainers
from pear.study.config import StudyConfig
from pear.study.executor import Executor, Outcome
from pear.study.plan import Plan, make_plan
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


def run_study(config: StudyConfig, study_dir: Path) -> StudyResult:
    """Runs every stage of a study that is not finished, side by side, and writes its report.

    Nodes are named by what goes into them. So the same call goes on after a kill and does nothing when all is done, and
    a study whose file was changed (more seeds, another arm) reuses each stage that stayed the same; the others stay on
    disk and leave the plan.

    Args:
        config: the study, `StudyConfig.parse(read_yaml(path), source=...)`.
        study_dir: where everything goes: study.yaml, plan.json, runs/, logs/, report.html, and failures.json if any.

    Returns:
        The verdict, the report and what failed. A failed stage stops those that need it and no others.

    Raises:
        UserError: anything in the study that cannot be used; nothing is written then. Or another process is at work.
        KeyboardInterrupt: on Ctrl-C, after the stages were stopped.
    """
    study_dir = study_dir.absolute()
    _check_directory(study_dir)
    plan = make_plan(config, study_dir)
    missing = [node for node in plan.nodes if not node.complete]
    note(f"{config.name}: {len(plan.nodes)} stages, {len(plan.nodes) - len(missing)} of them finished already.")
    if missing:
        check_trainers(missing, config.machine)
    try:
        study_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{study_dir}: cannot be written ({error.strerror}).") from None
    with locked(study_dir):
        changed = _write_plan(plan, study_dir)
        outcome = Executor(
            nodes=plan.nodes, stages=STAGES, study_dir=study_dir, machine=config.machine, display=make_display()
        ).run()
        _note_failures(plan, outcome)
        return _report(plan, study_dir, outcome, changed)


def _check_directory(study_dir: Path) -> None:
    if study_dir.exists() and not study_dir.is_dir():
        raise UserError(f"{study_dir}: is a file. Choose another directory for the study.")
    if study_dir.is_dir() and not (study_dir / PLAN).is_file():
        others = [entry.name for entry in study_dir.iterdir() if entry.name not in (".lock", STUDY_FILE)]
        if others:
            raise UserError(f"{study_dir}: is not empty and holds no study. Choose another directory.")


def _write_plan(plan: Plan, study_dir: Path) -> bool:
    """Writes study.yaml and plan.json where they are not there yet as they should be; says whether it did."""
    text = yaml.safe_dump(plan.config.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    study_file, plan_file = study_dir / STUDY_FILE, study_dir / PLAN
    before = [path.read_bytes() if path.is_file() else b"" for path in (study_file, plan_file)]
    study_file.write_text(text, encoding="utf-8")
    write_json(plan_file, plan.record(study_dir))
    return before != [path.read_bytes() for path in (study_file, plan_file)]


def _note_failures(plan: Plan, outcome: Outcome) -> None:
    if not outcome.failures:
        return
    labels = {node.id: node.label for node in plan.nodes}
    note(f"{len(outcome.failures)} failed, {len(outcome.blocked)} could not run for that:")
    for node_id, failure in outcome.failures.items():
        note(f"  {labels[node_id]}: {failure['error']} (see {failure['log']})")


def _report(plan: Plan, study_dir: Path, outcome: Outcome, changed: bool) -> StudyResult:
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
