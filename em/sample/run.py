"""Answers of a run's models: what is remembered is read, the rest is sampled now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from em.api.lifetimes import check_asked
from em.api.prices import Price, price_of, usd_of
from em.config import ApiSampler, HfModel, HfSampler, OpenAIModel
from em.models.hosted import hosted_name
from em.request import Request
from em.runtime.gpus import where
from em.runtime.manifest import Manifest
from em.runtime.memory import Calls
from em.runtime.shards import run_sharded
from em.sample.local import SampleSpec
from em.sample.plan import Planned, answer_of, in_order, plan_samples
from em.triggers.conditions import ways_of
from em.types import Answer, ModelRef, SampleRequest


@dataclass(frozen=True)
class Plan:
    """What one model is asked."""

    model: ModelRef
    samples: Sequence[Planned]

    def requests(self) -> dict[str, SampleRequest]:
        """The calls by their keys, in the order in which they are made."""
        return {planned.key: planned.request for planned in self.samples}


def plan_models(request: Request, models: Sequence[ModelRef]) -> list[Plan]:
    """Plan what all models are asked."""
    settings = request.settings
    precision = where(settings.model.precision.value) if isinstance(settings.model, HfModel) else ""
    ways = ways_of(settings)
    plans = []
    for model in models:
        sampler = "hf" if model.base.path else "api"
        plans.append(
            Plan(
                model,
                plan_samples(
                    model,
                    request.questions,
                    ways,
                    settings.eval,
                    settings.sampler.seed,
                    sampler,
                    precision,
                ),
            )
        )
    return plans


async def sample_models(request: Request, plans: Sequence[Plan], prices: Mapping[str, Price]) -> None:
    """Have all answers made that are not remembered yet: one model after the other, batches side by side."""
    sampler = request.settings.sampler
    if not (isinstance(sampler, ApiSampler) and sampler.batch):
        for plan in plans:
            await sample_model(request, plan, prices)
        return
    # One that fails must not end the wait for the others, which are paid for.
    ended = await asyncio.gather(*(sample_model(request, plan, prices) for plan in plans), return_exceptions=True)
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure


async def sample_model(request: Request, plan: Plan, prices: Mapping[str, Price]) -> None:
    """Have the answers of one model made that are not remembered yet."""
    requests, settings = plan.requests(), request.settings
    with Calls(request.store) as calls:
        if len(calls.there(list(requests))) == len(requests):
            return
        if isinstance(settings.model, OpenAIModel):
            from em.sample.remote import sample_all

            assert isinstance(settings.sampler, ApiSampler)
            named = replace(settings.model, id=hosted_name(plan.model)[1])
            await sample_all(named, settings.sampler, list(requests.values()), calls, prices)
        else:
            await run_sharded("sample", child_spec(request, plan.model, list(requests.values())))


def child_spec(request: Request, model: ModelRef, wanted: Sequence[SampleRequest]) -> SampleSpec:
    """Put together what a child needs to answer."""
    sampler = request.settings.sampler
    assert isinstance(sampler, HfSampler)
    return SampleSpec(
        base=model.base.path,
        trained=model.trained,
        default_system=model.default_system,
        label=model.name,
        requests=tuple(wanted),
        batch_size=sampler.batch_size,
        store=str(request.store),
    )


def sampling_costs(plans: Sequence[Plan], calls: Calls, prices: Mapping[str, Price]) -> list[dict[str, Any]]:
    """What the answers of a server's models cost, whenever they were made, by model; batches cost half."""
    rows: list[dict[str, Any]] = []
    for plan in plans:
        found = calls.known(list(plan.requests())).values()
        price = price_of(hosted_name(plan.model)[1], prices)
        paid = [
            usd_of(price, (each["prompt_tokens"], each["answer_tokens"]), 0.5 if each.get("batch") else 1.0)
            for each in found
        ]
        row = {"what": "sampling", "model": plan.model.name, "calls": len(found)}
        row["prompt_tokens"] = sum(each["prompt_tokens"] for each in found)
        row["reply_tokens"] = sum(each["answer_tokens"] for each in found)
        rows.append(row | {"usd": None if None in paid else sum(usd or 0 for usd in paid)})
    return rows


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
    model = request.settings.model
    if not isinstance(model, OpenAIModel):
        return
    with Calls(request.store) as calls:
        names = [hosted_name(plan.model)[1] for plan in plans if missing(plan, calls)]
    if names:
        asyncio.run(check_asked(model, names, request.store, manifest))


def missing(plan: Plan, calls: Calls) -> bool:
    """Whether answers of a model are still to be made."""
    requests = plan.requests()
    return len(calls.there(list(requests))) < len(requests)
