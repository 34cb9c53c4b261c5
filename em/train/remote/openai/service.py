"""Fine-tuning by a server that speaks OpenAI's protocol: never a second paid job for the same, none lost.

Before a job is created the server's jobs are looked through for it (`em.train.remote.openai.jobs`), again before a call
that went unanswered is repeated, and for as long as it is followed: of two that were created at once the older stays.
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
from em.api.lifetimes import is_deleted, jobs_command
from em.api.once import create_once
from em.config import OpenAITrainer
from em.errors import ServerError
from em.train.remote.openai.errors import failure, find_refusal, refusal
from em.train.remote.openai.files import upload
from em.train.remote.openai.jobs import ENDED, alive_beside, find, fits, list_checkpoints, list_events, worth_it
from em.train.remote.progress import Board, metrics
from em.train.remote.service import ATTEMPT, MARK, START, Approve, JobNote, Order, Result

PATIENT, BRIEF = 8, 2  # attempts of a call: of a single one, and while a job is looked at again and again
T = TypeVar("T")


class OpenAIService:
    """The service behind a client, asked for an order (see `em.train.remote.service.Service`).

    locks: a folder for the locks of files. log: file where the events of jobs are kept.
    """

    lists_models = True

    def __init__(
        self, client: Client, order: Order, trainer: OpenAITrainer, locks: Path, log: Path | None = None
    ) -> None:
        self.client, self.order, self.trainer, self.locks, self.log = client, order, trainer, locks, log
        self.jobs = client.raw.fine_tuning.jobs
        self.spent: set[str] = set()

    async def submit(self, approve: Approve, note: JobNote, anew: bool = False) -> str:
        """Return the job of the order: the one that is there already, or, once approved, a new one."""
        job = await self.find_noted(note.job) if note.job else None
        look = partial(find, self.client, self.order, anew, note.attempt, self.spent)
        if job is None:
            job = await self.ask(look)
        if job is None and note.attempt:  # which may have created one a moment ago that the list does not show yet
            await asyncio.sleep(self.trainer.settle)
            job = await self.ask(look)
        if job is None:
            await approve()
            job = await self.create(note, anew)
        note.keep(str(job.id))
        return str((await self.settle_rivals(job, note)).id)

    async def follow(self, job: str, note: JobNote) -> str:
        """Wait for a job to end, and show its events and loss. Returns the job that stays (see `settle_rivals`)."""
        seen: set[str] = set()
        heard = time.monotonic()
        with Board(f"fine-tuning on {self.order.data}", self.log) as board:
            while True:
                try:
                    state = await self.ask(partial(self.jobs.retrieve, job), BRIEF)
                    state = await self.settle_rivals(state, note, BRIEF)
                    job = str(state.id)
                    for event in await self.ask(partial(list_events, self.client, job, seen), BRIEF):
                        seen.add(event.id)
                        board.show(event)
                    heard = time.monotonic()
                except CallFailed as error:
                    if time.monotonic() - heard > self.trainer.patience:
                        raise ServerError(
                            f"The server gave no answer for {self.trainer.patience:,.0f} seconds (trainer.patience); "
                            f"the job {job} goes on there: run the same command again to follow it. Last: {error}"
                        ) from None
                    board.say("the server can't be reached; trying again")
                else:
                    board.say(state.status)
                    if state.status in ENDED:
                        break
                await asyncio.sleep(self.trainer.look)
        if state.status == "succeeded":
            return job
        raise failure(state, self.order.data)

    def explain_ending(self, job: str) -> str:
        """Say how a user ends a job."""
        return f"{jobs_command(self.client)} cancel {job}"

    async def result(self, job: str) -> Result:
        """Read what a job left that ended well."""
        state = await self.ask(lambda: self.jobs.retrieve(job))
        if state.status != "succeeded" or not state.fine_tuned_model:
            raise failure(state, self.order.data)
        events = await self.ask(lambda: list_events(self.client, job))
        return Result(
            model=str(state.fine_tuned_model),
            job=job,
            tokens=state.trained_tokens,
            seconds=state.finished_at - state.created_at if state.finished_at else None,
            losses=tuple(sorted({told[0]: told[1] for event in events if (told := metrics(event))}.items())),
            checkpoints=await self.ask(lambda: list_checkpoints(self.client, state)),
            told=chosen_knobs(state),
        )

    # How a job comes to be, once

    async def find_noted(self, job: str) -> Any:
        """Find a noted job that may still bring the model; None where it can't."""

        async def look() -> Any:
            try:
                state = await self.jobs.retrieve(job)
            except openai.NotFoundError:
                return None
            ours = (state.metadata or {}).get(MARK, self.order.mark) == self.order.mark
            usable = ours and fits(state, self.order) and worth_it(state, self.order.data)
            made = state.fine_tuned_model if state.status == "succeeded" else None
            return state if usable and not await is_deleted(self.client, made) else None

        return await self.ask(look)

    async def create(self, note: JobNote, anew: bool) -> Any:
        """Create a job from a file that is uploaded where it is not there; anew where the server can't use that."""
        attempt, order = note.begin(), self.order
        look = partial(find, self.client, order, anew, attempt, self.spent)
        for last in (False, True):
            with self.refusals_in_words():
                file = await upload(self.client, self.locks, order.conversations, self.spent)
            create = partial(self.jobs.create, **create_body(order, file, attempt))
            try:
                return await create_once(self.client, order.model, look, create, self.trainer.settle)
            except openai.APIError as error:
                expired = isinstance(error, openai.APIStatusError) and find_refusal(error) == "file_gone"
                if last or not expired:
                    note.forget()  # nothing was created: what went unanswered was looked for before
                    raise refusal(error, order.model, order.data, file) from None
            self.spent.add(file)
        raise AssertionError("two rounds")

    async def settle_rivals(self, job: Any, note: JobNote, attempts: int = PATIENT) -> Any:
        """Return the one job that stays, where another machine created one for the same at once: the older one.

        The other ones are cancelled; a cancellation that fails is made up for at the next look.
        """
        if job.status in ("succeeded", "failed") or MARK not in (job.metadata or {}):
            return job

        async def cancel(rival: str) -> None:
            with suppress(openai.BadRequestError, openai.NotFoundError, openai.ConflictError):  # it is over
                await self.jobs.cancel(rival)

        alive = await self.ask(lambda: alive_beside(self.client, job), attempts)
        for rival in alive[1:]:
            with suppress(ServerError):
                await self.ask(partial(cancel, str(rival.id)), BRIEF)
        if alive:
            note.keep(str(alive[0].id))
        return alive[0] if alive else job

    # Single calls

    async def ask(self, call: Callable[[], Awaitable[T]], attempts: int = PATIENT) -> T:
        """Return what a call brings, by the client's retry policy; what the server refuses is told in words."""
        with self.refusals_in_words():
            return await self.client.repeated(self.order.model, call, attempts)

    @contextmanager
    def refusals_in_words(self) -> Iterator[None]:
        """Tell in words what the server refuses for good."""
        try:
            yield
        except openai.APIError as error:
            raise refusal(error, self.order.model, self.order.data) from None


def create_body(order: Order, file: str, attempt: str) -> dict[str, Any]:
    """Make what a job is created with."""
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


def chosen_knobs(job: Any) -> dict[str, Any]:
    """Read the hyperparameters that the service took; `auto` becomes a number there."""
    method = job.method.supervised.hyperparameters if job.method and job.method.supervised else None
    knobs = method or job.hyperparameters
    taken = {"epochs": knobs.n_epochs, "batch_size": knobs.batch_size}
    taken["learning_rate_multiplier"] = knobs.learning_rate_multiplier
    return {name: value for name, value in taken.items() if value is not None}
