"""Run em in tests as a user does: by a command line in its own process, in a folder of the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def make_environment(**changes: str) -> dict[str, str]:
    """Return this machine's environment without variables that change a run."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("EM_", "WANDB_", "OPENAI_", "HYDRA_"))}
    usual = {"OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}
    return variables | usual | {"NETRC": os.devnull} | changes  # NETRC hides a developer's login to W&B


def run_script(script: str, *words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `train.py`, `evaluate.py` or `report.py` with words, in `cwd`, to its end."""
    command = [sys.executable, str(ROOT / script), *words]
    return subprocess.run(command, cwd=cwd, env=make_environment(**env), capture_output=True, text=True)


def start_script(script: str, *words: str, cwd: Path, **env: str) -> subprocess.Popen[bytes]:
    """Start a script as `run_script` does, without waiting for its end."""
    command = [sys.executable, str(ROOT / script), *words]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=cwd, env=make_environment(**env), stdout=quiet, stderr=quiet)
