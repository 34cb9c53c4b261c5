"""Which service fine-tunes: the one place that knows more than one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from em.client import Client, server_name
from em.config import OpenAITrainer, ServiceTrainer, TinkerTrainer
from em.errors import ConfigError
from em.remote.service import Order, Service

Plan = Callable[[], list[list[int]]]


def service_of(
    trainer: ServiceTrainer, client: Client, order: Order, base: str, plan: Plan, store: Path, log: Path
) -> Service:
    """The service of a recipe.

    Args:
        client: a connection to the server of the model. base: the model that all stages start from.
        plan: gives the row numbers of each optimiser step, for a service that is driven step by step.
        log: where the events of jobs are kept.
    """
    match trainer:
        case OpenAITrainer():
            from em.remote.openai import OpenAIService

            return OpenAIService(
                client,
                order.model,
                order.data,
                store / "files",
                server_name(client.base_url),
                look=trainer.look,
                patience=trainer.patience,
                settle=trainer.settle,
                log=log,
            )
        case TinkerTrainer():
            from em.remote.tinker import TinkerService

            return TinkerService(trainer, order, base, plan(), log)
        case _:
            raise ConfigError(
                f"trainer={trainer.name} names no service that em knows: choose trainer=openai or tinker."
            )
