"""Files and folders: the cache, checksums, locks."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import TextIO, cast

from em.errors import OutputError

RECORD = "em.json"
"""The file in the folder of weights that tells how they were made. It is written last, so weights with it are whole."""

_count = itertools.count()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; text as UTF-8."""
    with replace_at_end(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_atomic(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file that is written piece by piece, and that stands under its name at the end or not at all."""
    with replace_at_end(path) as partial, partial.open("w", encoding="utf-8", newline=newline) as file:
        yield file


@contextmanager
def replace_at_end(path: Path) -> Iterator[Path]:
    """Give the name of a file beside `path` that no other writer uses; it replaces `path` at the end, else it goes."""
    _remove_leftovers(path)
    partial = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.{next(_count)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left, as far as they ran on this machine, which knows its processes."""
    for leftover in path.parent.glob(glob.escape(f"{path.name}.{platform.node()}.") + "*.partial"):
        pid = leftover.name.split(".")[-3]
        if pid.isdecimal() and not is_running(int(pid)):
            leftover.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Tell whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def cache_dir() -> Path:
    """em's folder in the user's cache (`XDG_CACHE_HOME` or the platform's own place)."""
    import platformdirs

    return platformdirs.user_cache_path("em", appauthor=False)


def writable_folder(path: Path, setting: str) -> Path:
    """Make a folder and prove that it can be written; the sentence of the error names the setting that chose it."""
    probe = path / f".em-{time.monotonic_ns()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(
            f"{path} can't be written ({reason}): choose another folder with {setting}=FOLDER."
        ) from error
    return path


def sha256_of(path: Path) -> str:
    """Checksum of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_checksum(path: Path, sha256: str) -> bool:
    """Tell whether a file is there with this checksum (half a second for 100 MB)."""
    return path.is_file() and sha256_of(path) == sha256


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of `path` (a file `<path>.lock` beside it) among all processes; a killed holder lets go."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        print(f"Waiting for another process that works on {path.name} …", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def alone(path: Path) -> AbstractAsyncContextManager[object]:
    """`exclusive` for an event loop, which goes on while another process or task holds the lock, perhaps for hours."""
    from filelock import AsyncFileLock

    lock = AsyncFileLock(path.with_name(path.name + ".lock"), run_in_executor=False)
    return cast("AbstractAsyncContextManager[object]", lock)
