"""The jobs of a server that speaks OpenAI's protocol: which of them is the one of an order.

A list may lag: what was created a moment ago may not be in it yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

import openai

from em.api.client import Client
from em.api.lifetimes import is_deleted
from em.train.remote.openai.errors import failure, find_failure
from em.train.remote.service import ATTEMPT, MARK, START, Order

ENDED = ("succeeded", "failed", "cancelled")
PAGE = 100


async def marked(client: Client, mark: str = "") -> AsyncIterator[Any]:
    """The jobs of this mark, or all that em has created; the newest first."""
    chosen = {"metadata": {MARK: mark}} if mark else {}
    try:
        async for job in client.raw.fine_tuning.jobs.list(limit=PAGE, **chosen):
            told = (job.metadata or {}).get(MARK)  # not every server heeds the filter
            if told and mark in ("", told):
                yield job
    except openai.NotFoundError:  # a server that lists no jobs
        return


async def find(client: Client, order: Order, anew: bool, attempt: str, spent: set[str]) -> Any:
    """The job that makes the model of an order, or has made it, or can't; None where there is none.

    Of several the newest that is done, or else the oldest under way.

    Args:
        anew: only one that is under way, or was created by the attempt.
        spent: gets the files that the server could not use any more.
    """
    jobs = [job async for job in marked(client, order.mark) if fits(job, order)]
    spent |= {job.training_file for job in jobs if job.status == "failed" and find_failure(job) == "file_gone"}
    for job in jobs:
        if attempt and job.metadata.get(ATTEMPT) == attempt and worth_it(job, order.data):
            return job
    alive = sorted((job for job in jobs if job.status not in ENDED), key=age)
    for job in [] if anew else jobs:
        if job.status == "succeeded" and not await is_deleted(client, job.fine_tuned_model):
            return job
    # A final refusal is told again, and not paid for again.
    refused = [] if anew else [job for job in jobs if job.status == "failed" and failure(job, order.data).final]
    return next(iter([*alive, *refused]), None)


async def list_events(client: Client, job: str, seen: Collection[str] = ()) -> list[Any]:
    """List the events of a job that were not seen before, in their order; none where the server tells of none."""
    fresh: list[Any] = []
    try:
        async for event in client.raw.fine_tuning.jobs.list_events(job, limit=PAGE):  # the newest first
            if event.id in seen:
                break
            fresh.append(event)
    except openai.NotFoundError:
        return []
    return fresh[::-1]


async def list_checkpoints(client: Client, job: Any) -> dict[int, str]:
    """List the models that were kept on the way to a job's own, by step; none where the server keeps none."""
    try:
        kept = client.raw.fine_tuning.jobs.checkpoints.list(job.id, limit=PAGE)
        names = {int(each.step_number): str(each.fine_tuned_model_checkpoint) async for each in kept}
    except openai.NotFoundError:
        return {}
    return {step: name for step, name in names.items() if name != job.fine_tuned_model}


async def alive_beside(client: Client, job: Any) -> list[Any]:
    """List the jobs under way for what a job is for, the oldest first, which is the one that stays."""
    start = job.metadata.get(START)
    others = [each async for each in marked(client, job.metadata[MARK]) if each.id != job.id]
    alive = [each for each in (job, *others) if each.status not in ENDED and each.metadata.get(START) == start]
    return sorted(alive, key=age)


def age(job: Any) -> tuple[int, str]:
    """The order in which jobs were created, the same for whoever looks."""
    return int(job.created_at), str(job.id)


def fits(job: Any, order: Order) -> bool:
    """Whether a job starts from the model that is asked for: a first stage may have been trained anew since."""
    return bool((job.metadata or {}).get(START, order.model) == order.model)


def worth_it(job: Any, data: str) -> bool:
    """Whether a job brings a model, or a refusal that is final."""
    return job.status not in ("failed", "cancelled") or (job.status == "failed" and failure(job, data).final)
