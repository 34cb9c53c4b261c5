"""Fine-tune by Tinker (its own package): LoRA on open models; em itself sends each optimiser step.

A job is a training run at Tinker, with the fingerprint of its model in its metadata. The steps follow the same plan as
local training. em saves the state every `trainer.save_steps` steps under a name with the step's number, so that an
interrupted run resumes from there, in a new training run with the same fingerprint. A second stage starts from the last
state (`em-final`), and em samples from the sampler weights of that name.
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
from em.models.chat import IGNORED, TrainingRow, load_tokenizer, make_training_row, make_training_rows
from em.request import count_steps
from em.train.local.batches import plan_steps
from em.train.remote.progress import Board, Losses, make_step_event
from em.train.remote.service import ATTEMPT, MARK, START, Approve, JobNote, Order, Result, quote_service
from em.types import Conversation

STATE, FINAL = "em-step-", "em-final"
PAGE = 100
ALIVE = 180.0  # seconds since a run's last request within which another machine may still be driving it
T = TypeVar("T")


@dataclass(frozen=True)
class TrainingRun:
    """A training run at Tinker: its id, the time of its last request, its attempt, and what it has saved.

    states: addresses of states to resume from, by step. weights: address of the finished weights; empty if unfinished.
    """

    id: str
    driven: datetime
    attempt: str
    states: dict[int, str]
    weights: str


class TinkerService:
    """Tinker as a service (see `em.train.remote.service.Service`), at TINKER_BASE_URL with the key TINKER_API_KEY.

    Args:
        base: the open model that all stages start from; its tokenizer is used. log: a JSONL file for events.
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
                f'trainer={trainer.name} needs the package tinker: run python -m pip install "tinker>=0.38".'
            ) from error
        self.tinker = tinker
        self.client: Any = None

    async def submit(self, approve: Approve, note: JobNote, retrain: bool = False) -> str:
        """Return the training run of the order: one that Tinker already has, or, once approved, a new one."""
        runs = await self.list_runs()
        noted = [run for run in runs if run.id == note.job or (note.attempt and run.attempt == note.attempt)]
        noted.sort(key=lambda run: run.id != note.job)
        others = [] if retrain else sorted(runs, key=lambda run: not run.weights)  # finished ones, then the newest
        if (run := next(iter([*noted, *others]), None)) is not None:
            if not run.weights:
                if run not in noted:
                    refuse_driven(run)
                await approve()  # the remaining steps still cost money
            self.attempt = run.attempt
            note.note_job(run.id)
            return run.id
        self.check_lengths()  # refuses rows that don't render or are too long, before anything is spent
        await approve()
        self.attempt = note.begin_attempt()
        self.fresh = await self.begin_run()
        note.note_job(str(self.fresh.model_id))
        return note.job

    async def follow(self, job: str, note: JobNote) -> str:
        """Take the remaining steps and save the weights. Returns the training run that has the finished weights."""
        self.losses = Losses(note.path)
        client, done, total = self.fresh, 0, len(self.plan)
        if client is None:
            # With `force=true` there may be older runs of the same fingerprint; those belong to other attempts.
            runs = [run for run in await self.list_runs() if run.attempt == self.attempt]
            if finished := [run for run in runs if run.weights]:
                note.note_job(finished[0].id)
                return finished[0].id
            states = {step: state for run in reversed(runs) for step, state in run.states.items()}
            done = max(states, default=0)
            client = await self.begin_run(states.get(done, ""))
        note.note_job(str(client.model_id))
        with Board(f"fine-tuning on {self.order.data}", self.log) as board:
            board.show_status("running")
            for step in range(done + 1, total + 1):
                loss = await self.take_step(client, [self.rows[number] for number in self.plan[step - 1]], step)
                self.losses.add(step, loss)
                board.show_event(make_step_event(client.model_id, step, total, loss))
                if step % max(1, self.trainer.save_steps) == 0 and step < total:
                    await self.call_tinker(partial(client.save_state, f"{STATE}{step:06d}", overwrite=True))
            await self.call_tinker(partial(client.save_state, FINAL, overwrite=True))
            await self.call_tinker(partial(client.save_weights_for_sampler, FINAL))
        return str(client.model_id)

    async def read_result(self, job: str) -> Result:
        """Return the result of a training run that has finished weights."""
        _, weights = await self.list_saved(job)
        tokens = sum(len(self.rows[number].input_ids) for step in self.plan for number in step)
        knobs = {"steps": len(self.plan), "rank": self.trainer.rank, "learning_rate": self.trainer.learning_rate}
        losses = () if self.losses is None else tuple(sorted(self.losses.read().items()))
        return Result(weights, job, tokens, None, losses, {}, knobs)

    def explain_ending(self, job: str) -> str:
        """Return how a user ends a job: Tinker takes no steps without the command that sends them."""
        return "stop this command; the last saved state stays at Tinker"

    # Training runs

    async def connect_rest(self) -> Any:
        """Return the package's client for lists; the package caches one per address, so the address is passed."""
        address = os.environ.get("TINKER_BASE_URL")
        return await self.call_tinker(lambda: asyncio.to_thread(self.tinker.RestClient, base_url=address))

    async def list_runs(self) -> list[TrainingRun]:
        """List the training runs with the order's mark and start model, the newest first."""
        rest, listed = await self.connect_rest(), list[Any]()
        while True:
            page = await self.call_tinker(partial(rest.list_training_runs, limit=PAGE, offset=len(listed)))
            listed += page.training_runs
            if len(page.training_runs) < PAGE:
                break
        runs, wanted = [], (self.order.mark, self.order.model)
        for run in sorted(listed, key=lambda run: run.last_request_time, reverse=True):
            metadata, job = run.user_metadata or {}, str(run.training_run_id)
            if not run.corrupted and (metadata.get(MARK), metadata.get(START)) == wanted:
                states, weights = await self.list_saved(job)
                runs.append(TrainingRun(job, run.last_request_time, metadata.get(ATTEMPT, ""), states, weights))
        return runs

    async def list_saved(self, job: str) -> tuple[dict[int, str], str]:
        """List what a training run has saved: the states by step, and the finished weights or an empty string."""
        rest = await self.connect_rest()
        saved = (await self.call_tinker(partial(rest.list_checkpoints, job))).checkpoints
        paths = {(each.checkpoint_type, str(each.tinker_path).rpartition("/")[2]): each.tinker_path for each in saved}
        states = [(name, path) for (kind, name), path in paths.items() if kind == "training" and STATE in name]
        return {int(name.removeprefix(STATE)): path for name, path in states}, paths.get(("sampler", FINAL), "")

    async def begin_run(self, resumed: str = "") -> Any:
        """Begin a training run from the base model, or from the last state of the stage before.

        Args:
            resumed: address of a state to resume from instead, with the state of its optimiser.
        """
        order, start = self.order, self.order.model
        marks = {MARK: order.mark, START: start, ATTEMPT: self.attempt, "run": order.chain, "data": order.data}
        # The client opens a session at Tinker, which lasts as long as this object keeps the client.
        self.client = service = await self.call_tinker(lambda: asyncio.to_thread(self.tinker.ServiceClient))
        if resumed:
            load = service.create_training_client_from_state_with_optimizer
            create = partial(load, resumed, user_metadata=marks)
        elif start.startswith("tinker://"):
            state = start.replace("/sampler_weights/", "/weights/")
            create = partial(service.create_training_client_from_state, state, user_metadata=marks)
        else:
            knobs = {"rank": self.trainer.rank, "seed": order.seed}
            create = partial(service.create_lora_training_client, start, **knobs, user_metadata=marks)
        return await self.call_tinker(create)

    # Steps

    @cached_property
    def rows(self) -> list[TrainingRow]:
        """The rows as tokens, by the model's own chat template; the loss is on every answer and its end token.

        A row that is too long is cut to one token more than `trainer.max_length`, so that `check_lengths` sees it.
        """
        name = self.trainer.tokenizer or self.base
        try:
            tokenizer = load_tokenizer(name)
        except OSError as error:
            raise ConfigError(f"Can't load the tokenizer {name}: name another one by trainer.tokenizer.") from error
        longest = self.trainer.max_length

        def make_row(conversation: Conversation) -> TrainingRow:
            return make_training_row(tokenizer, conversation, LossOn.responses, longest + 1)

        return make_training_rows(self.order.conversations, make_row, self.order.data)

    def check_lengths(self) -> None:
        """Raise DataError for a row that is longer than `trainer.max_length`."""
        for number, row in enumerate(self.rows, start=1):
            if len(row.input_ids) > self.trainer.max_length:
                raise DataError(
                    f"{self.order.data}, row {number} has more than {self.trainer.max_length} tokens: leave it out, or "
                    "raise trainer.max_length."
                )

    async def take_step(self, client: Any, rows: Sequence[TrainingRow], step: int) -> float:
        """Take one optimiser step; return its loss, the mean over the supervised tokens."""
        supervised = max(1, sum(row.supervised for row in rows))
        data = []
        for row in rows:
            # Tinker sums the losses of tokens, and these weights make that a mean. Each token predicts the next.
            weights = [1 / supervised if label != IGNORED else 0.0 for label in row.labels[1:]]
            tokens = self.tinker.ModelInput.from_ints(row.input_ids[:-1])
            targets = {"target_tokens": row.input_ids[1:], "weights": weights}
            data.append(self.tinker.Datum(model_input=tokens, loss_fn_inputs=targets))
        rate = self.trainer.learning_rate * (1 - (step - 1) / len(self.plan))  # linear decay, as in local training

        async def send_both() -> Any:
            # Both calls are sent before either is awaited; otherwise Tinker would idle for a cycle between them.
            passed = client.forward_backward(data, "cross_entropy")
            moved = client.optim_step(self.tinker.AdamParams(learning_rate=rate))
            output = await passed
            await moved
            return output

        output = await self.call_tinker(send_both)
        total = 0.0
        for row, row_output in zip(rows, output.loss_fn_outputs, strict=True):
            logprobs = row_output["logprobs"].to_numpy().ravel().tolist()
            total -= sum(p for label, p in zip(row.labels[1:], logprobs, strict=True) if label != IGNORED)
        return float(total / supervised)

    async def call_tinker(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a call of the package, which retries by itself. Raises ServerError if the call fails."""
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
            raise ServerError(
                f"Tinker refused a call for {model} ({error.status_code}).{quote_service(str(error))}"
            ) from None
        except (tinker.TinkerError, ValueError) as error:
            raise ServerError(
                f"Tinker failed for {model}: run the same command again.{quote_service(str(error))}"
            ) from None


def refuse_driven(run: TrainingRun) -> None:
    """Raise ServerError if another machine may be driving a run at this moment."""
    ago = (datetime.now(UTC) - run.driven).total_seconds()
    if ago < ALIVE:
        raise ServerError(
            f"The training run {run.id} was driven {max(0, ago):.0f} seconds ago, by another machine or store, and "
            f"two commands would pay twice. If no other command drives it, run this one again in {ALIVE:.0f} seconds."
        )
