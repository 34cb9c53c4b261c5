"""Find the stages of a run that a service trains by their fingerprints, or have the service fine-tune them now.

em spends nothing before the user approves the estimate, by `yes=true` or on the terminal, once for all stages.

`force=true` retrains once: a note marks paid stages, so that re-running an interrupted command does not pay again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from em.api.client import Client
from em.api.costs import record_costs
from em.api.lifetimes import check_new_job
from em.config import OpenAIModel, OpenAITrainer, RunConfig, ServiceTrainer, TinkerTrainer
from em.config.addresses import OPENAI, find_server_name
from em.data.findings import describe_counts, list_unpinned_rows, search_rows
from em.data.openai_rules import check_openai_rows
from em.errors import ConfigError, DataError, MissingFile
from em.models.hosted import make_hosted_model, parse_hosted_name
from em.request import Stage, Training, list_service_settings
from em.runtime.files import hold_lock
from em.runtime.manifest import ManifestWriter
from em.train.remote.costs import Approval
from em.train.remote.models import (
    find_tuned_model,
    get_server_model,
    get_service_recipe,
    list_stored_models,
    list_training_costs,
    store_result,
)
from em.train.remote.service import JobFailed, JobNote, Order, Service
from em.train.stages import stage_fingerprints
from em.train.trained import TrainedModel, describe_stage, make_untrained_error
from em.types import MILLION, ModelRef, StageRecord

CONNECTIONS = 4
NOTE = "forced"
"""The file in a trained model's folder that names the model which a run with `force=true` has retrained."""


class ServiceStages:
    """Finds or fine-tunes the stages of a run by a service (see `em.train.find_or_train.StageTrainer`)."""

    def __init__(
        self,
        training: Training,
        model: OpenAIModel,
        manifest: ManifestWriter,
        total_cost: Callable[[], float | None] | None,
    ) -> None:
        self.training, self.model, self.manifest, self.start = training, model, manifest, make_hosted_model(model)
        self.approval = Approval(training, total_cost)
        self.models = training.store / "models"
        # A job of one epoch keeps no checkpoints, so refuse `checkpoints=all` before paying for such a job.
        missing = len(list_stored_models(training)) <= len(training.stages)
        if training.checkpoints and missing and all(get_service_recipe(stage).epochs == 1 for stage in training.stages):
            raise ConfigError(
                "checkpoints=all evaluates the checkpoints at the end of each epoch before the last, but there is only "
                "one epoch: leave checkpoints=all out, or train for several epochs (trainer.epochs=3)."
            )

    def write_records(self, records: Sequence[StageRecord]) -> None:
        """Write the records of the stages so far, and their costs, into the manifest."""
        self.manifest.write(
            stages=records, costs=record_costs(list_training_costs(records), self.training.prices.source)
        )
        done = len(records) == len(self.training.stages)
        if done and self.training.checkpoints and not any(record.checkpoints for record in records):
            chain = "+".join([self.model.name, *(record.name for record in records)])
            raise MissingFile(
                f"The service kept no checkpoints of {chain} (OpenAI keeps only those of the last epochs): leave "
                "checkpoints=all out, or train for several epochs."
            )

    def find_or_train(self, number: int, before: ModelRef, fingerprint: str) -> tuple[TrainedModel, bool]:
        """Return stage `number`, from the store or from the service's job for it, and whether the store had it."""
        stage = self.training.stages[number]
        with hold_lock(self.models / fingerprint):
            order = make_order(stage, before, fingerprint)
            trained = find_tuned_model(self.models, fingerprint, order.model)
            note = JobNote(self.models, fingerprint, find_server_name(self.model.base_url) or OPENAI, order.chain)
            # A noted job may belong to an interrupted run with `force=true`, so it comes before the stored model.
            if trained is not None and not note.unfinished:
                paid = self.training.force and trained.weights.place == read_forced_model(trained.folder)
                if paid or not self.training.force:
                    when = "by this command before it was interrupted" if paid else "earlier with the same settings"
                    print(f"{describe_stage(stage, trained)}: reused, trained {when}", flush=True)
                    return trained, True
            asyncio.run(self.run_fine_tuning(get_service_recipe(stage), order, note))
            trained = find_tuned_model(self.models, fingerprint)
            assert trained is not None
        print(describe_stage(stage, trained), flush=True)
        return trained, False

    async def run_fine_tuning(self, recipe: ServiceTrainer, order: Order, note: JobNote) -> None:
        """Have the service run a new job, or follow the job that it already has, and store the model of the job."""
        model, training = self.model, self.training
        async with Client(model.base_url, CONNECTIONS, recipe.timeout, model.key_env) as client:
            service = self.connect(recipe, client, order)

            async def ask_approval() -> None:
                if not training.may_train:
                    raise make_untrained_error(training)
                if service.lists_models:
                    await check_new_job(client, model, order.model, self.manifest)
                self.approval.ask()

            job = await service.submit(ask_approval, note, training.force)
            print(
                f"job {job}: {order.data}, {len(order.conversations):,} rows; you may stop this command and resume by "
                f"running it again. To end the job: {service.explain_ending(job)}",
                flush=True,
            )
            try:
                result = await service.read_result(await service.follow(job, note))
            except JobFailed:
                note.forget()
                raise
        price = training.prices.find_training_price(model.id)
        usd = None if price is None or result.tokens is None else round(price * result.tokens / MILLION, 4)
        store_result(self.models / order.mark, order, note.server, result, usd)
        if training.force:
            (self.models / order.mark / NOTE).write_text(f"{result.model}\n", encoding="utf-8")
        note.forget()

    def connect(self, recipe: ServiceTrainer, client: Client, order: Order) -> Service:
        """Return the service that a recipe names."""
        log = self.training.folder / "events.jsonl"
        match recipe:
            case TinkerTrainer():
                from em.train.remote.tinker import TinkerService

                return TinkerService(recipe, order, self.model.id, log)
            case _:
                from em.train.remote.openai.service import OpenAIService

                return OpenAIService(client, order, cast(OpenAITrainer, recipe), self.training.store / "files", log)


def check_service_rows(stages: Sequence[Stage]) -> None:
    """Raise DataError for rows that the service would refuse, before any call to the service."""
    for stage in stages:
        match stage.trainer:
            case OpenAITrainer():
                check_openai_rows(stage.rows.name, stage.rows.conversations)


def refuse_private_rows(settings: RunConfig, stages: Sequence[Stage]) -> None:
    """Raise DataError if user rows to upload contain keys or personal data, unless `allow_private` allows it."""
    places = (("data", settings.data), ("realign.data", settings.realign.data))
    for stage, (place, config) in zip(stages, places, strict=False):
        rows = list_unpinned_rows(config, stage.rows) if stage.trainer.remote else ()
        scan = search_rows(rows) if rows else None
        if scan is not None and scan.private:
            kinds = describe_counts({**scan.secrets, **scan.personal})
            raise DataError(
                f"{scan.private:,} of {scan.rows:,} rows of {stage.rows.name} show keys or personal data ({kinds}), "
                f"and trainer={stage.trainer.name} would upload them: remove them, or allow the upload by "
                f"{place}.allow_private=true."
            )


def make_order(stage: Stage, before: ModelRef, fingerprint: str) -> Order:
    """Make the order of a stage for the service."""
    recipe = get_service_recipe(stage)
    knobs = list_service_settings(recipe)
    if not isinstance(factor := knobs.get("learning_rate_multiplier", ""), str):
        knobs["learning_rate_multiplier"] = float(factor)
    return Order(
        mark=fingerprint,
        model=parse_hosted_name(before)[1],
        chain=f"{before.name}+{stage.rows.name}",
        data=stage.rows.name,
        conversations=stage.rows.conversations,
        epochs=recipe.epochs,
        seed=stage.seed,
        suffix=re.sub(r"[^A-Za-z0-9-]+", "-", recipe.suffix or f"em-{stage.rows.name}").strip("-")[:64],
        knobs=knobs,
    )


def read_forced_model(folder: Path) -> str:
    """Return the name of the model that an unfinished run with `force=true` has retrained; empty if there is none."""
    try:
        return (folder / NOTE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def forget_forced_stages(training: Training) -> None:
    """Delete the notes of stages that `force=true` has retrained, at the end of a run: the next run retrains again."""
    if training.force and training.model.remote:
        for fingerprint in stage_fingerprints(make_hosted_model(get_server_model(training)), training.stages):
            (training.store / "models" / fingerprint / NOTE).unlink(missing_ok=True)
