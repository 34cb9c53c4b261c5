"""Run tasks of `benchmarks.judge_peers` in fresh processes, and install an environment for inspect_ai."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
INSPECT = "inspect-ai==0.3.285"


def run_child(python: str, task: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a task and return its result. Exit if the task fails.

    Args:
        python: the Python that runs the task.
        folder: for the files of this task alone; tasks share caches in the parent folder.
    """
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    words = [python, "-m", "benchmarks.judge_peers", task, str(folder / "spec.json"), str(folder / "out.json")]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "INSPECT_"))}
    env |= {"XDG_CACHE_HOME": str(folder.parent / "cache"), "INSPECT_CACHE_DIR": str(folder.parent / "cache")}
    with (folder / "log").open("wb") as log:
        code = subprocess.run(words, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        tail = (folder / "log").read_text(encoding="utf-8", errors="replace")[-3000:]
        sys.exit(f"{task} failed:\n{tail}")
    result: dict[str, Any] = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    return result


def install_inspect() -> str:
    """Return the Python of an environment with inspect_ai; install it in the user's cache if need be."""
    from em.runtime.files import find_cache_folder

    folder = find_cache_folder() / "benchmarks" / INSPECT.replace("==", "-")
    python, uv = folder / "bin" / "python", str(Path(sys.executable).parent / "uv")
    if not (folder / "whole").is_file():
        print(f"installing {INSPECT} in {folder} …", flush=True)
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), INSPECT, "openai"], check=True)
        (folder / "whole").touch()
    return str(python)
