"""The Python of the README and the docs runs, on a shipped model where it names a hub model."""

import re
from pathlib import Path

import pytest

from pear.models import resolve_model

ROOT = Path(__file__).resolve().parent.parent
ON_A_CPU = 'max_length=128, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none")'


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = python_blocks("README.md")[0]
    for old, new in (
        ('"Qwen/Qwen3-1.7B-Base"', repr(resolve_model("pear:affine_chain/base_1"))),
        ("[17, 151645]", "[5, 1]"),
        ("max_length=8192)", ON_A_CPU),
    ):
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "out").is_dir()


def test_the_docs_compute_a_loss(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = python_blocks("docs/objectives.md")
    exec(compile(code, "docs/objectives.md", "exec"), {})
    assert "tensor" in capsys.readouterr().out


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")))
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
