"""Upload each training file once, and find it again by its name, which contains its checksum.

em never reuses a file that the service can't use any more.
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
from em.data.openai_rules import encode_file_lines
from em.runtime.files import hold_lock_async
from em.types import Conversation

PURPOSE = "fine-tune"


async def upload_rows(
    client: Client, locks: Path, conversations: Sequence[Conversation], unusable: Collection[str]
) -> str:
    """Return the id of the rows' file at the server; upload the file if the server does not have it.

    Args:
        locks: a folder for locks. unusable: ids of files that the server lists but can't use.
    """
    content = b"".join(encode_file_lines(conversations))
    name = f"em-{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
    locks.mkdir(parents=True, exist_ok=True)

    async def create_file() -> str:
        return str((await client.raw.files.create(file=(name, content), purpose=PURPOSE)).id)

    async with hold_lock_async(locks / name):  # two runs over the same rows would upload them twice
        return await create_once(
            client, "files", partial(find_uploaded_file, client, name, len(content), unusable), create_file, 0
        )


async def find_uploaded_file(client: Client, name: str, size: int, unusable: Collection[str]) -> str | None:
    """Return the id of the newest usable file with this name and size in bytes that won't expire within the hour."""
    usable = []
    try:
        async for file in client.raw.files.list(purpose=PURPOSE, limit=1000):
            lasting = file.expires_at is None or file.expires_at > time.time() + 3600
            complete = (file.filename, file.bytes) == (name, size) and file.status != "error"
            if complete and lasting and file.id not in unusable:
                usable.append(file)
    except openai.NotFoundError:  # this server lists no files
        return None
    return str(max(usable, key=lambda file: file.created_at).id) if usable else None
