"""The page of a calibration, from numbers made up here."""

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pear.errors import UserError
from pear.objectives import make_objective
from pear.report.calibration import recommendations, write_calibration_page
from pear.report.figures.calibration import calibration_figures
from tests.report.fitting import drawing

HOSTILE = "<script>alert(1)</script>"
LOWS = (-0.02, -0.08, -0.25, -1.0, -2.0)
NUM_RANGES = 18


def point(level: str, size: int | None, low: float, ess: float) -> dict[str, Any]:
    fields: dict[str, Any] = {"log_ratio_clip": [low, 0.3]} | ({} if size is None else {"block_size": size})
    clipped = {
        f"weights/clipped/{name}": share
        for name, share in (
            *(("log_ratio_low", 0.2), ("log_ratio_high", 0.01), ("log_weight_low", 0.1), ("log_weight_high", 0.02)),
        )
    }
    return {
        "objective": f"pear_{level}",
        "objective_kwargs": fields,
        "metrics": {
            "weights/mean": 0.5,
            "weights/effective_sample_size": ess,
            "weights/tokens_with_90_percent": 0.9 * ess,
            "weights/last_tokens_with_90_percent": 0.8,
            **{f"weights/log_weight/q{q}": -1.0 for q in ("05", "50", "95")},
            "weights/log_ratio/mean": -0.2,
            **clipped,
        },
        "exponent": min(1.0, ess),
        "tokens_by_distance": [1 / NUM_RANGES] * NUM_RANGES,
        "weight_by_distance": [2 / NUM_RANGES] * 9 + [0.0] * 9,
    }


def grid(*series: tuple[str, int | None]) -> list[dict[str, Any]]:
    return [point(level, size, low, 1.0 - 0.2 * index) for level, size in series for index, low in enumerate(LOWS)]


FOUR = grid(("token", None), ("block", 8), ("block", 32), ("sequence", None))


def write_run(directory: Path, points: list[dict[str, Any]], recommended: list[dict[str, Any]], **config: Any) -> Path:
    directory.mkdir()
    values = {"model": "base", "buffer": "data", "ess": 0.7, **config}
    (directory / "manifest.json").write_text(json.dumps({"config": values, "fingerprint": "f" * 64}))
    found = {"trajectories": 500, "tokens": 14000, "points": points, "recommended": recommended}
    (directory / "calibration.json").write_text(json.dumps(found))
    return directory


def chosen(*places: int, reached: bool = True) -> list[dict[str, Any]]:
    return [{**FOUR[place], "reached": reached} for place in places]


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_the_page_says_which_setting_to_take(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", FOUR, chosen(1, 6, 16))
    page = write_calibration_page(run_dir).read_text()
    text = words(page)
    first = "pear_token with log_ratio_clip [-0.08, 0.3] has the strongest weights of this grid that keep an effective"
    assert f"{first} sample size of 0.7: theirs is 0.80." in text
    assert "pear_block with block_size 8 and log_ratio_clip [-0.08, 0.3]" in text
    assert "objective: pear_block objective_kwargs: log_ratio_clip: [-0.08, 0.3] block_size: 8" in text
    assert page.count('<tr class="chosen">') == 3
    assert page.count("<figure>") == 6
    with (run_dir / "tables/calibration.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["weights"], float(row["lower clip"]), float(row["ESS"])) for row in rows[:6]] == [
        *(("token", low, pytest.approx(1.0 - 0.2 * index)) for index, low in enumerate(LOWS)),
        ("block of 8", LOWS[0], 1.0),
    ]
    assert rows[0]["ESS between trajectories"] == ""
    addresses = re.findall(r'href="((?:figures|tables)/[^"]+)"', page)
    assert len(addresses) == 6 * 3 + 3
    assert all((run_dir / address).stat().st_size > 0 for address in addresses)


def test_where_no_setting_keeps_the_size_it_says_so() -> None:
    (sentence,) = recommendations(chosen(3, reached=False), ess=0.7)
    assert sentence == (
        "No setting of pear_token in this grid keeps an effective sample size of 0.7; the nearest is log_ratio_clip "
        "[-1, 0.3], with 0.40. Set ess_target to 0.7, which tempers the weights to that size: at this setting with the "
        "exponent 0.40."
    )


def test_the_recipe_of_a_size_that_no_setting_keeps_tempers(tmp_path: Path) -> None:
    page = write_calibration_page(write_run(tmp_path / "run", FOUR, chosen(8, reached=False))).read_text()
    lines = html.unescape(re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)[0])
    recipe = yaml.safe_load(lines)
    assert recipe["objective_kwargs"] == {"log_ratio_clip": [-1.0, 0.3], "block_size": 8, "ess_target": 0.7}
    make_objective(recipe["objective"], recipe["objective_kwargs"])


def test_known_failures_stand_beside_the_recommendation(tmp_path: Path) -> None:
    page = write_calibration_page(write_run(tmp_path / "run", FOUR, chosen(0, 15))).read_text()
    assert words(page).count("so this is plain SFT") == 2
    assert (
        "so this is plain SFT" not in write_calibration_page(write_run(tmp_path / "other", FOUR, chosen(1))).read_text()
    )


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", FOUR, chosen(1), model=HOSTILE, buffer=HOSTILE)
    page = write_calibration_page(run_dir).read_text()
    assert HOSTILE not in page
    assert page.count(html.escape(HOSTILE)) == 2


def test_figures_fit_and_hold_their_numbers() -> None:
    crowded = grid(("token", None), *(("block", 2**size) for size in range(12)), ("sequence", None))
    for points in (FOUR, crowded, grid(("token", None))[:1]):
        with drawing() as outside:
            figures = calibration_figures(points, [points[0]], ess=0.7, counts="n = 500 trajectories")
        assert outside == []
        by_name = {figure.picture.name: figure for figure in figures}
        sizes = by_name["effective_sample_size"].picture.data.rows
        assert [row[2] for row in sizes] == [point["metrics"]["weights/effective_sample_size"] for point in points]
        assert by_name["trajectory_effective_sample_size"].picture.data.rows == []
        along = by_name["weight_by_distance"]
        assert list(along.styles) == ["all tokens", "token"]
        assert along.picture.data.rows[NUM_RANGES - 1][1] == 2**16
        assert all(row[2] == pytest.approx(0.12) for row in by_name["clipped_log_weight"].picture.data.rows)
        ratios = by_name["clipped_log_ratio"].picture.data.rows
        assert len(ratios) == 2 * len({point["objective_kwargs"]["log_ratio_clip"][0] for point in points})


def test_a_directory_without_a_calibration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished run"):
        write_calibration_page(tmp_path)
