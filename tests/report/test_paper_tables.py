"""The paper's tables, from a study of two bases with two seeds each, whose numbers are worked out by hand."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pear.objectives import OBJECTIVES
from pear.ops.statistics import Interval
from pear.report.results.summaries import base_groups, ranked
from pear.report.sources.rows import Study, read_study
from pear.report.tables.grid import Grid, exported_grid, percent_cell, plain_text
from pear.report.tables.paper_tables import (
    PaperTable,
    average_table,
    benchmark_table,
    contrasts,
    objective_table,
    offline_online_tables,
    paper_tables,
    start_table,
)
from tests.report.synthetic_study import SyntheticStudy, many_arms, spread_level

MINUS = "\N{MINUS SIGN}"
TASKS = ("tiny/affine_chain", "synlogic/survo")


def counts(arm: str | None, unit: int, rl_step: int | None) -> float:
    """Right samples of 480. nll ends with 240, pear_token 24 above it on the first base and 12 below on the second."""
    online = {"nll": 240, "direct": 96, "pear_token": 240 + (24 if unit < 2 else -12)}
    offline = {"nll": 192, "pear_token": 144}
    found = 48 if arm is None else online[arm] if rl_step else offline[arm]
    return found / 480


def two_bases(directory: Path, arms: Sequence[str] = ("nll", "pear_token", "direct"), **settings: object) -> Study:
    """Units 0 and 1 are of base `small`, 2 and 3 of base `large`, with the same two seeds."""
    SyntheticStudy(arms=arms, units=4, value=counts, tasks=TASKS, logged_steps=1, **settings).write(directory)  # type: ignore[arg-type]
    path = directory / "plan.json"
    plan = json.loads(path.read_text())
    for node in plan["nodes"]:
        for use in node["uses"]:
            if use["seed"] is not None:
                use["base"], use["seed"] = ("models/small" if use["seed"] < 2 else "models/large"), use["seed"] % 2
    path.write_text(json.dumps(plan))
    return read_study(directory)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return two_bases(tmp_path_factory.mktemp("study"))


def texts(table: PaperTable | None) -> list[list[str]]:
    assert table is not None
    return [[row.heading.text if row.heading else "", *map(plain_text, row.cells)] for row in table.grid.rows]


def heads(grid: Grid) -> tuple[list[str], list[tuple[str, int]]]:
    return [head.text for head in grid.columns], [(head.text, head.span) for head in grid.groups]


def test_units_are_grouped_by_base(study: Study, tmp_path: Path) -> None:
    assert [(group.label, len(group.units)) for group in base_groups(study)] == [("small", 2), ("large", 2)]
    one_per_seed = read_study(SyntheticStudy(arms=("nll",), logged_steps=1).write(tmp_path))
    assert [(group.label, len(group.units)) for group in base_groups(one_per_seed)] == [("3 bases", 3)]


def test_table_3_has_the_average_of_every_arm_by_base(study: Study) -> None:
    table = average_table(study)
    assert texts(table) == [
        ["nll", "50.0%", "50.0%"],
        ["pear_token", "55.0% (+5.0)", f"47.5% ({MINUS}2.5)"],
        ["direct", f"20.0% ({MINUS}30.0)", f"20.0% ({MINUS}30.0)"],
    ]
    assert table is not None
    assert heads(table.grid) == (["small", "large"], [])
    assert [cell.falls for cell in table.grid.rows[1].cells] == [False, True]


def test_the_average_counts_every_task_the_same(tmp_path: Path) -> None:
    study = two_bases(tmp_path, arms=("nll", "pear_token"))
    for path in tmp_path.glob("runs/evaluate-*/metrics.json"):
        metrics = json.loads(path.read_text())
        metrics["macro"] = {"pass@1": {"value": 0.25, "low": 0.2, "high": 0.3, "n": 60}}
        path.write_text(json.dumps(metrics))
    assert texts(average_table(study))[0] == ["nll", "25.0%", "25.0%"]
    # Evaluations of an older version have tasks alone: their mean.
    for path in tmp_path.glob("runs/evaluate-*/metrics.json"):
        metrics = json.loads(path.read_text())
        del metrics["macro"]
        for task, share in zip(TASKS, (0.1, 0.5), strict=True):
            metrics["tasks"][task]["pass@1"]["value"] = share
        path.write_text(json.dumps(metrics))
    assert texts(average_table(read_study(tmp_path)))[0] == ["nll", "30.0%", "30.0%"]


def test_table_4_sets_rl_alone_beside_sft_and_rl(study: Study) -> None:
    table = start_table(study)
    assert texts(table) == [
        ["small", "20.0%", "50.0%", "55.0% (+5.0)"],
        ["large", "20.0%", "50.0%", f"47.5% ({MINUS}2.5)"],
    ]
    assert table is not None
    assert heads(table.grid)[0] == ["direct", "nll", "pear_token"]
    assert [head.why for head in table.grid.columns] == ["GRPO alone", "+ GRPO", "+ GRPO"]


def test_table_2_has_benchmarks_in_rows_and_bases_in_column_groups(study: Study) -> None:
    table = benchmark_table(study)
    rows = texts(table)
    assert table is not None
    assert heads(table.grid) == (
        ["pass@", "nll", "pear_token", "nll", "pear_token"],
        [("", 2), ("small", 2), ("large", 2)],
    )
    assert [row[:2] for row in rows] == [
        [TASKS[0], "avg. 8"], ["", "2"], ["", "8"], [TASKS[1], "avg. 8"], ["", "2"], ["", "8"],
        ["pass@1 avg.", ""], ["pass@2 avg.", ""], ["pass@8 avg.", ""],
    ]  # fmt: skip
    assert rows[6][2:] == ["50.0%", "55.0% (+5.0)", "50.0%", f"47.5% ({MINUS}2.5)"]
    # Both tasks have 30 problems: the benchmarks' mean is the average below.
    first, second, mean = (float(rows[place][2].removesuffix("%")) for place in (0, 3, 6))
    assert (first + second) / 2 == pytest.approx(mean, abs=0.1)


def test_tables_6_and_7_have_one_base_each(study: Study) -> None:
    small, large = offline_online_tables(study)
    assert "small" in small.grid.caption
    assert "large" in large.grid.caption
    assert heads(small.grid) == (
        ["pass@1", "pass@2", "pass@8", "maj. vote", "pass@1", "pass@2"],
        [("", 1), ("Offline: after SFT", 4), ("Online: after 60 RL steps", 2)],
    )
    found = {row[0]: row for row in texts(small)}
    assert (found["nll"][1], found["nll"][5]) == ("40.0%", "50.0%")
    assert (found["pear_token"][1], found["pear_token"][5]) == ("30.0%", "55.0%")
    # Bold marks the largest of a column: nll offline, pear_token online. RL alone is shown with its base.
    best = {row.heading.text: (row.cells[0].strong, row.cells[4].strong) for row in small.grid.rows if row.heading}
    assert best == {"nll": (True, False), "pear_token": (False, True), "direct": (False, False)}
    assert found["direct"][1] == "10.0%"


def test_a_missing_majority_vote_is_a_dash(tmp_path: Path) -> None:
    study = two_bases(tmp_path, arms=("nll", "pear_token"))
    for path in tmp_path.glob("runs/evaluate-*/metrics.json"):
        metrics = json.loads(path.read_text())
        for part in (metrics, metrics["macro"], *metrics["tasks"].values()):
            del part["maj@n"]
        path.write_text(json.dumps(metrics))
    table = offline_online_tables(study)[0]
    assert [row[4] for row in texts(table)] == ["\N{EN DASH}"] * 2
    assert "A dash is a number that is missing." in table.grid.note


def test_table_5_has_the_hyper_parameters_with_their_defaults(tmp_path: Path) -> None:
    SyntheticStudy(arms=("nll", "mine", "other", "direct"), units=1, logged_steps=1).write(tmp_path)
    for arm, config in (
        (1, {"objective": "pear_token", "objective_kwargs": {"gamma": 0.9}}),
        (2, {"objective": "of_tomorrow", "objective_kwargs": {"alpha": 2}}),
    ):
        path = tmp_path / "runs" / f"sft-{arm}-0" / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "config": config}))
    rows = texts(objective_table(read_study(tmp_path)))
    assert [row[:2] for row in rows] == [
        ["nll", "nll"], ["mine", "pear_token"], ["other", "of_tomorrow"], ["direct", "\N{EN DASH}"],
    ]  # fmt: skip
    assert rows[0][3] == "none"
    assert rows[1][2].startswith("NLL x the discounted ratio of the token's suffix: G_t = gamma^(T-t)")
    assert rows[1][3] == (
        "gamma = 0.9, log_ratio_clip = [-0.08, 0.3], log_weight_clip = [-10.0, 5.0], policy = current, graded = False"
    )
    assert rows[2][2:] == ["not an objective of this version", "alpha = 2"]
    assert rows[3][2] == "no SFT: RL starts at the base"


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_says_what_it_minimizes(tmp_path: Path, name: str) -> None:
    SyntheticStudy(arms=(name,), units=1, rl_steps=(), logged_steps=1, value=lambda *_: 0.5).write(tmp_path)
    path = tmp_path / "runs" / "sft-0-0" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": {"objective": name}}))
    ((_, key, loss, _),) = texts(objective_table(read_study(tmp_path)))
    assert key == name
    assert len(loss.split()) > 2


def test_few_of_many_arms_are_set_beside_the_reference(tmp_path: Path) -> None:
    arms = many_arms(24)
    study = read_study(SyntheticStudy(arms=arms, units=2, value=spread_level, logged_steps=1).write(tmp_path))
    chosen = contrasts(study)
    best = [arm for arm in ranked(study, 60) if arm != "direct"][:3]
    assert sorted(chosen) == sorted(best)
    assert chosen == [arm for arm in arms if arm in best]
    table = benchmark_table(study)
    assert table is not None
    assert heads(table.grid)[0] == ["pass@", "nll", *chosen]
    assert "Beside nll stand the 3 best after RL of 22 arms." in table.grid.note


def test_a_table_needs_what_it_is_about(tmp_path: Path) -> None:
    without_rl = read_study(SyntheticStudy(rl_steps=(), logged_steps=1).write(tmp_path / "sft"))
    assert [table.export.name for table in paper_tables(without_rl)] == ["table_objectives"]
    assert offline_online_tables(without_rl) == []
    alone = read_study(SyntheticStudy(arms=("nll",), logged_steps=1).write(tmp_path / "alone"))
    assert [table.export.name for table in paper_tables(alone)] == ["table_objectives"]
    assert len(offline_online_tables(alone)) == 1
    without_direct = read_study(SyntheticStudy(logged_steps=1).write(tmp_path / "sft_only"))
    assert start_table(without_direct) is None
    assert paper_tables(read_study(SyntheticStudy(arms=()).write(tmp_path / "no_arms"))) == []


def test_missing_evaluations_are_dashes(tmp_path: Path) -> None:
    absent = {f"evaluate-1-{unit}-{step}" for unit in range(4) for step in (0, 20, 60)}
    study = two_bases(tmp_path, arms=("nll", "pear_token"), absent=absent)
    assert texts(average_table(study))[1] == ["pear_token", "\N{EN DASH}", "\N{EN DASH}"]


def test_numbers_carry_n_and_intervals(study: Study) -> None:
    table = average_table(study)
    assert table is not None
    cell = table.grid.rows[1].cells[0]
    assert cell.hover == "55.0% [55.0%, 55.0%], n = 2; change +5.0 [+5.0, +5.0] points, paired, n = 2"
    assert "Means of 4 units (2 bases, 2 seeds), 60 problems, 8 samples each." in table.grid.note


def test_the_csv_has_every_number_behind_a_cell(study: Study) -> None:
    table = benchmark_table(study)
    assert table is not None
    rows = list(csv.DictReader(io.StringIO(table.export.csv())))
    assert [row["Benchmark"] for row in rows][:4] == [TASKS[0]] * 3 + [TASKS[1]]
    assert [row["pass@"] for row in rows][:3] == ["avg. 8", "2", "8"]
    average = rows[6]
    name = "large: pear_token + GRPO"
    assert float(average[name]) == pytest.approx(0.475)
    assert [average[f"{name}{end}"] for end in (" n", " change n")] == ["2", "2"]
    assert float(average[f"{name} change"]) == pytest.approx(-0.025)
    assert float(average[f"{name} change low"]) == pytest.approx(-0.025)
    assert "large: nll + GRPO" in average
    assert "large: nll + GRPO change" not in average


def test_latex_has_the_column_groups(study: Study) -> None:
    table = benchmark_table(study)
    assert table is not None
    lines = table.export.latex().splitlines()
    start = lines.index(r"\begin{tabular}{llrrrr}")
    assert lines[start + 1 : start + 5] == [
        r"\toprule",
        r"\multicolumn{2}{c}{} & \multicolumn{2}{c}{small} & \multicolumn{2}{c}{large} \\",
        r"\cmidrule(lr){3-4} \cmidrule(lr){5-6}",
        r"Benchmark & pass@ & nll + GRPO & pear\_token + GRPO & nll + GRPO & pear\_token + GRPO \\",
    ]
    assert lines[start + 6].startswith(r"tiny/affine\_chain & avg. 8 & ")
    assert lines[start + 7].startswith(" & 2 & ")
    assert r"47.5\% ($-$2.5) \\" in lines[-6]
    assert table.export.latex().isascii()
    assert all(line.count("&") in (2, 5) for line in lines if "&" in line)


def test_markdown_names_columns_by_their_group(study: Study) -> None:
    table = benchmark_table(study)
    assert table is not None
    header = table.export.markdown().splitlines()[2]
    assert header == (
        "| Benchmark | pass@ | small: nll + GRPO | small: pear_token + GRPO | large: nll + GRPO "
        "| large: pear_token + GRPO |"
    )
    assert f"47.5% ({MINUS}2.5)" in table.export.markdown()
    assert "\N{BLACK DOWN-POINTING SMALL TRIANGLE}" not in table.export.markdown()


def interval(value: float, width: float = 0.01) -> Interval:
    return Interval(value=value, low=value - width, high=value + width, n=3, method="paired t")


@pytest.mark.parametrize(
    ("change", "text", "falls"),
    [(0.1234, "+12.3", False), (-0.02, f"{MINUS}2.0", True), (-0.0004, "0.0", False), (0.0, "0.0", False)],
)
def test_a_loss_is_marked_and_rounding_makes_none(change: float, text: str, falls: bool) -> None:
    cell = percent_cell(interval(0.5), interval(change))
    assert (cell.change, cell.falls) == (text, falls)


def test_a_single_unit_has_no_interval_on_hover() -> None:
    alone = Interval(value=0.5, low=float("-inf"), high=float("inf"), n=1, method="paired t")
    assert percent_cell(alone, alone).hover == "50.0% one unit, no interval, n = 1"
    assert percent_cell(None).missing


def test_any_exported_table_can_stand_on_the_page(study: Study) -> None:
    table = average_table(study)
    assert table is not None
    grid = exported_grid(table.export, study.arms)
    assert [row.heading.text for row in grid.rows if row.heading and row.heading.arm] == study.arms
    assert [head.left for head in grid.columns] == [True, True]
