"""Runs that were not one study: what they are, when they may be compared, and what the page says then."""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pear.cli
from pear.errors import UserError
from pear.report import write_report
from pear.report.results.verdict import judge
from pear.report.sources.budgets import rl_budget
from pear.report.sources.loose_runs import gather
from pear.report.sources.provenance import buffers, calibration_buffers, check_rl
from pear.report.sources.rows import BASE_STAGE, Study
from pear.runs import read_json, write_json
from tests.report.run_directories import RL, RunDirectories
from tests.report.synthetic_study import SyntheticStudy

GAINS = (20, 24, 28)
"""What pear_token adds to nll after RL on three units, of 480 samples: +0.050 [+0.029, +0.071]."""


def two_arms(runs: RunDirectories, units: int = 1, **other: Any) -> list[Path]:
    """nll and pear_token; `other` is what pear_token has otherwise."""
    given = []
    for seed, gain in enumerate(GAINS[:units]):
        given += runs.arm("nll", f"base_{seed}", seed, (192 / 480, 400 / 480))
        given += runs.arm("pear_token", f"base_{seed}", seed, (192 / 480, (400 + gain) / 480), **other)
    return given


@dataclass(frozen=True, kw_only=True)
class Standard:
    """nll and pear_token on three units, made once; tests put what they add elsewhere."""

    root: Path
    runs: RunDirectories
    given: list[Path]


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Standard:
    root = tmp_path_factory.mktemp("standard")
    runs = RunDirectories(root)
    return Standard(root=root, runs=runs, given=two_arms(runs, 3))


def gathered(runs: list[Path], tmp_path: Path, *, allow_different: bool = False, reference: str | None = None) -> Study:
    return gather(runs, tmp_path / "report", allow_different=allow_different, reference=reference)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["pear", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        pear.cli.main()
    return int(exit_info.value.code or 0)


def test_evaluations_lead_to_arms_and_units(standard: Standard, tmp_path: Path) -> None:
    more = RunDirectories(tmp_path)
    base = more.evaluate("base", standard.runs.base("base_1"), 0.2)
    early = more.evaluate("early", standard.root / "grpo-nll-base_1-1" / "checkpoint-20", 0.6)
    study = gathered([*standard.given, base, early], tmp_path)
    assert study.arms == ["nll", "pear_token"]
    assert [unit.name for unit in study.units] == ["base_0, seed 0", "base_1, seed 1", "base_2, seed 2"]
    assert study.rl_steps == [0, 20, 60]
    unit = study.units[1]
    assert study.value("nll", unit, 60, "pass@1") == pytest.approx(400 / 480)
    assert study.value("nll", unit, 20, "pass@1") == pytest.approx(0.6)
    assert study.value("pear_token", unit, BASE_STAGE, "pass@1") == pytest.approx(0.2)
    # Runs that were not named are found by their inputs: the logs of SFT and RL, and the buffer.
    assert study.result("sft", "pear_token", unit, "update/norm") == 2.0
    assert study.series("grpo", "nll", "rl/reward")[unit][0][0] == 1
    assert [buffer.trajectories for buffer in buffers(study)] == [100]
    assert check_rl(study).units == 3
    assert study.comparison
    assert study.comparison_notes == ()
    assert judge(study).sentence == (
        "pear_token is better than nll after RL: +0.050 [+0.029, +0.071] (paired 95% t interval over 3 units). "
        "Take pear_token to RL."
    )


def test_one_order_or_another_is_the_same_comparison(standard: Standard, tmp_path: Path) -> None:
    one, other = gathered(standard.given, tmp_path), gathered(standard.given[::-1], tmp_path)
    assert judge(one) == judge(other)
    assert one.digests == other.digests
    assert one.units == other.units


def test_rl_without_sft_is_an_arm_of_the_units_with_its_seed(standard: Standard, tmp_path: Path) -> None:
    more = RunDirectories(tmp_path)
    given = list(standard.given)
    for seed in range(2):
        grpo = more.grpo(f"direct-{seed}", standard.runs.base(f"base_{seed}"), 100 + seed)
        given.append(more.evaluate(f"direct-end-{seed}", grpo, 0.5))
    given.append(more.evaluate("signal", standard.runs.base("base_0"), 0.3, problems=RL))
    study = gathered(given, tmp_path)
    assert study.arms == ["nll", "pear_token", "direct"]
    assert study.is_direct("direct")
    assert [unit.seed for unit in study.paired("direct", 60, "pass@1")] == [0, 1]
    # What its RL starts from is the base; that of the other arms is not.
    signal = study.rl_signal("direct", study.units[0])
    assert signal is not None
    assert signal.correct.mean() == pytest.approx(0.3)
    assert study.rl_signal("nll", study.units[0]) is None


def test_arms_of_one_objective_are_told_apart_by_what_differs(standard: Standard, tmp_path: Path) -> None:
    more = RunDirectories(tmp_path)
    given = list(standard.given)
    for seed in range(2):
        settings = {"objective_kwargs": {"gamma": 0.9}, "trainer": {"learning_rate": 1e-4, "logging_steps": 7}}
        given += more.arm("pear_token", f"base_{seed}", seed, (0.4, 0.8), buffer=standard.runs.buffer(), **settings)
    study = gathered(given, tmp_path)
    assert study.arms == ["nll", "pear_token", "pear_token[gamma=0.9,learning_rate=0.0001]"]
    assert study.comparison_notes == (
        "Beside their objectives, arms differ in their SFT: trainer.learning_rate is not there in nll and 0.0001 in "
        "pear_token[gamma=0.9,learning_rate=0.0001].",
    )


def test_sft_at_another_norm_is_an_arm_of_its_own(standard: Standard, tmp_path: Path) -> None:
    """Found from the evaluations alone, through RL and back to the same SFT as plain SFT's."""
    more = RunDirectories(tmp_path)
    given = list(standard.given)
    for seed in range(2):
        base, unit = standard.runs.base(f"base_{seed}"), f"base_{seed}-{seed}"
        ours, other = (standard.root / f"sft-{arm}-{unit}" for arm in ("nll", "pear_token"))
        scaled = more.rescale(f"rescale-{seed}", base, ours, other)
        grpo = more.grpo(f"grpo-{seed}", scaled, 100 + seed)
        given += [more.evaluate(f"offline-{seed}", scaled, 0.3), more.evaluate(f"online-{seed}", grpo, 0.9)]
        if seed == 0:
            given.append(more.analyze("drift", "weight_drift", base, scaled))
            given.append(more.analyze("drift-rl", "weight_drift", scaled, grpo))
    study = gathered(given, tmp_path)
    matched = "nll[norm of pear_token]"
    assert study.arms == ["nll", "pear_token", matched]
    assert study.reference == "nll"
    unit = study.units[0]
    assert [study.value(matched, unit, stage, "pass@1") for stage in (0, 60)] == pytest.approx([0.3, 0.9])
    assert study.value("nll", unit, 60, "pass@1") == pytest.approx(400 / 480)
    # The norm is that of the model RL starts from; what SFT logged is SFT's.
    assert [study.result("sft", arm, unit, "update/norm") for arm in ("nll", matched)] == [2.0, 3.0]
    assert study.series("sft", matched, "loss/nll")[unit] == study.series("sft", "nll", "loss/nll")[unit]
    assert study.analysis_node("weight_drift", matched, unit, 0) is not None
    assert study.analysis_node("weight_drift", matched, unit, 60) is not None
    assert study.analysis_node("weight_drift", "nll", unit, 0) is None
    assert study.config["arms"][matched]["match_update_norm"] == "pear_token"
    assert "match_update_norm" not in study.config["arms"]["nll"]
    assert study.comparison_notes == ()


def test_an_sft_that_was_made_to_be_scaled_is_no_arm(standard: Standard, tmp_path: Path) -> None:
    more = RunDirectories(tmp_path)
    base = standard.runs.base("base_0")
    sft = more.sft("sft", base, "dft", 0, buffer=standard.runs.buffer())
    scaled = more.rescale("rescale", base, sft, standard.root / "sft-pear_token-base_0-0")
    online = more.evaluate("online", more.grpo("grpo", scaled, 100), 0.5)
    assert gathered([*standard.given, online], tmp_path).arms == ["nll", "pear_token", "dft[norm of pear_token]"]
    # One that was evaluated is.
    offline = more.evaluate("offline", sft, 0.4)
    arms = gathered([*standard.given, online, offline], tmp_path).arms
    assert sorted(arms) == ["dft", "dft[norm of pear_token]", "nll", "pear_token"]
    # So is what was scaled, without RL.
    only = more.evaluate("only", scaled, 0.4)
    assert sorted(gathered([*standard.given, only], tmp_path).arms) == ["dft[norm of pear_token]", "nll", "pear_token"]


def test_another_buffer_is_another_arm_only_where_a_unit_has_both(tmp_path: Path) -> None:
    runs = RunDirectories(tmp_path)
    given = two_arms(runs, buffer=runs.buffer("other"))
    study = gathered(given, tmp_path)
    assert study.arms == ["nll", "pear_token"]
    text = f"nll on {tmp_path / 'buffer'}; pear_token on {tmp_path / 'other'}"
    assert study.comparison_notes == (f"SFT did not read the same buffer everywhere: {text}.",)
    given += runs.arm("nll", "base_0", 0, (0.4, 0.8), suffix="-other", buffer=runs.buffer("other"))
    study = gathered(given, tmp_path)
    assert len(study.arms) == 3
    assert all(re.fullmatch(r"nll\[buffer=[0-9a-f]{8}\]|pear_token", arm) for arm in study.arms)


def test_different_rl_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    given = two_arms(RunDirectories(tmp_path), rl={"steps": 40, "learning_rate": 1e-5})
    out = tmp_path / "report"
    assert command(monkeypatch, *given, "--output-dir", out) == 2
    message = capsys.readouterr().err
    assert "These runs differ in the RL that they had: steps is 60 in " in message
    assert "learning_rate is 1e-06 in " in message
    assert f"and 40 in {tmp_path / 'grpo-pear_token-base_0-0'}" in message
    assert "--allow-different" in message
    assert not out.exists()


def test_different_rl_that_is_allowed_is_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    given = two_arms(RunDirectories(tmp_path), 3, rl={"steps": 40})
    out = tmp_path / "report"
    assert command(monkeypatch, *given, "--output-dir", out, "--allow-different") == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The runs differ in the RL that they had: steps is 60 in" in page
    # The last models are compared, and what the column holds is said.
    assert "pear_token is better than nll after RL" in page
    assert "what stands under RL 60 is the last model of every arm" in page
    assert (out / "tables" / "verdict.csv").is_file()
    # What stands beside a report is not the report's to replace.
    (out / "mine.txt").write_text("x")
    assert command(monkeypatch, *given, "--output-dir", out, "--allow-different") == 2
    assert "is not empty and holds no report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"samples": 16}, "decoding.samples is 8 in"),
        ({"temperature": 0.6}, "decoding.temperature is 1.0 in"),
        ({"problems": [{"task": "tiny/affine_chain", "level": "n8", "split": "eval", "size": 30}]}, "problems.0.size"),
    ],
)
def test_different_evaluations_are_refused_and_named(tmp_path: Path, other: dict[str, Any], named: str) -> None:
    given = two_arms(RunDirectories(tmp_path), evaluate=other)
    with pytest.raises(UserError, match=rf"differ in how they were evaluated: {re.escape(named)}"):
        gathered(given, tmp_path)
    study = gathered(given, tmp_path, allow_different=True)
    assert "The runs differ in how they were evaluated" in study.comparison_notes[0]
    assert len(study.digests) == 3


def test_a_number_that_yaml_read_as_text_is_that_number(tmp_path: Path) -> None:
    runs = RunDirectories(tmp_path)
    for name, rate in (("nll", 1e-4), ("pear_token", "1e-4")):
        runs.sft(name, runs.base("base"), name, 0, trainer={"learning_rate": rate})
        runs.grpo(f"rl-{name}", tmp_path / name, 0, trainer={"max_grad_norm": rate})
    study = gathered([tmp_path / "rl-nll", tmp_path / "rl-pear_token"], tmp_path)
    assert study.comparison_notes == ()
    assert judge(study).sentence == "No verdict: this study evaluates nothing after RL."


def test_what_changes_no_number_is_no_difference(tmp_path: Path) -> None:
    rl = {"save_every": 7, "checkpoint_steps": [], "trainer": {"logging_steps": 3}}
    given = two_arms(RunDirectories(tmp_path), rl=rl, evaluate={"seed": 3, "shard_problems": 9, "k": [1]})
    study = gathered(given, tmp_path)
    assert study.comparison_notes == ()
    assert set(study.digests) == {"rl", "evaluation"}


def test_the_path_of_a_problem_file_is_no_part_of_a_budget() -> None:
    def budget(path: str, fingerprint: str) -> dict[str, Any]:
        sets = [{"task": "maths/file", "path": path}]
        return rl_budget({"config": {"problems": sets}, "inputs": {"problems_0": {"fingerprint": fingerprint}}})

    assert budget("a.csv", "sha256:1") == budget("b.csv", "sha256:1") != budget("a.csv", "sha256:2")


def test_of_two_evaluations_of_a_model_the_usual_one_is_taken(standard: Standard, tmp_path: Path) -> None:
    more = RunDirectories(tmp_path)
    sft = standard.root / "sft-nll-base_0-0"
    given = [more.evaluate("again", sft, 0.9, seed=1), *standard.given]
    study = gathered(given, tmp_path)
    assert study.value("nll", study.units[0], 0, "pass@1") == pytest.approx(192 / 480)
    assert [note for note in study.comparison_notes if "again" in note] == [
        f"Left out: {tmp_path / 'again'}. {standard.root / 'offline-nll-base_0-0'} evaluates the same model."
    ]
    # On RL's own prompts it is no second evaluation but the RL signal.
    given[0] = more.evaluate("signal", sft, 0.9, problems=RL)
    study = gathered(given, tmp_path)
    signal = study.rl_signal("nll", study.units[0])
    assert signal is not None
    assert signal.correct.mean() == pytest.approx(0.9)
    assert study.rl_signal("pear_token", study.units[0]) is None


def test_two_runs_of_rl_in_one_place_are_refused(standard: Standard, tmp_path: Path) -> None:
    given = [*standard.given, RunDirectories(tmp_path).grpo("again", standard.root / "sft-nll-base_0-0", 7)]
    with pytest.raises(
        UserError, match=r"again are both nll on base_0, seed 0|again and .* are both nll on base_0, seed"
    ):
        gathered(given, tmp_path)


def test_other_seeds_of_rl_are_said(tmp_path: Path) -> None:
    runs = RunDirectories(tmp_path)
    given = runs.arm("nll", "base_0", 0, (0.4, 0.8))
    sft = runs.sft("sft-other", runs.base("base_0"), "pear_token", 0)
    given.append(runs.evaluate("end", runs.grpo("grpo-other", sft, 55), 0.85))
    study = gathered(given, tmp_path)
    assert study.comparison_notes == (
        "RL had different seeds in the arms of base_0, seed 0: pairing by unit takes out less noise there.",
    )
    assert check_rl(study).differing == ()
    assert check_rl(study).other_seeds == 1


def test_analyses_go_to_the_arm_they_are_about(standard: Standard, tmp_path: Path) -> None:
    more, base = RunDirectories(tmp_path), standard.runs.base("base_0")
    sft, grpo = standard.root / "sft-nll-base_0-0", standard.root / "grpo-nll-base_0-0"
    analyses = [("offline-drift", base, sft), ("online-drift", sft, grpo), ("whole-drift", base, grpo)]
    given = [more.analyze(name, "weight_drift", before, after) for name, before, after in analyses]
    study = gathered([*standard.given, *given], tmp_path)
    unit = study.units[0]
    offline, online = (study.analysis("weight_drift", "nll", unit, step) for step in (0, 60))
    assert offline == read_json(tmp_path / "offline-drift" / "metrics.json")
    assert online == read_json(tmp_path / "online-drift" / "metrics.json")
    assert study.analysis("weight_drift", "pear_token", unit, 0) is None
    assert [note for note in study.comparison_notes if "whole-drift" in note]


def test_other_calibration_trajectories_are_said(standard: Standard, tmp_path: Path) -> None:
    more, base = RunDirectories(tmp_path), standard.runs.base("base_0")
    given = list(standard.given)
    for arm in ("nll", "pear_token"):
        sft = standard.root / f"sft-{arm}-base_0-0"
        given.append(more.analyze(f"of-{arm}", "divergence", base, sft, more.buffer(f"held-out-{arm}")))
    study = gathered(given, tmp_path)
    assert study.comparison_notes == (
        "divergence was computed on different calibration buffers (held-out-nll, held-out-pear_token): do not compare "
        "its numbers.",
    )
    # They are not the data of SFT.
    assert len(buffers(study)) == 1
    assert len(calibration_buffers(study)) == 2


def test_runs_that_were_moved_are_found_beside_each_other(tmp_path: Path) -> None:
    given = two_arms(RunDirectories(tmp_path / "here"), 2)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = [tmp_path / "there" / path.name for path in given]
    assert len(gathered(moved, tmp_path).paired("pear_token", 60, "pass@1")) == 2
    shutil.move(tmp_path / "there" / "sft-nll-base_0-0", tmp_path / "alone")
    with pytest.raises(UserError, match=r"the run that made its model .*sft-nll-base_0-0 is not there .* too\."):
        gathered(moved, tmp_path)
    assert len(gathered([*moved, tmp_path / "alone"], tmp_path).paired("pear_token", 60, "pass@1")) == 2


def test_the_reference_can_be_chosen(standard: Standard, tmp_path: Path) -> None:
    assert judge(gathered(standard.given, tmp_path, reference="pear_token")).verdicts[0].arm == "nll"
    with pytest.raises(UserError, match=r"--reference: Unknown arm 'pear_tokn'\. Did you mean 'pear_token'"):
        gathered(standard.given, tmp_path, reference="pear_tokn")


def test_bases_of_one_name_and_other_content_stay_apart(tmp_path: Path) -> None:
    runs = RunDirectories(tmp_path)
    given = runs.arm("nll", "one/base", 0, (0.4, 0.8)) + runs.arm("nll", "two/base", 0, (0.4, 0.8))
    study = gathered(given, tmp_path)
    assert len(study.units) == 2
    assert len({unit.name for unit in study.units}) == 2


def test_evaluations_alone_are_shown_without_arms(tmp_path: Path) -> None:
    runs = RunDirectories(tmp_path)
    given = [runs.evaluate(f"of-{name}", runs.base(name), 0.3) for name in ("a", "b")]
    study = gathered(given, tmp_path)
    assert study.arms == []
    assert [unit.name for unit in study.units] == ["a, seed 0", "b, seed 0"]
    assert judge(study).sentence == "No verdict: this study has no arms."


def test_mistakes_are_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    study = SyntheticStudy(arms=(), units=1).write(tmp_path / "study")
    for arguments, sentence in (
        ([], "Name a study's directory"),
        (["empty"], "empty: neither a finished run"),
        ([study, "--allow-different"], "--allow-different: is for runs that were not one study"),
        ([study, "--output-dir", "study/plan.json"], "plan.json: is a file"),
        ([study, "--output-dir", "study/runs"], "runs: is not empty and holds no report"),
    ):
        assert command(monkeypatch, *arguments) == 2
        assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "study"]


def test_a_study_can_be_reported_elsewhere(tmp_path: Path) -> None:
    study = SyntheticStudy(arms=(), units=1).write(tmp_path / "study")
    out = tmp_path / "new" / "place"
    assert write_report(study, out) == out / "report.html"
    assert not (study / "report.html").exists()
    assert str(study / "runs" / "evaluate-base-0") in (out / "report.html").read_text(encoding="utf-8")
    assert write_report(study, study) == study / "report.html"


def test_the_probe_of_a_study_is_no_other_rl(tmp_path: Path) -> None:
    runs = RunDirectories(tmp_path)
    given = two_arms(runs, 2)
    sft = tmp_path / "sft-pear_token-base_0-0"
    probe = runs.grpo("probe", sft, 100, steps=4, checkpoint_steps=[])
    probed = runs.evaluate("probed", probe, 0.5)
    with pytest.raises(UserError, match=r"steps is 60 in .* and 4 in"):
        gathered([*given, probed], tmp_path)
    nodes = [
        {"id": path.name, "stage": stage, "dir": path.name, "depends": [], "label": "",
         "uses": [{"arm": "pear_token", "base": "base_0", "seed": 0, "role": role, "rl_step": step} for role in roles]}
        for path, stage, roles, step in ((probe, "grpo", ["probe"], None), (probed, "evaluate", ["eval", "probe"], 4))
    ]  # fmt: skip
    write_json(tmp_path / "plan.json", {"name": "probed", "config": {}, "nodes": nodes})
    study = gathered([tmp_path, *given], tmp_path)
    assert study.rl_steps == [0, 60]
    assert len(study.paired("pear_token", 60, "pass@1")) == 2


def test_studies_are_compared_by_what_they_ran(tmp_path: Path) -> None:
    """Two studies of real runs: the same arms of different units become one arm each."""
    for number, seeds in enumerate(((0, 1), (2,))):
        runs = RunDirectories(tmp_path / f"study-{number}")
        (runs.root / "runs").mkdir(parents=True)
        nodes = []
        for seed in seeds:
            for arm, gain in (("nll", 0), ("pear_token", GAINS[seed])):
                runs.arm(arm, f"base_{seed}", 1000 + seed, (0.4, (400 + gain) / 480))
        for path in sorted(runs.root.glob("*/manifest.json")):
            stage, _, rest = path.parent.name.partition("-")
            use = {"arm": None, "base": "b", "seed": int(rest[-1]), "role": stage, "rl_step": None}
            stage = "evaluate" if stage in ("offline", "online") else stage
            nodes.append({"id": path.parent.name, "stage": stage, "dir": path.parent.name, "depends": [], "label": "",
                          "uses": [use]})  # fmt: skip
        write_json(runs.root / "plan.json", {"name": f"s{number}", "config": {}, "nodes": nodes})
    study = gathered([tmp_path / "study-0", tmp_path / "study-1"], tmp_path)
    assert study.name == "s0 and s1"
    # The seeds of the studies' files, not the ones derived from them.
    assert [unit.name for unit in study.units] == ["base_0, seed 0", "base_1, seed 1", "base_2, seed 2"]
    assert judge(study).take == "pear_token"
