"""Children of a run: the first failure ends them all, and a full memory is named with the setting that saves it."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from em.errors import ChildFailed
from em.runtime import processes
from em.runtime.processes import run_children
from em.worker import add_memory_hint

CHILD = """
import json, os, pathlib, sys, time
spec = json.loads(pathlib.Path(sys.argv[2]).read_text())
time.sleep(spec["seconds"])
pathlib.Path(spec["file"]).touch()
if spec["code"] < 0:
    os.kill(os.getpid(), -spec["code"])
sys.exit(spec["code"])
"""


@pytest.fixture(autouse=True)
def _small_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start children that load no library, in place of `em.worker`."""
    monkeypatch.setattr(processes, "make_worker_command", lambda *_: [sys.executable, "-I", "-S", "-c", CHILD])


def make_specs(folder: Path, *children: tuple[float, int]) -> list[dict[str, object]]:
    """Make the specs of children: seconds until the end, and exit code."""
    files = [str(folder / str(number)) for number in range(len(children))]
    return [{"seconds": s, "code": code, "file": file} for (s, code), file in zip(children, files, strict=True)]


def test_the_first_failure_is_raised_while_an_earlier_child_still_runs(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ChildFailed, match="The sample step ended with exit code 7"):
        run_children("sample", make_specs(tmp_path, (60, 0), (0, 7), (60, 0)))
    assert time.monotonic() - begun < 30
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_all_children_are_waited_for(tmp_path: Path) -> None:
    run_children("sample", make_specs(tmp_path, (0.5, 0), (0, 0), (1, 0)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_a_killed_child_names_the_setting_of_its_task(tmp_path: Path) -> None:
    for task, hint in {"sample": r" \(out of memory\? lower sampler.batch_size\)", "template": ""}.items():
        with pytest.raises(ChildFailed, match=f"The {task} step was killed by signal 9{hint}; run the same command"):
            run_children(task, make_specs(tmp_path, (0, -9)))


def test_children_end_when_the_run_is_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(ChildFailed, match="The run was stopped"):
        run_children("sample", make_specs(tmp_path, (60, 0)), stop=stop)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    "message",
    [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "DistBackendError: NCCL error … Last error: Cuda failure 2 'out of memory'",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried …",
        "MemoryError: ",
    ],
)
def test_each_way_to_say_that_memory_is_full_names_the_setting_of_the_task(message: str) -> None:
    for task, setting in {"train": "trainer.device_tokens", "judge": "judge.batch_size"}.items():
        assert add_memory_hint(message, task) == f"{message} (out of memory: lower {setting})"
    assert add_memory_hint(message, "template") == message


def test_other_errors_get_no_hint_on_memory() -> None:
    message = "RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    assert add_memory_hint(message, "train") == message
