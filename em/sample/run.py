"""Answers of a run's models: read the remembered ones, and sample the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from em.api.costs import CallCost
from em.api.prices import compute_usd
from em.config import ApiSampler, HfModel, HfSampler, OpenAIModel, RunConfig
from em.models.hosted import parse_hosted_name
from em.request import Request
from em.runtime.manifest import ManifestWriter
from em.runtime.memory import Calls
from em.sample.plan import Draws, Planned, make_answer, plan_samples, sort_plan
from em.types import Answer, ModelRef, Prices, SampleRequest


class Sampler(Protocol):
    """Generates answers: `em.sample.local` in child processes, `em.sample.remote` by a server.

    name, precision: fields of every request. together: whether several models are sampled concurrently.
    """

    name: str
    precision: str
    together: bool

    async def sample(self, model: ModelRef, requests: Sequence[SampleRequest], calls: Calls, prices: Prices) -> None:
        """Generate the answers of a model that are not remembered yet."""

    def check(self, models: Sequence[ModelRef], store: Path, manifest: ManifestWriter) -> None:
        """Refuse models that are no longer served; note a near shutdown date."""


def create_sampler(settings: RunConfig) -> Sampler:
    """Make the sampler that the settings describe."""
    match settings.model, settings.sampler:
        case OpenAIModel() as model, ApiSampler() as sampler:
            from em.sample.remote import ServerSampler

            return ServerSampler(model, sampler)
        case HfModel() as model, HfSampler() as sampler:
            from em.sample.local import ChildSampler

            return ChildSampler(model, sampler)
        case _:
            raise TypeError(f"{settings.sampler.name} can't sample from {settings.model.name}")  # the config forbids it


@dataclass(frozen=True)
class Plan:
    """The planned answers of one model."""

    model: ModelRef
    samples: Sequence[Planned]

    def list_requests(self) -> dict[str, SampleRequest]:
        """Return the requests by key, in the order in which they are sent."""
        return {planned.key: planned.request for planned in self.samples}

    def has_missing(self, calls: Calls) -> bool:
        """Return whether any answer is not remembered yet."""
        keys = list(self.list_requests())
        return len(calls.find_stored_keys(keys)) < len(keys)


def plan_models(request: Request, models: Sequence[ModelRef]) -> list[Plan]:
    """Plan the answers of all models."""
    settings = request.settings
    sampler = create_sampler(settings)
    draws = Draws(settings.eval, settings.sampler.seed, sampler.name, sampler.precision)
    return [Plan(model, plan_samples(model, request.questions, request.conditions, draws)) for model in models]


async def sample_models(request: Request, plans: Sequence[Plan]) -> None:
    """Generate all answers that are not remembered yet: one model after the other, or concurrently by batches."""
    sampler = create_sampler(request.settings)

    async def sample(plan: Plan) -> None:
        if plan.has_missing(request.memory):
            await sampler.sample(plan.model, list(plan.list_requests().values()), request.memory, request.prices)

    if not sampler.together:
        for plan in plans:
            await sample(plan)
        return
    # A failure must not end the wait for the other models, whose batches are paid for.
    outcomes = await asyncio.gather(*map(sample, plans), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def compute_sampling_costs(request: Request, plans: Sequence[Plan]) -> list[CallCost]:
    """Return the costs of all answers by servers, including remembered ones, by model; batches cost half."""
    costs = []
    for plan in plans:
        if plan.model.base.path:
            continue  # open weights run on this machine
        responses = request.memory.read_responses(list(plan.list_requests())).values()
        price = request.prices.find_price(parse_hosted_name(plan.model)[1])
        prompt, reply = (sum(each[key] for each in responses) for key in ("prompt_tokens", "answer_tokens"))
        paid: list[float | None] = []
        for each in responses:
            usage, share = (each["prompt_tokens"], each["answer_tokens"]), 0.5 if each.get("batch") else 1.0
            paid.append(compute_usd(price, usage, share))
        usd = None if None in paid else sum(each or 0 for each in paid)
        costs.append(CallCost("sampling", plan.model.name, len(responses), prompt, reply, usd))
    return costs


def read_remembered_answers(plans: Sequence[Plan], calls: Calls) -> list[Answer]:
    """Read the answers of the plans, ordered by model, question, condition and sample; all must be remembered."""
    answers = []
    for plan in plans:
        responses = calls.read_responses(list(plan.list_requests()))
        answers += [make_answer(plan.model, planned, responses[planned.key]) for planned in sort_plan(plan.samples)]
    return answers


def check_models(request: Request, plans: Sequence[Plan], manifest: ManifestWriter) -> None:
    """Refuse to sample from a model that the server no longer serves; note a near shutdown date.

    A model with all answers remembered is not checked.
    """
    models = [plan.model for plan in plans if plan.has_missing(request.memory)]
    if models:
        create_sampler(request.settings).check(models, request.store, manifest)
