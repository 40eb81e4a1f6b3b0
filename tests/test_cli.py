"""The command line as a user meets it: exit codes, one sentence, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest

import pear


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pear", *arguments], capture_output=True, text=True, cwd=cwd, check=False, timeout=120
    )


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.returncode == 0
    for name in ("doctor", "study", "collect", "score", "sft", "grpo", "evaluate", "pretrain", "rescale", "report"):
        assert name in result.stdout


def test_help_imports_no_framework() -> None:
    code = (
        "import sys; sys.argv = ['pear', '--help']\n"
        "try:\n    from pear.cli import main; main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'trl', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_version_and_doctor() -> None:
    assert run("--version").stdout.strip() == f"pear {pear.__version__}"
    result = run("doctor")
    assert result.returncode == 0
    for word in ("torch", "trl", "devices", "vllm", "pip install 'pear-sft[vllm]'", "shipped models"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["study", "nowhere.yaml"], "nowhere.yaml: no such file."),
        (["study", "demo", "--set", "rl.step=1"], "Did you mean 'steps'?"),
        (["study", "demo", "--set", "rl.steps"], "expected key=value"),
        (["collect", "--model", "pear:affine_chain/behaviour", "--problems", "task=tiny/affine_chain,split=sft,size=4",
          "--output-dir", "out"], "Unknown shipped model"),
        (["collect", "--model", "pear:affine_chain/behavior", "--problems", "task=tiny/affine_chan,split=sft,size=4",
          "--output-dir", "out"], "Did you mean 'tiny/affine_chain'?"),
        (["collect", "--model", "pear:affine_chain/behavior", "--problems", "task=tiny/affine_chain,splt=sft,size=4",
          "--output-dir", "out"], "Did you mean 'split'?"),
        (["collect", "--model", "pear:affine_chain/behavior", "--problems", "task=tiny/affine_chain,split=sft,size=-1",
          "--output-dir", "out"], "greater than 0"),
        (["sft", "--model", "pear:affine_chain/base_1", "--buffer", "nowhere", "--output-dir", "out"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_flag_is_exit_code_2(tmp_path: Path) -> None:
    assert run("collect", "--modle", "x", cwd=tmp_path).returncode == 2
