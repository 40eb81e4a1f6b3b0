"""Studies: base x arms x seeds through identical RL, from one file to one report."""

from pear.study.config import StudyConfig
from pear.study.run import StudyResult, run_study

__all__ = ["StudyConfig", "StudyResult", "run_study"]
