"""Slots: cores, threads and GPUs."""

from pathlib import Path

import pytest

from pear.study import machine
from pear.study.machine import Machine, Slot, available_cores, slots, stage_environment


def test_each_gpu_is_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc")
    assert slots(Machine(threads=64)) == [Slot(number=0, gpu="2"), Slot(number=1, gpu="GPU-abc")]
    assert [slot.gpu for slot in slots(Machine(slots=3))] == ["2", "GPU-abc", "2"]


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_without_gpus_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(machine, "available_cores", lambda: 7)
    assert [slot.number for slot in slots(Machine(threads=3))] == [0, 1]
    assert slots(Machine(threads=16)) == [Slot(number=0, gpu=None)]
    assert len(slots(Machine(slots=5, threads=3))) == 5


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1)])
def test_a_containers_quota_bounds_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int
) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_CGROUP_LIMIT", tmp_path / "cpu.max")
    assert available_cores() == 8
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert available_cores() == cores


def test_the_environment_of_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("KEPT", "yes")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    environment = stage_environment(Machine(threads=4), [Slot(number=1, gpu="1")])
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    both = [Slot(number=number, gpu=str(number)) for number in (0, 1)]
    assert stage_environment(Machine(), both)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environment["OMP_NUM_THREADS"] == "4"
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert environment["KEPT"] == "yes"
    assert "HF_HUB_OFFLINE" not in environment
    assert stage_environment(Machine(), [])["CUDA_VISIBLE_DEVICES"] == "0,1"
