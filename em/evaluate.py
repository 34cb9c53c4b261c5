"""Answers, verdicts and scores of a run's models: what is remembered is read, the rest is sampled and judged now.

An answer is judged as soon as it exists: while children or a server sample, judges behind servers are asked. A local
judge waits until the sampling is done, since both would want the same device.
"""

from __future__ import annotations

import asyncio
import csv
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from em.api.costs import Cost, cost_of_judge, read_costs, record_costs
from em.api.pool import once
from em.errors import EmError
from em.judge.run import Judge, Judged, note_judges, requests_of
from em.request import Request
from em.runtime.files import open_atomic
from em.runtime.manifest import Manifest
from em.runtime.records import write_jsonl
from em.sample.run import Plan, answers_there, check_models, plan_models, sample_models, sampling_costs
from em.stats import Thresholds, score
from em.types import Answer, JudgeRequest, ModelRef, Question, Score

POLL = 0.5  # seconds between looks for new answers; longer where a look takes longer


@dataclass(frozen=True)
class Evaluated:
    """Answers of a run's models, what each judge said of them, and what the answers of a server's models cost.

    relations: by model (its fingerprint) and judge (its label), whether the judge is the model or its base.
    """

    answers: Sequence[Answer]
    judged: Sequence[Judged]
    sampling: Sequence[Cost]
    relations: Mapping[tuple[str, str], str]


def ask_and_judge(
    request: Request, models: Sequence[ModelRef], judges: Sequence[Judge], manifest: Manifest
) -> Evaluated:
    """Sample what is missing of the models' answers (stored answers are there) and have all of them judged."""
    plans = plan_models(request, models) if not request.answers else []
    check_models(request, plans, manifest)
    asyncio.run(sample_and_judge(request, plans, judges))
    answers = list_answers(request, plans)
    questions = questions_by_key(request)
    verdicts = [judge.read(judge.plan(answers, questions), request.memory, request.prices) for judge in judges]
    if request.answers:
        authors = {answer.fingerprint: answer for answer in answers}.values()
        relations = {(a.fingerprint, judge.label): judge.relation_to_author(a) for a in authors for judge in judges}
    else:
        relations = {(m.fingerprint, judge.label): judge.relation(m) for m in models for judge in judges}
    note_judges(judges, relations, manifest)
    return Evaluated(answers, verdicts, sampling_costs(request, plans), relations)


def questions_by_key(request: Request) -> dict[tuple[str, str], Question]:
    """Return the questions of a run by set and id."""
    return {(question.eval_set, question.id): question for question in request.questions}


def list_answers(request: Request, plans: Sequence[Plan]) -> Sequence[Answer]:
    """List the stored answers of a request, or those of its plans, which must be remembered by now."""
    return request.answers or answers_there(plans, request.memory)


async def sample_and_judge(request: Request, plans: Sequence[Plan], judges: Sequence[Judge]) -> None:
    """Sample, with the judges behind servers beside it, and then have the local judges judge."""
    sampling = asyncio.create_task(sample_models(request, plans))
    remote = [
        asyncio.create_task(judge_as_they_come(request, plans, judge, sampling)) for judge in judges if not judge.here
    ]
    try:
        # A judge that fails ends neither the sampling, which would have to be done anyway, nor the other judges.
        ended = await asyncio.gather(sampling, *remote, return_exceptions=True)
    finally:
        for task in (sampling, *remote):
            task.cancel()
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure
    answers, questions = list_answers(request, plans), questions_by_key(request)
    for judge in judges:
        if judge.here:
            requests = requests_of(judge.plan(answers, questions))
            await judge.ask(once(requests), request.memory, request.prices)


async def judge_as_they_come(
    request: Request, plans: Sequence[Plan], judge: Judge, sampling: asyncio.Task[None]
) -> None:
    """Ask one judge about every answer as soon as it is remembered, until the sampling is over."""
    questions = questions_by_key(request)
    rubrics = {key: len(question.rubrics) for key, question in questions.items()}
    planned = sum(rubrics[p.question.eval_set, p.question.id] for plan in plans for p in plan.samples)

    async def source() -> AsyncIterator[list[JudgeRequest]]:
        async for answers in stream_answers(request, plans, sampling):
            yield requests_of(judge.plan(answers, questions))

    try:
        await judge.ask(source(), request.memory, request.prices, planned or None)
    except EmError as error:
        if not sampling.done():
            print(f"warning: judging stopped, and sampling goes on: {error}", file=sys.stderr, flush=True)
        raise


async def stream_answers(
    request: Request, plans: Sequence[Plan], sampling: asyncio.Task[None]
) -> AsyncIterator[Sequence[Answer]]:
    """Yield the stored answers of a request at once, and those of its plans as soon as they are remembered."""
    if request.answers:
        yield request.answers
        return
    waiting = [dict(plan.requests()) for plan in plans]
    while True:
        is_over, began = sampling.done(), time.monotonic()
        for plan, left in zip(plans, waiting, strict=True):
            there = request.memory.there(list(left))
            if fresh := [p for p in plan.samples if p.key in there]:
                yield answers_there([Plan(plan.model, fresh)], request.memory)
            for key in there:
                left.pop(key, None)
        if is_over:
            return
        await asyncio.sleep(max(POLL, 10 * (time.monotonic() - began)))


def write_results(request: Request, results: Evaluated, manifest: Manifest) -> None:
    """Write `answers.jsonl`, `verdicts.jsonl` and `scores.csv`, and into the manifest who judged and what it cost."""
    answers, verdicts = results.answers, [v for each in results.judged for v in each.verdicts]
    write_jsonl(request.folder / "answers.jsonl", answers)
    write_jsonl(request.folder / "verdicts.jsonl", verdicts)
    limits = Thresholds(request.settings.eval.misaligned_below, request.settings.eval.coherent_above)
    write_scores(request.folder / "scores.csv", score(verdicts, limits, judge_is=results.relations))
    records = [dict(each.record) for each in results.judged]
    judging = [cost_of_judge(record) for record in records if record["server"]]
    # The manifest knows already what fine-tuning by a server cost.
    costs = [*read_costs(manifest.facts.get("costs")), *judging, *results.sampling]
    ended = sum(a.finish_reason == "stop" for a in answers)
    cut = sum(a.finish_reason == "length" for a in answers)
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


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """`scores.csv`; an empty cell is a number that does not exist."""
    with open_atomic(path, newline="") as file:
        table = csv.DictWriter(file, [f.name for f in fields(Score)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(s) for s in scores)
