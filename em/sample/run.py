"""Answers of a run's models: read the remembered ones, and sample the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

from em.api.costs import CallCost
from em.api.prices import compute_usd
from em.config import ApiSampler, AutoSampler, HfModel, HfSampler, OpenAIModel, RunConfig, SamplerConfig, VllmSampler
from em.errors import ConfigError
from em.models.hosted import parse_hosted_name
from em.request import Request
from em.runtime.gpus import list_visible_gpus
from em.runtime.manifest import ManifestWriter
from em.runtime.memory import Calls
from em.sample.plan import Draws, Planned, list_prompts, make_answer, plan_samples, sort_plan
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
        """Refuse models that are no longer served, or can't be; note what readers should know."""

    def open(self, models: Sequence[ModelRef], calls: Calls) -> AbstractAsyncContextManager[None]:
        """Prepare to sample from these models, and clean up at the end."""


def choose_sampler(settings: RunConfig) -> tuple[SamplerConfig, str]:
    """Return the sampler that `sampler=auto` stands for, and the reason; any other sampler without a reason.

    Raises ConfigError if `sampler=vllm` can't be used.
    """
    from em.models.served.command import find_version, is_installed
    from em.sample.served import find_prompt_obstacle

    sampler, served = settings.sampler, isinstance(settings.sampler, VllmSampler)
    if settings.model.remote or settings.answers or not served:
        return sampler, ""
    assert isinstance(sampler, VllmSampler)
    obstacle = find_prompt_obstacle(settings)
    if not isinstance(sampler, AutoSampler):
        if obstacle:
            raise ConfigError(
                f"{obstacle} is not possible with sampler=vllm, which applies the chat template itself: use sampler=hf."
            )
        if not sampler.base_url:
            find_version(sampler.command)
        return sampler, ""
    chosen: type[SamplerConfig] = HfSampler
    if obstacle:
        reason = f"vLLM can't ask with {obstacle}"
    elif sampler.base_url:
        chosen, reason = VllmSampler, "sampler.base_url names a server"
    elif not list_visible_gpus():
        reason = "there is no GPU"
    elif not is_installed(sampler.command):
        reason = "vLLM is not installed (make vllm)"
    else:
        chosen, reason = VllmSampler, "vLLM is installed and a GPU is there"
    values = {field.name: getattr(sampler, field.name) for field in fields(chosen)}
    return chosen(**values | {"name": "hf" if chosen is HfSampler else "vllm"}), reason


def settle_sampler(request: Request, models: Sequence[ModelRef], manifest: ManifestWriter) -> Request:
    """Note what `auto` chose; go back to `hf` if that is vLLM, and vLLM can't serve one of the models."""
    if request.sampler and request.sampler_reason:
        manifest.write(sampler={"name": request.sampler.name, "reason": request.sampler_reason})
    if not isinstance(request.sampler, VllmSampler) or request.settings.model.remote:
        return request
    if models and any(stage.trainer.quantized for stage in request.stages):
        manifest.note("The adapters were trained on 4-bit weights, and vLLM serves them on the 16-bit base.")
    if not isinstance(request.settings.sampler, AutoSampler):
        return request
    from em.sample.served import find_obstacle

    for model in models:
        if reason := find_obstacle(Path(model.base.path), model.trained):
            sampler = HfSampler(name="hf", seed=request.sampler.seed, batch_size=request.settings.sampler.batch_size)
            manifest.write(sampler={"name": "hf", "reason": f"vLLM can't serve {model.name}: {reason}"})
            print(f"sampler=hf, since vLLM can't serve {model.name}: {reason}.", flush=True)
            return replace(request, sampler=sampler)
    return request


def create_sampler(request: Request) -> Sampler:
    """Make the sampler of a request."""
    settings = request.settings
    match settings.model, request.sampler or settings.sampler:
        case OpenAIModel() as model, ApiSampler() as sampler:
            from em.sample.remote import ServerSampler

            return ServerSampler(model, sampler)
        case HfModel() as model, VllmSampler() as sampler if not isinstance(sampler, AutoSampler):
            from em.sample.served import ServedSampler

            prompts = list_prompts(request.questions, request.conditions).values()
            rows = [row for stage in request.stages for row in stage.rows.conversations]
            return ServedSampler(model, sampler, list(prompts), rows)
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
    settings, sampler = request.settings, create_sampler(request)
    draws = Draws(settings.eval, settings.sampler.seed, sampler.name, sampler.precision)
    return [Plan(model, plan_samples(model, request.questions, request.conditions, draws)) for model in models]


async def sample_models(request: Request, sampler: Sampler, plans: Sequence[Plan]) -> None:
    """Generate all answers that are not remembered yet: one model after the other, or concurrently by batches."""
    plans = [plan for plan in plans if plan.has_missing(request.memory)]

    async def sample(plan: Plan) -> None:
        await sampler.sample(plan.model, list(plan.list_requests().values()), request.memory, request.prices)

    if not sampler.together:
        if plans:
            async with sampler.open([plan.model for plan in plans], request.memory):
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


def check_models(request: Request, plans: Sequence[Plan], manifest: ManifestWriter) -> Sampler:
    """Refuse to sample from a model that the server no longer serves; note a near shutdown date; return the sampler.

    A model with all answers remembered is not checked.
    """
    sampler = create_sampler(request)
    models = [plan.model for plan in plans if plan.has_missing(request.memory)]
    if models:
        sampler.check(models, request.store, manifest)
    return sampler
