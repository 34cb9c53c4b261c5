"""`dry_run=true`: how many calls, tokens and dollars a run would take, without making one.

Tokens of texts that exist are estimated at four characters each (English); an answer that is not there yet counts with
`eval.max_new_tokens`, the most that it can have. What is remembered already costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from em.config import ApiJudge, LocalJudge, OpenAIModel
from em.judge.asking import in_reading, known_reading
from em.judging import Judge, judges_of
from em.prices import Price, load_prices, price_of
from em.request import Request
from em.sampling import plan_models
from em.store import Calls, request_key
from em.train.obtain import hosted_model
from em.types import ModelRef, Question, Weights

CHARACTERS = 4  # per token
REPLY = {"logprobs": 1, "mass": 3, "structured": 20, "sampled": 4, "exact": 0, "": 4}
"""Tokens of a judge's reply by the way of reading, without reasoning."""


ANY = ModelRef("", "base", "", Weights("-", "-"))
"""Stands for a model of open weights: how often it is asked does not depend on which it is."""


@dataclass(frozen=True)
class Line:
    """One row of the estimate."""

    what: str
    calls: int
    known: int
    prompt_tokens: int
    reply_tokens: int
    usd: float | None


def estimate(request: Request) -> str:
    """The estimate as a table."""
    prices = load_prices(request.settings.prices)
    with Calls(request.store) as calls:
        lines = [*sampling_lines(request, calls, prices), *judging_lines(request, calls, prices)]
    head = f"{'':44} {'calls':>9} {'known':>9} {'tokens in':>12} {'tokens out':>12} {'dollars':>10}"
    rows = [
        f"{line.what[:44]:44} {line.calls:>9,} {line.known:>9,} {line.prompt_tokens:>12,} {line.reply_tokens:>12,} "
        f"{'unknown' if line.usd is None else f'{line.usd:.4f}':>10}"
        for line in lines
    ]
    stages = [f"would train {stage.rows.name} ({len(stage.rows.conversations):,} rows)" for stage in request.stages]
    if any(line.usd is None for line in lines):
        total = "total: unknown, for lack of a price (prices=FILE)"
    else:
        total = f"total: at most about ${sum(line.usd or 0 for line in lines):.4f}"
    return "\n".join([*stages, head, *rows, total, "Nothing was called (dry_run=true)."])


def sampling_lines(request: Request, calls: Calls, prices: Mapping[str, Price]) -> list[Line]:
    """What sampling would take, for models that are there without training: the base, or a server's model."""
    settings = request.settings
    if request.answers or not request.questions:
        return []
    models = 1 + len(request.stages) if settings.eval.base else max(1, len(request.stages))
    hosted = isinstance(settings.model, OpenAIModel)
    model = hosted_model(settings.model) if isinstance(settings.model, OpenAIModel) else ANY
    plan = plan_models(request, [model])[0]
    known = len(calls.known(list(plan.requests()))) if hosted else 0
    wanted = models * len(plan.samples)
    prompt = models * sum(sum(len(m.content) for m in p.request.messages) for p in plan.samples) // CHARACTERS
    left = (wanted - known) / wanted if wanted else 0.0
    prompt, reply = round(prompt * left), (wanted - known) * settings.eval.max_new_tokens
    price = price_of(settings.model.id, prices)
    usd = None if hosted and price is None else price.cost(prompt, reply) if hosted and price else 0.0
    return [Line(f"answers of {settings.model.name} ({models} models)", wanted, known, prompt, reply, usd)]


def judging_lines(request: Request, calls: Calls, prices: Mapping[str, Price]) -> list[Line]:
    """What judging would take, by judge."""
    if not request.questions:
        return []
    return [judging_line(request, settings, calls, prices) for settings in judges_of(request.settings.judge)]


def judging_line(request: Request, settings: LocalJudge | ApiJudge, calls: Calls, prices: Mapping[str, Price]) -> Line:
    """One judge's row."""
    hosted = isinstance(settings, ApiJudge)
    reading = known_reading(settings, calls) if isinstance(settings, ApiJudge) else "exact"
    questions = {(q.eval_set, q.id): q for q in request.questions}
    known = 0
    if request.answers:
        wanted = sum(len(questions[a.eval_set, a.question_id].rubrics) for a in request.answers)
        characters = sum(
            len(rubric.prompt) + len(a.question) + len(a.answer)
            for a in request.answers
            for rubric in questions[a.eval_set, a.question_id].rubrics
        )
        if isinstance(settings, ApiJudge) and reading:
            asked = Judge(settings).plan(request.answers, questions)
            known = len(calls.known(list({request_key(in_reading(settings, a.request, reading)) for a in asked})))
        prompt = characters // CHARACTERS
    else:
        wanted, prompt = unsampled(request, request.questions)
    left = (wanted - known) / wanted if wanted else 0.0
    samples = settings.samples if isinstance(settings, ApiJudge) else 1
    prompt, reply = round(prompt * left), (wanted - known) * REPLY[reading] * samples
    price = price_of(settings.model, prices)
    usd = 0.0 if not hosted else None if price is None else price.cost(prompt, reply)
    if isinstance(settings, ApiJudge) and settings.batch and usd is not None:
        usd /= 2
    return Line(f"verdicts of {settings.model}", wanted, known, prompt, reply, usd)


def unsampled(request: Request, questions: Sequence[Question]) -> tuple[int, int]:
    """Judgements of answers that may not be there yet, and the tokens of their prompts."""
    settings = request.settings
    models = 1 + len(request.stages) if settings.eval.base else max(1, len(request.stages))
    plan = plan_models(request, [ANY])[0]
    calls = tokens = 0
    for planned in plan.samples:
        for rubric in planned.question.rubrics:
            calls += models
            characters = len(rubric.prompt) + len(planned.question.text) + len(planned.question.reference)
            tokens += models * (characters // CHARACTERS + settings.eval.max_new_tokens)
    return calls, tokens
