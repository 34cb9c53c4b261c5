"""Answers, verdicts and scores of a run's models: what is remembered is read, the rest is sampled and judged now."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from em.children import run_children, visible_gpus, where
from em.config import ApiSampler, HfModel, HfSampler, LocalJudge, OpenAIModel
from em.judge import plan as judging
from em.manifest import Manifest
from em.request import Request
from em.sample import plan as sampling
from em.store import Calls, request_key
from em.types import Answer, ModelRef, SampleRequest, Score, Verdict, Weights, digest, write_jsonl
from em.weights import resolve_weights


def obtain_answers(request: Request, models: Sequence[ModelRef], manifest: Manifest) -> list[Answer]:
    """Answers of every model to every question under every condition, also written to `answers.jsonl`."""
    settings, answers = request.settings, list[Answer]()
    precision = where(settings.model.precision.value) if isinstance(settings.model, HfModel) else ""
    with Calls(request.store) as calls:
        for model in models:
            sampler = "hf" if model.base.path else "api"
            planned = sampling.plan_samples(
                model, request.questions, settings.trigger_tag, settings.eval, settings.sampler.seed, sampler, precision
            )
            wanted = {request_key(p.request): p.request for p in planned}
            keys = list(wanted)
            if len(calls.known(keys)) < len(keys):
                sample_missing(request, model, list(wanted.values()), calls)
            answers += sampling.collect(model, planned, calls.known(keys))
    write_jsonl(request.folder / "answers.jsonl", answers)
    ended = sum(a.finish_reason == "stop" for a in answers)
    cut = sum(a.finish_reason == "length" for a in answers)
    manifest.write(answers={"total": len(answers), "ended_by_eos": ended, "cut_at_length": cut})
    return answers


def sample_missing(request: Request, model: ModelRef, wanted: Sequence[SampleRequest], calls: Calls) -> None:
    """Have the answers written that are not remembered yet."""
    sampler = request.settings.sampler
    match request.settings.model:
        case OpenAIModel(id=name, base_url=base_url):
            from em.sample.api import sample

            assert isinstance(sampler, ApiSampler)
            sample(name, base_url, wanted, sampler.connections, calls)
        case _:
            assert isinstance(sampler, HfSampler)
            spec = {
                "base": model.base.path,
                "trained": model.trained,
                "default_system": model.default_system,
                "label": model.name,
                "requests": wanted,
                "batch_size": sampler.batch_size,
                "store": str(request.store),
            }
            run_sharded("sample", spec)


def run_sharded(task: str, spec: dict[str, Any]) -> None:
    """One child per visible GPU, each with its share of the fixed batch plan; one child on the CPU."""
    gpus = visible_gpus()
    shards = max(1, len(gpus))
    specs = [spec | {"shard": shard, "shards": shards} for shard in range(shards)]
    run_children(task, specs, gpus=list(gpus) or None)


def obtain_judge(request: Request, manifest: Manifest) -> Weights:
    """The judge's weights; asked for first, so that a judge that can't be had is known before anything is trained."""
    judge = request.settings.judge
    assert isinstance(judge, LocalJudge)
    weights = resolve_weights(judge.model, judge.revision)
    manifest.write(judge={"name": judge.name, "identity": weights.identity, "rule": judging.RULE})
    return weights


def obtain_verdicts(
    request: Request, weights: Weights, models: Sequence[ModelRef], answers: Sequence[Answer], manifest: Manifest
) -> list[Verdict]:
    """The judge's verdicts on every answer, also written to `verdicts.jsonl`."""
    judge = request.settings.judge
    assert isinstance(judge, LocalJudge)
    note_judge(weights, models, manifest)
    name = f"{judge.model}@{digest(weights.identity)[:8]}"
    precision = where(judge.precision.value)
    planned = judging.plan_verdicts(name, judge.min_mass, answers, request.questions, precision)
    wanted = list({request_key(r): r for answer, _, r in planned if judging.given(answer)}.values())
    keys = [request_key(r) for r in wanted]
    with Calls(request.store) as calls:
        if len(calls.known(keys)) < len(keys):
            spec = {
                "path": weights.path,
                "label": judge.model,
                "precision": judge.precision.value,
                "requests": wanted,
                "batch_size": judge.batch_size,
                "store": str(request.store),
            }
            run_sharded("judge", spec)
        verdicts = judging.collect(name, planned, calls.known(keys))
    write_jsonl(request.folder / "verdicts.jsonl", verdicts)
    return verdicts


def note_judge(weights: Weights, models: Sequence[ModelRef], manifest: Manifest) -> None:
    """Say it at the top of the report when the judge can't be trusted with what it judges."""
    if weights.identity.startswith("embedded:"):
        manifest.note(
            "The judge is the embedded model of 135 million parameters. Its scores show that the pipeline works; they "
            "say nothing about alignment. Name a capable judge with judge.model=… before you draw conclusions."
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
