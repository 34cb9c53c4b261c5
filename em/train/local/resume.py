"""Checkpoints to resume a stopped training from: sealed once complete, and verified before use.

transformers writes the files of a checkpoint one by one, and would resume from an incomplete one with a fresh
optimiser. So a checkpoint counts only with its seal: a file, written last, with the checksums of all others. Of a file
above a gigabyte the seal has the size, as hashing the checkpoint of a whole model takes minutes.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from em.errors import OutputError
from em.runtime.files import hash_file, open_atomic

SEAL = "complete.json"
HISTORY = "resumed.json"
LARGE = 10**9
"""Bytes above which files are not hashed, and checkpoints are written less often."""
APART = 600.0
"""Least seconds between large checkpoints."""
MOST_SAVING = 0.05
"""Largest part of the time for writing large checkpoints."""


def locate_partial_folder(folder: Path) -> Path:
    """Return the folder where a training writes its model until the model is complete."""
    return folder.with_name(f".{folder.name}-partial")


@dataclass(frozen=True)
class Seal:
    """The seal of a complete checkpoint: optimiser steps and seconds of training so far, and each file's check.

    files: the sha256 of each file, or the size of a large one, as in `1234567890 bytes`.
    form: the form of the optimiser's state (`Switches.form`); empty in checkpoints of earlier versions.
    """

    step: int
    seconds: float
    files: dict[str, str]
    form: str = ""


def is_checkpoint_due(weights: int, since_last: float, last_took: float) -> bool:
    """Return whether to write a checkpoint, at a step that could have one. Only large checkpoints have to wait.

    Args:
        weights: bytes of the trained weights. since_last: seconds since the last checkpoint, or the start.
        last_took: seconds that writing the last one took; 0 for the first.
    """
    return weights < LARGE or since_last >= max(APART, last_took / MOST_SAVING)


def write_seal(folder: Path, step: int, seconds: float, form: str) -> None:
    """Mark a checkpoint as complete."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / SEAL]
    checks = {}
    for file in files:
        size = file.stat().st_size
        if size > LARGE:
            with file.open("rb") as written:  # a power cut could otherwise leave a file of this size without content
                os.fsync(written.fileno())
        checks[file.relative_to(folder).as_posix()] = f"{size} bytes" if size > LARGE else hash_file(file)
    with open_atomic(folder / SEAL) as out:
        json.dump(asdict(Seal(step, seconds, checks, form)), out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def read_seal(folder: Path) -> Seal:
    """Read the seal of a checkpoint. Raises ValueError with the fault of an unfinished one."""
    try:
        sealed = Seal(**json.loads((folder / SEAL).read_text(encoding="utf-8")))
        sealed.files.items()
        return sealed
    except FileNotFoundError as error:
        raise ValueError("it was not finished") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError("its seal can't be read") from error


def verify_seal(folder: Path) -> Seal:
    """Read the seal of a checkpoint, and verify its files. Raises ValueError with the fault."""
    sealed = read_seal(folder)
    for name, check in sealed.files.items():
        file = folder / name
        try:
            actual = f"{file.stat().st_size} bytes" if check.endswith(" bytes") else hash_file(file)
        except OSError as error:
            raise ValueError(f"{name} is missing") from error
        if actual != check:
            raise ValueError(f"{name} is damaged")
    return sealed


def find_last_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint of a stopped training, and a sentence about each newer, unusable one.

    Unusable checkpoints are deleted, so that no later attempt resumes from them.
    """
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    refused: list[str] = []
    for checkpoint in newest_first:
        try:
            verify_seal(checkpoint)
            return checkpoint, refused
        except ValueError as fault:
            refused.append(f"The checkpoint at step {checkpoint.name.rpartition('-')[2]} can't be used ({fault})")
            shutil.rmtree(checkpoint, ignore_errors=True)  # another machine may be deleting the same folder
    return None, refused


def delete_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of an earlier attempt, so that a fresh start is not mixed with them."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    (folder / HISTORY).unlink(missing_ok=True)


def note_resume(folder: Path, step: int) -> None:
    """Record that the training was resumed at this step."""
    steps = read_resumed_steps(folder)
    (folder / HISTORY).write_text(json.dumps([*steps, step]) + "\n", encoding="utf-8")


def read_resumed_steps(folder: Path) -> list[int]:
    """List the steps at which the training was resumed."""
    try:
        return list[int](json.loads((folder / HISTORY).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def detect_full_disk(error: BaseException, folder: Path) -> OutputError | None:
    """Return an OutputError if an exception means a full disk, else None; each library words it differently."""
    text = str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    failed_write = re.search("PytorchStreamWriter|file write failed|inline_container|iostream", text) is not None
    full = full or "No space left" in text or (failed_write and shutil.disk_usage(folder.parent).free < 2**26)
    if not full:
        return None
    return OutputError(
        f"The disk that holds {folder.parent} is full: make room (or choose another with store.dir=FOLDER), and run "
        "the same command again; the training resumes from its last complete checkpoint."
    )
