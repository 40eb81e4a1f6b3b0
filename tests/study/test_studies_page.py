"""The blocks that docs/studies.md shows can be planned as they stand."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pear.study.config import Analyze, Probe, StudyConfig
from pear.study.plan import make_plan

PAGE = Path(__file__).resolve().parents[2] / "docs" / "studies.md"


def block(key: str) -> Any:
    found = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)]
    (values,) = [values[key] for values in found if key in values]
    return values


@pytest.mark.parametrize(("key", "model"), [("analyze", Analyze), ("probe", Probe)])
def test_blocks_of_the_page_are_planned(values: dict[str, Any], tmp_path: Path, key: str, model: Any) -> None:
    shown = block(key)
    values[key] = shown
    values["rl"]["steps"] = 20
    config = StudyConfig.parse(values, source=str(PAGE))
    assert getattr(config, key) == model.parse(shown, source=str(PAGE))
    assert make_plan(config, tmp_path / "study", probe=key == "probe").nodes


def test_the_page_shows_the_defaults() -> None:
    assert Probe.parse(block("probe"), source=str(PAGE)) == Probe()
    shown = Analyze.parse(block("analyze"), source=str(PAGE))
    assert (shown.analyses, shown.rl_signal_problems) == (Analyze().analyses, Analyze().rl_signal_problems)
    assert sum(item["size"] for item in shown.calibration["problems"]) == 269
