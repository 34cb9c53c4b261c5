"""Judging by a server's Batch API (see `em.batches`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from em.batches import Found, Work, ask_by_batch
from em.client import Client
from em.config import ApiJudge
from em.judge.readings import body, kept
from em.store import Calls, request_key
from em.types import JudgeRequest


async def judge_by_batch(
    judge: ApiJudge, client: Client, requests: Sequence[JudgeRequest], calls: Calls, bar: Any
) -> dict[str, str]:
    """Judge all requests by batches; remember the results. Returns what failed, in words, by the request's key."""
    by_key = {request_key(r): r for r in requests}

    def remember(found: Found) -> None:
        calls.remember("judge", [(by_key[key], kept(reply) | {"batch": True}) for key, reply in found])

    bodies = {key: body(request, judge.model) for key, request in by_key.items()}
    work = Work(judge.model, "judgements", "judge.batch", bodies, remember)
    return await ask_by_batch(client, work, calls.folder / "batches", bar)
