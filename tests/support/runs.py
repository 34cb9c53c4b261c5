"""How tests run em: as a user does, by a command line in a process of its own, in a folder of the test's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def environment(**changes: str) -> dict[str, str]:
    """This machine's environment without what would make a run another one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EM_", "WANDB_", "OPENAI_", "HYDRA_"))}
    usual = {"OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}
    return kept | usual | {"NETRC": os.devnull} | changes  # a login of the developer's to W&B is none of the tests'


def run(script: str, *words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `train.py`, `evaluate.py` or `report.py` with words, in `cwd`."""
    command = [sys.executable, str(ROOT / script), *words]
    return subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True)


def start(script: str, *words: str, cwd: Path, **env: str) -> subprocess.Popen[bytes]:
    """The same, without waiting for its end."""
    command = [sys.executable, str(ROOT / script), *words]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=cwd, env=environment(**env), stdout=quiet, stderr=quiet)
