"""`pear analyze` on shipped models: what it writes, what it refuses, and the registry of analyses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet
import pytest
from huggingface_hub import constants

from pear import analysis
from pear.analysis import ANALYSES, load_analysis
from pear.configuration import StrictModel
from pear.errors import UserError
from pear.models import resolve_model
from pear.runs import read_manifest
from pear.stages import load_stage
from pear.stages.analyze import AnalyzeConfig, run

BEFORE, AFTER = "pear:affine_chain/base_1", "pear:affine_chain/base_2"


def config(output_dir: Path, **values: Any) -> AnalyzeConfig:
    given = {"analysis": "weight_drift", "before": BEFORE, "after": AFTER, "output_dir": output_dir, **values}
    return AnalyzeConfig.parse(given, source="test")


@pytest.fixture(scope="module")
def drift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config(tmp_path_factory.mktemp("analyze") / "out"))


def test_it_writes_metrics_a_table_and_a_manifest(drift: Path) -> None:
    assert sorted(path.name for path in drift.iterdir() if path.name != ".lock") == [
        "manifest.json",
        "metrics.json",
        "modules.parquet",
    ]
    metrics = json.loads((drift / "metrics.json").read_text())
    manifest = read_manifest(drift)
    assert manifest["results"] == metrics
    assert manifest["parts"] == {"analysis:weight_drift": load_analysis("weight_drift").VERSION}
    assert manifest["inputs"].keys() == {"before", "after"}
    assert metrics["modules"] == 14
    # Two bases trained from different first weights have hardly a weight in common.
    assert 0.0 < metrics["drift/sparsity"] < 1e-3
    assert 0.0 < metrics["drift/sparsity_bf16"] < 1e-2
    rows = pyarrow.parquet.read_table(drift / "modules.parquet").to_pylist()
    assert sum(row["spectrum_shift"] for row in rows) / len(rows) == pytest.approx(metrics["drift/spectrum_shift"])
    assert sum(row["update_norm"] ** 2 for row in rows) ** 0.5 < metrics["drift/update_norm"]


def test_again_it_does_nothing_and_elsewhere_it_does_the_same(
    drift: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = (drift / "manifest.json").stat().st_mtime_ns
    assert run(config(drift)) == drift
    assert "complete, nothing to do" in capsys.readouterr().err
    assert (drift / "manifest.json").stat().st_mtime_ns == written
    # Paths are not what counts: copies of the models give the same run.
    copies = {
        name: str(shutil.copytree(resolve_model(model), tmp_path / name))
        for name, model in (("before", BEFORE), ("after", AFTER))
    }
    again = run(config(tmp_path / "again", **copies))
    assert read_manifest(again)["fingerprint"] == read_manifest(drift)["fingerprint"]
    for name in ("metrics.json", "modules.parquet"):
        assert (again / name).read_bytes() == (drift / name).read_bytes()
    with pytest.raises(UserError, match="holds the output of another run"):
        run(config(drift, settings={"epsilon": 1e-3}))


def test_settings_reach_the_analysis(drift: Path, tmp_path: Path) -> None:
    # What YAML reads as a string is a number where one is asked for.
    looser = json.loads((run(config(tmp_path / "out", settings={"epsilon": "1e-1"})) / "metrics.json").read_text())
    strict = json.loads((drift / "metrics.json").read_text())
    assert looser["epsilon"] == 0.1
    assert looser["drift/sparsity"] > 100 * strict["drift/sparsity"]
    assert looser["drift/spectrum_shift"] == strict["drift/spectrum_shift"]


def test_a_killed_run_goes_on(drift: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pear.ops import geometry

    # It is interrupted after five layers, at the first spectrum of the sixth.
    whole, calls = geometry.singular_values, []

    def interrupted(matrix: Any) -> Any:
        calls.append(matrix.shape)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return whole(matrix)

    monkeypatch.setattr(geometry, "singular_values", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial" / "progress.json").is_file()
    out = run(config(tmp_path / "out"))
    assert len(calls) == 11 + 2 * 14 - 10
    for name in ("metrics.json", "modules.parquet"):
        assert (out / name).read_bytes() == (drift / name).read_bytes()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"settings": {"epsilom": 1}}, r"settings of weight_drift: epsilom: .*Did you mean 'epsilon'\?"),
        ({"settings": {"epsilon": 0}}, r"epsilon: Input should be greater than 0 \(got 0\)"),
        ({"after": None}, r"weight_drift needs `after`\. Give --after"),
        ({"buffer": "somewhere"}, r"weight_drift does not use `buffer` \(given: somewhere\)\. Leave it out"),
        ({"after": BEFORE}, "before and after are the same model"),
        ({"after": resolve_model(BEFORE) + "/."}, "before and after are the same model"),
        ({"after": "pear:affine_chain/base_9"}, "Unknown shipped model"),
        ({"before": "./nowhere"}, "no such model directory"),
        ({"dtype": "float32"}, "weight_drift compares weights as they are stored"),
        ({"device": "gpu"}, "'gpu' is not a device"),
        ({"analysis": "divergence"}, "divergence needs `buffer`"),
        ({"analysis": "divergence", "buffer": "nowhere"}, r"nowhere: not a buffer"),
        ({"analysis": "token_weights", "after": None, "buffer": "b"}, "token_weights needs `after`"),
        ({"analysis": "gradient_rotation", "buffer": "b"}, "gradient_rotation does not use `after`"),
    ],
)
def test_mistakes_write_nothing(tmp_path: Path, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run(config(tmp_path / "out", **values))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [{"analysis": "weight_drif"}, {"befor": BEFORE}])
def test_unknown_analyses_and_keys(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"Did you mean 'before'|'weight_drift', 'divergence', 'token_weights' or"):
        config(tmp_path / "out", **values)


def test_a_hub_model_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drift: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="someone/model: no such directory, and not to be had from the hub"):
        run(config(tmp_path / "out", before="someone/model"))
    assert not (tmp_path / "out.partial").exists()
    model = tmp_path / "cache" / "models--someone--model"
    shutil.copytree(resolve_model(BEFORE), model / "snapshots" / "a1b2")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a1b2")
    out = run(config(tmp_path / "out", before="someone/model"))
    assert (out / "metrics.json").read_bytes() == (drift / "metrics.json").read_bytes()


def test_the_registry_is_what_the_command_offers() -> None:
    assert get_args(AnalyzeConfig.model_fields["analysis"].annotation) == tuple(ANALYSES)
    assert load_stage("analyze") == (AnalyzeConfig, run)
    files = {path.stem for path in Path(analysis.__file__).parent.glob("*.py")}
    assert ANALYSES.keys() <= files
    with pytest.raises(UserError, match="Did you mean 'weight_drift'"):
        load_analysis("weight_drit")


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_keeps_the_contract(name: str) -> None:
    module = load_analysis(name)
    assert isinstance(module.VERSION, int)
    assert issubclass(module.Settings, StrictModel)
    assert isinstance(module.REQUIRES, frozenset)
    assert not module.REQUIRES - {"after", "buffer", "gradients"}
    assert callable(module.check)
    assert callable(module.analyze)
    for field in module.Settings.model_fields:
        assert f"    {field}: " in module.Settings.__doc__ or f"`{field}`" in module.Settings.__doc__, field


def test_analyses_and_the_stage_import_no_framework() -> None:
    modules = ["pear.stages.analyze", *ANALYSES.values()]
    code = (
        f"import sys, {', '.join(modules)}\nprint(*{{'torch', 'trl', 'transformers', 'datasets'}} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_the_command_line(tmp_path: Path) -> None:
    arguments = [
        *("--analysis", "weight_drift", "--before", BEFORE, "--after", AFTER),
        *("--settings", "{epsilon: 1e-3}", "--output-dir", "out"),
    ]
    command = [sys.executable, "-m", "pear", "analyze", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["epsilon"] == 1e-3
