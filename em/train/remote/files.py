"""Training files at a service: each is uploaded once, and found again by its checksum.

The id is noted in `<store>/files/<server>-<checksum>.json`; a file whose note was lost is found by its name, which has
the checksum too. A file that the service can't use any more is never taken again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from em.api.client import Client
from em.config.addresses import OPENAI
from em.runtime.files import alone, write_atomic

PURPOSE = "fine-tune"


async def uploaded(client: Client, folder: Path, server: str, content: bytes, spent: Collection[str] = ()) -> str:
    """The id of a file with this content at the server, which is uploaded where it is not there.

    Args:
        folder: where ids are noted.
        spent: ids of files that the server has, and can't use.

    Raises:
        CallFailed: the server can't be reached.
        openai.APIStatusError: it refused the file.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    note = note_of(folder, server, sha256)
    folder.mkdir(parents=True, exist_ok=True)
    async with alone(note):  # two runs over the same rows would upload them twice
        name = f"em-{sha256[:32]}.jsonl"
        if (known := read_note(note)) and known not in spent and await still_there(client, known, name, len(content)):
            return known

        async def attempt() -> str:
            # Where an attempt before had stored it and the reply was lost, it is found by its name.
            if (found := await by_name(client, name, len(content), spent)) is not None:
                return found
            file = await client.raw.files.create(file=(name, content), purpose=PURPOSE)
            return str(file.id)

        found = await client.repeated("files", attempt)
        write_atomic(note, json.dumps({"id": found, "bytes": len(content)}))
    return found


def note_of(folder: Path, server: str, sha256: str) -> Path:
    """Where the id of a file is noted."""
    return folder / f"{server or OPENAI}-{sha256[:32]}.json"


def read_note(note: Path) -> str:
    """The id that is noted; empty where there is none."""
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def forget_file(folder: Path, file: str) -> int:
    """Remove the notes of an uploaded file; how many there were."""
    notes = [note for note in folder.glob("*.json") if read_note(note) == file]
    for note in notes:
        note.unlink(missing_ok=True)
    return len(notes)


async def still_there(client: Client, file: str, name: str, size: int) -> bool:
    """Whether the server still has this very file, and can use it: one that began anew gives the id to another."""
    import openai

    try:
        found = await client.repeated("files", lambda: client.raw.files.retrieve(file))
        return usable(found) and (found.filename, found.bytes) == (name, size)
    except openai.NotFoundError:
        return False


async def by_name(client: Client, name: str, size: int, spent: Collection[str]) -> str | None:
    """The id of the newest file that can be used with this name and number of bytes: an older one may have failed."""
    import openai

    try:
        listed = client.raw.files.list(purpose=PURPOSE, limit=1000)
        found = [file async for file in listed if file.filename == name and file.bytes == size and usable(file)]
    except openai.NotFoundError:  # a server that lists no files
        return None
    fit = [file for file in found if file.id not in spent]
    return str(max(fit, key=lambda file: file.created_at).id) if fit else None


def usable(file: Any) -> bool:
    """Whether a file is whole and won't expire within the hour."""
    return file.status != "error" and (file.expires_at is None or file.expires_at > time.time() + 3600)
