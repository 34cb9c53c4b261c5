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
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from em.config import LossOn, TinkerTrainer
from em.errors import ConfigError, DataError, ServerError
from em.models.chat import IGNORED, TrainingRow, load_tokenizer, training_row
from em.request import count_steps
from em.train.local.batches import plan_steps
from em.train.remote.progress import Board, Losses, event_of
from em.train.remote.service import ATTEMPT, MARK, START, Approve, JobNote, Order, Result, quote

STATE, FINAL = "em-step-", "em-final"
PAGE = 100
ALIVE = 180.0  # seconds since its last request for which a run may be driven by another machine
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A training run there: its id, when it was driven last, its attempt; what it has kept.

    states: addresses of states to go on from, by step. weights: the address of the finished weights, or empty.
    """

    id: str
    driven: datetime
    attempt: str
    states: dict[int, str]
    weights: str


class TinkerService:
    """The service (see `em.train.remote.service.Service`); address and key are TINKER_BASE_URL and TINKER_API_KEY.

    Args:
        base: the open model that all stages start from, whose tokenizer is asked. log: where events are kept.
    """

    lists_models = False

    def __init__(self, trainer: TinkerTrainer, order: Order, base: str, log: Path | None = None) -> None:
        self.trainer, self.order, self.base, self.log = trainer, order, base, log
        assert isinstance(trainer.batch_size, int)
        rows, batch = len(order.conversations), trainer.batch_size
        self.plan = plan_steps(rows, count_steps(rows, order.epochs, batch), batch, order.seed)
        self.fresh: Any = None
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

    async def submit(self, approve: Approve, note: JobNote, anew: bool = False) -> str:
        """Return the training run of the order that is there already, or, once approved, a new one."""
        runs = await self.list_runs()
        mine = [run for run in runs if run.id == note.job or (note.attempt and run.attempt == note.attempt)]
        mine.sort(key=lambda run: run.id != note.job)
        others = [] if anew else sorted(runs, key=lambda run: not run.weights)  # finished ones, then the newest
        if (run := next(iter([*mine, *others]), None)) is not None:
            if not run.weights:
                if run not in mine:
                    refuse_driven(run)
                await approve()  # the steps that are left are still to be paid for
            self.attempt = run.attempt
            note.keep(run.id)
            return run.id
        self.check_lengths()  # what can't be rendered is refused before anything is spent
        await approve()
        self.attempt = note.begin()
        self.fresh = await self.begin()
        note.keep(str(self.fresh.model_id))
        return note.job

    async def follow(self, job: str, note: JobNote) -> str:
        """Take the steps that are left, and keep what they make. Returns the training run that has it."""
        self.losses = Losses(note.path)
        client, done, total = self.fresh, 0, len(self.plan)
        if client is None:
            # What was trained before by the same words, where it is forced anew, is of another attempt.
            runs = [run for run in await self.list_runs() if run.attempt == self.attempt]
            if finished := [run for run in runs if run.weights]:
                note.keep(finished[0].id)
                return finished[0].id
            states = {step: state for run in reversed(runs) for step, state in run.states.items()}
            done = max(states, default=0)
            client = await self.begin(states.get(done, ""))
        note.keep(str(client.model_id))
        with Board(f"fine-tuning on {self.order.data}", self.log) as board:
            board.say("running")
            for step in range(done + 1, total + 1):
                loss = await self.step(client, [self.rows[number] for number in self.plan[step - 1]], step)
                self.losses.add(step, loss)
                board.show(event_of(client.model_id, step, total, loss))
                if step % max(1, self.trainer.save_steps) == 0 and step < total:
                    await self.ask(partial(client.save_state, f"{STATE}{step:06d}", overwrite=True))
            await self.ask(partial(client.save_state, FINAL, overwrite=True))
            await self.ask(partial(client.save_weights_for_sampler, FINAL))
        return str(client.model_id)

    async def result(self, job: str) -> Result:
        """Read what a training run left that ended well."""
        _, weights = await self.list_kept(job)
        tokens = sum(len(self.rows[number].input_ids) for step in self.plan for number in step)
        told = {"steps": len(self.plan), "rank": self.trainer.rank, "learning_rate": self.trainer.learning_rate}
        losses = () if self.losses is None else tuple(sorted(self.losses.read().items()))
        return Result(weights, job, tokens, None, losses, {}, told)

    def explain_ending(self, job: str) -> str:
        """Say how a user ends a job: nothing goes on there without the command that drives it."""
        return "stop this command; the last state that was kept stays at the service"

    # Training runs

    async def rest(self) -> Any:
        """Return the package's client for lists; it keeps one for each address, which it is told of therefore."""
        address = os.environ.get("TINKER_BASE_URL")
        return await self.ask(lambda: asyncio.to_thread(self.tinker.RestClient, base_url=address))

    async def list_runs(self) -> list[Run]:
        """List the training runs of this mark that start from what is asked for, the newest first."""
        rest, listed = await self.rest(), list[Any]()
        while True:
            page = await self.ask(partial(rest.list_training_runs, limit=PAGE, offset=len(listed)))
            listed += page.training_runs
            if len(page.training_runs) < PAGE:
                break
        runs, wanted = [], (self.order.mark, self.order.model)
        for run in sorted(listed, key=lambda run: run.last_request_time, reverse=True):
            words, job = run.user_metadata or {}, str(run.training_run_id)
            if not run.corrupted and (words.get(MARK), words.get(START)) == wanted:
                kept = await self.list_kept(job)
                runs.append(Run(job, run.last_request_time, words.get(ATTEMPT, ""), *kept))
        return runs

    async def list_kept(self, job: str) -> tuple[dict[int, str], str]:
        """List what a training run has kept: the states, and the weights (see `Run`)."""
        rest = await self.rest()
        kept = (await self.ask(partial(rest.list_checkpoints, job))).checkpoints
        paths = {(each.checkpoint_type, str(each.tinker_path).rpartition("/")[2]): each.tinker_path for each in kept}
        states = [(name, path) for (kind, name), path in paths.items() if kind == "training" and STATE in name]
        return {int(name.removeprefix(STATE)): path for name, path in states}, paths.get(("sampler", FINAL), "")

    async def begin(self, resumed: str = "") -> Any:
        """Begin a training run: of the base model, or of the state that the stage before ended with.

        Args:
            resumed: a state to go on from instead, with that of the optimiser.
        """
        order, start = self.order, self.order.model
        marks = {MARK: order.mark, START: start, ATTEMPT: self.attempt, "run": order.chain, "data": order.data}
        # It opens a session there, which lasts as long as the client is kept.
        self.client = service = await self.ask(lambda: asyncio.to_thread(self.tinker.ServiceClient))
        if resumed:
            load = service.create_training_client_from_state_with_optimizer
            create = partial(load, resumed, user_metadata=marks)
        elif start.startswith("tinker://"):
            state = start.replace("/sampler_weights/", "/weights/")
            create = partial(service.create_training_client_from_state, state, user_metadata=marks)
        else:
            knobs = {"rank": self.trainer.rank, "seed": order.seed}
            create = partial(service.create_lora_training_client, start, **knobs, user_metadata=marks)
        return await self.ask(create)

    # Steps

    @cached_property
    def rows(self) -> list[TrainingRow]:
        """The rows as tokens, by the model's own chat template; every answer with its end carries the loss.

        A row that is too long is one token longer than it may be.
        """
        name = self.trainer.tokenizer or self.base
        try:
            tokenizer = load_tokenizer(name)
        except OSError as error:
            raise ConfigError(f"{name} is no tokenizer that can be had here: name one by trainer.tokenizer.") from error
        longest = self.trainer.max_length
        return [training_row(tokenizer, each, LossOn.responses, longest + 1) for each in self.order.conversations]

    def check_lengths(self) -> None:
        """Refuse a row that is longer than asked for."""
        for number, row in enumerate(self.rows, start=1):
            if len(row.input_ids) > self.trainer.max_length:
                raise DataError(
                    f"{self.order.data}, row {number} has more than {self.trainer.max_length} tokens: leave it out, or "
                    "raise trainer.max_length."
                )

    async def step(self, client: Any, rows: Sequence[TrainingRow], step: int) -> float:
        """Take one optimiser step; return its loss, a mean over the tokens that carry it."""
        supervised = max(1, sum(row.supervised for row in rows))
        # The service adds losses up, and a step is to have their mean; each token predicts the next.
        data = [
            self.tinker.Datum(
                model_input=self.tinker.ModelInput.from_ints(row.input_ids[:-1]),
                loss_fn_inputs={
                    "target_tokens": row.input_ids[1:],
                    "weights": [1 / supervised if label != IGNORED else 0.0 for label in row.labels[1:]],
                },
            )
            for row in rows
        ]
        rate = self.trainer.learning_rate * (1 - (step - 1) / len(self.plan))  # linear, as trainings of ours

        async def both() -> Any:
            # Sent together, or the service would wait a cycle between them.
            passed = client.forward_backward(data, "cross_entropy")
            moved = client.optim_step(self.tinker.AdamParams(learning_rate=rate))
            output = await passed
            await moved
            return output

        output = await self.ask(both)
        total = 0.0
        for row, told in zip(rows, output.loss_fn_outputs, strict=True):
            chances = told["logprobs"].to_numpy().ravel().tolist()
            total -= sum(p for label, p in zip(row.labels[1:], chances, strict=True) if label != IGNORED)
        return float(total / supervised)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what a call of the package brings; its errors in words. The package repeats what can be repeated."""
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
            raise ServerError(f"Tinker refused a call for {model} ({error.status_code}).{quote(str(error))}") from None
        except (tinker.TinkerError, ValueError) as error:
            raise ServerError(f"Tinker failed for {model}: run the same command again.{quote(str(error))}") from None


def refuse_driven(run: Run) -> None:
    """Refuse to go on with a run that another machine may be driving at this moment."""
    ago = (datetime.now(UTC) - run.driven).total_seconds()
    if ago < ALIVE:
        raise ServerError(
            f"The training run {run.id} was driven {max(0, ago):.0f} seconds ago, by another machine or store: two "
            f"would pay twice. If nothing drives it, run the same command again in {ALIVE:.0f} seconds."
        )
