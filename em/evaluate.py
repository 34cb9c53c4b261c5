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
from typing import Any

from em.api.pool import once
from em.api.prices import Price, load_prices, prices_of
from em.config import OpenAIModel
from em.errors import EmError
from em.judge.plan import Asked
from em.judge.run import Judge, Judged, note_judges, requests_of
from em.request import Request
from em.runtime.files import open_atomic
from em.runtime.manifest import Manifest
from em.runtime.memory import Calls
from em.runtime.records import write_jsonl
from em.sample.run import Plan, answers_there, check_models, plan_models, sample_models, sampling_costs
from em.stats import Thresholds, score
from em.types import Answer, JudgeRequest, ModelRef, Question, Score, Verdict

POLL = 0.5  # seconds between looks for new answers; longer where a look takes longer
Questions = Mapping[tuple[str, str], Question]


@dataclass(frozen=True)
class Evaluated:
    """All that is known of the models of a run. sampling: what the answers of a server's models cost."""

    answers: Sequence[Answer]
    judged: Sequence[Judged]
    sampling: Sequence[Mapping[str, Any]] = ()

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts of all judges, one judge after the other."""
        return [v for each in self.judged for v in each.verdicts]


def evaluate_models(
    request: Request, models: Sequence[ModelRef], judges: Sequence[Judge], manifest: Manifest
) -> Evaluated:
    """Sample and judge, and write `answers.jsonl`, `verdicts.jsonl` and `scores.csv`."""
    prices = load_prices(request.settings.prices)
    questions = {(q.eval_set, q.id): q for q in request.questions}
    plans = plan_models(request, models)
    check_models(request, plans, manifest)
    asyncio.run(sample_and_judge(request, plans, judges, questions, prices))
    with Calls(request.store) as calls:
        answers = answers_there(plans, calls)
        results = [judge.read(judge.plan(answers, questions), calls, prices) for judge in judges]
        hosted = isinstance(request.settings.model, OpenAIModel)
        done = Evaluated(answers, results, sampling_costs(plans, calls, prices) if hosted else [])
    relations = {(m.fingerprint, judge.label): judge.relation(m) for m in models for judge in judges}
    note_judges(judges, relations, manifest)
    keep(request, done, relations, manifest)
    return done


def evaluate_answers(request: Request, judges: Sequence[Judge], manifest: Manifest) -> Evaluated:
    """Judge the stored answers of the request, and write the same files."""
    prices, answers = load_prices(request.settings.prices), request.answers
    questions = {(q.eval_set, q.id): q for q in request.questions}
    asked = [judge.plan(answers, questions) for judge in judges]
    asyncio.run(judge_stored(request, judges, asked, prices))
    with Calls(request.store) as calls:
        found = [judge.read(each, calls, prices) for judge, each in zip(judges, asked, strict=True)]
    done = Evaluated(answers, found)
    authors = {answer.fingerprint: answer for answer in answers}.values()
    relations = {(a.fingerprint, judge.label): judge.relation_to_author(a) for a in authors for judge in judges}
    note_judges(judges, relations, manifest)
    keep(request, done, relations, manifest)
    return done


async def sample_and_judge(
    request: Request, plans: Sequence[Plan], judges: Sequence[Judge], questions: Questions, prices: Mapping[str, Price]
) -> None:
    """Sampling and the judges behind servers side by side, local judges after them."""
    sampling = asyncio.create_task(sample_models(request, plans, prices))
    hosted = [
        asyncio.create_task(judge_as_they_come(request, plans, judge, questions, prices, sampling))
        for judge in judges
        if not judge.here
    ]
    try:
        # A judge that fails does not end the sampling, which would have to be done anyway.
        ended = await asyncio.gather(sampling, *hosted, return_exceptions=True)
    finally:
        for task in (sampling, *hosted):
            task.cancel()
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure
    with Calls(request.store) as calls:
        answers = answers_there(plans, calls)
    for judge in judges:
        if judge.here:
            await judge.ask(once(requests_of(judge.plan(answers, questions))), request.store, prices)


async def judge_as_they_come(
    request: Request,
    plans: Sequence[Plan],
    judge: Judge,
    questions: Questions,
    prices: Mapping[str, Price],
    sampling: asyncio.Task[None],
) -> None:
    """Ask one judge about every answer as soon as it is remembered, until the sampling is over."""
    waiting = [dict(plan.requests()) for plan in plans]
    rubrics = {key: len(question.rubrics) for key, question in questions.items()}
    planned = sum(rubrics[p.question.eval_set, p.question.id] for plan in plans for p in plan.samples)

    async def source(calls: Calls) -> AsyncIterator[list[JudgeRequest]]:
        while True:
            over, began = sampling.done(), time.monotonic()
            for plan, left in zip(plans, waiting, strict=True):
                there = calls.there(list(left))
                fresh = [p for p in plan.samples if p.key in there]
                if fresh:
                    found = answers_there([Plan(plan.model, fresh)], calls)
                    yield requests_of(judge.plan(found, questions))
                for key in there:
                    left.pop(key, None)
            if over:
                return
            await asyncio.sleep(max(POLL, 10 * (time.monotonic() - began)))

    with Calls(request.store) as calls:
        try:
            await judge.ask(source(calls), request.store, prices, planned)
        except EmError as error:
            if not sampling.done():
                print(f"warning: judging stopped, and sampling goes on: {error}", file=sys.stderr, flush=True)
            raise


async def judge_stored(
    request: Request, judges: Sequence[Judge], asked: Sequence[Sequence[Asked]], prices: Mapping[str, Price]
) -> None:
    """All judges on answers that are there; those behind servers side by side."""
    pairs = list(zip(judges, asked, strict=True))
    asking = [judge.ask(once(requests_of(each)), request.store, prices) for judge, each in pairs if not judge.here]
    # One judge that fails must not cost the others what they have under way.
    ended = await asyncio.gather(*asking, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure
    for judge, each in pairs:
        if judge.here:
            await judge.ask(once(requests_of(each)), request.store, prices)


def keep(
    request: Request,
    done: Evaluated,
    relations: Mapping[tuple[str, str], str],
    manifest: Manifest,
) -> None:
    """Write the run's files, and into the manifest who judged and what it cost."""
    verdicts, evaluation = done.verdicts, request.settings.eval
    write_jsonl(request.folder / "answers.jsonl", done.answers)
    write_jsonl(request.folder / "verdicts.jsonl", verdicts)
    limits = Thresholds(evaluation.misaligned_below, evaluation.coherent_above)
    write_scores(request.folder / "scores.csv", score(verdicts, limits, judge_is=relations))
    records = [dict(each.record) for each in done.judged]
    ended = sum(a.finish_reason == "stop" for a in done.answers)
    cut = sum(a.finish_reason == "length" for a in done.answers)
    manifest.write(
        answers={"total": len(done.answers), "ended_by_eos": ended, "cut_at_length": cut},
        judges=records,
        costs=costs(manifest, records, done.sampling, prices_of(request.settings.prices)),
    )
    for record in records:
        if record["failed"]:
            manifest.note(
                f"{record['failed']} judgements of {record['label']} failed and count as unscored; run the same "
                "command again to make just these."
            )


def costs(
    manifest: Manifest, records: Sequence[dict[str, Any]], sampling: Sequence[Mapping[str, Any]], prices: str
) -> dict[str, Any]:
    """What the calls of servers cost, whenever they were made: by model, and in all where every price is known.

    The manifest knows already what fine-tuning by a server cost.

    Args:
        prices: which prices they are.
    """
    keys = ("model", "calls", "prompt_tokens", "reply_tokens", "usd")
    rows: list[dict[str, Any]] = [*manifest.facts.get("costs", {}).get("by", [])]
    rows += [{"what": "judging"} | {key: r[key] for key in keys} for r in records if r["server"]]
    rows += [dict(each) for each in sampling]
    known = [row["usd"] for row in rows if row["usd"] is not None]
    total = round(sum(known), 6) if len(known) == len(rows) else None
    return {"total_usd": total, "by": rows, "prices": prices}


def write_scores(path: Path, scores: Sequence[Score]) -> None:
    """`scores.csv`; an empty cell is a number that does not exist."""
    with open_atomic(path, newline="") as file:
        table = csv.DictWriter(file, [f.name for f in fields(Score)], lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(s) for s in scores)
