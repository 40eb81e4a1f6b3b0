"""A study's files are read as they are; what is not there is None."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

import pear.cli
from pear.errors import UserError
from pear.report.figures.curves import Metric, curve, run_summary
from pear.report.results.confounds import confound_rows, confound_table
from pear.report.results.summaries import cell, reversals, unit_differences
from pear.report.sources.provenance import buffers, calibration_buffers, check_rl, input_rows
from pear.report.sources.reading import Scope, read_outcomes
from pear.report.sources.rows import BASE_STAGE, Study, Unit, read_study
from pear.runs import file_digest
from tests.report.synthetic_study import ANALYSES, SyntheticStudy, level

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


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two tasks, two levels, two temperatures, every analysis, and a probe that left pear_token behind."""
    written = SyntheticStudy(
        arms=("nll", "pear_token", "pear_sequence", "direct"), logged_steps=4, levels=("easy", "hard"),
        tasks=("tiny/affine_chain", "synlogic/survo"), temperatures=(1.0, 0.6), analyses=ANALYSES, rl_signal=True,
        dropped=("pear_token",),
    )  # fmt: skip
    return read_study(written.write(tmp_path_factory.mktemp("full")))


def test_parts_of_an_evaluation(full: Study) -> None:
    unit = full.units[1]
    assert full.parts("tasks") == ["tiny/affine_chain", "synlogic/survo"]
    assert full.parts("temperatures") == ["1.0", "0.6"]
    assert full.parts("many_solutions") == ["synlogic/survo"]
    assert sorted(full.parts("levels")) == [
        f"{task} {level}" for task in ("synlogic/survo", "tiny/affine_chain") for level in ("easy", "hard")
    ]
    whole = full.value("nll", unit, 60, "pass@1")
    by_task = [full.value("nll", unit, 60, "pass@1", Scope(task=task)) for task in full.parts("tasks")]
    by_level = [full.value("nll", unit, 60, "pass@1", Scope(level=name)) for name in full.parts("levels")]
    assert whole == pytest.approx(sum(value for value in by_task if value is not None) / 2)
    assert whole == pytest.approx(sum(value for value in by_level if value is not None) / 4)
    assert full.value("nll", unit, 60, "pass@1", Scope(macro=True)) == pytest.approx(whole)
    assert full.value("nll", unit, 60, "pass@1", Scope(temperature="0.6")) == pytest.approx(
        level("nll", 1, 60) + 0.02, abs=1 / 480
    )
    assert full.value("nll", unit, 60, "unparsable", Scope(task="synlogic/survo")) == 0.02
    assert full.value("nll", unit, 60, "pass@1", Scope(task="no such task")) is None
    assert full.value("nll", unit, 60, "avg@n") == whole
    scope = Scope(task="tiny/affine_chain")
    assert full.paired("pear_sequence", 60, "maj@n", scope)[unit] == pytest.approx(
        (full.value("pear_sequence", unit, 60, "maj@n", scope) or 0)
        - (full.value("nll", unit, 60, "maj@n", scope) or 0)
    )


def test_outcomes_are_of_the_first_temperature(full: Study) -> None:
    unit = full.units[2]
    found = full.outcome_matrix("nll", unit, 60)
    assert found is not None
    assert found.correct.shape == (60, 8)
    assert found.correct.mean() == pytest.approx(full.value("nll", unit, 60, "pass@1"))
    assert found.problem_ids[:2] == ("p0", "p1")
    assert found.tasks[:2] == ("tiny/affine_chain", "synlogic/survo")
    assert (found.of(["p7", "p0"]) == found.correct[[7, 0]]).all()
    assert found.shares["p7"] == ("synlogic/survo", found.correct[7].mean())
    assert full.outcome_matrix("pear_token", unit, 60) is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def swap(path: Path) -> None:
    """Those of another model: whole, and of the same problems."""
    shutil.copy(path.parent.parent / "evaluate-0-0-60" / path.name, path)


@pytest.mark.parametrize("damage", [cut, swap])
def test_outcomes_that_their_run_did_not_write_are_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    study = read_study(SyntheticStudy(arms=("nll", "pear_token"), logged_steps=1).write(tmp_path))
    path = tmp_path / "runs" / "evaluate-1-1-60" / "outcomes.parquet"
    damage(path)
    with pytest.raises(UserError) as caught:
        study.outcome_matrix("pear_token", UNIT, 60)
    assert str(caught.value).startswith(f"{path}: is not the file that its run wrote")
    assert "\n" not in str(caught.value)
    # Other files are of no concern.
    assert study.outcome_matrix("nll", UNIT, 60) is not None


def test_outcomes_that_cannot_be_read_are_a_sentence(tmp_path: Path) -> None:
    SyntheticStudy(arms=("nll", "pear_token"), logged_steps=1).write(tmp_path)
    path = tmp_path / "runs" / "evaluate-1-1-60" / "outcomes.parquet"
    path.write_bytes(b"PAR1 and no more")
    manifest = path.parent / "manifest.json"
    stored = json.loads(manifest.read_text())
    stored["results"]["outcomes_sha256"] = file_digest(path)
    manifest.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"outcomes.parquet: cannot be read \(.*\). Make the run again."):
        read_study(tmp_path).outcome_matrix("pear_token", UNIT, 60)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_report_of_cut_outcomes_is_exit_code_2_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], elsewhere: bool
) -> None:
    study_dir = SyntheticStudy(arms=("nll", "pear_token"), logged_steps=1).write(tmp_path / "study")
    path = study_dir / "runs" / "evaluate-1-2-60" / "outcomes.parquet"
    cut(path)
    before = sorted(tmp_path.rglob("*"))
    words = ["--output-dir", str(tmp_path / "page")] if elsewhere else []
    monkeypatch.setattr(sys, "argv", ["pear", "report", str(study_dir), *words])
    with pytest.raises(SystemExit) as exit_info:
        pear.cli.main()
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"pear: {path}: is not the file that its run wrote")
    assert len(captured.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_of_outcomes_may_come_in_any_order(tmp_path: Path) -> None:
    # Problem b is right in its samples 0 and 2, problem a in 1.
    rows = [("b", 2, True), ("a", 1, True), ("b", 0, True), ("a", 0, False), ("b", 1, False), ("a", 2, False)]
    path = tmp_path / "outcomes.parquet"

    def write(chosen: list[tuple[str, int, bool]]) -> None:
        records = [
            {"problem_id": name, "task": f"t/{name}", "sample": sample, "correct": right}
            for name, sample, right in chosen
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)

    write(rows)
    found = read_outcomes(path)
    assert (found.problem_ids, found.tasks) == (("b", "a"), ("t/b", "t/a"))
    assert found.correct.tolist() == [[True, False, True], [False, True, False]]
    for wrong in (rows[:-1], [*rows, rows[0]]):
        write(wrong)
        with pytest.raises(UserError, match="different numbers of samples"):
            read_outcomes(path)


def test_analyses_and_the_rl_signal(full: Study) -> None:
    unit = full.units[0]
    assert full.analyses == list(ANALYSES)
    offline, online = (full.analysis("weight_drift", "nll", unit, step) for step in (0, 60))
    assert offline is not None
    assert online is not None
    assert offline["drift/sparsity"] < online["drift/sparsity"]
    assert full.analysis("divergence", "nll", unit, 60) is None
    assert full.analysis("divergence", "direct", unit, 0) is None
    modules = full.analysis_table("weight_drift", "nll", unit, 0)
    assert modules is not None
    assert sum(row["sparsity"] for row in modules) / len(modules) == pytest.approx(offline["drift/sparsity"])
    assert {row["by"] for row in full.analysis_table("token_weights", "nll", unit, 0, "bins") or []} == {
        "weight",
        "distance",
    }
    signal = full.rl_signal("direct", unit)
    assert signal is not None
    assert signal.correct.shape == (40, 8)


def test_a_probe_and_the_arms_that_it_left_behind(full: Study) -> None:
    assert full.probe is not None
    assert full.probe["kept"] == ["nll", "pear_sequence", "direct"]
    assert full.dropped == ["pear_token"]
    # It has no more than the probe's step, and that is not the last one.
    assert (full.rl_steps, full.last_rl_step) == ([0, 20, 60], 60)
    assert full.value("pear_token", full.units[0], 20, "pass@1") is not None
    assert full.paired("pear_token", 60, "pass@1") == {}
    # Where they were taken to the end afterwards, nothing is left of that.
    taken_on = dataclasses.replace(full, probe={"dropped": ["nll"]})
    assert taken_on.dropped == []
    # Analyses and the RL signal have steps of their own, and are no evaluations.
    assert len(full.evaluations()) == 3 * (1 + 3 + 3 + 2 + 3)


def test_confounds_stand_side_by_side(full: Study) -> None:
    rows = {row.title: row.values for row in confound_rows(full)}
    norm = rows["Update norm of SFT"]["nll"]
    assert norm is not None
    assert (norm.value, norm.n) == (2.5, 3)
    assert rows["Update norm of SFT"]["direct"] is None
    kl = rows["KL to the base after SFT"]["pear_sequence"]
    values = [full.analysis("divergence", "pear_sequence", unit, 0) or {} for unit in full.units]
    assert kl is not None
    assert kl.value == pytest.approx(sum(entry["divergence/forward_kl"]["value"] for entry in values) / 3)
    to_start = rows["KL to the start, in RL"]["nll"]
    assert to_start is not None
    # Logged as 0.002 x step, and the last tenth of four steps is the last.
    assert to_start.value == pytest.approx(0.008)
    assert {"Groups without variance, in RL", "Truncated completions, in RL"} <= set(rows)
    assert {"Completion length, evaluated after SFT", "Truncated, evaluated after RL step 60"} <= set(rows)
    table = confound_table(full)
    assert list(table.columns) == ["quantity", "unit", *full.arms]
    assert "n = 3" in table.caption


def test_calibration_trajectories_are_no_data_of_sft(full: Study) -> None:
    assert [buffer.trajectories for buffer in buffers(full)] == [1200]
    assert [buffer.trajectories for buffer in calibration_buffers(full)] == [269]


def test_places_are_within_the_report_or_whole(full: Study, tmp_path: Path) -> None:
    node = full.nodes[0]
    assert full.place(node) == "runs/collect-0"
    assert dataclasses.replace(full, directory=tmp_path).place(node) == str(node.directory)
