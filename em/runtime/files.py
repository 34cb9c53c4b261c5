"""Files and folders: atomic writes, the cache folder, checksums, locks."""

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
"""The file in a folder of weights that records how em trained them. em writes it last, so it marks complete weights."""

_count = itertools.count()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically: either all of it or nothing; text as UTF-8."""
    with replace_at_end(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_atomic(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file to write piece by piece; the file appears under `path` at the end, or not at all on an error."""
    with replace_at_end(path) as partial, partial.open("w", encoding="utf-8", newline=newline) as file:
        yield file


@contextmanager
def replace_at_end(path: Path) -> Iterator[Path]:
    """Yield a unique path beside `path`; at the end the file there replaces `path`, or is deleted on an error."""
    _remove_leftovers(path)
    partial = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.{next(_count)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Delete partial files left by killed writers of `path` on this machine, whose processes em can check."""
    for leftover in path.parent.glob(glob.escape(f"{path.name}.{platform.node()}.") + "*.partial"):
        pid = leftover.name.split(".")[-3]
        if pid.isdecimal() and not is_running(int(pid)):
            leftover.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Return whether a process of this machine is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process of another user
        return True
    return True


def find_cache_folder() -> Path:
    """Return em's folder in the user's cache (`XDG_CACHE_HOME`, or the platform's default)."""
    import platformdirs

    return platformdirs.user_cache_path("em", appauthor=False)


def make_writable_folder(path: Path, setting: str) -> Path:
    """Create a folder and check that it is writable. Raises OutputError, which names the `setting` for the folder."""
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


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_checksum(path: Path, sha256: str) -> bool:
    """Return whether a file exists and has this checksum (half a second for 100 MB)."""
    return path.is_file() and hash_file(path) == sha256


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock of `path` (the file `<path>.lock`) among all processes; the death of a holder releases the lock."""
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


def hold_lock_async(path: Path) -> AbstractAsyncContextManager[object]:
    """Hold the lock of `path` without blocking the event loop while another process or task holds it."""
    from filelock import AsyncFileLock

    lock = AsyncFileLock(path.with_name(path.name + ".lock"), run_in_executor=False)
    return cast("AbstractAsyncContextManager[object]", lock)
