"""The report of a study: reads a study's files, writes `report.html`, `figures/*.svg` and `tables/*.csv`."""

from pathlib import Path


def write_report(study_dir: Path) -> Path:
    """Writes STUDY/report.html with its figures and tables, from whatever has been run so far.

    Args:
        study_dir: a study's directory, with the `plan.json` that `pear study` wrote.

    Returns:
        The path of the page.

    Raises:
        UserError: the directory is no study, or one of its files cannot be read.
    """
    from pear.report.page import write_report as write

    return write(study_dir)


def verdict_sentence(study_dir: Path) -> str:
    """The study's answer in a sentence, for the terminal: which checkpoint to take to RL, and how sure that is."""
    from pear.report.rows import read_study
    from pear.report.verdict import judge

    return judge(read_study(study_dir)).sentence
