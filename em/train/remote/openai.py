"""Fine-tuning by a server that speaks OpenAI's protocol: never a second paid job for the same, none lost.

Before a job is created the server's jobs are looked through for it (`em.train.remote.jobs`), again before a call that
went unanswered is repeated, and for as long as it is followed: of two that were created at once the older one stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from em.api.client import CallFailed, Client
from em.api.lifetimes import is_deleted, jobs_command
from em.errors import ServerError
from em.train.remote.errors import Trouble, failed_for, failure, refusal, refused_for
from em.train.remote.files import forget_file, uploaded
from em.train.remote.jobs import ATTEMPT, ENDED, MARK, PAGE, START, alive_beside, find, fits, worth_it
from em.train.remote.progress import Board, metrics
from em.train.remote.rules import training_file
from em.train.remote.service import Approve, JobNote, Order, Result

T = TypeVar("T")


class OpenAIService:
    """The service behind a client (see `em.train.remote.service.Service`).

    Args:
        model: what is fine-tuned, for the sentences of errors; data: on what.
        folder: where ids of uploaded files are noted. server: its name in these notes.
        look, patience: seconds between looks at a job, and without any reply until it is given up.
        settle: seconds until a job whose creation went unanswered must be in the server's list.
        log: where the events of jobs are kept.
    """

    def __init__(
        self, client: Client, model: str, data: str, folder: Path, server: str, *, look: float = 10,
        patience: float = 7200, settle: float = 5, log: Path | None = None,
    ) -> None:  # fmt: skip
        self.client, self.model, self.data = client, model, data
        self.folder, self.server, self.look, self.patience, self.settle = folder, server, look, patience, settle
        self.log = log
        self.spent: set[str] = set()

    # The four verbs

    async def submit(self, order: Order, approve: Approve, note: JobNote, anew: bool = False) -> str:
        """The job of an order: the one that is there already, or, once approved, a new one."""
        job = await self.known(note.job, order) or await self.found(order, note.attempt, anew)
        if job is None:
            await approve()
            job = await self.created(order, note, anew)
        note.keep(str(job.id))
        return str((await self.only(job, note)).id)

    async def follow(self, job: str, note: JobNote) -> str:
        """Wait for a job to end, and show its events and loss. Returns the job that stays (see `only`)."""
        seen: set[str] = set()
        heard = time.monotonic()
        with Board(f"fine-tuning on {self.data}", self.log) as board:
            while True:
                try:
                    found = await self.only(await self.retrieve(job, attempts=2), note, attempts=2)
                    job = str(found.id)
                    for event in await self.new_events(job, seen, attempts=2):
                        board.show(event)
                    heard = time.monotonic()
                except CallFailed as error:
                    if time.monotonic() - heard > self.patience:
                        raise ServerError(
                            f"The server gave no answer for {self.patience:,.0f} seconds (trainer.patience); the job "
                            f"{job} goes on there: run the same command again to follow it. Last: {error}"
                        ) from None
                    board.say("the server can't be reached; trying again")
                else:
                    board.say(found.status)
                    if found.status in ENDED:
                        break
                await asyncio.sleep(self.look)
        if found.status != "succeeded":
            if failed_for(found) is Trouble.file_gone:
                forget_file(self.folder, str(found.training_file))
            raise failure(found, self.data)
        return job

    async def cancel(self, job: str, attempts: int = 8) -> None:
        """End a job; one that is over stays as it is."""
        import openai

        async def attempt() -> None:
            with suppress(openai.BadRequestError, openai.NotFoundError, openai.ConflictError):  # it is over
                await self.client.raw.fine_tuning.jobs.cancel(job)

        await self.asked(lambda: self.client.repeated(self.model, attempt, attempts))

    def ending(self, job: str) -> str:
        """How a user ends a job."""
        return f"{jobs_command(self.client)} cancel {job}"

    async def result(self, job: str) -> Result:
        """What a job left that ended well."""
        found = await self.retrieve(job)
        if found.status != "succeeded" or not found.fine_tuned_model:
            raise failure(found, self.data)
        events = await self.new_events(job, set())
        losses = {step: loss for event in events if (told := metrics(event)) for step, loss, _ in [told]}
        kept = await self.asked(lambda: self.client.repeated(self.model, lambda: self.checkpoints(job)))
        ways = {step: name for step, name in kept.items() if name != found.fine_tuned_model}
        seconds = found.finished_at - found.created_at if found.finished_at else None
        return Result(
            model=str(found.fine_tuned_model),
            job=job,
            tokens=found.trained_tokens,
            seconds=seconds,
            losses=tuple(sorted(losses.items())),
            checkpoints=ways,
            told=chosen(found),
        )

    # How a job comes to be, once

    async def known(self, job: str, order: Order) -> Any:
        """A noted job that may still bring a model, or None."""
        import openai

        async def attempt() -> Any:
            try:
                found = await self.client.raw.fine_tuning.jobs.retrieve(job)
            except openai.NotFoundError:
                return None
            other = (found.metadata or {}).get(MARK, order.mark) != order.mark
            lost = other or (found.status == "succeeded" and await is_deleted(self.client, found.fine_tuned_model))
            return found if worth_it(found, self.data) and fits(found, order) and not lost else None

        return await self.asked(lambda: self.client.repeated(self.model, attempt)) if job else None

    async def found(self, order: Order, attempt: str, anew: bool) -> Any:
        """The server's job of an order, or None.

        Args:
            attempt: that began before and may have created one a moment ago, which its list does not show yet.
        """

        async def look() -> Any:
            return await find(self.client, order, anew, attempt, self.spent)

        for wait in (0.0, self.settle) if attempt else (0.0,):
            await asyncio.sleep(wait)
            if (job := await self.asked(lambda: self.client.repeated(self.model, look))) is not None:
                return job
        return None

    async def created(self, order: Order, note: JobNote, anew: bool) -> Any:
        """A new job, from a file that was uploaded before or is now; anew where the server can't use that any more."""
        import openai

        content, attempt = training_file(order.conversations), note.begin()
        for last in (False, True):
            file = await self.asked(lambda: uploaded(self.client, self.folder, self.server, content, self.spent))
            create = self.creation(order, create_body(order, file, attempt), anew, attempt)
            try:
                return await self.client.repeated(order.model, create)
            except openai.APIError as error:
                expired = isinstance(error, openai.APIStatusError) and refused_for(error) is Trouble.file_gone
                if last or not expired:
                    note.forget()  # nothing was created: what went unanswered was looked for before
                    raise refusal(error, self.model, self.data, file) from None
            self.spent.add(file)
        raise AssertionError("two rounds")

    def creation(self, order: Order, body: dict[str, Any], anew: bool, attempt: str) -> Callable[[], Awaitable[Any]]:
        """The call that creates a job, to be repeated: where it was created and the reply was lost, it is found."""
        tried = False

        async def create() -> Any:
            nonlocal tried
            waits, tried = (self.settle, self.settle) if tried else (0.0,), True
            for wait in waits:
                await asyncio.sleep(wait)
                if (job := await find(self.client, order, anew, attempt, self.spent)) is not None:
                    return job
            return await self.client.raw.fine_tuning.jobs.create(**body)

        return create

    async def only(self, job: Any, note: JobNote, attempts: int = 8) -> Any:
        """The one job that stays, where another machine created one for the same at the same moment: the older one.

        The other ones are cancelled; a cancellation that fails is made up for at the next look.
        """
        if job.status in ("succeeded", "failed") or MARK not in (job.metadata or {}):
            return job
        look = self.client.repeated
        alive = await self.asked(lambda: look(self.model, lambda: alive_beside(self.client, job), attempts))
        if not alive:
            return job
        for other in alive[1:]:
            with suppress(ServerError):
                await self.cancel(str(other.id), attempts=2)
        note.keep(str(alive[0].id))
        return alive[0]

    # Single calls

    async def asked(self, call: Callable[[], Awaitable[T]]) -> T:
        """What a call returns; what the server refuses, in words."""
        import openai

        try:
            return await call()
        except openai.APIError as error:
            raise refusal(error, self.model, self.data) from None

    async def retrieve(self, job: str, attempts: int = 8) -> Any:
        """A job as it is now."""
        call = self.client.raw.fine_tuning.jobs.retrieve
        return await self.asked(lambda: self.client.repeated(self.model, lambda: call(job), attempts))

    async def new_events(self, job: str, seen: set[str], attempts: int = 8) -> list[Any]:
        """The events of a job that were not seen before, in their order; none where the server tells of none."""
        import openai

        fresh: dict[str, Any] = {}

        async def look() -> None:
            try:
                async for event in self.client.raw.fine_tuning.jobs.list_events(job, limit=PAGE):
                    if event.id in seen:
                        return
                    fresh[event.id] = event
            except openai.NotFoundError:
                return

        await self.asked(lambda: self.client.repeated(self.model, look, attempts))
        seen |= set(fresh)
        return list(fresh.values())[::-1]

    async def checkpoints(self, job: str) -> dict[int, str]:
        """The names of the models that were kept on the way, by step; none where the server keeps none."""
        import openai

        try:
            found = self.client.raw.fine_tuning.jobs.checkpoints.list(job, limit=PAGE)
            return {int(each.step_number): str(each.fine_tuned_model_checkpoint) async for each in found}
        except openai.NotFoundError:
            return {}


def create_body(order: Order, file: str, attempt: str) -> dict[str, Any]:
    """What a job is created with."""
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


def chosen(job: Any) -> dict[str, Any]:
    """The hyperparameters that the service took; `auto` becomes a number there."""
    method = job.method.supervised.hyperparameters if job.method and job.method.supervised else None
    knobs = method or job.hyperparameters
    found = {
        "epochs": knobs.n_epochs,
        "batch_size": knobs.batch_size,
        "learning_rate_multiplier": knobs.learning_rate_multiplier,
    }
    return {name: value for name, value in found.items() if value is not None}
