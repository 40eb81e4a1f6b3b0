"""A study's files are read as they are; what is not there is None."""

import json
from pathlib import Path

import pytest

from pear.errors import UserError
from pear.report.curves import Metric, curve, run_summary
from pear.report.provenance import check_rl, input_rows
from pear.report.rows import BASE_STAGE, Unit, read_study
from pear.report.summaries import cell, reversals, unit_differences
from tests.report.synthetic_study import SyntheticStudy, level

UNIT = Unit(base="pear:affine_chain/base_1", seed=1)


def test_order_of_arms_units_and_stages(tmp_path: Path) -> None:
    study = read_study(SyntheticStudy(arms=("pear_token", "nll"), logged_steps=1).write(tmp_path))
    assert study.arms == ["nll", "pear_token"]
    assert [unit.name for unit in study.units] == ["base_0, seed 0", "base_1, seed 1", "base_2, seed 2"]
    assert study.stages == [BASE_STAGE, 0, 20, 60]
    assert study.pass_metrics == ["pass@1", "pass@2", "pass@8"]
    assert study.value("nll", UNIT, 60, "pass@1") == pytest.approx(level("nll", 1, 60), abs=1 / 960)


def test_status_of_what_is_not_there(tmp_path: Path) -> None:
    study = read_study(
        SyntheticStudy(
            arms=("nll", "pear_token"), logged_steps=1, failed={"sft-1-1": "out of memory"}, absent={"grpo-0-2"}
        ).write(tmp_path)
    )
    # The synthetic study writes what a failed node would have led to; only what is on disk counts.
    found = {node.id: node for node in study.nodes}
    assert found["sft-1-1"].status == "failed"
    assert found["sft-1-1"].error == "out of memory"
    assert found["sft-1-1"].log == "logs/sft-1-1.log"
    assert found["grpo-0-2"].status == "not run"
    assert found["grpo-0-1"].status == "complete"
    assert study.log("sft", "pear_token", UNIT) is None
    assert list(study.series("sft", "pear_token", "loss")) == [unit for unit in study.units if unit != UNIT]


def test_what_depends_on_a_failure_is_blocked(tmp_path: Path) -> None:
    absent = {"grpo-0-1", "evaluate-0-1-20", "evaluate-0-1-60", "evaluate-0-1-0"}
    study = read_study(
        SyntheticStudy(arms=("nll",), logged_steps=1, failed={"sft-0-1": "no"}, absent=absent).write(tmp_path)
    )
    assert {node.id for node in study.nodes if node.status == "blocked"} == absent
    assert study.value("nll", UNIT, 60, "pass@1") is None


def test_the_direct_arm_starts_at_the_base(tmp_path: Path) -> None:
    study = read_study(SyntheticStudy(arms=("nll", "direct"), logged_steps=1).write(tmp_path))
    assert study.is_direct("direct")
    assert not study.is_direct("nll")
    assert study.value("direct", UNIT, 0, "pass@1") == study.value("direct", UNIT, BASE_STAGE, "pass@1")


def test_another_evaluated_model_is_no_unit(tmp_path: Path) -> None:
    SyntheticStudy(arms=("nll",), logged_steps=1).write(tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    use = {"arm": None, "base": "behavior", "seed": 0, "role": "eval", "rl_step": None}
    plan["nodes"].append({**plan["nodes"][1], "id": "evaluate-behavior", "uses": [use]})
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert len(read_study(tmp_path).units) == 3


def test_cells_hold_means_over_units_and_paired_differences(tmp_path: Path) -> None:
    study = read_study(SyntheticStudy(logged_steps=1, absent={"evaluate-2-2-60"}).write(tmp_path))
    found = cell(study, "pear_sequence", 60, "pass@1")
    values = [study.value("pear_sequence", unit, 60, "pass@1") for unit in study.units[:2]]
    assert found.mean is not None
    assert found.difference is not None
    assert found.mean.value == pytest.approx(sum(value for value in values if value is not None) / 2)
    assert found.difference.value == pytest.approx((0.055 + 0.04) / 2, abs=1 / 480)
    assert (found.units, found.planned) == (2, 3)
    assert (found.problems, found.samples) == ((60,), (8,))
    assert (found.truncated, found.malformed) == (0.015625, 0.03125)
    assert cell(study, "nll", 60, "pass@1").difference is None


def test_reversals_are_counted_over_common_units(tmp_path: Path) -> None:
    study = read_study(SyntheticStudy(logged_steps=1).write(tmp_path))
    found, compared = reversals(study)
    assert compared == 3
    assert [(row.arm, row.other) for row in found] == [("pear_sequence", "nll"), ("pear_sequence", "pear_token")]
    assert all(row.offline.value < 0 < row.online.value and row.established for row in found)


def test_unit_differences_are_paired_by_problem(tmp_path: Path) -> None:
    tasks = ("tiny/affine_chain", "synlogic/survo")
    study = read_study(SyntheticStudy(arms=("nll", "pear_sequence"), logged_steps=1, tasks=tasks).write(tmp_path))
    found = unit_differences(study)
    assert [row.unit for row in found] == study.units
    for row in found:
        expected = study.paired("pear_sequence", 60, "pass@1")[row.unit]
        assert row.interval.value == pytest.approx(expected)
        assert row.interval.low < expected < row.interval.high
        assert row.interval.n == 60


def test_curves_average_units_and_long_runs_are_binned(tmp_path: Path) -> None:
    study = read_study(SyntheticStudy(arms=("nll",), logged_steps=300).write(tmp_path))
    points = curve(study, "grpo", "nll", "rl/completion_length")
    assert len(points) == 100
    assert points[-1].step == 300
    assert points[0].units == 3
    # The units are 40 + decay, and 0, 1, 2 on top.
    assert points[-1].mean == pytest.approx(41.0, abs=1e-3)
    assert points[-1].highest - points[-1].lowest == pytest.approx(2.0)
    tokens = Metric(key="rl/generated_tokens", title="", unit="", summary="last")
    found = run_summary(study, "grpo", "nll", tokens)
    assert found is not None
    assert (found.value, found.n) == (5200 * 300, 3)


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    study = read_study(SyntheticStudy(arms=("nll",), units=1, logged_steps=2).write(tmp_path))
    path = study.directory / "runs" / "sft-0-0" / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "loss": null}\n{"step": 3, "loss": 0.5}\n')
    assert study.series("sft", "nll", "loss") == {study.units[0]: [(3, 0.5)]}


def test_rl_is_compared_between_arms(tmp_path: Path) -> None:
    SyntheticStudy(arms=("nll", "pear_token"), logged_steps=1).write(tmp_path)
    assert check_rl(read_study(tmp_path)).differing == ()
    path = tmp_path / "runs" / "grpo-1-0" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["learning_rate"] = 1e-3
    path.write_text(json.dumps(manifest))
    found = check_rl(read_study(tmp_path))
    assert (found.runs, found.units, found.differing) == (6, 3, ("learning_rate",))


def test_only_inputs_from_outside_are_listed(tmp_path: Path) -> None:
    study = read_study(SyntheticStudy(arms=("nll",), units=2, logged_steps=1).write(tmp_path))
    assert [path for _, path, _ in input_rows(study)] == ["pear:affine_chain/base_0", "pear:affine_chain/base_1"]


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a study's directory"):
        read_study(tmp_path)
    (tmp_path / "plan.json").write_text('{"nodes": 3}')
    with pytest.raises(UserError, match=r"not a study's plan"):
        read_study(tmp_path)
    SyntheticStudy(arms=("nll",), units=1, logged_steps=1).write(tmp_path)
    (tmp_path / "runs" / "sft-0-0" / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    study = read_study(tmp_path)
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is not valid JSON"):
        study.log("sft", "nll", study.units[0])
