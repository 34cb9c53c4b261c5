"""Checkpoints that a stopped training goes on from: sealed when they are whole, and looked at before they are used.

transformers writes the files of a checkpoint one by one, and would go on from half of one with a fresh optimiser.
So a checkpoint counts only with its seal, which lists every file with its checksum and is written last.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from em.errors import OutputError
from em.runtime.files import open_atomic, sha256_of

SEAL = "complete.json"
HISTORY = "resumed.json"


def partial_folder(folder: Path) -> Path:
    """Where a trained model lies until it is whole."""
    return folder.with_name(f".{folder.name}-partial")


@dataclass(frozen=True)
class Seal:
    """What a whole checkpoint says of itself: optimiser steps done, and seconds that the training took until then."""

    step: int
    seconds: float
    files: dict[str, str]


def seal(folder: Path, step: int, seconds: float) -> None:
    """Mark a checkpoint as whole."""
    files = {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.is_file() and file.name != SEAL}
    with open_atomic(folder / SEAL) as out:
        json.dump({"step": step, "seconds": seconds, "files": files}, out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def read_seal(folder: Path) -> Seal:
    """The seal of a whole checkpoint. Raises ValueError with what is wrong with it."""
    try:
        found = Seal(**json.loads((folder / SEAL).read_text(encoding="utf-8")))
        files = found.files.items()
    except FileNotFoundError as error:
        raise ValueError("it was not finished") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError("its seal can't be read") from error
    for name, checksum in files:
        try:
            if sha256_of(folder / name) != checksum:
                raise ValueError(f"{name} is damaged")
        except OSError as error:
            raise ValueError(f"{name} is missing") from error
    return found


def last_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a training that was stopped, and a sentence for each that had to be given up.

    Those are removed, so that nothing goes on from them later.
    """
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    refused: list[str] = []
    for checkpoint in newest_first:
        try:
            read_seal(checkpoint)
            return checkpoint, refused
        except ValueError as fault:
            refused.append(f"The checkpoint at step {checkpoint.name.rpartition('-')[2]} can't be used ({fault})")
            shutil.rmtree(checkpoint, ignore_errors=True)  # another machine may be at it too
    return None, refused


def forget_checkpoints(folder: Path) -> None:
    """Remove what an earlier attempt left: a training that starts anew must not be mixed with it."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    (folder / HISTORY).unlink(missing_ok=True)


def note_resume(folder: Path, step: int) -> None:
    """Remember that a training went on at this step."""
    steps = resumed_steps(folder)
    (folder / HISTORY).write_text(json.dumps([*steps, step]) + "\n", encoding="utf-8")


def resumed_steps(folder: Path) -> list[int]:
    """At which steps a training went on after it had been stopped."""
    try:
        return list[int](json.loads((folder / HISTORY).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def disk_full(error: BaseException, folder: Path) -> OutputError | None:
    """The sentence for a full disk, where that is what an exception means; the libraries say it in several ways."""
    text = str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    writer = re.search("PytorchStreamWriter|file write failed|inline_container|iostream", text) is not None
    full = full or "No space left" in text or (writer and shutil.disk_usage(folder.parent).free < 2**26)
    if not full:
        return None
    return OutputError(
        f"The disk that holds {folder.parent} is full: make room (or choose another with store.dir=FOLDER), and run "
        "the same command again; the training goes on from its last whole checkpoint."
    )
