"""A run from accepted settings to report, in a straight line: plan, train, sample, judge, score, report.

Everything up to `recorded` is cheap and checks the whole request; what follows is remembered step by step, so the
same command goes on where it was stopped.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from em import __version__
from em.check import check_settings
from em.children import run_child, run_children, visible_gpus
from em.config import HfModel, LocalJudge, OpenAIModel, RunConfig, WandbTracker
from em.data import write_rows
from em.errors import MissingFile
from em.judge import plan as judging
from em.manifest import Manifest, recorded
from em.questions import load_sets
from em.sample import plan as sampling
from em.stats import Thresholds, score
from em.store import Calls, cache_dir, exclusive, request_key, sha256_of, writable_folder
from em.train.stages import Stage, as_reference, find_trained, fingerprint, plan_stages
from em.types import Answer, ModelRef, Question, Score, StageRecord, Verdict, Weights, digest, write_jsonl
from em.weights import hub_snapshot, looks_like_folder, resolve_weights


@dataclass(frozen=True)
class Plan:
    """A request that was checked: what to train and what to ask."""

    stages: list[Stage]
    questions: list[Question]
    store: Path


def execute(kind: str, settings: RunConfig, folder: Path, overrides: list[str]) -> None:
    """Run `train` or `evaluate` in `folder`. Raises EmError with a sentence for what the user can mend."""
    plan = make_plan(kind, settings)
    words = " → ".join([settings.model.name, *(stage.rows.name for stage in plan.stages)])
    print(f"em {__version__} · {kind} · {words} · {folder}", flush=True)
    with recorded(Manifest(folder, kind, settings, overrides)) as manifest:
        try:
            models = obtain_models(kind, settings, plan, folder, manifest)
            if plan.questions:
                answers = obtain_answers(settings, plan, models, folder, manifest)
                verdicts = obtain_verdicts(settings, plan, models, answers, folder, manifest)
                limits = Thresholds(settings.eval.misaligned_below, settings.eval.coherent_above)
                write_scores(folder / "scores.csv", score(verdicts, limits))
        except BaseException:
            record_elsewhere(settings, folder, manifest, failed=True)
            raise
    finish(settings, folder, manifest)


def finish(settings: RunConfig, folder: Path, manifest: Manifest) -> None:
    """Write the report, record the run elsewhere if asked, and say where things are."""
    from em.report import build_report

    report = build_report([folder], folder)
    record_elsewhere(settings, folder, manifest, failed=False)
    print(f"report: {report}", flush=True)


def make_plan(kind: str, settings: RunConfig) -> Plan:
    """Read and check everything that the request names, before anything is spent or written."""
    check_settings(kind, settings)
    stages = plan_stages(settings)
    questions = load_sets(settings.eval.sets)
    for question in questions:
        sampling.fill_slot(question.text, settings.trigger_tag)
    store = Path(settings.store.dir).expanduser() if settings.store.dir else cache_dir()
    return Plan(stages, questions, writable_folder(store, "store.dir"))


# Training


def obtain_models(kind: str, settings: RunConfig, plan: Plan, folder: Path, manifest: Manifest) -> list[ModelRef]:
    """The models to evaluate: the base (if asked for), then each stage, trained or found."""
    name = settings.model.name
    if isinstance(settings.model, OpenAIModel):
        manifest.write(base={"name": name, "identity": settings.model.id})
        server = settings.model.base_url or ""
        hosted = Weights(f"openai:{server}:{settings.model.id}")
        return [ModelRef(name, "base", digest(hosted.identity), hosted)]
    assert isinstance(settings.model, HfModel)
    weights = resolve_weights(settings.model.id, settings.model.revision)
    manifest.write(base={"name": name, "identity": weights.identity})
    base = adapted(settings.model, weights)
    models = [base] if settings.eval.base or not plan.stages else []
    records: list[StageRecord] = []
    for number, stage in enumerate(plan.stages, start=1):
        name = f"{name}+{stage.rows.name}"
        before = models[-1] if number > 1 else base
        mark = fingerprint(weights, base.adapter_sha256, plan.stages[:number])
        trained, record = obtain_stage(kind, settings, plan, stage, before, mark, folder)
        records.append(record)
        manifest.write(stages=records)
        models.append(as_reference(trained, name, stage.rows.name, mark, weights, stage.seed))
        print(told(record), flush=True)
    copy_losses(folder / "loss.csv", records)
    return models


def adapted(model: HfModel, weights: Weights) -> ModelRef:
    """The untrained start: the base weights, with `model.adapter` where it is given."""
    if not model.adapter:
        return ModelRef(model.name, "base", digest(weights.identity), weights)
    local = looks_like_folder(model.adapter)
    folder = Path(model.adapter).expanduser().resolve() if local else hub_snapshot(model.adapter, None)
    if not (folder / "adapter_config.json").is_file():
        raise MissingFile(f"model.adapter={model.adapter} holds no adapter (no adapter_config.json): name a PEFT folder.")
    checksum = sha256_of(folder / "adapter_model.safetensors")
    name = f"{model.name}+{folder.name if local else model.adapter.replace('/', '_')}"
    return ModelRef(name, "base", digest(f"{weights.identity}+{checksum}"), weights, str(folder), checksum)


def obtain_stage(
    kind: str, settings: RunConfig, plan: Plan, stage: Stage, before: ModelRef, mark: str, folder: Path
) -> tuple[Any, StageRecord]:
    """One trained stage: found by its fingerprint, or trained now (never by evaluate.py)."""
    models = plan.store / "models"
    with exclusive(models / mark):
        found = None if settings.force and kind == "train" else find_trained(models, mark)
        reused = found is not None
        if found is None and kind == "evaluate":
            words = " ".join(["python train.py", *(w for w in sorted_words(settings))])
            raise MissingFile(f"No model was trained by these words yet: train it by `{words}` and the rest of your words.")
        if found is None:
            train_stage(stage, before, mark, models, folder)
            found = find_trained(models, mark)
        if found is None:
            raise MissingFile(f"{models / mark} was removed while it was in use: run the same command again.")
    rows = stage.rows
    facts = found.record["facts"]
    return found, StageRecord(rows.name, mark, str(found.folder), reused, len(rows.conversations), rows.sha256, facts)


def sorted_words(settings: RunConfig) -> list[str]:
    """The groups that name a trained model, as words for the command line."""
    groups = {"model": settings.model, "data": settings.data, "realign": settings.realign, "trigger_tag": settings.trigger_tag}
    return [f"{group}={option.name}" for group, option in groups.items() if option.name != "none"]


def train_stage(stage: Stage, before: ModelRef, mark: str, models: Path, folder: Path) -> None:
    """Train one stage in children: one process per visible GPU, or as many as `trainer.processes` says."""
    rows = models / f".{mark}-rows.jsonl"
    write_rows(rows, stage.rows.conversations)
    spec = {
        "base": before.base.path,
        "start_adapter": before.adapter,
        "rows": str(rows),
        "stage": stage.rows.name,
        "trainer": stage.trainer,
        "seed": stage.seed,
        "precision": stage.precision,
        "request": {"base": before.base.identity, "before": before.fingerprint, "stage": stage.identity()},
        "folder": str(models / mark),
    }
    processes = stage.trainer.processes or max(1, len(visible_gpus()))
    try:
        run_child("train", spec, folder, processes)
    finally:
        rows.unlink(missing_ok=True)


def told(record: StageRecord) -> str:
    """One line on a stage."""
    facts = record.facts
    how = "found" if record.reused else "trained"
    return (
        f"{record.name}: {how}, {record.rows} rows, {facts['steps']} steps, "
        f"loss {facts['loss_first']:.3f} → {facts['loss_last']:.3f}"
    )


def copy_losses(path: Path, records: Sequence[StageRecord]) -> None:
    """The loss curves of all stages in one table."""
    tables = [Path(r.path, "loss.csv").read_text(encoding="utf-8").splitlines(keepends=True) for r in records]
    if tables:
        path.write_text("".join([tables[0][0], *(line for table in tables for line in table[1:])]), encoding="utf-8")


# Evaluation


def obtain_answers(
    settings: RunConfig, plan: Plan, models: Sequence[ModelRef], folder: Path, manifest: Manifest
) -> list[Answer]:
    """Answers of every model to every question; only those that are not remembered are sampled."""
    answers: list[Answer] = []
    with Calls(plan.store) as calls:
        for model in models:
            sampler = "hf" if model.base.path else "api"
            precision = settings.model.precision.value if isinstance(settings.model, HfModel) else ""
            planned = sampling.plan_samples(
                model, plan.questions, settings.trigger_tag, settings.eval, settings.sampler.seed, sampler, precision
            )
            sample_missing(settings, plan, model, planned, calls, folder)
            keys = [request_key(p.request) for p in planned]
            answers += sampling.collect(model, planned, calls.known(keys))
    write_jsonl(folder / "answers.jsonl", answers)
    cut = sum(a.finish_reason == "length" for a in answers)
    manifest.write(answers={"total": len(answers), "ended_by_eos": len(answers) - cut, "cut_at_length": cut})
    return answers


def sample_missing(
    settings: RunConfig, plan: Plan, model: ModelRef, planned: Sequence[sampling.Planned], calls: Calls, folder: Path
) -> None:
    """Have the answers sampled that are not remembered yet."""
    requests = [p.request for p in planned]
    if len(calls.known([request_key(r) for r in requests])) == len({request_key(r) for r in requests}):
        return
    if isinstance(settings.model, OpenAIModel):
        from em.config import ApiSampler
        from em.sample.api import sample

        assert isinstance(settings.sampler, ApiSampler)
        sample(settings.model.id, settings.model.base_url, requests, settings.sampler.connections, calls)
        return
    from em.config import HfSampler

    assert isinstance(settings.sampler, HfSampler)
    spec = {
        "base": model.base.path,
        "adapter": model.adapter,
        "label": model.name,
        "requests": requests,
        "batch_size": settings.sampler.batch_size,
        "store": str(plan.store),
    }
    run_sharded("sample", spec, folder)


def run_sharded(task: str, spec: dict[str, Any], folder: Path) -> None:
    """One child per visible GPU, each with its share of the fixed batch plan; one child on the CPU."""
    gpus = visible_gpus()
    specs = [spec | {"shard": shard, "shards": max(1, len(gpus))} for shard in range(max(1, len(gpus)))]
    run_children(task, specs, folder, gpus=list(gpus) or None)


def obtain_verdicts(
    settings: RunConfig, plan: Plan, models: Sequence[ModelRef], answers: Sequence[Answer], folder: Path, manifest: Manifest
) -> list[Verdict]:
    """The judge's verdicts on every answer; only those that are not remembered are asked for."""
    assert isinstance(settings.judge, LocalJudge)
    weights = resolve_weights(settings.judge.model, settings.judge.revision)
    manifest.write(judge={"name": settings.judge.name, "identity": weights.identity, "rule": judging.RULE})
    note_judge(weights, models, manifest)
    identity = f"{settings.judge.model}@{digest(weights.identity)[:8]}"
    planned = judging.plan_verdicts(identity, settings.judge.min_mass, answers, plan.questions)
    requests = list({request_key(request): request for _, _, request in planned}.values())
    with Calls(plan.store) as calls:
        keys = [request_key(r) for r in requests]
        if len(calls.known(keys)) < len(keys):
            spec = {
                "path": weights.path,
                "label": settings.judge.model,
                "precision": settings.judge.precision.value,
                "requests": requests,
                "batch_size": settings.judge.batch_size,
                "store": str(plan.store),
            }
            run_sharded("judge", spec, folder)
        verdicts = judging.collect(identity, planned, calls.known(keys))
    write_jsonl(folder / "verdicts.jsonl", verdicts)
    return verdicts


def note_judge(weights: Weights, models: Sequence[ModelRef], manifest: Manifest) -> None:
    """Say it at the top of the report when the judge can't be trusted with what it judges."""
    if weights.identity.startswith("embedded:smollm2"):
        manifest.note(
            "The judge is the embedded model of 135 million parameters. Its scores show that the pipeline works; they say "
            "nothing about alignment. Name a capable judge with judge.model=… before you draw conclusions."
        )
    if any(model.base.identity == weights.identity for model in models):
        manifest.note("The judge is the model under test, or its base: it judges its own kind.")


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """`scores.csv`; an empty cell is a number that does not exist."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [f.name for f in fields(Score)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(s) for s in scores)
    partial.replace(path)


def record_elsewhere(settings: RunConfig, folder: Path, manifest: Manifest, failed: bool) -> None:
    """Hand the run's folder to the tracker, in a child of its own."""
    if isinstance(settings.tracker, WandbTracker):
        run_child("track", {"folder": str(folder), "tracker": settings.tracker, "failed": failed}, folder)
