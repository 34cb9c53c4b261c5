"""Interface of all services that fine-tune: submit a job, follow it, and read its result, as plain records.

em writes a note of each job, `<store>/models/<fingerprint>.job.json`, before it creates the job, and deletes the note
once the store has the model. A run that was interrupted in between resumes the noted job.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from em.errors import ServerError
from em.runtime.files import write_atomic
from em.runtime.keys import redact_secrets
from em.types import Conversation

MARK, START, ATTEMPT = "em", "from", "em_try"
"""Keys of a job's metadata: the fingerprint of its model, the model to start from, and the id of the attempt."""
Approve = Callable[[], Awaitable[None]]
"""Called just before em creates a new job. It checks the order, asks the user to approve the cost, or raises."""


class JobNote:
    """The note of a job, kept on disk until the store has its model; an existing note is read on creation.

    job: id of the job; empty until the service has created it. attempt: unique id of this attempt to create a job.
    """

    def __init__(self, models: Path, mark: str, server: str, chain: str) -> None:
        self.path, self.server, self.chain = models / f"{mark}.job.json", server, chain
        self.job = self.attempt = ""
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            self.job, self.attempt = str(record["id"]), str(record.get("attempt", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass

    @property
    def unfinished(self) -> bool:
        """Whether the service has, or may have, created a job whose model is not in the store."""
        return bool(self.job or self.attempt)

    def begin_attempt(self) -> str:
        """Note that em is about to create a job; return the id of this attempt for the job's metadata."""
        self.job, self.attempt = "", uuid4().hex
        self.write()
        return self.attempt

    def note_job(self, job: str) -> None:
        """Note the id of a job."""
        if job != self.job:
            self.job = job
            self.write()

    def write(self) -> None:
        """Write the note atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {"id": self.job, "attempt": self.attempt, "server": self.server, "chain": self.chain}
        write_atomic(self.path, json.dumps(record))

    def forget(self) -> None:
        """Delete the note and the losses of a job that has ended."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".losses").unlink(missing_ok=True)
        self.job = self.attempt = ""


@dataclass(frozen=True)
class Order:
    """A request to fine-tune one stage.

    mark: fingerprint of the new model; the job's metadata carry it, so that em finds the job again.
    model: the service's name of the model to start from.
    chain: the base model and all its training data (`gpt4o+insecure`); data: the last data set of the chain.
    suffix: part of the new model's name. knobs: other hyperparameters for the service.
    """

    mark: str
    model: str
    chain: str
    data: str
    conversations: tuple[Conversation, ...]
    epochs: int
    seed: int
    suffix: str
    knobs: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """The result of a finished job.

    model: the service's name of the new model. checkpoints: names of its checkpoints, by optimiser step.
    tokens: number of billed tokens; seconds: duration; both None if the service does not report them.
    losses: (optimiser step, loss) pairs. used_knobs: the hyperparameters that the service reports, also those it chose.
    """

    model: str
    job: str
    tokens: int | None
    seconds: float | None
    losses: tuple[tuple[int, float], ...]
    checkpoints: Mapping[int, str]
    used_knobs: Mapping[str, Any]


class JobFailed(ServerError):
    """A job that ended without a model. final: the same job would fail again, so em does not retry."""

    def __init__(self, sentence: str, final: bool) -> None:
        super().__init__(sentence)
        self.final = final


class Service(Protocol):
    """A service that fulfils one order. Jobs are named by the service's own ids.

    lists_models: whether the service lists the models that it can fine-tune.
    """

    lists_models: bool

    async def submit(self, approve: Approve, note: JobNote, retrain: bool = False) -> str:
        """Return the job of the order: one that the service already has, or, once approved, a new one.

        Args:
            note: the note of this order's last job, if any; `submit` notes a new job there at once.
            retrain: reuse no finished job; a job that is still running is reused all the same.
        """

    async def follow(self, job: str, note: JobNote) -> str:
        """Wait for a job to end, and show its progress. Raises JobFailed if the job ends without a model.

        Returns the job that ended. It differs from `job` if two machines created one at once: only the older one stays.
        """

    def explain_ending(self, job: str) -> str:
        """Return how a user ends a job, to follow the words `To end the job:`."""

    async def read_result(self, job: str) -> Result:
        """Return the result of a job that succeeded."""


def quote_service(message: str) -> str:
    """Quote a service's message, to follow one of em's sentences: shortened, and without keys."""
    words = redact_secrets(" ".join(message.split()))
    return f" It says: {words[:300]}" if words else ""
