"""Studies: base x arms x seeds through identical RL, from one file to one report."""

from pear.study.config import StudyConfig, parse_studies
from pear.study.dry_run import dry_run_text
from pear.study.run import StudyResult, run_studies, run_study

__all__ = ["StudyConfig", "StudyResult", "dry_run_text", "parse_studies", "run_studies", "run_study"]
