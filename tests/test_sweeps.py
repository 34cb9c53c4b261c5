"""Parallel sweeps by launchers of Hydra: each job in its own process, and failures reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from em.runtime.gpus import claim_gpu, list_visible_gpus
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


@pytest.mark.slow
@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_jobs_run_side_by_side_and_a_failed_one_is_told(tmp_path: Path, launcher: str) -> None:
    done = run_sweep(tmp_path, launcher, "model.id=no/such-model,embedded:smollm2", "one_gpu=true")
    assert done.returncode not in (0, None)
    assert "no/such-model" in done.stderr
    manifests = [json.loads((tmp_path / "sweep" / job / "manifest.json").read_text()) for job in ("0", "1")]
    assert [manifest["status"] for manifest in manifests] == ["failed", "done"], done.stderr[-3000:]


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
            "from pathlib import Path; from em.runtime.gpus import claim_gpu, list_visible_gpus\n"
            f"with claim_gpu(Path({str(tmp_path)!r})): print(list_visible_gpus())"
        )
        env = dict(os.environ) | {"CUDA_VISIBLE_DEVICES": "4,GPU-7"}
        other = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert other.stdout.strip() == "['GPU-7']"
    assert list_visible_gpus() == ["4", "GPU-7"]


def test_a_job_waits_until_a_gpu_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from filelock import FileLock

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    holder = FileLock(tmp_path / "0.lock", thread_local=False)  # another thread releases the lock
    holder.acquire()
    threading.Timer(0.5, holder.release).start()
    with claim_gpu(tmp_path):
        assert list_visible_gpus() == ["0"]
    assert "Waiting for one of 1 GPUs" in capsys.readouterr().out


def test_without_a_gpu_there_is_nothing_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with claim_gpu(tmp_path / "locks"):
        assert list_visible_gpus() == []
    assert not (tmp_path / "locks").exists()
