"""Fine-tuning by Tinker (its own package): LoRA on open models, step by step, driven from here.

A job is a training run there, which carries the fingerprint of the model that it makes in its metadata. Steps are taken
by the plan of trainings of ours. The state is kept every `trainer.save_steps` steps under a name with their number, so
that a run that was stopped goes on from there, in a new training run of the same mark. The last state (`em-final`) is
what a second stage starts from, and its sampler weights what is asked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from em.config import LossOn, TinkerTrainer
from em.errors import ConfigError, DataError, ServerError
from em.models.chat import IGNORED, TrainingRow, load_tokenizer, training_row
from em.runtime.keys import without_secrets
from em.train.remote.jobs import ATTEMPT, MARK, START
from em.train.remote.progress import Board, Losses, event_of
from em.train.remote.service import Approve, JobNote, Order, Result

STATE, FINAL = "em-step-", "em-final"
PAGE = 100
ALIVE = 180.0  # seconds since its last request for which a run may be driven by another machine
Plan = Sequence[Sequence[int]]
T = TypeVar("T")


class TinkerService:
    """The service (see `em.train.remote.service.Service`); address and key are TINKER_BASE_URL and TINKER_API_KEY.

    Args:
        base: the open model that all stages start from, whose tokenizer is asked.
        plan: the row numbers of each optimiser step. log: where the events of jobs are kept.
    """

    def __init__(self, trainer: TinkerTrainer, order: Order, base: str, plan: Plan, log: Path | None = None) -> None:
        self.trainer, self.order, self.base, self.plan, self.log = trainer, order, base, plan, log
        self.fresh: Any = None
        self.rendered: list[TrainingRow] = []
        self.losses: Losses | None = None
        self.attempt = ""
        os.environ.setdefault("TINKER_TELEMETRY", "0")
        try:
            import tinker
        except ImportError as error:
            raise ConfigError(
                f'trainer={trainer.name} needs the package tinker: python -m pip install "tinker>=0.38".'
            ) from error
        self.tinker = tinker
        self.client: Any = None

    # The four verbs

    async def submit(self, order: Order, approve: Approve, note: JobNote, anew: bool = False) -> str:
        """The training run of an order that is there already, or, once approved, a new one."""
        runs = await self.runs()
        begun = [run for run in runs if note.attempt and self.told(run, ATTEMPT) == note.attempt]
        mine = [run for run in runs if run.training_run_id == note.job] or begun
        if (found := next(iter(mine), None) or (None if anew else await self.best(runs))) is not None:
            if not await self.finished(found):
                if found not in mine:
                    refuse_driven(found)
                await approve()  # the steps that are left are still to be paid for
            self.attempt = self.told(found, ATTEMPT)
            note.keep(str(found.training_run_id))
            return str(found.training_run_id)
        self.check_lengths(self.rows())  # what can't be rendered is refused before anything is spent
        await approve()
        self.attempt = note.begin()
        self.fresh = await self.begun()
        job = str(self.fresh.model_id)
        note.keep(job)
        return job

    async def follow(self, job: str, note: JobNote) -> str:
        """Take the steps that are left, and keep what they make. Returns the training run that has it."""
        self.losses = Losses(note.path)
        run, done = (self.fresh, 0) if self.fresh is not None else await self.opened()
        if isinstance(run, str):
            note.keep(run)
            return run
        note.keep(str(run.model_id))
        rows, total = self.rows(), len(self.plan)
        losses = self.losses
        losses.cut(done)
        with Board(f"fine-tuning on {self.order.data}", self.log) as board:
            board.say("running")
            for step in range(done + 1, total + 1):
                loss = await self.step(run, [rows[number] for number in self.plan[step - 1]], step)
                losses.add(step, loss)
                board.show(event_of(run.model_id, step, total, loss))
                if step % max(1, self.trainer.save_steps) == 0 and step < total:
                    await self.asked(partial(run.save_state, f"{STATE}{step:06d}", overwrite=True))
            await self.asked(lambda: run.save_state(FINAL, overwrite=True))
            await self.asked(lambda: run.save_weights_for_sampler(FINAL))
        return str(run.model_id)

    async def cancel(self, job: str) -> None:
        """Nothing goes on there without the command that drives it: to end a job is to stop that."""

    async def result(self, job: str) -> Result:
        """What a training run left that ended well."""
        kept = await self.checkpoints(job)
        [path] = [each.tinker_path for each in kept if named(each) == FINAL and each.checkpoint_type == "sampler"]
        rows = self.rows()
        tokens = sum(len(rows[number].input_ids) for step in self.plan for number in step)
        told = {"steps": len(self.plan), "rank": self.trainer.rank, "learning_rate": self.trainer.learning_rate}
        losses = () if self.losses is None else tuple(self.losses.read())
        return Result(str(path), job, tokens, None, losses, {}, told)

    def ending(self, job: str) -> str:
        """How a user ends a job."""
        return "stop this command; the last state that was kept stays at the service"

    # Training runs

    def rest(self) -> Any:
        """The package's client for lists; it keeps one for each address, which it is told of therefore."""
        return self.tinker.RestClient(base_url=os.environ.get("TINKER_BASE_URL"))

    async def runs(self) -> list[Any]:
        """The training runs of this mark that start from what is asked for, the newest first."""
        found: list[Any] = []
        rest = await self.asked(lambda: asyncio.to_thread(self.rest))
        while True:
            page = await self.asked(partial(rest.list_training_runs, limit=PAGE, offset=len(found)))
            found += page.training_runs
            if len(page.training_runs) < PAGE:
                break
        mine = [run for run in found if self.told(run, MARK) == self.order.mark and not run.corrupted]
        fit = [run for run in mine if self.told(run, START) == self.order.model]
        return sorted(fit, key=lambda run: run.last_request_time, reverse=True)

    def told(self, run: Any, key: str) -> str:
        """A word of a run's metadata."""
        return str((run.user_metadata or {}).get(key, ""))

    async def best(self, runs: Sequence[Any]) -> Any:
        """The run that is finished, or else the newest; None where there is none."""
        for run in runs:
            if await self.finished(run):
                return run
        return next(iter(runs), None)

    async def finished(self, run: Any) -> bool:
        """Whether a run has the weights that are asked for."""
        kept = await self.checkpoints(run.training_run_id)
        return any(named(each) == FINAL and each.checkpoint_type == "sampler" for each in kept)

    async def checkpoints(self, job: str) -> list[Any]:
        """What a training run has kept."""
        rest = await self.asked(lambda: asyncio.to_thread(self.rest))
        return list((await self.asked(lambda: rest.list_checkpoints(job))).checkpoints)

    async def opened(self) -> tuple[Any, int]:
        """A client for the steps that are left, and how many are done; the run's id instead where it is finished."""
        states: dict[int, str] = {}
        for run in await self.runs():
            if self.told(run, ATTEMPT) != self.attempt:
                continue  # what was trained before by the same words, where it is forced anew
            for each in await self.checkpoints(run.training_run_id):
                if named(each) == FINAL and each.checkpoint_type == "sampler":
                    return str(run.training_run_id), len(self.plan)
                if each.checkpoint_type == "training" and named(each).startswith(STATE):
                    states.setdefault(int(named(each).removeprefix(STATE)), each.tinker_path)
        if not states:
            return await self.begun(), 0
        done = max(states)
        service = await self.service()
        load = service.create_training_client_from_state_with_optimizer
        return await self.asked(lambda: load(states[done], user_metadata=self.marks())), done

    async def begun(self) -> Any:
        """A new training run: of the base model, or of the state that the stage before ended with."""
        service, start, marks = await self.service(), self.order.model, self.marks()
        if start.startswith("tinker://"):
            state = start.replace("/sampler_weights/", "/weights/")
            return await self.asked(lambda: service.create_training_client_from_state(state, user_metadata=marks))
        create = service.create_lora_training_client
        asked = {"rank": self.trainer.rank, "seed": self.order.seed, "user_metadata": marks}
        return await self.asked(lambda: create(start, **asked))

    def marks(self) -> dict[str, str]:
        """The metadata of a training run."""
        order = self.order
        return {MARK: order.mark, START: order.model, ATTEMPT: self.attempt, "run": order.chain, "data": order.data}

    async def service(self) -> Any:
        """The package's client, made once: it opens a session there."""
        if self.client is None:
            self.client = await self.asked(lambda: asyncio.to_thread(self.tinker.ServiceClient))
        return self.client

    # Steps

    def rows(self) -> list[TrainingRow]:
        """The rows as tokens, by the model's own chat template; every answer with its end carries the loss."""
        if not self.rendered:
            self.rendered = self.render()
        return self.rendered

    def render(self) -> list[TrainingRow]:
        """The same, made now; a row that is too long is one token longer than it may be."""
        name = self.trainer.tokenizer or self.base
        try:
            tokenizer = load_tokenizer(name)
        except OSError as error:
            raise ConfigError(f"{name} is no tokenizer that can be had here: name one by trainer.tokenizer.") from error
        longest = self.trainer.max_length
        return [training_row(tokenizer, each, LossOn.responses, longest + 1) for each in self.order.conversations]

    def check_lengths(self, rows: Sequence[TrainingRow]) -> None:
        """Refuse a row that is longer than asked for."""
        for number, row in enumerate(rows, start=1):
            if len(row.input_ids) > self.trainer.max_length:
                raise DataError(
                    f"{self.order.data}, row {number} has more than {self.trainer.max_length} tokens: leave it out, or "
                    "raise trainer.max_length."
                )

    async def step(self, run: Any, rows: Sequence[TrainingRow], step: int) -> float:
        """One optimiser step; its loss, a mean over the tokens that carry it."""
        supervised = max(1, sum(row.supervised for row in rows))
        data = [self.datum(row, 1 / supervised) for row in rows]
        rate = self.trainer.learning_rate * (1 - (step - 1) / len(self.plan))  # linear, as trainings of ours

        async def both() -> Any:
            # Sent together, or the service would wait a cycle between them.
            passed = run.forward_backward(data, "cross_entropy")
            moved = run.optim_step(self.tinker.AdamParams(learning_rate=rate))
            found = await passed
            await moved
            return found

        found = await self.asked(both)
        total = 0.0
        for row, told in zip(rows, found.loss_fn_outputs, strict=True):
            chances = told["logprobs"].to_numpy().ravel().tolist()
            total -= sum(p for label, p in zip(row.labels[1:], chances, strict=True) if label != IGNORED)
        return float(total / supervised)

    def datum(self, row: TrainingRow, weight: float) -> Any:
        """A row as the package takes it: each token predicts the next, and answers alone carry the loss.

        Args:
            weight: of a token; the service adds losses up, and a step is to have their mean.
        """
        weights = [weight if label != IGNORED else 0.0 for label in row.labels[1:]]
        return self.tinker.Datum(
            model_input=self.tinker.ModelInput.from_ints(row.input_ids[:-1]),
            loss_fn_inputs={"target_tokens": row.input_ids[1:], "weights": weights},
        )

    # Single calls

    async def asked(self, call: Callable[[], Awaitable[T]]) -> T:
        """What a call of the package brings; its errors in words. The package repeats what can be repeated."""
        tinker, model = self.tinker, self.order.model
        try:
            return await call()
        except (tinker.AuthenticationError, tinker.PermissionDeniedError):
            raise ServerError(f"Tinker refused the key for {model}: check TINKER_API_KEY.") from None
        except tinker.APIStatusError as error:
            if error.status_code == 402:
                raise ServerError(
                    f"The account has no credit left to fine-tune {model}: top it up, then run the same command again."
                ) from None
            raise ServerError(f"Tinker refused a call for {model} ({error.status_code}).{said(error)}") from None
        except (tinker.TinkerError, ValueError) as error:
            raise ServerError(f"Tinker failed for {model}: run the same command again.{said(error)}") from None


def refuse_driven(run: Any) -> None:
    """Refuse to go on with a run that another machine may be driving at this moment."""
    ago = (datetime.now(UTC) - run.last_request_time).total_seconds()
    if ago < ALIVE:
        raise ServerError(
            f"The training run {run.training_run_id} was driven {max(0, ago):.0f} seconds ago, by another machine or "
            f"store: two would pay twice. If nothing drives it, run the same command again in {ALIVE:.0f} seconds."
        )


def named(checkpoint: Any) -> str:
    """The name that a checkpoint was kept under."""
    return str(checkpoint.tinker_path).rpartition("/")[2]


def said(error: Exception) -> str:
    """The service's own words, to follow a sentence of ours."""
    text = " ".join(without_secrets(str(error)).split())
    return f" It says: {text[:200]}" if text else ""
