"""The page, its figures and its tables."""

import csv
import html
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pear.report import write_report
from tests.report.synthetic_study import SyntheticStudy

SECTIONS = ["results", "offline-online", "rl", "sft", "evaluations", "same", "stages"]


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


def table(directory: Path, name: str) -> list[dict[str, str]]:
    with (directory / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = SyntheticStudy(logged_steps=12).write(tmp_path_factory.mktemp("study"))
    assert write_report(directory) == directory / "report.html"
    return directory


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return (study / "report.html").read_text(encoding="utf-8")


def test_the_verdict_comes_first_then_the_sections(page: str) -> None:
    verdict = "pear_sequence is better than nll after RL: +0.049 [+0.028, +0.070] (3 units). Take pear_sequence to RL."
    places = [page.index(f'<p class="sentence">{verdict}</p>')]
    places += [page.index(f'<section id="{name}">') for name in SECTIONS]
    assert places == sorted(places)


def test_known_numbers_are_on_the_page(page: str) -> None:
    text = words(page)
    assert "SFT improves on the base: yes , +0.200" in text
    assert "RL improves on SFT: yes , +0.450" in text
    assert "2 of 3 pairs of arms change order" in text
    assert "pear_token undecided +0.003 [\N{MINUS SIGN}0.027, +0.032] 3 about 73 would settle it" in text
    assert "they are not corrected for there being 2 comparisons" in text
    assert "compared, unit by unit: they are equal in everything but the model" in text
    assert "a1" * 32 in text
    assert "Update norm L2 norm of the change of all parameters; start to end 2.500" in text


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    tags = Tags(page)
    assert not {"script", "iframe", "img", "object", "embed", "audio", "video"} & set(tags.tags)
    assert not re.search(r"\son[a-z]+=", page)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    for address in tags.addresses:
        assert re.fullmatch(r"#[\w.-]+|figures/\w+\.svg|tables/\w+\.csv|data:,", address), address
    assert "default-src 'none'" in html.unescape(page)


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    ids = Tags(page).ids
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert used <= set(ids)


def test_links_lead_to_files_of_the_study(study: Path, page: str) -> None:
    linked = {address for address in Tags(page).addresses if address.startswith(("figures/", "tables/"))}
    assert linked
    assert all((study / address).is_file() for address in linked)


def test_figures_follow_the_theme_and_stand_alone(study: Path, page: str) -> None:
    files = sorted((study / "figures").glob("*.svg"))
    assert {"verdict", "offline_online", "slope", "differences", "sampling_error"} <= {path.stem for path in files}
    assert {"grpo_reward", "grpo_groups_without_variance", "sft_weights_mean"} <= {path.stem for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert "var(--" not in text
        assert "<metadata>" not in text
        assert "n = " in text
    reward = (study / "figures" / "grpo_reward.svg").read_text(encoding="utf-8")
    assert 'id="legend-0-0"' in reward
    inline = page[page.index("<figure>") : page.rindex("</figure>")]
    assert "var(--blue)" in inline
    assert "#0072b2" not in inline
    assert "-legend-" not in inline


def test_tables_hold_what_the_figures_show(study: Path) -> None:
    (verdict,) = [row for row in table(study, "verdict") if row["arm"] == "pear_sequence"]
    assert float(verdict["difference"]) == pytest.approx(0.05, abs=0.002)
    assert (verdict["units"], verdict["verdict"], verdict["units_to_settle"]) == ("3", "better", "")
    results = table(study, "results")
    assert {row["metric"] for row in results} == {"pass@1", "pass@2", "pass@8"}
    assert len(results) == 3 * 3 * 4
    assert len(table(study, "evaluations")) == 3 * (1 + 3 * 3)
    assert {row["metric"] for row in table(study, "rl_curves")} >= {"rl/reward", "rl/kl_to_start"}
    curves = [row for row in table(study, "sft_curves") if row["metric"] == "weights/log_weight/q05"]
    assert len(curves) == 3 * 12
    assert [row["established"] for row in table(study, "reversals")] == ["1", "1"]
    assert len(table(study, "unit_differences")) == 6


def test_the_same_files_give_the_same_bytes(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    (copy / "figures" / "of_an_earlier_report.svg").write_text("<svg/>")
    write_report(copy)
    for original in [study / "report.html", *(study / "figures").iterdir(), *(study / "tables").iterdir()]:
        assert (copy / original.relative_to(study)).read_bytes() == original.read_bytes(), original.name
    assert not (copy / "figures" / "of_an_earlier_report.svg").exists()


def test_missing_runs_are_shown_as_missing(tmp_path: Path) -> None:
    failed = {"sft-1-1": "CUDA <b>out</b> of memory"}
    absent = {"grpo-1-1", "evaluate-1-1-0", "evaluate-1-1-20", "evaluate-1-1-60"}
    directory = SyntheticStudy(arms=("nll", "pear_token"), logged_steps=2, failed=failed, absent=absent).write(tmp_path)
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
    directory = SyntheticStudy(arms=("nll", "pear_token"), units=1, logged_steps=2).write(tmp_path)
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
    directory = SyntheticStudy(arms=arms, units=2, logged_steps=2).write(tmp_path)
    page = write_report(directory).read_text(encoding="utf-8")
    tags = Tags(page)
    assert "script" not in tags.tags
    assert hostile in words(page.replace("&amp;", "&"))
    for path in (directory / "figures").glob("*.svg"):
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert "&lt;script&gt;" in (directory / "figures" / "verdict.svg").read_text(encoding="utf-8")
    assert {row["arm"] for row in table(directory, "verdict")} == set(arms[1:])


def test_sampling_that_biases_the_ratios_is_said(page: str, tmp_path: Path) -> None:
    assert "1,200 trajectories of pear:affine_chain/behavior , 1,000 of them correct" in words(page)
    assert "It was sampled from this same distribution, so ratios are unbiased." in words(page)
    directory = SyntheticStudy(arms=(), units=1, temperature=0.7).write(tmp_path)
    text = words(write_report(directory).read_text(encoding="utf-8"))
    assert "It was sampled otherwise (temperature 0.7): ratios compare like with like" in text


def test_different_rl_is_said_loudly(tmp_path: Path) -> None:
    directory = SyntheticStudy(arms=("nll", "pear_token"), units=2, logged_steps=1).write(tmp_path)
    path = directory / "runs" / "grpo-1-0" / "manifest.json"
    path.write_text(path.read_text().replace('"steps": 60', '"steps": 90'))
    text = words(write_report(directory).read_text(encoding="utf-8"))
    assert "But the finished RL runs differ in steps" in text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """<!doctype html><body><iframe src="report.html" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const figures = [...page.querySelectorAll("figure svg")];
  const cramped = figures.filter(svg => svg.getBoundingClientRect().width < 250);
  document.title = `${{page.scrollingElement.scrollWidth}} ${{figures.length}} ${{cramped.length}}`;
}};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_without_sideways_scrolling(study: Path, tmp_path: Path, width: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("runs"))
    (copy / "measure.html").write_text(MEASURE.format(width=width))
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
        "--window-size=1300,1000", "--dump-dom", (copy / "measure.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", done.stdout)
    assert found is not None, done.stdout[-2000:]
    assert int(found.group(1)) <= width
    assert int(found.group(2)) == len(list((copy / "figures").glob("*.svg")))
    assert int(found.group(3)) == 0
