"""gradient_rotation: known angles, float64 loops, the floors, killed runs."""

import math
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pear.analysis import gradient_rotation
from pear.analysis.gradient_rotation import (
    GRPO,
    GRPO_AGAIN,
    OFFLINE,
    Settings,
    analyze,
    directions,
    mean_angle,
    random_subspaces,
)
from pear.analysis.request import Request
from pear.errors import UserError
from pear.ops.geometry import left_subspace
from tests import naive
from tests.analysis.model_fixtures import tables_in

Gradients = dict[str, dict[str, Tensor]]
SETTINGS = Settings(rl={}, k=2)


def request_for(work: Path, gradients: Gradients, settings: Settings = SETTINGS, **fields: Any) -> Request:
    work.mkdir(exist_ok=True)
    paths = {}
    for name, tensors in gradients.items():
        paths[name] = work.parent / f"{name}.safetensors"
        save_file({module: tensor.float().contiguous() for module, tensor in tensors.items()}, paths[name])
    values = {"progress": lambda done, total, unit: None, **fields}
    return Request(before="model", buffer="buffer", work=work, settings=settings, gradients=paths, **values)


def rotation(work: Path, gradients: Gradients, settings: Settings = SETTINGS) -> tuple[dict[str, Any], list[Any]]:
    metrics = analyze(request_for(work, gradients, settings))
    return metrics, pyarrow.parquet.read_table(work / "modules.parquet").to_pylist()


def gaussian(seed: int, rows: int = 16, columns: int = 20) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def with_left_directions(basis: Tensor, columns: int = 20) -> Tensor:
    """A matrix whose two strongest left singular directions are these; what is weaker lies elsewhere."""
    right = torch.linalg.qr(gaussian(9, columns, 3).double()).Q
    rest = torch.zeros(len(basis), 1, dtype=torch.float64)
    rest[-1] = 1.0
    return torch.cat([basis, rest], dim=1) @ torch.diag(torch.tensor([5.0, 3.0, 0.5]).double()) @ right.T


@pytest.mark.parametrize("degrees", [0.0, 1.0, 30.0, 60.0, 90.0])
def test_a_rotation_of_known_angle_gives_that_angle(tmp_path, degrees) -> None:
    """Both directions are turned by it, each in a plane of its own."""
    angle = math.radians(degrees)
    start, turned = (torch.zeros(16, 2, dtype=torch.float64) for _ in range(2))
    for column in range(2):
        start[column, column] = 1.0
        turned[column, column], turned[column + 4, column] = math.cos(angle), math.sin(angle)
    offline, online = with_left_directions(start), with_left_directions(turned)
    metrics, [row] = rotation(
        tmp_path / "work", {OFFLINE: {"a": offline}, GRPO: {"a": online}, GRPO_AGAIN: {"a": -2.0 * online}}
    )
    assert metrics["gradients/rotation_degrees"] == pytest.approx(degrees, abs=1e-4)
    assert metrics["gradients/floor_grpo_degrees"] == pytest.approx(0.0, abs=1e-4)
    assert (row["module"], row["rows"], row["columns"], row["k"]) == ("a", 16, 20, 2)


def test_identical_gradients_are_not_rotated(tmp_path) -> None:
    same = {"a": gaussian(0), "b": gaussian(1, 40, 24)}
    metrics, rows = rotation(tmp_path / "work", {OFFLINE: same, GRPO: same, GRPO_AGAIN: same})
    assert metrics["gradients/rotation_degrees"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["gradients/floor_grpo_degrees"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["gradients/floor_random_degrees"] > 60
    assert metrics["gradients/k"] == 2
    assert metrics["modules"] == len(rows) == 2


def test_equal_to_loops_in_float64(tmp_path) -> None:
    shapes = {"tall": (20, 16), "wide": (16, 30)}
    gradients = {
        name: {module: gaussian(10 * seed + place, *shape) for place, (module, shape) in enumerate(shapes.items())}
        for seed, name in enumerate((OFFLINE, GRPO, GRPO_AGAIN))
    }
    metrics, rows = rotation(tmp_path / "work", gradients)

    def naive_angle(first: str, second: str, modules: Any = shapes) -> float:
        pairs = [
            (gradients[first][module].double().tolist(), gradients[second][module].double().tolist())
            for module in modules
        ]
        return naive.gradient_rotation(pairs, k=2)

    assert metrics["gradients/rotation_degrees"] == pytest.approx(naive_angle(OFFLINE, GRPO), rel=1e-5)
    assert metrics["gradients/floor_grpo_degrees"] == pytest.approx(naive_angle(GRPO, GRPO_AGAIN), rel=1e-5)
    for row in rows:
        assert row["rotation"] == pytest.approx(naive_angle(OFFLINE, GRPO, [row["module"]]), rel=1e-5)


@pytest.mark.parametrize(("rows", "k", "degrees"), [(64, 64, 0.0), (128, 64, 44.0), (2048, 128, 77.0)])
def test_the_random_floor_where_it_is_known(rows, k, degrees) -> None:
    """The first two are what the paper's k = 128 comes to on 64x64 and 128x64, all of whose directions are compared."""
    found = mean_angle(*random_subspaces(rows, k, seed=0, module="a"))
    assert found == pytest.approx(degrees, abs=1.0)


def test_the_random_floor_is_that_of_random_matrices() -> None:
    """Columns that are drawn in place of singular vectors make no difference; 40 draws of each."""
    matrices = [left_subspace(gaussian(seed, 32, 48), 4) for seed in range(80)]
    of_matrices = [mean_angle(*pair) for pair in zip(matrices[::2], matrices[1::2], strict=True)]
    drawn = [mean_angle(*random_subspaces(32, 4, seed=seed, module="a")) for seed in range(40)]
    error = math.sqrt(numpy.var(of_matrices) / 40 + numpy.var(drawn) / 40)
    assert abs(numpy.mean(of_matrices) - numpy.mean(drawn)) < 3 * error < 3


def test_draws_depend_on_seed_and_module_alone() -> None:
    first = random_subspaces(32, 4, seed=0, module="a")
    assert all(a.equal(b) for a, b in zip(first, random_subspaces(32, 4, seed=0, module="a"), strict=True))
    for other in (random_subspaces(32, 4, seed=1, module="a"), random_subspaces(32, 4, seed=0, module="b")):
        assert mean_angle(first[0], other[0]) > 30


@pytest.mark.parametrize(
    ("rows", "columns", "k", "expected"), [(64, 64, 128, 8), (2048, 6144, 128, 128), (128, 64, 4, 4), (4, 4, 128, 1)]
)
def test_at_most_an_eighth_of_the_directions(rows, columns, k, expected) -> None:
    assert directions(rows, columns, k) == directions(columns, rows, k) == expected


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch) -> None:
    modules = [f"layers.{number}" for number in range(4)]
    gradients = {
        name: {module: gaussian(10 * seed + place) for place, module in enumerate(modules)}
        for seed, name in enumerate((OFFLINE, GRPO, GRPO_AGAIN))
    }
    whole, _ = rotation(tmp_path / "whole", gradients)

    class KilledError(Exception):
        pass

    def kill(done: int, total: int, unit: str) -> None:
        assert (total, unit) == (4, "modules")
        if done == 2:
            raise KilledError

    with pytest.raises(KilledError):
        analyze(request_for(tmp_path / "killed", gradients, progress=kill))
    compared = []
    compare = gradient_rotation._compare
    monkeypatch.setattr(
        gradient_rotation, "_compare", lambda module, request: compared.append(module) or compare(module, request)
    )
    assert analyze(request_for(tmp_path / "killed", gradients)) == whole
    assert compared == modules[2:]
    for work in ("whole", "killed"):
        assert tables_in(tmp_path / work) == ["modules.parquet"]
    assert (tmp_path / "whole" / "modules.parquet").read_bytes() == (
        tmp_path / "killed" / "modules.parquet"
    ).read_bytes()


def test_fewer_directions_than_are_compared_are_an_error(tmp_path) -> None:
    one = {"a": torch.outer(torch.ones(16), torch.ones(20))}
    with pytest.raises(ValueError, match="rank"):
        rotation(tmp_path / "work", {OFFLINE: one, GRPO: one, GRPO_AGAIN: one})


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "rl: this key is required"), ({"rl": {}, "k": 0}, "k: "), ({"rl": {}, "step": 3}, "Did you mean 'steps'")],
)
def test_settings_out_of_their_domain_are_refused(settings, message) -> None:
    with pytest.raises(UserError, match=message):
        Settings.parse(settings, source="settings")
