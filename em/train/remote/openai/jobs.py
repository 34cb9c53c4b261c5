"""List the jobs of a server that speaks OpenAI's protocol, and find the job of an order.

A list may lag: a job created a moment ago may be missing from it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

import openai

from em.api.client import Client
from em.api.lifetimes import is_deleted
from em.train.remote.openai.errors import find_failure, make_job_failure
from em.train.remote.service import ATTEMPT, MARK, START, Order

ENDED = ("succeeded", "failed", "cancelled")
PAGE = 100


async def list_marked_jobs(client: Client, mark: str = "") -> AsyncIterator[Any]:
    """List the jobs with this mark, or all jobs that em has created; the newest first."""
    metadata_filter = {"metadata": {MARK: mark}} if mark else {}
    try:
        async for job in client.raw.fine_tuning.jobs.list(limit=PAGE, **metadata_filter):
            job_mark = (job.metadata or {}).get(MARK)  # not every server applies the filter
            if job_mark and mark in ("", job_mark):
                yield job
    except openai.NotFoundError:  # this server lists no jobs
        return


async def find_job(client: Client, order: Order, retrain: bool, attempt: str, unusable: set[str]) -> Any:
    """Return the job of an order, whether it is running, has succeeded, or was refused for good; None if there is none.

    Of several jobs, return the newest that has succeeded, or else the oldest that is running.

    Args:
        retrain: accept only a job that is running, or that this attempt has created.
        unusable: the search adds the ids of files that the server can't use any more.
    """
    jobs = [job async for job in list_marked_jobs(client, order.mark) if has_start_model(job, order)]
    unusable |= {job.training_file for job in jobs if job.status == "failed" and find_failure(job) == "file_gone"}
    for job in jobs:
        if attempt and job.metadata.get(ATTEMPT) == attempt and is_useful(job, order.data):
            return job
    alive = sorted((job for job in jobs if job.status not in ENDED), key=make_sort_key)
    reusable = [] if retrain else jobs
    for job in reusable:
        if job.status == "succeeded" and not await is_deleted(client, job.fine_tuned_model):
            return job
    # A job that was refused for good is reported again, and not paid for again.
    refused = [job for job in reusable if job.status == "failed" and make_job_failure(job, order.data).final]
    return next(iter([*alive, *refused]), None)


async def list_new_events(client: Client, job: str, seen: Collection[str] = ()) -> list[Any]:
    """List the events of a job that are not in `seen`, the oldest first; none if the server reports no events."""
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
    """List the checkpoints of a job, by step, without its final model; none if the server keeps no checkpoints."""
    try:
        checkpoints = client.raw.fine_tuning.jobs.checkpoints.list(job.id, limit=PAGE)
        names = {int(each.step_number): str(each.fine_tuned_model_checkpoint) async for each in checkpoints}
    except openai.NotFoundError:
        return {}
    return {step: name for step, name in names.items() if name != job.fine_tuned_model}


async def list_rival_jobs(client: Client, job: Any) -> list[Any]:
    """List the running jobs for the same model as `job`, itself included; the first one, the oldest, is to stay."""
    start = job.metadata.get(START)
    others = [each async for each in list_marked_jobs(client, job.metadata[MARK]) if each.id != job.id]
    alive = [each for each in (job, *others) if each.status not in ENDED and each.metadata.get(START) == start]
    return sorted(alive, key=make_sort_key)


def make_sort_key(job: Any) -> tuple[int, str]:
    """Return a key to sort jobs by creation, in the same order for every machine."""
    return int(job.created_at), str(job.id)


def has_start_model(job: Any, order: Order) -> bool:
    """Return whether a job starts from the order's model: the first stage may have been retrained since."""
    return bool((job.metadata or {}).get(START, order.model) == order.model)


def is_useful(job: Any, data: str) -> bool:
    """Return whether a job has or may still bring a model, or was refused for good."""
    return job.status not in ("failed", "cancelled") or (job.status == "failed" and make_job_failure(job, data).final)
