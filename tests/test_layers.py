"""Imports point down only, and siblings on one layer do not import each other."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pear"

# A name is a subpackage or a module of `pear`; a lower number is a lower layer.
LAYERS = {
    "errors": 0, "configuration": 1, "models": 1, "runs": 2,
    "ops": 3,
    "objectives": 4, "tasks": 4, "data": 4,
    "engines": 5, "training": 5, "analysis": 5,
    "stages": 6, "report": 6,
    "study": 7, "doctor": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip
# `pear.ops` and `pear.objectives` are for anybody's training loop.
TORCH_ALONE = {"ops": {"torch", "jaxtyping"}, "objectives": {"torch", "jaxtyping"}}
NUMPY_TOO = {"majority.py", "pass_at_k.py", "ranks.py", "statistics.py"}
STANDARD = {"abc", "collections", "dataclasses", "difflib", "functools", "itertools", "math", "types", "typing"}


def imported_modules(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return names


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", source_files(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        assert not [name for name in imported_modules(path) if name.startswith("pear")]
        return
    for name in imported_modules(path):
        if name == "pear" or not name.startswith("pear."):
            continue
        other = name.split(".")[1]
        if other != part:
            assert LAYERS[other] < LAYERS[part], f"{part} (layer {LAYERS[part]}) imports {name} (layer {LAYERS[other]})"


@pytest.mark.parametrize("part", sorted(TORCH_ALONE))
def test_the_mathematics_needs_torch_alone(part: str) -> None:
    for path in (PACKAGE / part).rglob("*.py"):
        allowed = TORCH_ALONE[part] | STANDARD | ({"numpy", "scipy"} if path.name in NUMPY_TOO else set())
        for name in imported_modules(path):
            if not name.startswith("pear"):
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"


def test_every_part_has_a_layer() -> None:
    parts = {part_of(path) for path in source_files()} - {"__init__"}
    assert parts <= set(LAYERS)
