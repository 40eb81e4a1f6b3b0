"""The report of a study, or of runs that were not one: `report.html`, and every figure and table as files beside it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pear.errors import UserError

PAGE = "report.html"
DEFAULT_DIRECTORY = Path("report")
_OWN = frozenset({PAGE, "figures", "tables"})


def write_report(study_dir: Path, output_dir: Path | None = None) -> Path:
    """Writes a study's `report.html` with its figures and tables, from whatever has been run so far.

    Args:
        study_dir: a study's directory, with the `plan.json` that `pear study` wrote.
        output_dir: where they go; beside the plan by default.

    Returns:
        The path of the page.

    Raises:
        UserError: the directory is no study, one of its files cannot be read, or the output directory holds something
            else.
    """
    from pear.report.page import write_page
    from pear.report.sources.rows import read_study

    if output_dir is None or output_dir.resolve() == study_dir.resolve():
        return write_page(read_study(study_dir))
    _check_free(output_dir)
    return write_page(dataclasses.replace(read_study(study_dir), directory=output_dir.absolute()))


def write_comparison(
    runs: Sequence[Path],
    output_dir: Path = DEFAULT_DIRECTORY,
    *,
    allow_different: bool = False,
    reference: str | None = None,
) -> Path:
    """Writes the report of runs that were not one study into a directory of its own.

    Args:
        runs: directories of finished runs, or of studies, whose finished runs are taken.
        output_dir: where the page goes; new, empty, or an earlier report's.
        allow_different: compare runs of different RL or evaluations too, and say so on the page.
        reference: the arm that the others are compared with; by default one of plain SFT, or else the first.

    Returns:
        The path of the page.

    Raises:
        UserError: runs that cannot be read or compared, or an output directory that holds something else; before
            anything is written.
    """
    from pear.report.page import write_page
    from pear.report.sources.loose_runs import gather

    _check_free(output_dir)
    return write_page(gather(runs, output_dir, allow_different=allow_different, reference=reference))


def _check_free(output_dir: Path) -> None:
    """A report replaces files of its names, so it takes a directory that is new, empty, or a report's already."""
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir}: is a file. Choose another --output-dir.")
    entries = {entry.name for entry in output_dir.iterdir()} if output_dir.is_dir() else set()
    if entries and (entries - _OWN or PAGE not in entries):
        raise UserError(f"{output_dir}: is not empty and holds no report. Choose another --output-dir.")


def verdict_sentence(study_dir: Path) -> str:
    """The study's answer in a sentence, for the terminal: which checkpoint to take to RL, and how sure that is."""
    from pear.report.results.verdict import judge
    from pear.report.sources.rows import read_study

    return judge(read_study(study_dir)).sentence
