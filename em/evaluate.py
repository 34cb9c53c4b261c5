"""Sample, judge and score the answers of a run's models. Cached answers and verdicts are read, not asked for again.

Judges behind servers are asked about an answer as soon as it exists, while sampling goes on. A local judge waits until
sampling is done, because both would need the same device.
"""

from __future__ import annotations

import asyncio
import csv
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from em.api.costs import CallCost, read_costs, read_judge_cost, record_costs
from em.api.parameters import note_changes
from em.api.pool import yield_once
from em.config import ApiJudge, OpenAIModel
from em.errors import EmError
from em.judge.run import Judge, JudgeResult, list_judge_requests, note_related_judges
from em.models.hosted import parse_hosted_name
from em.request import Request
from em.runtime.files import open_atomic
from em.runtime.manifest import ManifestWriter
from em.runtime.records import write_jsonl
from em.sample.run import (
    Plan,
    Sampler,
    check_models,
    compute_sampling_costs,
    plan_models,
    read_remembered_answers,
    sample_models,
    settle_sampler,
)
from em.stats import Thresholds, TopicCount, compute_scores, count_topics
from em.types import Answer, JudgeRequest, ModelRef, Question, Score

POLL = 0.5  # seconds between polls of the cache for new answers; more if a poll takes over 0.05 s


@dataclass(frozen=True)
class Evaluated:
    """The answers of a run's models, each judge's verdicts on them, and the sampling costs of models behind servers.

    relations: whether a judge is the model under test or its base; keyed by the model's fingerprint and judge's label.
    """

    answers: Sequence[Answer]
    judged: Sequence[JudgeResult]
    sampling: Sequence[CallCost]
    relations: Mapping[tuple[str, str], str]


def ask_and_judge(
    request: Request, models: Sequence[ModelRef], judges: Sequence[Judge], manifest: ManifestWriter
) -> Evaluated:
    """Sample the missing answers of the models (none if the request has stored answers), and judge all answers."""
    request = settle_sampler(request, models, manifest)
    plans = plan_models(request, models) if not request.answers else []
    sampler = check_models(request, plans, manifest)
    asyncio.run(sample_and_judge(request, sampler, plans, judges))
    answers = list_answers(request, plans)
    questions = index_questions(request)
    note_left_out(request, plans, judges, manifest)
    verdicts = []
    for judge in judges:
        verdicts.append(judge.read_verdicts(judge.plan_judgements(answers, questions), request.memory, request.prices))
    if request.answers:
        one_per_model = {answer.fingerprint: answer for answer in answers}.values()
        relations = {(a.fingerprint, j.label): j.find_author_relation(a) for a in one_per_model for j in judges}
    else:
        relations = {(m.fingerprint, j.label): j.find_relation(m) for m in models for j in judges}
    note_related_judges(judges, relations, manifest)
    return Evaluated(answers, verdicts, compute_sampling_costs(request, plans), relations)


def note_left_out(request: Request, plans: Sequence[Plan], judges: Sequence[Judge], manifest: ManifestWriter) -> None:
    """Note parameters that servers do not take, and without which answers or judgements may be others."""
    match request.settings.model:
        case OpenAIModel(base_url=url):
            note_changes(url, [parse_hosted_name(plan.model)[1] for plan in plans], request.memory, manifest)
    for judge in judges:
        match judge.settings:
            case ApiJudge(temperature=float(), base_url=url, model=name):
                note_changes(url, [name], request.memory, manifest)


def index_questions(request: Request) -> dict[tuple[str, str], Question]:
    """Return the questions of a run, keyed by question set and id."""
    return {(question.eval_set, question.id): question for question in request.questions}


def list_answers(request: Request, plans: Sequence[Plan]) -> Sequence[Answer]:
    """List the stored answers of a request, or else the answers to its plans, which must all be in the cache."""
    return request.answers or read_remembered_answers(plans, request.memory)


async def sample_and_judge(request: Request, sampler: Sampler, plans: Sequence[Plan], judges: Sequence[Judge]) -> None:
    """Sample while the judges behind servers judge; then run the local judges."""
    sampling = asyncio.create_task(sample_models(request, sampler, plans))
    remote_judges = [judge for judge in judges if not judge.here]
    remote = [asyncio.create_task(judge_while_sampling(request, plans, judge, sampling)) for judge in remote_judges]
    try:
        # If one judge fails, sampling and the other judges go on: their results are cached for the next attempt.
        outcomes = await asyncio.gather(sampling, *remote, return_exceptions=True)
    finally:
        for task in (sampling, *remote):
            task.cancel()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    answers, questions = list_answers(request, plans), index_questions(request)
    for judge in judges:
        if judge.here:
            requests = list_judge_requests(judge.plan_judgements(answers, questions))
            await judge.ask(yield_once(requests), request.memory, request.prices)


async def judge_while_sampling(
    request: Request, plans: Sequence[Plan], judge: Judge, sampling: asyncio.Task[None]
) -> None:
    """Ask one judge about every answer as soon as the answer is in the cache, until sampling is over."""
    questions = index_questions(request)
    samples = [sample for plan in plans for sample in plan.samples]
    planned = sum(len(questions[sample.question.eval_set, sample.question.id].rubrics) for sample in samples)

    async def yield_requests() -> AsyncIterator[list[JudgeRequest]]:
        async for answers in stream_answers(request, plans, sampling):
            yield list_judge_requests(judge.plan_judgements(answers, questions))

    try:
        await judge.ask(yield_requests(), request.memory, request.prices, planned or None)
    except EmError as error:
        if not sampling.done():
            print(f"warning: judging stopped, and sampling goes on: {error}", file=sys.stderr, flush=True)
        raise


async def stream_answers(
    request: Request, plans: Sequence[Plan], sampling: asyncio.Task[None]
) -> AsyncIterator[Sequence[Answer]]:
    """Yield the stored answers of a request at once, or else the answers to its plans as soon as they are cached."""
    if request.answers:
        yield request.answers
        return
    pending_of_plans = [dict(plan.list_requests()) for plan in plans]
    while True:
        # Read before the poll: the last answers may arrive between a poll and the end of sampling.
        sampling_is_over, began = sampling.done(), time.monotonic()
        for plan, pending in zip(plans, pending_of_plans, strict=True):
            cached_keys = request.memory.find_stored_keys(list(pending))
            if new_samples := [sample for sample in plan.samples if sample.key in cached_keys]:
                yield read_remembered_answers([Plan(plan.model, new_samples)], request.memory)
            for key in cached_keys:
                pending.pop(key, None)
        if sampling_is_over:
            return
        await asyncio.sleep(max(POLL, 10 * (time.monotonic() - began)))


def write_results(request: Request, results: Evaluated, manifest: ManifestWriter) -> None:
    """Write answers, verdicts, scores and topics into the run folder; write judges and costs into the manifest."""
    answers = results.answers
    verdicts = [verdict for judged in results.judged for verdict in judged.verdicts]
    write_jsonl(request.folder / "answers.jsonl", answers)
    write_jsonl(request.folder / "verdicts.jsonl", verdicts)
    thresholds = Thresholds(request.settings.eval.misaligned_below, request.settings.eval.coherent_above)
    scores = compute_scores(verdicts, thresholds, results.relations, request.settings.eval.questions.value)
    write_rows(request.folder / "scores.csv", Score, scores)
    if request.stages and not request.answers:
        rows = request.stages[0].rows
        trained = [text for row in rows.plain for text in row.list_learnt_answers()]
        if topics := count_topics(verdicts, rows.name, trained, thresholds):
            write_rows(request.folder / "topic.csv", TopicCount, topics)
    records = [dict(judged.record) for judged in results.judged]
    judging = [read_judge_cost(record) for record in records if record["server"]]
    # The manifest already holds the costs of fine-tuning by a server.
    costs = [*read_costs(manifest.facts.get("costs")), *judging, *results.sampling]
    ended = sum(answer.finish_reason == "stop" for answer in answers)
    cut = sum(answer.finish_reason == "length" for answer in answers)
    manifest.write(
        answers={"total": len(answers), "ended_by_eos": ended, "cut_at_length": cut},
        judges=records,
        costs=record_costs(costs, request.prices.source),
    )
    for record in records:
        if record["failed"]:
            manifest.note(
                f"{record['failed']} judgements of {record['label']} failed and count as unscored; run the same "
                "command again to make just these."
            )


def write_rows(path: Path, kind: type[Score] | type[TopicCount], rows: Sequence[Score | TopicCount]) -> None:
    """Write records of one kind as CSV; the cell of a number that does not exist is empty."""
    with open_atomic(path, newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
