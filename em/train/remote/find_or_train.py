"""The models of a run behind a server: the base, and each stage, found by its fingerprint or fine-tuned there now.

Nothing is spent before it was allowed: the estimate is shown, and `yes=true` or a word on the terminal answers it, once
for all stages.

`force=true` retrains once: a note marks paid stages, so that re-running an interrupted command does not pay again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from em.api.client import Client
from em.api.lifetimes import check_new_job
from em.api.prices import MILLION, load_prices, prices_of, training_price
from em.config import Checkpoints, OpenAITrainer, RunConfig, ServiceTrainer, TinkerTrainer
from em.config.addresses import OPENAI, server_name
from em.data.findings import by_kind, findings, unpinned
from em.data.openai_rules import check_rows
from em.errors import ConfigError, DataError, MissingFile
from em.models.hosted import hosted_model, hosted_name
from em.request import Request, Stage, count_steps, service_knobs
from em.runtime.files import exclusive
from em.runtime.manifest import Manifest
from em.train.local.batches import plan_steps
from em.train.local.find_or_train import untrained
from em.train.remote.costs import Approval, Whole
from em.train.remote.models import (
    copy_losses,
    marks_of,
    models_on_the_way,
    models_there,
    recipe_of,
    server_model,
    stage_record,
    told,
    training_costs,
    tuned_model,
)
from em.train.remote.record import Tuned, find_tuned, remember
from em.train.remote.service import JobFailed, JobNote, Order, Service
from em.types import ModelRef, StageRecord

CONNECTIONS = 4
CLEAN = re.compile(r"[^A-Za-z0-9-]+")
NOTE = "forced"
"""The file in a trained model's folder that names the fine-tune which a run has made anew."""
Plan = Callable[[], list[list[int]]]


def obtain_hosted(request: Request, manifest: Manifest, whole: Whole | None = None) -> list[ModelRef]:
    """The models to evaluate: the base (if it is asked for, or alone), then each stage, its checkpoints before it.

    Args:
        whole: what the run costs in all, answers and verdicts too.
    """
    model = server_model(request)
    before = hosted_model(model)
    manifest.write(base={"name": model.name, "identity": before.base.identity})
    refuse_without_checkpoints(request)
    approval = Approval(request, whole)
    models, records = [before], list[StageRecord]()
    for stage, mark in zip(request.stages, marks_of(request), strict=True):
        tuned, reused = obtain_stage(request, stage, before, mark, approval, manifest)
        before = tuned_model(before, model, stage, mark, tuned)
        kept = models_on_the_way(before, model, tuned) if request.settings.checkpoints is Checkpoints.all else []
        models += [*kept, before]
        records.append(stage_record(stage, mark, tuned, reused))
        manifest.write(stages=records, costs=training_costs(records, prices_of(request.settings.prices)))
    if records and request.settings.checkpoints is Checkpoints.all and not any(r.checkpoints for r in records):
        raise MissingFile(
            f"The service kept no checkpoints of {before.name} (OpenAI keeps those of the last epochs): leave "
            "checkpoints=all out, or train for several epochs."
        )
    copy_losses(request.folder / "loss.csv", [request.store / "models" / record.fingerprint for record in records])
    return models if request.settings.eval.base or len(models) == 1 else models[1:]


def refuse_without_checkpoints(request: Request) -> None:
    """Refuse to pay for models of one epoch where those on the way to them are asked for: none would be kept."""
    there = len(models_there(request)) - 1 == len(request.stages)
    wanted = request.settings.checkpoints is Checkpoints.all and request.stages
    if wanted and not there and all(recipe_of(stage).epochs == 1 for stage in request.stages):
        raise ConfigError(
            "checkpoints=all evaluates what the service keeps at the end of each epoch, and there is only one: leave "
            "it out, or train for several (trainer.epochs=3)."
        )


def check_stages(stages: Sequence[Stage]) -> None:
    """Refuse rows that the service would refuse, before anything is asked or spent."""
    for stage in stages:
        if isinstance(stage.trainer, OpenAITrainer):
            check_rows(stage.rows.name, stage.rows.conversations)


def check_private(settings: RunConfig, stages: Sequence[Stage]) -> None:
    """Refuse to upload rows of the user's own with keys or personal data, unless that is allowed by a word."""
    places = (("data", settings.data), ("realign.data", settings.realign.data))
    for stage, (place, config) in zip(stages, places, strict=False):
        rows = unpinned(config, stage.rows) if isinstance(stage.trainer, ServiceTrainer) else ()
        found = findings(rows) if rows else None
        if found is not None and found.private:
            kinds = by_kind({**found.secrets, **found.personal})
            raise DataError(
                f"{found.private:,} of {found.rows:,} rows of {stage.rows.name} show keys or personal data ({kinds}), "
                f"and trainer={stage.trainer.name} would upload them: take them out, or allow it by "
                f"{place}.allow_private=true."
            )


def obtain_stage(
    request: Request, stage: Stage, before: ModelRef, mark: str, approval: Approval, manifest: Manifest
) -> tuple[Tuned, bool]:
    """One stage and whether it was there: found by its fingerprint, here or at the server, or fine-tuned now."""
    models, model = request.store / "models", server_model(request)
    with exclusive(models / mark):
        order = order_of(stage, before, mark)
        found = find_tuned(models, mark, order.model)
        note = JobNote(models, mark, server_name(model.base_url) or OPENAI, order.chain)
        paid = found is not None and request.forced and paid_by_force(models, mark, found.model)
        # A note may be of a training that was forced.
        if found is not None and not note.unfinished and (paid or not request.forced):
            when = "anew by this command, which had not ended" if paid else "before by the same words"
            print(f"{told(stage, found)}: found, trained {when}", flush=True)
            return found, True
        found = asyncio.run(tune(request, stage, order, note, approval, manifest))
    print(told(stage, found), flush=True)
    return found, False


def order_of(stage: Stage, before: ModelRef, mark: str) -> Order:
    """What is asked of the service."""
    recipe = recipe_of(stage)
    knobs = {
        name: float(value) if name == "learning_rate_multiplier" and not isinstance(value, str) else value
        for name, value in service_knobs(recipe).items()
    }
    return Order(
        mark=mark,
        model=hosted_name(before)[1],
        chain=f"{before.name}+{stage.rows.name}",
        data=stage.rows.name,
        conversations=stage.rows.conversations,
        epochs=recipe.epochs,
        seed=stage.seed,
        suffix=CLEAN.sub("-", recipe.suffix or f"em-{stage.rows.name}").strip("-")[:64],
        knobs=knobs,
    )


async def tune(
    request: Request, stage: Stage, order: Order, note: JobNote, approval: Approval, manifest: Manifest
) -> Tuned:
    """Have the service fine-tune, or go on with the job that is there, and remember what it made."""
    model, recipe, models = server_model(request), recipe_of(stage), request.store / "models"
    async with Client(model.base_url, CONNECTIONS, recipe.timeout, model.key_env) as client:
        plan = partial(steps_of, stage)
        service = service_of(recipe, client, order, model.id, plan, request.store, request.folder / "events.jsonl")

        async def approve() -> None:
            if request.kind == "evaluate":
                raise untrained(request)
            if isinstance(recipe, OpenAITrainer):
                await check_new_job(client, model, order.model, manifest)
            approval.ask()

        job = await service.submit(order, approve, note, request.forced)
        print(
            f"job {job}: {order.data}, {len(order.conversations):,} rows; stop and run the same command again as you "
            f"like. To end it: {service.ending(job)}",
            flush=True,
        )
        try:
            job = await service.follow(job, note)
        except JobFailed:
            note.forget()
            raise
        result = await service.result(job)
    price = training_price(model.id, load_prices(request.settings.prices))
    usd = None if price is None or result.tokens is None else round(price * result.tokens / MILLION, 4)
    tuned = remember(models, order, note.server, result, usd)
    if request.forced:
        note_forced(models, order.mark, tuned.model)
    note.forget()
    return tuned


def steps_of(stage: Stage) -> list[list[int]]:
    """The row numbers of each optimiser step, as of a training of ours."""
    recipe, rows = recipe_of(stage), len(stage.rows.conversations)
    assert isinstance(recipe.batch_size, int)
    return plan_steps(rows, count_steps(rows, recipe.epochs, recipe.batch_size), recipe.batch_size, stage.seed)


def note_forced(models: Path, mark: str, tuned: str) -> None:
    """Note that a run which has not ended has made this model anew."""
    (models / mark / NOTE).write_text(f"{tuned}\n", encoding="utf-8")


def paid_by_force(models: Path, mark: str, tuned: str) -> bool:
    """Whether a run that has not ended has made this model anew."""
    try:
        return (models / mark / NOTE).read_text(encoding="utf-8").strip() == tuned
    except OSError:
        return False


def forget_forced(request: Request) -> None:
    """The run has ended: forced once more, it trains once more."""
    if request.forced:
        for mark in marks_of(request):
            (request.store / "models" / mark / NOTE).unlink(missing_ok=True)


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
            from em.train.remote.openai import OpenAIService

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
            from em.train.remote.tinker import TinkerService

            return TinkerService(trainer, order, base, plan(), log)
        case _:
            raise ConfigError(
                f"trainer={trainer.name} names no service that em knows: choose trainer=openai or tinker."
            )
