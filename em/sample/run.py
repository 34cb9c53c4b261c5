"""Answers of a run's models: what is remembered is read, the rest is sampled now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from em.api.costs import Cost
from em.api.prices import usd_of
from em.config import ApiSampler, HfModel, HfSampler, OpenAIModel, RunConfig
from em.models.hosted import hosted_name
from em.request import Request
from em.runtime.manifest import Manifest
from em.runtime.memory import Calls
from em.sample.plan import Draws, Planned, answer_of, in_order, plan_samples
from em.types import Answer, ModelRef, Prices, SampleRequest


class Sampler(Protocol):
    """Has models answer: `em.sample.local` in children of ours, `em.sample.remote` at a server.

    name, precision: as they are part of every request. together: whether models are asked side by side.
    """

    name: str
    precision: str
    together: bool

    async def sample(self, model: ModelRef, requests: Sequence[SampleRequest], calls: Calls, prices: Prices) -> None:
        """Have a model answer the requests that are not remembered yet."""

    def check(self, models: Sequence[ModelRef], store: Path, manifest: Manifest) -> None:
        """Refuse models that can't be asked any more; note an end that is near."""


def sampler_of(settings: RunConfig) -> Sampler:
    """Make the sampler that the settings describe."""
    match settings.model, settings.sampler:
        case OpenAIModel() as model, ApiSampler() as sampler:
            from em.sample.remote import ServerSampler

            return ServerSampler(model, sampler)
        case HfModel() as model, HfSampler() as sampler:
            from em.sample.local import ChildSampler

            return ChildSampler(model, sampler)
        case _:
            raise TypeError(f"{settings.sampler.name} can't sample from {settings.model.name}")  # refused before


@dataclass(frozen=True)
class Plan:
    """What one model is asked."""

    model: ModelRef
    samples: Sequence[Planned]

    def requests(self) -> dict[str, SampleRequest]:
        """Return the calls by their keys, in the order in which they are made."""
        return {planned.key: planned.request for planned in self.samples}

    def missing(self, calls: Calls) -> bool:
        """Whether answers are still to be made."""
        keys = list(self.requests())
        return len(calls.there(keys)) < len(keys)


def plan_models(request: Request, models: Sequence[ModelRef]) -> list[Plan]:
    """Plan what all models are asked."""
    settings = request.settings
    sampler = sampler_of(settings)
    draws = Draws(settings.eval, settings.sampler.seed, sampler.name, sampler.precision)
    return [Plan(model, plan_samples(model, request.questions, request.conditions, draws)) for model in models]


async def sample_models(request: Request, plans: Sequence[Plan]) -> None:
    """Have all answers made that are not remembered yet: one model after the other, batches side by side."""
    sampler = sampler_of(request.settings)

    async def sample(plan: Plan) -> None:
        if plan.missing(request.memory):
            await sampler.sample(plan.model, list(plan.requests().values()), request.memory, request.prices)

    if not sampler.together:
        for plan in plans:
            await sample(plan)
        return
    # One that fails must not end the wait for the others, which are paid for.
    ended = await asyncio.gather(*map(sample, plans), return_exceptions=True)
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure


def sampling_costs(request: Request, plans: Sequence[Plan]) -> list[Cost]:
    """Return what the answers of a server's models cost, whenever they were made, by model; batches cost half."""
    costs = []
    for plan in plans:
        if plan.model.base.path:
            continue  # open weights, which run here
        responses = request.memory.known(list(plan.requests())).values()
        price = request.prices.of(hosted_name(plan.model)[1])
        prompt, reply = (sum(each[key] for each in responses) for key in ("prompt_tokens", "answer_tokens"))
        paid = [
            usd_of(price, (each["prompt_tokens"], each["answer_tokens"]), 0.5 if each.get("batch") else 1.0)
            for each in responses
        ]
        usd = None if None in paid else sum(each or 0 for each in paid)
        costs.append(Cost("sampling", plan.model.name, len(responses), prompt, reply, usd))
    return costs


def answers_there(plans: Sequence[Plan], calls: Calls) -> list[Answer]:
    """The answers of the plans, in the order of model, question, condition and sample; all must be remembered."""
    answers = []
    for plan in plans:
        known = calls.known(list(plan.requests()))
        answers += [answer_of(plan.model, planned, known[planned.key]) for planned in in_order(plan.samples)]
    return answers


def check_models(request: Request, plans: Sequence[Plan], manifest: Manifest) -> None:
    """Refuse to sample from a model that the server has no more; note an end that is near.

    A model all of whose answers are remembered is not needed any more.
    """
    models = [plan.model for plan in plans if plan.missing(request.memory)]
    if models:
        sampler_of(request.settings).check(models, request.store, manifest)
