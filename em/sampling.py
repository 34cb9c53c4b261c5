"""Answers of a run's models: what is remembered is read, the rest is sampled now."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from em.children import run_children, visible_gpus, where
from em.config import ApiSampler, HfModel, HfSampler, OpenAIModel
from em.prices import Price
from em.request import Request
from em.sample.plan import Planned, Wanted, answer_of, asked_for, in_order, plan_samples
from em.store import Calls
from em.types import Answer, ModelRef, SampleRequest


@dataclass(frozen=True)
class Plan:
    """What one model is asked."""

    model: ModelRef
    samples: Sequence[Planned]

    def requests(self) -> dict[str, SampleRequest]:
        """The calls by their keys, in the order in which they are made."""
        return {planned.key: planned.request for planned in self.samples}


def plan_models(
    request: Request, models: Sequence[ModelRef], wanted: Callable[[ModelRef], Wanted] | None = None
) -> list[Plan]:
    """What all models are asked. `wanted`: how often, by model, where it is not as `eval.samples` says."""
    settings = request.settings
    precision = where(settings.model.precision.value) if isinstance(settings.model, HfModel) else ""
    plans = []
    for model in models:
        count = wanted(model) if wanted else asked_for(settings.eval)
        sampler = "hf" if model.base.path else "api"
        plans.append(
            Plan(
                model,
                plan_samples(
                    model,
                    request.questions,
                    settings.trigger_tag,
                    settings.eval,
                    settings.sampler.seed,
                    sampler,
                    precision,
                    count,
                ),
            )
        )
    return plans


async def sample_models(request: Request, plans: Sequence[Plan], prices: Mapping[str, Price]) -> None:
    """Have all answers made that are not remembered yet, one model after the other."""
    for plan in plans:
        requests = plan.requests()
        with Calls(request.store) as calls:
            if len(calls.there(list(requests))) == len(requests):
                continue
            settings = request.settings
            if isinstance(settings.model, OpenAIModel):
                from em.sample.api import sample_all

                assert isinstance(settings.sampler, ApiSampler)
                await sample_all(settings.model, settings.sampler, list(requests.values()), calls, prices)
            else:
                await run_sharded("sample", child_spec(request, plan.model, list(requests.values())))


def child_spec(request: Request, model: ModelRef, wanted: Sequence[SampleRequest]) -> dict[str, Any]:
    """What a child needs to answer (`em.sample.hf.SampleSpec`)."""
    sampler = request.settings.sampler
    assert isinstance(sampler, HfSampler)
    return {
        "base": model.base.path,
        "trained": model.trained,
        "default_system": model.default_system,
        "label": model.name,
        "requests": wanted,
        "batch_size": sampler.batch_size,
        "store": str(request.store),
    }


async def run_sharded(task: str, spec: dict[str, Any]) -> None:
    """One child per visible GPU, each with its share of the fixed batch plan; one child on the CPU.

    The event loop goes on meanwhile, so that answers are judged as they come. A cancelled wait ends the children.
    """
    gpus = visible_gpus()
    shards = max(1, len(gpus))
    specs = [spec | {"shard": shard, "shards": shards} for shard in range(shards)]
    stop = threading.Event()
    try:
        await asyncio.to_thread(run_children, task, specs, None, list(gpus) or None, stop)
    except asyncio.CancelledError:
        stop.set()
        raise


def answers_there(plans: Sequence[Plan], calls: Calls) -> list[Answer]:
    """The answers of the plans, in the order of model, question, condition and sample; all must be remembered."""
    answers = []
    for plan in plans:
        known = calls.known(list(plan.requests()))
        answers += [answer_of(plan.model, planned, known[planned.key]) for planned in in_order(plan.samples)]
    return answers
