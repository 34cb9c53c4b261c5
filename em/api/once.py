"""Create what is paid for once, though the reply that tells of it may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

from em.api.client import Client

T = TypeVar("T")
Call = Callable[[], Awaitable[T]]


async def create_once(client: Client, what: str, look: Call[T | None], create: Call[T], settle: float) -> T:
    """Return what `create` makes, by the client's retry policy; before each attempt it is looked for.

    Args:
        what: its name in the sentence of an error.
        look: find what an attempt has made whose reply was lost.
        settle: seconds after which it is in the server's list, so that after a lost reply it is looked for twice.
    """
    attempts = count()

    async def attempt() -> T:
        for wait in (settle, settle) if next(attempts) else (0.0,):
            await asyncio.sleep(wait)
            if (found := await look()) is not None:
                return found
        return await create()

    return await client.repeated(what, attempt)
