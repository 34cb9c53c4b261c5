"""What fine-tuning by a service is, whichever it is: four verbs (submit, follow, cancel, result) over plain records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from em.errors import ServerError
from em.remote.note import JobNote
from em.types import Conversation

Approve = Callable[[], Awaitable[None]]
"""Called just before a new job is created: checks what can be checked, asks whoever pays, and raises if it may not."""


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
    """A service that fine-tunes. Jobs are named by its own ids."""

    async def submit(self, order: Order, approve: Approve, note: JobNote, anew: bool = False) -> str:
        """The job of an order: the one that is there already, or, once approved, a new one.

        Args:
            note: what was noted for this order before; what is created is noted there at once.
            anew: take no model that is finished; a job that is under way is taken all the same.
        """

    async def follow(self, job: str, note: JobNote) -> str:
        """Wait for a job to end, and show how it goes on. Raises JobFailed where it ends without a model.

        Returns the job that ended: another one, where two machines had asked at once and only one job stays.
        """

    async def cancel(self, job: str) -> None:
        """End a job."""

    def ending(self, job: str) -> str:
        """How a user ends a job, to follow `To end it:`."""

    async def result(self, job: str) -> Result:
        """What a job left that ended well."""
