"""Create paid objects (jobs, files, batches) once, even if the reply to their creation is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

from em.api.client import Client

T = TypeVar("T")
Call = Callable[[], Awaitable[T]]


async def create_once(client: Client, what: str, look: Call[T | None], create: Call[T], settle: float) -> T:
    """Return the object that `create` makes, with the client's retries; before each attempt `look` searches for it.

    Args:
        what: name of the object in error messages.
        look: find the object that an earlier attempt created, if its reply was lost.
        settle: seconds until a new object is in the server's list; a retry waits and looks twice.
    """
    attempts = count()

    async def find_or_create() -> T:
        for wait in (settle, settle) if next(attempts) else (0.0,):
            await asyncio.sleep(wait)
            if (existing := await look()) is not None:
                return existing
        return await create()

    return await client.call_with_retries(what, find_or_create)
