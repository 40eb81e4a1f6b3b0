"""The page, its figures and its tables."""

import csv
import dataclasses
import html
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pear.report import write_report
from pear.report.figures.crossings import offline_online_figure, slope_figures
from pear.report.figures.curves import REWARD, curve_figure
from pear.report.figures.drawing import arm_styles, shown
from pear.report.figures.evaluations import bar_figures, differences_figure, sampling_figure, verdict_figure
from pear.report.page import _code_spans, write_page
from pear.report.results.summaries import ranked, unit_differences
from pear.report.results.verdict import judge
from pear.report.sources.rows import read_study
from tests.report.fitting import drawing
from tests.report.synthetic_study import ANALYSES, SyntheticStudy, many_arms, spread_level

SECTIONS = [
    *("results", "offline-online", "signals", "rl", "confounds", "diagnostics", "analyses"),
    *("configuration", "stages"),
]
MINUS, LOSS = "\N{MINUS SIGN}", "\N{BLACK DOWN-POINTING SMALL TRIANGLE}"


class Tags(HTMLParser):
    """Collects what a page consists of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src", "xlink:href", "action"):
                self.addresses.append(str(value))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def words(page: str) -> str:
    """A page's text, on one line."""
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def table(directory: Path, name: str, place: str = "tables") -> list[dict[str, str]]:
    with (directory / place / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def figure_data(directory: Path, name: str) -> list[dict[str, str]]:
    return table(directory, name, "figures")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything that a page can show."""
    directory = SyntheticStudy(
        arms=("nll", "pear_token", "pear_sequence", "direct"),
        logged_steps=12,
        tasks=("tiny/affine_chain", "synlogic/survo"),
        levels=("n8", "n10"),
        temperatures=(1.0, 0.6),
        analyses=ANALYSES,
        rl_signal=True,
    ).write(tmp_path_factory.mktemp("study"))
    assert write_report(directory) == directory / "report.html"
    return directory


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return (study / "report.html").read_text(encoding="utf-8")


def test_the_verdict_comes_first_then_the_sections(study: Path, page: str) -> None:
    sentence = judge(read_study(study)).sentence.replace("-0.", f"{MINUS}0.")
    assert sentence.startswith("pear_sequence is better than nll after RL: +0.049 [+0.028, +0.070]")
    assert sentence.endswith("Take pear_sequence to RL.")
    places = [page.index(html.escape(sentence, quote=False) + "</p>")]
    places += [page.index(f'<section id="{name}">') for name in SECTIONS]
    assert places == sorted(places)
    contents = page[page.index('<nav class="toc"') : page.index("</nav>")]
    assert re.findall(r'href="#([\w-]+)"', contents) == SECTIONS


def test_known_numbers_are_on_the_page(page: str) -> None:
    text = words(page)
    assert "SFT improves on the base: yes , +0.200" in text
    assert "RL improves on SFT: yes , +0.450" in text
    assert "2 of 6 pairs of arms change order" in text
    assert f"pear_token undecided p = 0.724 +0.003 [{MINUS}0.027, +0.032] 3 about 73 units" in text
    assert "corrected for 3 comparisons (Holm), is below 0.05" in text
    assert "compared, unit by unit: they are equal in everything but the model" in text
    assert "a1" * 32 in text
    assert "Update norm L2 norm of the change of all parameters; start to end 2.500" in text
    # Confounds, in the order of the pipeline: SFT's update, then RL's.
    assert re.search(r"Confounds side by side .* Update norm of SFT .* 2\.500 .* Update norm of RL .* 1\.250", text)


def test_evaluations_are_taken_apart(page: str) -> None:
    text = words(page)
    for head in ("Micro", "Macro", "Accuracy", "Format", "Truncated", "Unparsable", "Mean tokens"):
        assert head in text
    assert "nll after SFT 3 60 8 40.0% 40.0% 41.0% 96.9% 1.6% 2.0% 41.5" in text
    assert "By task and level pass@1 after 60 RL steps" in text
    assert "n10 synlogic/survo" in text
    assert "By temperature pass@1 after 60 RL steps" in text
    assert "temperature 0.6 0.871" in text
    assert "Problems of synlogic/survo may have several right answers." in text
    assert "read maj@n of these tasks as a lower bound" in text


def test_tables_of_the_paper_are_on_the_page(page: str) -> None:
    text = words(page)
    for number in ("2", "3", "4", "5"):
        assert f"(layout of the paper's Table {number})" in text
    assert "(layout of the paper's Tables 6 and 7)" in text
    assert "nll 85.0% pear_token 85.3% (+0.3) pear_sequence 89.9% (+4.9)" in text
    # A loss has a sign and a mark, not a color alone.
    assert f"direct 45.0% ({MINUS}40.0 {LOSS} )" in text


def test_signals_and_analyses_are_on_the_page(page: str) -> None:
    text = words(page)
    assert "Spearman Kendall Pairs reversed Regret in pass@1" in text
    assert "GRPO probe" in text
    assert "The calibration set: 269 trajectories" in text
    assert "Angle between offline and GRPO gradients" in text


def test_advice_in_backticks_is_code_and_stays_text(tmp_path: Path) -> None:
    directory = SyntheticStudy(arms=("nll", "pear_token"), units=1, logged_steps=0, absent=("evaluate-1-0-60",)).write(
        tmp_path
    )
    page = write_report(directory).read_text(encoding="utf-8")
    missing = page[page.index("Signals that this study does not have") :]
    assert re.search(r"<li><strong>Held-out NLL</strong>: [^`]*<code>[\w.]+</code>[^`]*</li>", missing)
    assert str(_code_spans("`<b>` & <i>")) == "<code>&lt;b&gt;</code> &amp; &lt;i&gt;"


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    tags = Tags(page)
    assert not {"script", "iframe", "img", "object", "embed", "audio", "video"} & set(tags.tags)
    assert not re.search(r"\son[a-z]+=", page)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    for address in tags.addresses:
        files = r"figures/\w+\.(svg|pdf|csv)|tables/\w+\.(csv|md|tex)"
        assert re.fullmatch(rf"#[\w.-]+|{files}|data:,", address), address
    assert "default-src 'none'" in html.unescape(page)


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    ids = Tags(page).ids
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert used <= set(ids)


def test_every_figure_and_table_is_linked_in_three_forms(study: Path, page: str) -> None:
    linked = {address for address in Tags(page).addresses if address.startswith(("figures/", "tables/"))}
    assert all((study / address).is_file() for address in linked)
    figures = {f"figures/{path.name}" for path in (study / "figures").iterdir()}
    assert figures <= linked
    stems = {path.stem for path in (study / "figures").iterdir()}
    assert {f"figures/{stem}.{end}" for stem in stems for end in ("svg", "pdf", "csv")} == figures
    tables = {path.stem for path in (study / "tables").iterdir()}
    assert {path.name for path in (study / "tables").iterdir()} == {
        f"{stem}.{end}" for stem in tables for end in ("csv", "md", "tex")
    }
    assert {"verdict", "table_average", "table_start", "table_benchmarks", "table_objectives"} <= tables
    assert {"table_offline_online", "parts", "results", "confounds", "signals", "drift", "rotation"} <= tables


def test_figures_follow_the_theme_and_stand_alone(study: Path, page: str) -> None:
    files = sorted((study / "figures").glob("*.svg"))
    stems = {path.stem for path in files}
    assert {"verdict", "after_rl", "offline_online", "slope", "slope_large_k", "slope_majority", "differences"} <= stems
    assert {"grpo_reward", "grpo_groups_without_variance", "sft_weights_mean", "signals_spearman"} <= stems
    for path in files:
        text = path.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert "var(--" not in text
        assert "<metadata>" not in text
        assert re.search(r"\(?n = |\d units", text), path.name
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")
        assert len(path.with_suffix(".csv").read_text().splitlines()) > 1
    reward = (study / "figures" / "grpo_reward.svg").read_text(encoding="utf-8")
    assert 'id="legend-0-0"' in reward
    inline = page[page.index("<figure>") : page.rindex("</figure>")]
    assert "var(--blue)" in inline
    assert "#0072b2" not in inline
    assert "-legend-" not in inline


def test_files_hold_what_the_page_shows(study: Path) -> None:
    (verdict,) = [row for row in table(study, "verdict") if row["arm"] == "pear_sequence"]
    assert float(verdict["difference"]) == pytest.approx(0.05, abs=0.002)
    assert (verdict["difference_n"], verdict["verdict"], verdict["units to settle"]) == ("3", "better", "")
    results = table(study, "results")
    assert {row["metric"] for row in results} == {"pass@1", "pass@2", "pass@8", "maj@n"}
    assert len(results) == 4 * 4 * 4
    # The base once a unit; after SFT the arm without SFT is its base.
    assert len(table(study, "evaluations")) == 3 * (1 + 4 * 3)
    assert [row["established"] for row in table(study, "reversals")] == ["1", "1"]
    assert len(table(study, "unit_differences")) == 9
    parts = {row["part"] for row in table(study, "parts")}
    assert float(next(iter(table(study, "table_average")))["3 bases"]) == pytest.approx(0.85)
    assert parts == {
        "all", "tiny/affine_chain", "synlogic/survo", "temperature 1.0", "temperature 0.6",
        "tiny/affine_chain n8", "tiny/affine_chain n10", "synlogic/survo n8", "synlogic/survo n10",
    }  # fmt: skip
    bars = {row["arm"]: row for row in figure_data(study, "after_rl")}
    assert float(bars["nll"]["pass@1"]) == pytest.approx(0.85)
    assert bars["nll"]["pass@1_n"] == "3"
    slope = [row for row in figure_data(study, "slope") if row["arm"] == "nll"]
    assert [float(row["offline pass@1"]) for row in slope] == pytest.approx([0.40, 0.45, 0.35])
    assert [float(row["online pass@1"]) for row in slope] == pytest.approx([0.85, 0.90, 0.80])
    assert len(figure_data(study, "grpo_reward")) == 4 * 12
    assert len(figure_data(study, "sft_log_weights_1")) == 3 * 12


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    SyntheticStudy(units=2, logged_steps=0).write(first)
    shutil.copytree(first, second)
    for stale in ("figures/of_an_earlier_report.svg", "figures/of_an_earlier_report.pdf", "tables/earlier.tex"):
        (second / stale).parent.mkdir(exist_ok=True)
        (second / stale).write_text("<svg/>")
    write_report(first)
    write_report(second)
    names = {path.relative_to(first) for place in ("figures", "tables") for path in (first / place).iterdir()}
    assert {path.relative_to(second) for place in ("figures", "tables") for path in (second / place).iterdir()} == names
    for name in [Path("report.html"), *names]:
        assert (second / name).read_bytes() == (first / name).read_bytes(), name


def test_missing_runs_are_shown_as_missing(tmp_path: Path) -> None:
    failed = {"sft-1-1": "CUDA <b>out</b> of memory"}
    absent = {"grpo-1-1", "evaluate-1-1-0", "evaluate-1-1-20", "evaluate-1-1-60"}
    directory = SyntheticStudy(arms=("nll", "pear_token"), logged_steps=0, failed=failed, absent=absent).write(tmp_path)
    page = write_report(directory).read_text(encoding="utf-8")
    text = words(page)
    assert "A partial report. 5 of 34 stages are not complete, 1 of them failed" in text
    assert "2 of 3 units" in text
    assert "CUDA &lt;b&gt;out&lt;/b&gt; of memory" in page
    assert "logs/sft-1-1.log" in text
    rows = {row["node"]: row for row in table(directory, "evaluations")}
    assert rows["evaluate-1-1-60"]["status"] == "blocked"
    assert rows["evaluate-1-1-60"]["pass@1"] == ""


def test_a_study_that_has_not_begun(tmp_path: Path) -> None:
    study = SyntheticStudy(logged_steps=1)
    everything = {node["id"] for node in study._nodes()}
    directory = SyntheticStudy(logged_steps=1, absent=everything).write(tmp_path)
    page = write_report(directory).read_text(encoding="utf-8")
    text = words(page)
    assert "No verdict yet: no unit has nll and another arm evaluated after RL step 60." in text
    assert "No RL run is complete." in text
    assert "No SFT run is complete" in text
    assert not list((directory / "figures").iterdir())


def test_one_unit_has_no_intervals(tmp_path: Path) -> None:
    directory = SyntheticStudy(arms=("nll", "pear_token"), units=1, logged_steps=0).write(tmp_path)
    text = words(write_report(directory).read_text(encoding="utf-8"))
    assert "one unit, no interval" in text
    assert "inf" not in re.sub(r"[a-z]*infer|reinf|info|inform", "", text.lower())
    assert "nan" not in re.findall(r"[a-z]+", text.lower())


def test_a_study_without_arms(tmp_path: Path) -> None:
    directory = SyntheticStudy(arms=(), units=2).write(tmp_path)
    text = words(write_report(directory).read_text(encoding="utf-8"))
    assert "No verdict: this study has no arms." in text
    assert "base_1, seed 1 0.250" in text


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    arms = ("nll", hostile, 'a"&\x01$x_1$--> style="font-family: y;"')
    directory = SyntheticStudy(arms=arms, units=2, logged_steps=1).write(tmp_path)
    page = write_report(directory).read_text(encoding="utf-8")
    tags = Tags(page)
    assert "script" not in tags.tags
    assert hostile in words(page.replace("&amp;", "&"))
    for path in (directory / "figures").glob("*.svg"):
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert not [element for element in root.iter() if element.tag.endswith("script")]
    for path in (directory / "tables").glob("*.md"):
        assert "<script>" not in path.read_text(encoding="utf-8"), path.name
    assert "&lt;script&gt;" in (directory / "figures" / "verdict.svg").read_text(encoding="utf-8")
    assert {row["arm"] for row in table(directory, "verdict")} == set(arms[1:])


def test_sampling_that_biases_the_ratios_is_said(page: str, tmp_path: Path) -> None:
    assert "1,200 trajectories of pear:affine_chain/behavior , 1,000 of them correct" in words(page)
    assert "It was sampled from this same distribution, so ratios are unbiased." in words(page)
    directory = SyntheticStudy(arms=(), units=1, temperature=0.7).write(tmp_path)
    text = words(write_report(directory).read_text(encoding="utf-8"))
    assert "It was sampled otherwise (temperature 0.7): ratios compare like with like" in text


def test_different_rl_is_said_loudly(tmp_path: Path) -> None:
    directory = SyntheticStudy(arms=("nll", "pear_token"), units=2, logged_steps=0).write(tmp_path)
    path = directory / "runs" / "grpo-1-0" / "manifest.json"
    path.write_text(path.read_text().replace('"steps": 60', '"steps": 90'))
    text = words(write_report(directory).read_text(encoding="utf-8"))
    assert "But the finished RL runs differ in steps" in text


def test_what_differs_between_loose_runs_is_said(tmp_path: Path) -> None:
    study = read_study(SyntheticStudy(arms=(), units=1).write(tmp_path))
    notes = ("RL had 60 and 90 steps.", "Problems <b>differ</b>.")
    page = write_page(dataclasses.replace(study, comparison_notes=notes)).read_text(encoding="utf-8")
    said = "What differs between these runs, which were not one study: RL had 60 and 90 steps. Problems <b>differ</b>."
    assert said in words(page)
    assert "Problems &lt;b&gt;differ&lt;/b&gt;." in page
    assert "Every arm had the same" not in page


def test_what_a_probe_left_behind_is_shown(tmp_path: Path) -> None:
    arms = ("nll", "pear_token", "pear_sequence")
    directory = SyntheticStudy(arms=arms, units=2, logged_steps=0, dropped=("pear_token",)).write(tmp_path)
    text = words(write_report(directory).read_text(encoding="utf-8"))
    assert "the probe spent 10.0% of RL's steps on every arm" in text
    assert "Arm pass@1 after 20 RL steps" in text
    assert "pear_sequence 0.782 kept" in text
    assert "pear_token 0.734 left behind" in text
    assert "pear_token dropped" in text


def test_an_evaluation_of_an_older_version_lacks_what_it_did_not_record(tmp_path: Path) -> None:
    directory = SyntheticStudy(arms=("nll", "pear_token"), units=2, logged_steps=0).write(tmp_path)
    for path in directory.glob("runs/evaluate-*/metrics.json"):
        added = "maj@n|macro|levels|accuracy|unparsable|many_solutions"
        path.write_text(re.sub(rf'"({added})":', r'"was \1":', path.read_text()))
    text = words(write_report(directory).read_text(encoding="utf-8"))
    assert "nll after SFT 2 60 8 42.5% 42.5% \N{EN DASH} 96.9% 1.6% \N{EN DASH} 41.5" in text
    assert "A dash is a number that is missing." in text
    assert not (directory / "figures" / "slope_majority.svg").exists()
    assert {row["metric"] for row in table(directory, "results")} == {"pass@1", "pass@2", "pass@8"}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("many")
    return SyntheticStudy(arms=many_arms(24), value=spread_level, logged_steps=2).write(directory)


def test_of_many_arms_the_ones_that_matter_are_in_color(many: Path) -> None:
    study = read_study(many)
    styles = arm_styles(study)
    in_color = [arm for arm in study.arms if not styles[arm].muted]
    assert len(in_color) == 7
    take = judge(study).take
    assert take is not None
    assert {"nll", take, *ranked(study, 60)[:4], ranked(study, 0)[0]} <= set(in_color)
    looks = [(styles[arm].hue, styles[arm].marker) for arm in in_color]
    assert len(set(looks)) == len({hue for hue, _ in looks}) == 7
    assert {styles[arm].hue for arm in study.arms if arm not in in_color} == {"muted"}


@pytest.mark.parametrize("width", [22, 24, 30, 32])
def test_shortened_names_of_a_sweep_stay_apart(width: int) -> None:
    names = [shown(arm, width) for arm in many_arms(24)]
    assert len(set(names)) == 24
    assert max(map(len, names)) <= width


def test_up_to_eight_arms_all_differ_without_color(tmp_path: Path) -> None:
    study = read_study(SyntheticStudy(arms=many_arms(8), value=spread_level, units=1, logged_steps=1).write(tmp_path))
    styles = arm_styles(study)
    assert not any(style.muted for style in styles.values())
    assert len({(style.marker, style.dash) for style in styles.values()}) == 8
    assert len({(style.hue, style.dash) for style in styles.values()}) == 8


def test_figures_of_many_arms_fit_and_grow_with_them(many: Path) -> None:
    study = read_study(many)
    with drawing() as outside:
        verdict = verdict_figure(study, judge(study).verdicts)
        (bars,) = bar_figures(study)
        sampling = sampling_figure(study, unit_differences(study))
        pictures = [verdict, bars, offline_online_figure(study), differences_figure(study)]
        pictures += [curve_figure(study, "grpo", REWARD), *slope_figures(study)]
    assert outside == []
    assert sampling is not None
    labels = re.findall(r">([^<>]+?): base_\d, seed \d ", sampling.file)
    assert len(set(labels)) == 23
    assert verdict is not None
    assert verdict.file.count("pear_token[") == 12
    for picture in pictures:
        assert picture is not None
        if "legend-0-0" in picture.file:
            assert ">17 more<" in picture.file, picture.name
    for picture in (verdict, bars):
        height = re.search(r'viewBox="0 0 \S+ (\S+)"', picture.inline)
        assert height is not None
        assert float(height.group(1)) > 600


@pytest.mark.slow
def test_a_page_of_24_arms_folds_what_is_long(many: Path, tmp_path: Path) -> None:
    path = write_page(dataclasses.replace(read_study(many), directory=tmp_path))
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    for title in ("What was evaluated", "Every evaluation", "Rank reversals", "Sampling error of each difference"):
        assert re.search(rf"<details[^>]*>\s*<summary>{title}</summary>", page), title
    assert "17 other arms in gray" in page
    assert measured(tmp_path, tmp_path / "profile", 390)[0] <= 390


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """<!doctype html><body><iframe src="report.html" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>
onload = () => {{
  const frame = document.querySelector("iframe");
  const page = frame.contentDocument;
  page.querySelectorAll("details").forEach(part => part.open = true);
  const figures = [...page.querySelectorAll("figure svg")];
  const cramped = figures.filter(svg => svg.getBoundingClientRect().width < 250);
  const requests = frame.contentWindow.performance.getEntriesByType("resource").length;
  document.title = [page.scrollingElement.scrollWidth, figures.length, cramped.length, requests].join(" ");
}};
</script>"""


def measured(directory: Path, profile: Path, width: int) -> tuple[int, int, int, int]:
    """(width of the page, figures, figures that are too narrow, requests), with everything unfolded."""
    (directory / "measure.html").write_text(MEASURE.format(width=width))
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--allow-file-access-from-files", f"--user-data-dir={profile}", "--virtual-time-budget=5000",
        "--enable-logging=stderr", "--window-size=1300,1000", "--dump-dom", (directory / "measure.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    found = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", done.stdout)
    assert found is not None, done.stdout[-2000:]
    wide, figures, cramped, requests = map(int, found.groups())
    return wide, figures, cramped, requests


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_without_sideways_scrolling(study: Path, tmp_path: Path, width: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("runs"))
    wide, figures, cramped, requests = measured(copy, tmp_path / "profile", width)
    assert wide <= width
    assert figures == len(list((copy / "figures").glob("*.svg")))
    assert cramped == 0
    assert requests == 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_console_is_looked_at(study: Path, tmp_path: Path) -> None:
    """The test above can fail: a page that asks for something is seen, in its requests or on the console."""
    page = (study / "report.html").read_text(encoding="utf-8")
    asking = '<main><script>alert(1)</script><img src="figures/x.png">'
    (tmp_path / "report.html").write_text(page.replace("<main>", asking), encoding="utf-8")
    with pytest.raises(AssertionError, match="Content Security Policy"):
        measured(tmp_path, tmp_path / "profile", 1200)


@pytest.mark.parametrize("role", ["collect", "calibration"])
def test_a_buffer_of_estimates_or_spans_says_so(role: str, tmp_path: Path) -> None:
    directory = SyntheticStudy(arms=("nll", "pear_token"), analyses=ANALYSES).write(tmp_path)
    plain = words((write_report(directory)).read_text())
    sentence = "Its log-probs are an estimate: the policy that made the trajectories was not at hand"
    assert sentence not in plain
    plan = json.loads((directory / "plan.json").read_text())
    (node,) = [node for node in plan["nodes"] if any(use["role"] == role for use in node["uses"])]
    path = directory / node["dir"] / "buffer.json"
    record = {**json.loads(path.read_text()), "estimate": {"model": "base", "folds": 5}, "aligned_from": "0" * 64}
    path.write_text(json.dumps(record))
    page = words((write_report(directory)).read_text())
    assert f"{sentence}. They were dealt to 5 folds, and a model fitted, from base, to all others scored each." in page
    assert ("those of spans of text" in page) is (role == "collect")
    if role == "collect":
        assert "unbiased" in plain
        assert "unbiased" not in page
