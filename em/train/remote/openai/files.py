"""Training files at a service: each is uploaded once, and found again by its name, which has its checksum.

A file that the service can't use any more is never taken again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import openai

from em.api.client import Client
from em.api.once import create_once
from em.data.openai_rules import file_lines
from em.runtime.files import alone
from em.types import Conversation

PURPOSE = "fine-tune"


async def upload(client: Client, locks: Path, conversations: Sequence[Conversation], spent: Collection[str]) -> str:
    """Return the id of the rows' file at the server, which is uploaded where it is not there.

    Args:
        locks: a folder for locks. spent: ids of files that the server has, and can't use.
    """
    content = b"".join(file_lines(conversations))
    name = f"em-{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
    locks.mkdir(parents=True, exist_ok=True)

    async def create() -> str:
        return str((await client.raw.files.create(file=(name, content), purpose=PURPOSE)).id)

    async with alone(locks / name):  # two runs over the same rows would upload them twice
        return await create_once(client, "files", partial(find_file, client, name, len(content), spent), create, 0)


async def find_file(client: Client, name: str, size: int, spent: Collection[str]) -> str | None:
    """Find the newest file with this name and number of bytes that is whole and won't expire within the hour."""
    usable = []
    try:
        async for file in client.raw.files.list(purpose=PURPOSE, limit=1000):
            lasting = file.expires_at is None or file.expires_at > time.time() + 3600
            whole = (file.filename, file.bytes) == (name, size) and file.status != "error"
            if whole and lasting and file.id not in spent:
                usable.append(file)
    except openai.NotFoundError:  # a server that lists no files
        return None
    return str(max(usable, key=lambda file: file.created_at).id) if usable else None
