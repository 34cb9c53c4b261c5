"""`manifest.json`: what a run was asked, with what, how far it came and how it ended. Written before anything else."""

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

PACKAGES = (
    *("torch", "transformers", "trl", "peft", "accelerate", "datasets"),
    *("hydra-core", "omegaconf", "openai", "wandb"),
)

NOT_ASKED = ("force", "yes", "dry_run", "one_gpu", "tracker")
"""Settings that say how a run is done, not which run it is."""
NO_CHOICE = (("stop", "none"), ("half_width", 0.1))
"""Settings of `eval` in older versions: with these values they changed nothing."""


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Manifest:
    """The manifest of one run, written anew at every change."""

    def __init__(self, folder: Path, kind: str, settings: RunConfig | GenerateRun, overrides: list[str]) -> None:
        self.path = folder / "manifest.json"
        self.facts = facts_of(kind, settings, overrides)

    def write(self, **changes: Any) -> None:
        """Change facts and write the file, whole or not at all."""
        self.facts |= plain(changes)
        write_facts(self.path, self.facts)

    def note(self, text: str) -> None:
        """Add a warning that the report shows at its top."""
        if text not in self.facts["notes"]:
            self.write(notes=[*self.facts["notes"], text])


def facts_of(kind: str, settings: RunConfig | GenerateRun | None, overrides: list[str]) -> dict[str, Any]:
    """What a manifest holds at first; without settings where these were refused."""
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
    """A folder belongs to one run: the same run goes on there, another is refused. A refused job has left nothing."""
    before = read_facts(manifest.path)
    if not manifest.path.exists() or before.get("config", "damaged") is None:
        return
    if not same_settings(before, manifest.facts):
        raise OutputError(
            f"{manifest.path.parent} holds another run: choose another folder with hydra.run.dir=FOLDER, or remove it."
        )


def same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two manifests are of the same program with the same settings, but for how it is to be done now."""
    return (one.get("run"), asked(one)) == (other.get("run"), asked(other))


def asked(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a manifest that say which run it is."""
    return {key: without_key_names(each) for key, each in (facts.get("config") or {}).items() if key not in NOT_ASKED}


def without_key_names(value: Any) -> Any:
    """Settings without the variables that hold keys, and without what older versions set and this one lacks."""
    if not isinstance(value, dict):
        return value
    items = [(key, each) for key, each in value.items() if key != "key_env" and (key, each) not in NO_CHOICE]
    return {key: without_key_names(each) for key, each in items}


def amend(folder: Path, dropped: str, notes: Sequence[str] = (), **changes: Any) -> None:
    """Change facts in a run's manifest. `dropped`: how warnings begin that hold no more; `notes`: to add."""
    path = folder / "manifest.json"
    facts = read_facts(path) | plain(changes)
    facts["notes"] = [*(note for note in facts["notes"] if not note.startswith(dropped)), *notes]
    write_facts(path, facts)


def write_refused(folder: Path, kind: str, overrides: list[str], error: str) -> None:
    """The manifest of a job that was refused before it began, so that what is made of a sweep tells of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "manifest.json", without_secrets(error)
    if read_facts(path).get("config") is None:
        write_facts(path, facts_of(kind, None, overrides) | {"status": "failed", "error": text, "finished": now()})


def is_left(facts: Mapping[str, Any]) -> bool:
    """Whether a manifest says `running` of a process of this machine that is gone: killed, before it could say why."""
    process = facts.get("process")
    if facts.get("status") != "running" or not isinstance(process, dict) or process.get("host") != platform.node():
        return False
    return isinstance(pid := process.get("pid"), int) and not is_running(pid)


def read_facts(path: Path) -> dict[str, Any]:
    """Read a manifest; empty where there is none, or one that can't be read."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a manifest, whole or not at all."""
    write_atomic(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


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
    """Commit of this checkout and whether files differ from it; None outside of git, and of an installed em."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", "-C", str(CHECKOUT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        # A folder of packages, or a copy without its history, may lie in a repository of other things.
        top = git("rev-parse", "--show-toplevel") if CHECKOUT else None
        if CHECKOUT and top and Path(top) == CHECKOUT.resolve():
            status = git("status", "--porcelain", "--untracked-files=no")
            return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
    except OSError:  # no git
        pass
    return {"commit": None, "dirty": None}
