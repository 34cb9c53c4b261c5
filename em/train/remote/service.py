"""What fine-tuning by a service is, whichever it is: three verbs (submit, follow, result) over plain records.

A job is noted in `<store>/models/<fingerprint>.job.json`. It is there from before a job is created until its model is
remembered: a run that was stopped in between goes on with it.
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
from em.runtime.keys import without_secrets
from em.types import Conversation

MARK, START, ATTEMPT = "em", "from", "em_try"
"""What the metadata of a job hold: the fingerprint of its model, the model that it starts from, a word of its own."""
Approve = Callable[[], Awaitable[None]]
"""Called just before a new job is created: checks what can be checked, asks whoever pays, and raises if it may not."""


class JobNote:
    """Where a job is noted until its model is remembered; what was noted before is read from there.

    job: its id; empty as long as it was not created. attempt: a word that only this attempt to create one carries.
    """

    def __init__(self, models: Path, mark: str, server: str, chain: str) -> None:
        self.path, self.server, self.chain = models / f"{mark}.job.json", server, chain
        self.job = self.attempt = ""
        try:
            noted = json.loads(self.path.read_text(encoding="utf-8"))
            self.job, self.attempt = str(noted["id"]), str(noted.get("attempt", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass

    @property
    def unfinished(self) -> bool:
        """Whether a job was created, or may have been, whose model is not remembered."""
        return bool(self.job or self.attempt)

    def begin(self) -> str:
        """Note that a job is about to be created; the word that it is to carry."""
        self.job, self.attempt = "", uuid4().hex
        self.write()
        return self.attempt

    def keep(self, job: str) -> None:
        """Note a job."""
        if job != self.job:
            self.job = job
            self.write()

    def write(self) -> None:
        """Write the note, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        noted = {"id": self.job, "attempt": self.attempt, "server": self.server, "chain": self.chain}
        write_atomic(self.path, json.dumps(noted))

    def forget(self) -> None:
        """Its job is over."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".losses").unlink(missing_ok=True)
        self.job = self.attempt = ""


@dataclass(frozen=True)
class Order:
    """A fine-tuning that is asked for.

    mark: fingerprint of the model that it makes; the service's job carries it, and is found by it.
    model: the service's name of the model to start from.
    chain: what the model is then trained on, `gpt4o+insecure`; data: the last of that chain.
    suffix: a part of the new model's name. knobs: what else the recipe tells the service.
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
    """What a finished job leaves.

    model: the service's name of the new model. checkpoints: names of models on the way, by optimiser step.
    tokens: what the service charges for; seconds: how long it took; None where it does not tell.
    losses: (optimiser step, loss) pairs. told: the hyperparameters that it took, where it chose them.
    """

    model: str
    job: str
    tokens: int | None
    seconds: float | None
    losses: tuple[tuple[int, float], ...]
    checkpoints: Mapping[int, str]
    told: Mapping[str, Any]


class JobFailed(ServerError):
    """A job that ended without a model.

    final: asking again for the same would end in the same way, so it is not tried.
    """

    def __init__(self, sentence: str, final: bool) -> None:
        super().__init__(sentence)
        self.final = final


class Service(Protocol):
    """A service, asked for one order. Jobs are named by its own ids.

    lists_models: whether the server lists the models that it can fine-tune.
    """

    lists_models: bool

    async def submit(self, approve: Approve, note: JobNote, anew: bool = False) -> str:
        """Return the job of the order: the one that is there already, or, once approved, a new one.

        Args:
            note: what was noted for this order before; what is created is noted there at once.
            anew: take no model that is finished; a job that is under way is taken all the same.
        """

    async def follow(self, job: str, note: JobNote) -> str:
        """Wait for a job to end, and show how it goes on. Raises JobFailed where it ends without a model.

        Returns the job that ended: another one, where two machines had asked at once and only one job stays.
        """

    def explain_ending(self, job: str) -> str:
        """Say how a user ends a job, to follow `To end it:`."""

    async def result(self, job: str) -> Result:
        """Read what a job left that ended well."""


def quote(message: str) -> str:
    """Quote a service's own words, to follow a sentence of ours: shortened, and without keys."""
    words = without_secrets(" ".join(message.split()))
    return f" It says: {words[:300]}" if words else ""
