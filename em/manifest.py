"""`manifest.json`: what a run was asked, with what, how far it came and how it ended. Written before anything else."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em import __version__
from em.children import plain
from em.config import RunConfig
from em.errors import ChildFailed, EmError, OutputError

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "hydra-core",
    "omegaconf",
    "openai",
    "wandb",
)
SECRET = re.compile(r"\b(sk-[\w-]{8,}|hf_\w{8,}|[0-9a-f]{40})\b")


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Manifest:
    """The manifest of one run, written anew at every change."""

    def __init__(self, folder: Path, kind: str, settings: RunConfig, overrides: list[str]) -> None:
        self.path = folder / "manifest.json"
        self.facts: dict[str, Any] = {
            "em": __version__,
            "run": kind,
            "status": "running",
            "error": None,
            "traceback": None,
            "started": now(),
            "finished": None,
            "command": shlex.join(["python", f"{kind}.py", *overrides]),
            "overrides": overrides,
            "config": plain(settings),
            "versions": versions(),
            "git": git_state(),
            "base": None,
            "stages": [],
            "judge": None,
            "notes": [],
        }

    def write(self, **changes: Any) -> None:
        """Change facts and write the file, whole or not at all."""
        self.facts |= plain(changes)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(json.dumps(self.facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(self.path)

    def note(self, text: str) -> None:
        """Add a warning that the report shows at its top."""
        if text not in self.facts["notes"]:
            self.write(notes=[*self.facts["notes"], text])


@contextmanager
def recorded(manifest: Manifest) -> Iterator[Manifest]:
    """The run's boundary: however it ends, the manifest says so."""
    manifest.write()
    try:
        yield manifest
    except BaseException as error:
        text = error.details if isinstance(error, ChildFailed) else traceback.format_exc()
        said = str(error) if isinstance(error, EmError) else f"{type(error).__name__}: {error}"
        manifest.write(status="failed", error=without_secrets(said), traceback=without_secrets(text), finished=now())
        raise
    manifest.write(status="done", finished=now())


def refuse_other_run(manifest: Manifest) -> None:
    """A folder belongs to one run: the same run goes on there, another is refused."""
    try:
        before = json.loads(manifest.path.read_text(encoding="utf-8"))
    except OSError:
        return
    except ValueError:
        before = {}
    if before.get("config") != manifest.facts["config"] or before.get("run") != manifest.facts["run"]:
        raise OutputError(
            f"{manifest.path.parent} holds another run: choose another folder with hydra.run.dir=FOLDER, or remove it."
        )


def without_secrets(text: str) -> str:
    """The text without anything that looks like a key, and without the keys of this environment."""
    for name, value in os.environ.items():
        if len(value) > 7 and re.search(r"KEY|TOKEN|SECRET|PASSWORD", name):
            text = text.replace(value, "[secret]")
    return SECRET.sub("[secret]", text)


def versions() -> dict[str, str]:
    """Python and the packages that make the results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state() -> dict[str, Any]:
    """Commit of this checkout and whether files differ from it; None outside of git."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        status = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
    except OSError:
        return {"commit": None, "dirty": None}
