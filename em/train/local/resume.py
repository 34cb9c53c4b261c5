"""Checkpoints to resume a stopped training from: sealed once complete, and verified before use.

transformers writes the files of a checkpoint one by one, and would resume from an incomplete one with a fresh
optimiser. So a checkpoint counts only with its seal: a file, written last, with the checksums of all others.
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


def locate_partial_folder(folder: Path) -> Path:
    """Return the folder where a training writes its model until the model is complete."""
    return folder.with_name(f".{folder.name}-partial")


@dataclass(frozen=True)
class Seal:
    """The seal of a complete checkpoint: optimiser steps and seconds of training so far, and each file's checksum.

    form: the form of the optimiser's state (`Switches.form`); empty in checkpoints of earlier versions.
    """

    step: int
    seconds: float
    files: dict[str, str]
    form: str = ""


def write_seal(folder: Path, step: int, seconds: float, form: str) -> None:
    """Mark a checkpoint as complete."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / SEAL]
    checksums = {file.relative_to(folder).as_posix(): hash_file(file) for file in files}
    with open_atomic(folder / SEAL) as out:
        json.dump(asdict(Seal(step, seconds, checksums, form)), out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def read_seal(folder: Path) -> Seal:
    """Read and verify the seal of a checkpoint. Raises ValueError with the fault of an incomplete or damaged one."""
    try:
        sealed = Seal(**json.loads((folder / SEAL).read_text(encoding="utf-8")))
        files = sealed.files.items()
    except FileNotFoundError as error:
        raise ValueError("it was not finished") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError("its seal can't be read") from error
    for name, checksum in files:
        try:
            if hash_file(folder / name) != checksum:
                raise ValueError(f"{name} is damaged")
        except OSError as error:
            raise ValueError(f"{name} is missing") from error
    return sealed


def find_last_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint of a stopped training, and a sentence about each newer, unusable one.

    Unusable checkpoints are deleted, so that no later attempt resumes from them.
    """
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    refused: list[str] = []
    for checkpoint in newest_first:
        try:
            read_seal(checkpoint)
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
