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
from em.runtime.keys import redact_secrets
from em.runtime.records import to_jsonable

PACKAGES: tuple[str, ...] = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
PACKAGES += ("hydra-core", "omegaconf", "openai", "wandb")

NOT_ASKED = ("force", "yes", "dry_run", "one_gpu", "tracker")
"""Settings that change how em executes a run, not its results, so they do not make it another run."""
NO_CHOICE: tuple[tuple[str, Any], ...] = (
    *(("stop", "none"), ("half_width", 0.1), ("default_prompt", "template"), ("words", "likeliest")),
    *(("questions", "these"), ("convention", "all"), ("revision", None), ("extra_body", {}), ("serve", False)),
    *(("command", ""), ("base_url", None), ("gpu_memory", 0.9), ("parity", "on")),
)
"""Settings of groups that other versions of em lack, with the values at which they have no effect."""


def get_timestamp() -> str:
    """Return the time in UTC, to the second, in ISO format."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class ManifestWriter:
    """The facts of one run's manifest, and the file that every change rewrites."""

    def __init__(self, folder: Path, kind: str, settings: RunConfig | GenerateRun, overrides: list[str]) -> None:
        self.path = folder / "manifest.json"
        self.facts = collect_facts(kind, settings, overrides)

    def write(self, **changes: Any) -> None:
        """Change facts and rewrite the file atomically."""
        self.facts |= to_jsonable(changes)
        write_facts(self.path, self.facts)

    def note(self, text: str) -> None:
        """Add a warning that the report shows at its top."""
        if text not in self.facts["notes"]:
            self.write(notes=[*self.facts["notes"], text])


def collect_facts(kind: str, settings: RunConfig | GenerateRun | None, overrides: list[str]) -> dict[str, Any]:
    """Return the facts of a new manifest. `settings`: None if em has refused them."""
    return {
        "em": __version__,
        "run": kind,
        "status": "running",
        "error": None,
        "traceback": None,
        "started": get_timestamp(),
        "finished": None,
        "process": {"host": platform.node(), "pid": os.getpid()},
        "command": shlex.join([*spell_command(kind).split(), *overrides]),
        "overrides": overrides,
        "config": to_jsonable(settings),
        "versions": read_versions(),
        "git": read_git_state(),
        "base": None,
        "stages": [],
        "judge": None,
        "notes": [],
    }


@contextmanager
def record_run(manifest: ManifestWriter) -> Iterator[ManifestWriter]:
    """Run the body of a `with` statement as a run: its manifest records whether the body succeeds or fails."""
    manifest.write()
    try:
        yield manifest
    except BaseException as error:
        text = error.details if isinstance(error, ChildFailed) else traceback.format_exc()
        sentence = redact_secrets(str(error) if isinstance(error, EmError) else f"{type(error).__name__}: {error}")
        manifest.write(status="failed", error=sentence, traceback=redact_secrets(text), finished=get_timestamp())
        raise
    manifest.write(status="done", finished=get_timestamp())


def refuse_other_run(manifest: ManifestWriter) -> None:
    """Raise OutputError if the folder holds another run. The same run may resume; a refused job does not count."""
    before = read_facts(manifest.path)
    if not manifest.path.exists() or before.get("config", "damaged") is None:
        return
    if not has_same_settings(before, manifest.facts):
        raise OutputError(
            f"{manifest.path.parent} holds another run: choose another folder with hydra.run.dir=FOLDER, or delete it."
        )


def has_same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two manifests have the same program and settings, apart from those in `NOT_ASKED`."""
    return (one.get("run"), select_identity_settings(one)) == (other.get("run"), select_identity_settings(other))


def select_identity_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a manifest that distinguish its run from other runs."""
    return {key: drop_key_names(each) for key, each in (facts.get("config") or {}).items() if key not in NOT_ASKED}


def drop_key_names(value: Any) -> Any:
    """Return settings without the names of key variables and without the settings in `NO_CHOICE`."""
    if not isinstance(value, dict):
        return value
    items = [(key, each) for key, each in value.items() if key != "key_env" and (key, each) not in NO_CHOICE]
    return {key: drop_key_names(each) for key, each in items}


def update_manifest(folder: Path, dropped: str, notes: Sequence[str] = (), **changes: Any) -> None:
    """Change facts in a run's manifest. `dropped`: remove warnings that begin so; `notes`: warnings to add."""
    path = folder / "manifest.json"
    facts = read_facts(path) | to_jsonable(changes)
    facts["notes"] = [*(note for note in facts["notes"] if not note.startswith(dropped)), *notes]
    write_facts(path, facts)


def write_refused_manifest(folder: Path, kind: str, overrides: list[str], error: str) -> None:
    """Write the manifest of a job that em refused before it began, so that the report of a sweep shows the job."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "manifest.json", redact_secrets(error)
    if read_facts(path).get("config") is None:
        write_facts(
            path,
            collect_facts(kind, None, overrides) | {"status": "failed", "error": text, "finished": get_timestamp()},
        )


def was_killed(facts: Mapping[str, Any]) -> bool:
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


def read_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of packages; by default of those that affect results."""
    packages = {"python": platform.python_version()}
    for package in names:
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            packages[package] = "not installed"
    return packages


def read_git_state() -> dict[str, Any]:
    """Return the commit of this checkout and whether files differ from it; None outside git or if em is installed."""

    def run_git(*words: str) -> str | None:
        done = subprocess.run(["git", "-C", str(CHECKOUT), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        # An installed em, or a copy without its history, may lie inside an unrelated git repository.
        top = run_git("rev-parse", "--show-toplevel") if CHECKOUT else None
        if CHECKOUT and top and Path(top) == CHECKOUT.resolve():
            status = run_git("status", "--porcelain", "--untracked-files=no")
            return {"commit": run_git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
    except OSError:  # git is not installed
        pass
    return {"commit": None, "dirty": None}
