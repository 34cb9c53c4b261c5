"""`manifest.json`: the settings, versions, progress and end of a run. em writes it before any other file of the run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em import __version__
from em.config import GenerateRun, RunConfig
from em.config.paths import CHECKOUT, spell_command
from em.errors import ChildFailed, EmError, OutputError
from em.runtime.files import is_running, write_atomic
from em.runtime.keys import without_secrets
from em.runtime.records import plain

PACKAGES: tuple[str, ...] = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
PACKAGES += ("hydra-core", "omegaconf", "openai", "wandb")

NOT_ASKED = ("force", "yes", "dry_run", "one_gpu", "tracker")
"""Settings that change how em executes a run, not its results, so they do not make it another run."""
NO_CHOICE = (("stop", "none"), ("half_width", 0.1))
"""Settings of `eval` in older versions that had no effect with these values."""


def now() -> str:
    """Return the time in UTC, to the second, in ISO format."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Manifest:
    """The facts of one run's manifest, and the file that every change rewrites."""

    def __init__(self, folder: Path, kind: str, settings: RunConfig | GenerateRun, overrides: list[str]) -> None:
        self.path = folder / "manifest.json"
        self.facts = facts_of(kind, settings, overrides)

    def write(self, **changes: Any) -> None:
        """Change facts and rewrite the file atomically."""
        self.facts |= plain(changes)
        write_facts(self.path, self.facts)

    def note(self, text: str) -> None:
        """Add a warning that the report shows at its top."""
        if text not in self.facts["notes"]:
            self.write(notes=[*self.facts["notes"], text])


def facts_of(kind: str, settings: RunConfig | GenerateRun | None, overrides: list[str]) -> dict[str, Any]:
    """Return the facts of a new manifest. `settings`: None if em has refused them."""
    return {
        "em": __version__,
        "run": kind,
        "status": "running",
        "error": None,
        "traceback": None,
        "started": now(),
        "finished": None,
        "process": {"host": platform.node(), "pid": os.getpid()},
        "command": shlex.join([*spell_command(kind).split(), *overrides]),
        "overrides": overrides,
        "config": plain(settings),
        "versions": versions(),
        "git": git_state(),
        "base": None,
        "stages": [],
        "judge": None,
        "notes": [],
    }


@contextmanager
def recorded(manifest: Manifest) -> Iterator[Manifest]:
    """Run the body of a `with` statement as a run: its manifest records whether the body succeeds or fails."""
    manifest.write()
    try:
        yield manifest
    except BaseException as error:
        text = error.details if isinstance(error, ChildFailed) else traceback.format_exc()
        sentence = without_secrets(str(error) if isinstance(error, EmError) else f"{type(error).__name__}: {error}")
        manifest.write(status="failed", error=sentence, traceback=without_secrets(text), finished=now())
        raise
    manifest.write(status="done", finished=now())


def refuse_other_run(manifest: Manifest) -> None:
    """Raise OutputError if the folder holds another run. The same run may resume; a refused job does not count."""
    before = read_facts(manifest.path)
    if not manifest.path.exists() or before.get("config", "damaged") is None:
        return
    if not same_settings(before, manifest.facts):
        raise OutputError(
            f"{manifest.path.parent} holds another run: choose another folder with hydra.run.dir=FOLDER, or delete it."
        )


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two manifests have the same program and settings, apart from those in `NOT_ASKED`."""
    return (one.get("run"), asked(one)) == (other.get("run"), asked(other))


def asked(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a manifest that distinguish its run from other runs."""
    return {key: without_key_names(each) for key, each in (facts.get("config") or {}).items() if key not in NOT_ASKED}


def without_key_names(value: Any) -> Any:
    """Return settings without the names of key variables and without settings that only older versions have."""
    if not isinstance(value, dict):
        return value
    items = [(key, each) for key, each in value.items() if key != "key_env" and (key, each) not in NO_CHOICE]
    return {key: without_key_names(each) for key, each in items}


def amend(folder: Path, dropped: str, notes: Sequence[str] = (), **changes: Any) -> None:
    """Change facts in a run's manifest. `dropped`: remove warnings that begin so; `notes`: warnings to add."""
    path = folder / "manifest.json"
    facts = read_facts(path) | plain(changes)
    facts["notes"] = [*(note for note in facts["notes"] if not note.startswith(dropped)), *notes]
    write_facts(path, facts)


def write_refused(folder: Path, kind: str, overrides: list[str], error: str) -> None:
    """Write the manifest of a job that em refused before it began, so that the report of a sweep shows the job."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "manifest.json", without_secrets(error)
    if read_facts(path).get("config") is None:
        write_facts(path, facts_of(kind, None, overrides) | {"status": "failed", "error": text, "finished": now()})


def is_left(facts: Mapping[str, Any]) -> bool:
    """Return whether a manifest says `running`, but its process on this machine has ended: the process was killed."""
    process = facts.get("process")
    if facts.get("status") != "running" or not isinstance(process, dict) or process.get("host") != platform.node():
        return False
    return isinstance(pid := process.get("pid"), int) and not is_running(pid)


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts of a manifest; empty if the file is missing or can't be parsed."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a manifest atomically."""
    write_atomic(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    packages = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            packages[package] = "not installed"
    return packages


def git_state() -> dict[str, Any]:
    """Return the commit of this checkout and whether files differ from it; None outside git or if em is installed."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", "-C", str(CHECKOUT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        # An installed em, or a copy without its history, may lie inside an unrelated git repository.
        top = git("rev-parse", "--show-toplevel") if CHECKOUT else None
        if CHECKOUT and top and Path(top) == CHECKOUT.resolve():
            status = git("status", "--porcelain", "--untracked-files=no")
            return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
    except OSError:  # git is not installed
        pass
    return {"commit": None, "dirty": None}
