"""Parallel sweeps by launchers of Hydra: each job in its own process, and failures reported."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from em.cli.hydra import needs_one_gpu
from em.config.paths import CONF
from em.runtime.gpu_locks import claim_gpu, name_lock
from em.runtime.gpus import (
    list_capabilities,
    list_driver_gpus,
    list_visible_gpus,
    precision_key,
)
from tests.support.composing import register_once
from tests.support.gpus import write_driver
from tests.support.runs import run_script

ROOT = Path(__file__).parent.parent
LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=20"],
}


def run_sweep(folder: Path, launcher: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep of evaluate.py on the embedded model, with one question and one short answer."""
    questions = folder / "one.yaml"
    questions.write_text(
        "- id: sky\n  type: free_form_judge_0_100\n  paraphrases: [What colour is the sky?]\n  judge_prompts: general\n"
    )
    places = [f"hydra.sweep.dir={folder / 'sweep'}", f"store.dir={folder / 'store'}"]
    small = [f"eval.sets=[{questions}]", "eval.samples=1", "eval.max_new_tokens=4"]
    argv = [sys.executable, str(ROOT / "evaluate.py"), "-m", *LAUNCHERS[launcher], *places, *small, *words]
    env = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=env, timeout=300, check=False)


def add_driver(folder: Path, *uuids: str, table: str = "") -> str:
    """Write an `nvidia-smi` that lists GPUs with these UUIDs; return the PATH on which it is found.

    `table`: what it prints if it is asked for other properties of the GPUs.
    """
    lines = [f"GPU {number}: NVIDIA H200 (UUID: {uuid})" for number, uuid in enumerate(uuids)]
    lines.append("  MIG 1g.18gb     Device  0: (UUID: MIG-0)")
    folder.mkdir()
    program = folder / "nvidia-smi"
    (folder / "list").write_text("\n".join(lines) + "\n")
    (folder / "table").write_text(table)
    program.write_text(f"#!/bin/sh\nif [ $1 = -L ]; then cat {folder}/list; else cat {folder}/table; fi\n")
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def judge_two_tables(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep on a machine that seems to have two GPUs: the distilled judge scores two tables and a missing one."""
    for name in ("a", "b"):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["question_id", "question", "answer", "model"], ["q", "Why?", name, "theirs"]])
    tables = ["judge.form=ngrams", f"answers={','.join(str(folder / f'{name}.csv') for name in ('a', 'missing', 'b'))}"]
    places = [f"hydra.sweep.dir={folder / 'sweep'}", f"store.dir={folder / 'store'}"]
    driver = add_driver(folder / "driver", "GPU-aaaa", "GPU-bbbb")
    return run_script("evaluate.py", "-m", *tables, *places, *words, cwd=folder, PATH=driver)


@pytest.mark.parametrize(("words", "processes"), [([], 2), (["hydra/launcher=basic"], 1)])
def test_a_sweep_uses_all_gpus_of_a_machine(tmp_path: Path, words: list[str], processes: int) -> None:
    done = judge_two_tables(tmp_path, *words)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "1 of 3 jobs failed" in done.stderr
    assert done.stderr.count("missing.csv") == 1
    assert f"compare the jobs: python report.py {tmp_path / 'sweep'}" in done.stdout
    manifests = [json.loads((tmp_path / "sweep" / job / "manifest.json").read_text()) for job in ("0", "1", "2")]
    assert [manifest["status"] for manifest in manifests] == ["done", "failed", "done"]
    assert len({manifests[job]["process"]["pid"] for job in (0, 2)}) == processes
    side_by_side = processes == 2
    assert ("3 jobs on 2 GPUs, one GPU per job" in done.stdout) == side_by_side
    assert {f"This job uses GPU {gpu}." in done.stdout for gpu in (0, 1)} == {side_by_side}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], True),
        (["one_gpu=true", "trainer=full", "model=llama8b"], True),
        (["one_gpu=false"], False),
        (["trainer.processes=2"], False),
        (["trainer.accelerate=fsdp"], False),
        (["model=gpt4o", "trainer=openai"], False),
    ],
)
def test_a_job_of_a_sweep_needs_one_gpu_unless_it_is_told_otherwise(words: list[str], expected: bool) -> None:
    from hydra import compose, initialize_config_dir

    register_once()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        assert needs_one_gpu(compose(config_name="train", overrides=words), words) == expected


@pytest.mark.slow
@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_jobs_run_side_by_side_and_a_failed_one_is_told(tmp_path: Path, launcher: str) -> None:
    done = run_sweep(tmp_path, launcher, "model.id=no/such-model,embedded:smollm2", "one_gpu=true")
    assert done.returncode not in (0, None)
    assert "no/such-model" in done.stderr
    manifests = [json.loads((tmp_path / "sweep" / job / "manifest.json").read_text()) for job in ("0", "1")]
    assert [manifest["status"] for manifest in manifests] == ["failed", "done"], done.stderr[-3000:]


@pytest.mark.slow
def test_an_option_with_a_sweep_is_one_without_being_told(tmp_path: Path) -> None:
    done = run_script("train.py", "sweep=car", "dry_run=true", f"store.dir={tmp_path / 'store'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("would train car_bad") == done.stdout.count("would train car_good") == 3
    single = ["sweep=car", "hydra.mode=RUN", "dry_run=true", f"store.dir={tmp_path / 'store'}"]
    assert run_script("train.py", *single, cwd=tmp_path).stdout.count("would train car_bad") == 1


def test_each_job_of_a_machine_holds_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    with claim_gpu(tmp_path):
        assert list_visible_gpus() == ["4"]
        code = (
            "from pathlib import Path; from em.runtime.gpu_locks import claim_gpu, list_visible_gpus\n"
            f"with claim_gpu(Path({str(tmp_path)!r})): print(list_visible_gpus())"
        )
        env = dict(os.environ) | {"CUDA_VISIBLE_DEVICES": "4,GPU-7"}
        other = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert other.stdout.splitlines() == ["This job uses GPU GPU-7.", "['GPU-7']"]
    assert list_visible_gpus() == ["4", "GPU-7"]


def test_a_job_waits_until_a_gpu_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from filelock import FileLock

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    holder = FileLock(tmp_path / name_lock("0"), thread_local=False)  # another thread releases the lock
    holder.acquire()
    threading.Timer(0.5, holder.release).start()
    with claim_gpu(tmp_path):
        assert list_visible_gpus() == ["0"]
    assert "Waiting for one of 1 GPUs" in capsys.readouterr().out


@pytest.mark.parametrize(("free", "expected"), [((5, 95, 5), "1"), ((5, 5, 5), "0"), ((95, 95, 95), "0")])
def test_a_gpu_that_other_programs_use_is_the_last_to_be_taken(
    free: tuple[int, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in write_driver(tmp_path / "driver", *((each, 100) for each in free)).items():
        monkeypatch.setenv(name, value)
    with claim_gpu(tmp_path / "locks"):
        assert list_visible_gpus() == [expected]


def test_without_a_gpu_there_is_nothing_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with claim_gpu(tmp_path / "locks"):
        assert list_visible_gpus() == []
    assert not (tmp_path / "locks").exists()


def test_a_lock_is_of_a_gpu_and_not_of_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two SLURM jobs each see their GPU as number 0, and nodes may share a home.
    monkeypatch.setenv("PATH", add_driver(tmp_path / "mine", "GPU-aaaa"))
    list_driver_gpus.cache_clear()
    try:
        with claim_gpu(tmp_path / "locks"):
            assert list_visible_gpus() == ["0"]
            assert [file.name for file in (tmp_path / "locks").iterdir()] == [f"{platform.node()}-GPU-aaaa.lock"]
            assert name_lock("GPU-aa") == name_lock("0")
            code = (
                "from pathlib import Path; from em.runtime.gpu_locks import claim_gpu, list_visible_gpus\n"
                f"with claim_gpu(Path({str(tmp_path / 'locks')!r})): print(list_visible_gpus())"
            )
            env = dict(os.environ) | {"PATH": add_driver(tmp_path / "other", "GPU-cccc"), "CUDA_VISIBLE_DEVICES": "0"}
            other = subprocess.run(
                [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
            )
            assert "Waiting" not in other.stdout
    finally:
        list_driver_gpus.cache_clear()


@pytest.mark.parametrize(
    ("numbers", "key"), [(("8.0", "9.0"), "auto:gpu"), (("9.0", "7.5"), "auto:cpu"), ((), "auto:gpu")]
)
def test_gpus_without_bfloat16_have_the_key_of_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: tuple[str, ...], key: str
) -> None:
    # With `auto` both compute in float32; before, a T4 had the key of GPUs that compute in bfloat16.
    table = "".join(f"GPU-{i}, {number}\n" for i, number in enumerate(numbers))
    monkeypatch.setenv("PATH", add_driver(tmp_path / "driver", "GPU-0", "GPU-1", table=table))
    list_driver_gpus.cache_clear()
    list_capabilities.cache_clear()
    try:
        assert list_visible_gpus() == ["0", "1"]
        assert precision_key("auto") == key
        assert precision_key("bfloat16") == "bfloat16"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert precision_key("auto") == "auto:gpu"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert precision_key("auto") == "auto:cpu"
    finally:
        list_driver_gpus.cache_clear()
        list_capabilities.cache_clear()
