"""The memory of GPUs, as the driver's command line reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from em.runtime.gpu_memory import MIB, GpuMemory, read_free_memory, read_gpu_memory
from em.runtime.processes import Launch
from tests.support.gpus import write_driver


def use_driver(monkeypatch: pytest.MonkeyPatch, folder: Path, *gpus: tuple[int, int]) -> None:
    for name, value in write_driver(folder, *gpus).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)


def test_gpus_are_found_by_number_and_by_the_beginning_of_their_uuid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_driver(monkeypatch, tmp_path, (100, 200), (50, 200))
    first, second = GpuMemory(100 * MIB, 200 * MIB), GpuMemory(50 * MIB, 200 * MIB)
    assert read_gpu_memory(["0", "1"]) == [first, second]
    assert read_gpu_memory(["GPU-1"]) == [second]
    assert read_gpu_memory(["MIG-7"]) == read_gpu_memory(["0", "5"]) == []


def test_the_fullest_gpu_that_is_used_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_driver(monkeypatch, tmp_path, (100, 200), (50, 200), (10, 200))
    assert read_free_memory(Launch(1), ["0", "1", "2"]) == 100 * MIB
    assert read_free_memory(Launch(2), ["0", "1", "2"]) == 50 * MIB
    assert read_free_memory(Launch(2, "two.yaml", 2), ["0", "1", "2"]) == 0
    assert read_free_memory(Launch(2), []) == 0


def test_numbers_of_gpus_of_several_kinds_tell_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_driver(monkeypatch, tmp_path, (100, 200), (50, 80))
    assert read_gpu_memory(["1"]) == []
    assert read_gpu_memory(["GPU-1"]) == [GpuMemory(50 * MIB, 80 * MIB)]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert read_gpu_memory(["1"]) == [GpuMemory(50 * MIB, 80 * MIB)]


def test_without_a_driver_or_numbers_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_gpu_memory(["0"]) == []
    use_driver(monkeypatch, tmp_path / "driver", (100, 200))
    script = tmp_path / "driver" / "nvidia-smi"
    script.write_text(script.read_text().replace("100, 200", "[N/A], [N/A]"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'driver'}:/bin:/usr/bin")
    assert read_gpu_memory(["0"]) == []
