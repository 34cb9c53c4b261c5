"""Fine-tune by a server that speaks OpenAI's protocol, without losing a job or paying for a second one.

em searches the server's jobs for the order (`em.train.remote.openai.jobs`) before it creates a job, before it repeats a
call that went unanswered, and while it follows the job: of two jobs created at once the older one stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import openai

from em.api.client import CallFailed, Client
from em.api.lifetimes import is_deleted, make_jobs_command
from em.api.once import create_once
from em.config import OpenAITrainer
from em.errors import ServerError
from em.train.remote.openai.errors import find_refusal, make_job_failure, make_refusal
from em.train.remote.openai.files import upload_rows
from em.train.remote.openai.jobs import (
    ENDED,
    find_job,
    has_start_model,
    is_useful,
    list_checkpoints,
    list_new_events,
    list_rival_jobs,
)
from em.train.remote.progress import Board, read_metrics
from em.train.remote.service import ATTEMPT, MARK, START, Approve, JobNote, Order, Result

PATIENT, BRIEF = 8, 2  # attempts of a single call, and of a call that polls a job (the next poll repeats it anyway)
T = TypeVar("T")


class OpenAIService:
    """A service behind a client that fulfils one order (see `em.train.remote.service.Service`).

    locks: a folder for the locks of files. log: a JSONL file for the events of jobs.
    """

    lists_models = True

    def __init__(
        self, client: Client, order: Order, trainer: OpenAITrainer, locks: Path, log: Path | None = None
    ) -> None:
        self.client, self.order, self.trainer, self.locks, self.log = client, order, trainer, locks, log
        self.jobs = client.raw.fine_tuning.jobs
        self.unusable_files: set[str] = set()

    async def submit(self, approve: Approve, note: JobNote, retrain: bool = False) -> str:
        """Return the job of the order: one that the server already has, or, once approved, a new one."""
        job = await self.find_noted_job(note.job) if note.job else None
        search = partial(find_job, self.client, self.order, retrain, note.attempt, self.unusable_files)
        if job is None:
            job = await self.call_server(search)
        if job is None and note.attempt:  # the attempt may have created a job that the list does not show yet
            await asyncio.sleep(self.trainer.settle)
            job = await self.call_server(search)
        if job is None:
            await approve()
            job = await self.create_job(note, retrain)
        note.note_job(str(job.id))
        return str((await self.settle_rivals(job, note)).id)

    async def follow(self, job: str, note: JobNote) -> str:
        """Wait for a job to end, and show its events and loss. Returns the job that stays (see `settle_rivals`)."""
        seen: set[str] = set()
        last_answer = time.monotonic()
        with Board(f"fine-tuning on {self.order.data}", self.log) as board:
            while True:
                try:
                    state = await self.call_server(partial(self.jobs.retrieve, job), BRIEF)
                    state = await self.settle_rivals(state, note, BRIEF)
                    job = str(state.id)
                    for event in await self.call_server(partial(list_new_events, self.client, job, seen), BRIEF):
                        seen.add(event.id)
                        board.show_event(event)
                    last_answer = time.monotonic()
                except CallFailed as error:
                    if time.monotonic() - last_answer > self.trainer.patience:
                        raise ServerError(
                            f"The server gave no answer for {self.trainer.patience:,.0f} seconds (trainer.patience); "
                            f"the job {job} goes on there: run the same command again to follow it. Last error: {error}"
                        ) from None
                    board.show_status("the server can't be reached; trying again")
                else:
                    board.show_status(state.status)
                    if state.status in ENDED:
                        break
                await asyncio.sleep(self.trainer.look)
        if state.status == "succeeded":
            return job
        raise make_job_failure(state, self.order.data)

    def explain_ending(self, job: str) -> str:
        """Return the command that cancels a job."""
        return f"{make_jobs_command(self.client)} cancel {job}"

    async def read_result(self, job: str) -> Result:
        """Return the result of a job that succeeded."""
        state = await self.call_server(lambda: self.jobs.retrieve(job))
        if state.status != "succeeded" or not state.fine_tuned_model:
            raise make_job_failure(state, self.order.data)
        events = await self.call_server(lambda: list_new_events(self.client, job))
        steps = [step for step in map(read_metrics, events) if step is not None]
        return Result(
            model=str(state.fine_tuned_model),
            job=job,
            tokens=state.trained_tokens,
            seconds=state.finished_at - state.created_at if state.finished_at else None,
            losses=tuple(sorted({step: loss for step, loss, _ in steps}.items())),
            checkpoints=await self.call_server(lambda: list_checkpoints(self.client, state)),
            used_knobs=read_used_knobs(state),
        )

    # Create a job, once

    async def find_noted_job(self, job: str) -> Any:
        """Return a noted job if it has or may still bring the order's model; None otherwise."""

        async def read_job() -> Any:
            try:
                state = await self.jobs.retrieve(job)
            except openai.NotFoundError:
                return None
            ours = (state.metadata or {}).get(MARK, self.order.mark) == self.order.mark
            usable = ours and has_start_model(state, self.order) and is_useful(state, self.order.data)
            model = state.fine_tuned_model if state.status == "succeeded" else None
            return state if usable and not await is_deleted(self.client, model) else None

        return await self.call_server(read_job)

    async def create_job(self, note: JobNote, retrain: bool) -> Any:
        """Create a job, after uploading its file if necessary; retry once with a new upload if the file is unusable."""
        attempt, order = note.begin_attempt(), self.order
        search = partial(find_job, self.client, order, retrain, attempt, self.unusable_files)
        for last in (False, True):
            with self.explain_refusals():
                file = await upload_rows(self.client, self.locks, order.conversations, self.unusable_files)
            create = partial(self.jobs.create, **make_job_body(order, file, attempt))
            try:
                return await create_once(self.client, order.model, search, create, self.trainer.settle)
            except openai.APIError as error:
                expired = isinstance(error, openai.APIStatusError) and find_refusal(error) == "file_gone"
                if last or not expired:
                    note.forget()  # no job exists: `create_once` has searched for one after an unanswered call
                    raise make_refusal(error, order.model, order.data, file) from None
            self.unusable_files.add(file)
        raise AssertionError("unreachable: the second round returns or raises")

    async def settle_rivals(self, job: Any, note: JobNote, attempts: int = PATIENT) -> Any:
        """Return the job that stays: the oldest, if other machines created jobs for the same model at once.

        The other jobs are cancelled; the next poll repeats a cancellation that fails.
        """
        if job.status in ("succeeded", "failed") or MARK not in (job.metadata or {}):
            return job

        async def cancel_rival(rival: str) -> None:
            with suppress(openai.BadRequestError, openai.NotFoundError, openai.ConflictError):  # already ended
                await self.jobs.cancel(rival)

        alive = await self.call_server(lambda: list_rival_jobs(self.client, job), attempts)
        for rival in alive[1:]:
            with suppress(ServerError):
                await self.call_server(partial(cancel_rival, str(rival.id)), BRIEF)
        if alive:
            note.note_job(str(alive[0].id))
        return alive[0] if alive else job

    # Single calls

    async def call_server(self, call: Callable[[], Awaitable[T]], attempts: int = PATIENT) -> T:
        """Return the result of a call, by the client's retry policy. Raises ServerError if the server refuses."""
        with self.explain_refusals():
            return await self.client.call_with_retries(self.order.model, call, attempts)

    @contextmanager
    def explain_refusals(self) -> Iterator[None]:
        """Turn an error of the openai package into a ServerError with em's own sentence."""
        try:
            yield
        except openai.APIError as error:
            raise make_refusal(error, self.order.model, self.order.data) from None


def make_job_body(order: Order, file: str, attempt: str) -> dict[str, Any]:
    """Make the body of the call that creates a job."""
    knobs = {"n_epochs": order.epochs, **order.knobs}
    marks = {MARK: order.mark, START: order.model[:512], ATTEMPT: attempt}
    return {
        "model": order.model,
        "training_file": file,
        "method": {"type": "supervised", "supervised": {"hyperparameters": knobs}},
        "seed": order.seed,
        "suffix": order.suffix,
        "metadata": marks | {"run": order.chain[:512], "data": order.data[:512]},
    }


def read_used_knobs(job: Any) -> dict[str, Any]:
    """Return the hyperparameters that the service used; it replaces `auto` by a number."""
    method = job.method.supervised.hyperparameters if job.method and job.method.supervised else None
    knobs = method or job.hyperparameters
    used = {"epochs": knobs.n_epochs, "batch_size": knobs.batch_size}
    used["learning_rate_multiplier"] = knobs.learning_rate_multiplier
    return {name: value for name, value in used.items() if value is not None}
