"""Drift, rotation and token weights, arm by arm: known numbers, floors, what is missing, and that it all fits."""

import json
import re
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest

from pear.analysis.token_bins import Tokens, bin_rows, resampled_counts
from pear.ops.statistics import Interval
from pear.report.export import ExportTable
from pear.report.figures.analyses import analysis_figures, analysis_tables, module_tables
from pear.report.figures.arm_panels import short_labels
from pear.report.figures.svg import Picture
from pear.report.figures.token_weights import bins_of
from pear.report.sources.rows import Study, read_study
from tests.report.fitting import drawing
from tests.report.synthetic_study import ANALYSES, SyntheticStudy, many_arms, spread_level

ARMS = ("nll", "pear_token", "direct")
FIGURES = {
    *("kl_by_weight", "nll_by_weight", "kl_by_distance", "nll_by_distance", "kl_map_0", "kl_map_1"),
    *("gradient_rotation", "offline_drift", "online_drift"),
    *("online_spectrum_shift_pass_1", "forward_kl_pass_8", "sparsity_pass_8"),
}


def rewrite(study: Study, analysis: str, rl_step: int, change: Any) -> Study:
    """Gives every run of an analysis other metrics, by the arm's name and the unit's seed."""
    for arm in study.arms:
        for unit in study.units:
            node = study.analysis_node(analysis, arm, unit, rl_step)
            if node is not None:
                (node.directory / "metrics.json").write_text(json.dumps(change(arm, unit.seed)))
    return read_study(study.directory)


def write_bins(study: Study, *, longest: int = 60) -> None:
    """Bins as `pear analyze` makes them: the arms of a unit share weights, and arm by arm KL is 1 + its place."""
    for place, arm in enumerate(study.arms):
        for unit in study.units:
            node = study.analysis_node("token_weights", arm, unit, 0)
            if node is None:
                continue
            lengths = numpy.array([longest, longest // 2, longest // 3])
            trajectory = numpy.repeat(numpy.arange(3), lengths)
            distance = numpy.concatenate([numpy.arange(length)[::-1] for length in lengths])
            tokens = Tokens(
                trajectory=trajectory,
                distance=distance,
                log_weight=-0.05 * distance.astype(float),
                kl=numpy.full(len(distance), 1.0 + place + unit.seed),
                nll=0.5 + 0.1 * distance,
            )
            rows = bin_rows(tokens, resampled_counts(3, 50, seed=0), weight_bins=4)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), node.directory / "bins.parquet")
            metrics = json.loads((node.directory / "metrics.json").read_text())
            metrics |= {"token_weights/trajectories": 3, "token_weights/tokens": len(distance)}
            (node.directory / "metrics.json").write_text(json.dumps(metrics))


def study_of(directory: Path, **settings: Any) -> Study:
    given = {"arms": ARMS, "units": 2, "analyses": ANALYSES, "logged_steps": 5, "value": spread_level, **settings}
    return read_study(SyntheticStudy(**given).write(directory))


def drift(arm: str, seed: int) -> dict[str, float]:
    shift = 0.1 if arm == "nll" else 0.3
    return {"drift/spectrum_shift": shift + 0.02 * seed, "drift/sparsity": 0.5, "drift/update_norm": 2.0}


def rotation(arm: str, seed: int) -> dict[str, float]:
    angle = 50.0 if arm == "nll" else 40.0
    floors = {"gradients/floor_random_degrees": 80.0, "gradients/floor_grpo_degrees": 30.0 + seed}
    return {"gradients/rotation_degrees": angle + 2 * seed, **floors, "gradients/k": 16}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = study_of(tmp_path_factory.mktemp("analyses"))
    write_bins(found)
    rewrite(found, "weight_drift", 0, drift)
    rewrite(found, "weight_drift", 60, lambda arm, seed: {"drift/spectrum_shift": 0.01 * (1 + len(arm))})
    return rewrite(found, "gradient_rotation", 0, rotation)


@pytest.fixture(scope="module")
def drawn(study: Study) -> dict[str, Picture]:
    with drawing() as outside:
        found = {picture.name: picture for picture in analysis_figures(study)}
    assert outside == []
    return found


def mean_of(table: ExportTable, column: str, arm: str) -> float:
    (row,) = [row for row in table.rows if row[0] == arm]
    value = row[list(table.columns).index(column)]
    assert isinstance(value, Interval)
    return value.value


def test_every_figure_is_drawn_with_units_and_intervals(drawn: dict[str, Picture]) -> None:
    assert set(drawn) == FIGURES
    numbered = [picture.title for picture in drawn.values()]
    for figure in ("Figure 5", "Figure 7", "Figure 8a", "Figure 8b", "Figure 9d", "Figure 10b"):
        assert any(figure in title for title in numbered), figure
    for name, picture in drawn.items():
        assert "units" in picture.file, name
        if not name.startswith("kl_map"):
            assert "95%" in picture.file, name
        assert picture.data.rows, name


def test_drift_is_the_mean_over_units(study: Study, drawn: dict[str, Picture]) -> None:
    table = {table.name: table for table in analysis_tables(study)}["drift"]
    for arm, expected in (("nll", 0.11), ("pear_token", 0.31)):
        assert mean_of(table, "spectrum_shift", arm) == pytest.approx(expected)
        assert mean_of(drawn["offline_drift"].data, "spectrum_shift", arm) == pytest.approx(expected)
    # RL from the base alone has a drift in RL and none before it.
    assert mean_of(table, "online_spectrum_shift", "direct") == pytest.approx(0.07)
    assert [row[0] for row in drawn["online_drift"].data.rows] == list(study.arms)
    assert [row[0] for row in drawn["offline_drift"].data.rows] == ["nll", "pear_token"]


def test_rotation_stands_between_its_floors(study: Study, drawn: dict[str, Picture]) -> None:
    table = {table.name: table for table in analysis_tables(study)}["rotation"]
    assert list(table.columns) == ["arm", "rotation", "floor_grpo", "floor_random", "k"]
    assert mean_of(table, "rotation", "nll") == pytest.approx(51)
    assert mean_of(table, "floor_grpo", "nll") == pytest.approx(30.5)
    assert mean_of(table, "floor_random", "pear_token") == 80
    assert [row[-1] for row in table.rows] == [16, 16]
    assert drawn["gradient_rotation"].data.rows == table.rows
    # Both floors of both arms are marked, by upright strokes.
    text = drawn["gradient_rotation"].file
    (stroke,) = re.findall(r'<path id="(\w+)" d="M 0 4 \nL 0 -4 \n"', text)
    assert text.count(f'xlink:href="#{stroke}"') == 4


def test_scatters_pair_a_drift_with_the_result_of_its_unit(study: Study, drawn: dict[str, Picture]) -> None:
    rows = [row for row in drawn["online_spectrum_shift_pass_1"].data.rows if row[0] == "direct" and row[1] != "mean"]
    results = [study.value("direct", unit, 60, "pass@1") for unit in study.units]
    assert [tuple(row) for row in rows] == [
        ("direct", unit.base, unit.seed, pytest.approx(0.07), result)
        for unit, result in zip(study.units, results, strict=True)
    ]
    data = drawn["forward_kl_pass_8"].data
    assert data.columns == ("arm", "base", "seed", "forward_kl", "pass@8 after RL")


def test_bins_are_averaged_over_units(study: Study, drawn: dict[str, Picture]) -> None:
    bins = bins_of(study, "pear_token", "weight")
    assert len(bins) == 4
    for item in bins.values():
        # KL is 1 + the arm's place + the seed: 2 and 3.
        assert (item.kl.value, item.kl.n) == (2.5, 2)
        assert item.low <= item.high <= 0
    assert [item.tokens for item in bins_of(study, "nll", "distance").values()] == [6, 6, 12, 24, 48, 68, 56]
    rows = drawn["kl_by_weight"].data.rows
    assert len(rows) == 2 * 4
    assert [row[0] for row in rows[:4]] == ["nll"] * 4
    # The start is the same for every arm, so its NLL is drawn once.
    assert {row[0] for row in drawn["nll_by_weight"].data.rows} == {"nll"}
    assert {row[0] for row in drawn["kl_map_1"].data.rows} == {"pear_token"}
    assert len(drawn["kl_map_1"].data.rows) == len(bins_of(study, "pear_token", "weight_and_distance")) > 8


def test_one_unit_keeps_its_interval_over_trajectories(tmp_path: Path) -> None:
    found = study_of(tmp_path, units=1, analyses=("token_weights",), arms=("nll", "pear_token"))
    write_bins(found)
    found = read_study(found.directory)
    interval = bins_of(found, "nll", "weight")[3, 0].kl
    assert (interval.n, interval.method) == (3, "bootstrap over trajectories")
    assert interval.low == interval.high == 1.0
    with drawing() as outside:
        names = {picture.name: picture.file for picture in analysis_figures(found)}
    assert outside == []
    assert "95% interval over trajectories" in names["kl_by_weight"]


def test_only_what_was_analyzed_is_shown(tmp_path: Path) -> None:
    bare = study_of(tmp_path / "bare", analyses=())
    assert analysis_figures(bare) == []
    assert analysis_tables(bare) == []
    assert module_tables(bare) == []
    drift_alone = study_of(tmp_path / "drift", analyses=("weight_drift",), rl_steps=())
    assert {table.name for table in analysis_tables(drift_alone)} == {"drift"}
    with drawing():
        assert [picture.name for picture in analysis_figures(drift_alone)] == ["offline_drift"]


def test_modules_are_listed_one_by_one(study: Study) -> None:
    tables = {table.name: table for table in module_tables(study)}
    # 4 layers, 2 units: of two arms after SFT and of three in RL; rotations of two arms.
    assert len(tables["drift_modules"].rows) == 4 * 2 * (2 + 3)
    assert len(tables["rotation_modules"].rows) == 4 * 2 * 2
    first = dict(zip(tables["rotation_modules"].columns, tables["rotation_modules"].rows[0], strict=True))
    assert (first["arm"], first["seed"], first["rl_step"], first["k"]) == ("nll", 0, 0, 8)
    assert {row[3] for row in tables["drift_modules"].rows} == {0, 60}


def test_labels_of_sweeps_stay_apart() -> None:
    arms = many_arms(24)
    labels = short_labels(arms, 24)
    assert len(set(labels)) == len(arms)
    assert "pear_token[0.99,3e-05]" in labels
    assert max(map(len, labels)) <= 24
    alike = short_labels(["a[gamma=1,learning_rate_of_it=2]", "a[delta=1,learning_rate_of_it=2]"], 20)
    assert [label[:3] for label in alike] == ["1: ", "2: "]


@pytest.mark.slow
def test_24_arms_and_3_seeds_fit(tmp_path: Path) -> None:
    found = study_of(tmp_path, arms=many_arms(24), units=3)
    write_bins(found, longest=5000)
    found = read_study(found.directory)
    with drawing() as outside:
        names = {picture.name: picture for picture in analysis_figures(found)}
    assert outside == []
    assert len([name for name in names if name.startswith("kl_map")]) == 4
    assert len(names["offline_drift"].data.rows) == 23
    assert len(names["online_drift"].data.rows) == 24
    assert "darkest: " in names["kl_map_0"].file
