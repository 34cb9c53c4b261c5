"""Files and folders: the cache, checksums, locks."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from em.errors import OutputError

RECORD = "em.json"
"""The file in the folder of weights that tells how they were made. It is written last, so weights with it are whole."""


def whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


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


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[None]:
    """`exclusive` for an event loop, which goes on while another process or task holds the lock, perhaps for hours."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(path.name + ".lock"), is_singleton=False)
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            await asyncio.sleep(0.2)
    try:
        yield
    finally:
        lock.release()
