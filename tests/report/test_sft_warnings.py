"""Known failures of weights, said beside the curves of SFT."""

import html
import json
import re
from pathlib import Path

from pear.report import write_report
from pear.report.figures.curves import sft_warnings
from pear.report.sources.rows import read_study
from tests.report.synthetic_study import SyntheticStudy


def spoil(study: Path, run: str, **values: float) -> None:
    path = study / "runs" / run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, **values}) + "\n" for line in lines))


def test_a_sound_study_has_none_and_a_failure_is_told_with_its_units(tmp_path: Path) -> None:
    study = SyntheticStudy(arms=("nll", "pear_token"), units=3, logged_steps=3).write(tmp_path / "study")
    assert sft_warnings(read_study(study)) == []
    for unit in (0, 2):
        spoil(study, f"sft-1-{unit}", **{"weights/mean": 0.001, "weights/log_ratio/mean": -7.0})
    spoil(study, "sft-1-1", **{"weights/log_ratio/mean": -6.0})
    small, far = sft_warnings(read_study(study))[::-1]
    assert small.startswith("pear_token, 2 of 3 units: The mean weight is 0.001, so almost nothing is learned")
    assert far.startswith("pear_token, 3 of 3 units: The mean log-ratio is -7.00 nats a token: tokens are misaligned")
    page = write_report(study).read_text()
    words = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
    assert "Known failures of weights" in words
    assert small in words
    assert far in words
