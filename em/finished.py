"""Whether a folder holds this very run, done: the same settings, inputs and code, and every file as it was written.

Such a run is not done again: the jobs of a sweep that is started once more cost a look each. Judgements that failed are
not done; neither is a run whose trained models were removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from em.config import HfModel, LocalJudge, LocalTrainer, RunConfig
from em.judging import judges_of
from em.manifest import Manifest, same_settings
from em.prices import load_prices
from em.request import Request
from em.store import sha256_of
from em.train.stages import RECORD
from em.types import digest
from em.weights import looks_like_folder

ARTEFACTS = ("*.jsonl", "*.csv", "report.html", "figures/*")
SEALED = ("inputs", "code", "files")
"""What is added to the manifest of a run that is done."""


def seal(request: Request, manifest: Manifest) -> None:
    """Write down what the run was made of and what it left, at its very end."""
    files = {str(path.relative_to(request.folder)): sha256_of(path) for path in artefacts(request.folder)}
    manifest.write(inputs=inputs_of(request), code=code(), files=files)


def done_before(request: Request, manifest: Manifest) -> dict[str, Any] | None:
    """The manifest of the folder where this very run is done already; None where there is something to do.

    Args:
        manifest: that of the run that is asked for, not written yet.
    """
    try:
        before: dict[str, Any] = json.loads(manifest.path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    wanted = manifest.facts
    if request.settings.force or before.get("status") != "done" or not before.keys() >= set(SEALED):
        return None
    if not same_settings(before, wanted) or before["versions"] != wanted["versions"] or before["code"] != code():
        return None
    if any(judge["failed"] for judge in before.get("judges") or []) or not models_are_there(request, before):
        return None
    there = {name: sha256_of(path) for name in before["files"] if (path := request.folder / name).is_file()}
    return before if there == before["files"] and before["inputs"] == inputs_of(request) else None


def artefacts(folder: Path) -> Iterator[Path]:
    """What a run has left in its folder, besides its manifest."""
    for pattern in ARTEFACTS:
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def models_are_there(request: Request, before: Mapping[str, Any]) -> bool:
    """Whether the models that were trained here can still be used; those of a server are not asked for."""
    if not isinstance(request.settings.trainer, LocalTrainer):
        return True
    return all(Path(stage["path"], RECORD).is_file() for stage in before["stages"])


def inputs_of(request: Request) -> str:
    """Digest of all that the settings only name: rows, questions, stored answers, prices, models in folders."""
    return digest(
        {
            "stages": [stage.identity() for stage in request.stages],
            "questions": request.questions,
            "answers": request.answers,
            "prices": {model: asdict(price) for model, price in load_prices(request.settings.prices).items()},
            "folders": {name: looks_of(Path(name).expanduser()) for name in folders_of(request.settings)},
        }
    )


def folders_of(settings: RunConfig) -> list[str]:
    """The models, adapters and judges that are named by a folder."""
    names = [judge.model for judge in judges_of(settings.judge) if isinstance(judge, LocalJudge)]
    if isinstance(settings.model, HfModel):
        names += [settings.model.id, settings.model.adapter or ""]
    return [name for name in names if name and looks_like_folder(name)]


def looks_of(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files in a folder: no checksums, which take minutes of large models."""
    files = sorted(path for path in folder.glob("*") if path.is_file())
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


@cache
def code() -> str:
    """Checksum of em's own code and texts, so that a changed checkout is told from the one of before."""
    root, whole = Path(__file__).parent, hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        whole.update(f"{path.relative_to(root)} {sha256_of(path)}\n".encode())
    return whole.hexdigest()
