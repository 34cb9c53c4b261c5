"""`dry_run=true`: how many calls, tokens and dollars a run would take, without making one.

Tokens of texts that exist are estimated at four characters each (English); an answer that is not there yet counts with
`eval.max_new_tokens`, the most that it can have. What is remembered already costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from em.config import ApiJudge, ApiSampler, Checkpoints, LocalJudge, OpenAIModel, SamplerConfig
from em.hosted import hosted_name
from em.judge.asking import in_reading, known_readings
from em.judging import Judge, judges_of, requests_of
from em.prices import Price, load_prices, price_of, prices_of
from em.request import Request
from em.sampling import Plan, answers_there, plan_models
from em.spending import training_lines
from em.store import Calls, request_key
from em.tuned import models_there, recipe_of
from em.types import Answer, ModelRef, Weights

CHARACTERS = 4  # per token
MASS_CALLS = 11  # of one judgement that is read by `mass`, at most


ANY = ModelRef("", "base", "", Weights("-", "-"))
"""Stands for a model of open weights: how often it is asked does not depend on which it is."""


KEPT = 3  # checkpoints that OpenAI keeps of a job, those of its last epochs


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
    lines = lines_of(request)
    head, *rows = table(lines)
    stages = [f"would train {stage.rows.name} ({len(stage.rows.conversations):,} rows)" for stage in request.stages]
    if isinstance(request.settings.model, OpenAIModel):
        stages = []  # they are calls of a server, like the others
    usd = total_of(lines)
    total = "unknown, for lack of a price (prices=FILE)" if usd is None else f"at most about ${usd:.4f}"
    total = f"total: {total} (prices: {prices_of(request.settings.prices)})"
    return "\n".join([*stages, head, *rows, total, "Nothing was called (dry_run=true)."])


def lines_of(request: Request) -> list[Line]:
    """The rows: fine-tuning by a server, sampling, judging."""
    prices = load_prices(request.settings.prices)
    with Calls(request.store) as calls:
        lines = [*tuning_lines(request, prices), *sampling_lines(request, calls, prices)]
        return lines + judging_lines(request, calls, prices)


def cost_of(request: Request) -> float | None:
    """What a run costs at most, in dollars; None where a price is not known."""
    return total_of(lines_of(request))


def total_of(lines: Sequence[Line]) -> float | None:
    """Dollars of all rows; None where one is not known."""
    known = [line.usd for line in lines if line.usd is not None]
    return sum(known) if len(known) == len(lines) else None


def table(lines: Sequence[Line]) -> list[str]:
    """The rows as text, below a head."""
    head = f"{'':44} {'calls':>9} {'known':>9} {'tokens in':>12} {'tokens out':>12} {'dollars':>10}"
    return [
        head,
        *(
            f"{line.what[:44]:44} {line.calls:>9,} {line.known:>9,} {line.prompt_tokens:>12,} {line.reply_tokens:>12,} "
            f"{'unknown' if line.usd is None else f'{line.usd:.4f}':>10}"
            for line in lines
        ),
    ]


def tuning_lines(request: Request, prices: Mapping[str, Price]) -> list[Line]:
    """What fine-tuning by a server would take, by stage."""
    if not isinstance(request.settings.model, OpenAIModel):
        return []
    return [
        Line(f"fine-tuning on {each.name} ({each.rows:,} rows)", 1, int(each.known), each.tokens, 0, each.usd)
        for each in training_lines(request, prices)
    ]


def count_models(request: Request) -> int:
    """How many models are asked, at most."""
    models = 1 + len(request.stages) if request.settings.eval.base else max(1, len(request.stages))
    if isinstance(request.settings.model, OpenAIModel) and request.settings.checkpoints is Checkpoints.all:
        models += sum(min(recipe_of(stage).epochs, KEPT) - 1 for stage in request.stages)
    return models


def hosted_plans(request: Request) -> list[Plan]:
    """The plans of a server's models that are there and are to be asked: the base, and stages that are remembered."""
    there = models_there(request)[: 1 if request.forced else None]
    asked = there if request.settings.eval.base or not request.stages else there[1:]
    return plan_models(request, asked)


def sampling_lines(request: Request, calls: Calls, prices: Mapping[str, Price]) -> list[Line]:
    """What sampling would take; of a server's models one line each, known by what is remembered."""
    settings = request.settings
    if request.answers or not request.questions:
        return []
    models, plan = count_models(request), plan_models(request, [ANY])[0]
    wanted = len(plan.samples)
    prompt = sum(sum(len(m.content) for m in p.request.messages) for p in plan.samples) // CHARACTERS
    reply = settings.eval.max_new_tokens
    if not isinstance(settings.model, OpenAIModel):
        what = f"answers of {settings.model.name} ({models} models)"
        return [Line(what, models * wanted, 0, models * prompt, models * wanted * reply, 0.0)]
    there = hosted_plans(request)
    lines = []
    for number in range(models):
        known, name, label = 0, f"ft:{settings.model.id}", "a model to come"
        if number < len(there):
            known = len(calls.there(list(there[number].requests())))
            name, label = hosted_name(there[number].model)[1], there[number].model.name
        price, left = price_of(name, prices), wanted - known
        tokens = round(prompt * left / wanted), left * reply
        usd = price.cost(*tokens, share=half(settings.sampler)) if price else None
        lines.append(Line(f"answers of {label}", wanted, known, *tokens, usd))
    return lines


def half(sampler: SamplerConfig) -> float:
    """The share of the price that is paid."""
    return 0.5 if isinstance(sampler, ApiSampler) and sampler.batch else 1.0


def judging_lines(request: Request, calls: Calls, prices: Mapping[str, Price]) -> list[Line]:
    """What judging would take, by judge."""
    if not request.questions:
        return []
    return [judging_line(request, settings, calls, prices) for settings in judges_of(request.settings.judge)]


def judging_line(request: Request, settings: LocalJudge | ApiJudge, calls: Calls, prices: Mapping[str, Price]) -> Line:
    """One judge's row: judgements of answers that are there, and of those that are still to be sampled."""
    wanted, prompt = unsampled(request, calls)
    questions = {(q.eval_set, q.id): q for q in request.questions}
    if isinstance(settings, LocalJudge):
        wanted += sum(len(questions[a.eval_set, a.question_id].rubrics) for a in request.answers)
        return Line(f"verdicts of {settings.model}", wanted, 0, prompt, 0, 0.0)
    there = request.answers or answers_known(request, calls)
    asked = dict.fromkeys(requests_of(Judge(settings, hidden=request.hidden).plan(there, questions)))
    readings = known_readings(settings, calls)
    keys = {r: request_key(in_reading(settings, r, readings.get(bool(r.labels), "learn"))) for r in asked}
    known = calls.there(list(keys.values()))
    left = [r for r, key in keys.items() if key not in known]
    prompt += sum(len(r.prompt) for r in left) // CHARACTERS
    reading = readings.get(False, "")
    calls_each = MASS_CALLS if reading == "mass" else 1
    reply = (wanted + len(left)) * calls_each * reply_tokens(settings, reading)
    price = price_of(settings.model, prices)
    usd = None if price is None else price.cost(prompt * calls_each, reply) / (2 if settings.batch else 1)
    everything = wanted + len(asked)
    return Line(f"verdicts of {settings.model}", everything, len(asked) - len(left), prompt * calls_each, reply, usd)


def reply_tokens(settings: ApiJudge, reading: str) -> int:
    """The most tokens of a judge's reply: one where they are read by probabilities, else as many as it may think."""
    if reading in ("logprobs", "mass"):
        return 1
    return settings.samples * settings.max_reply_tokens


def answers_known(request: Request, calls: Calls) -> list[Answer]:
    """The answers of a server's models that are remembered; whose weights those of open models are, training tells."""
    if not isinstance(request.settings.model, OpenAIModel):
        return []
    found = []
    for plan in hosted_plans(request):
        there = calls.there(list(plan.requests()))
        found += answers_there([Plan(plan.model, [p for p in plan.samples if p.key in there])], calls)
    return found


def unsampled(request: Request, calls: Calls) -> tuple[int, int]:
    """Judgements of answers that may not be there yet, and the tokens of their prompts."""
    settings = request.settings
    if request.answers:
        return 0, 0
    plans = hosted_plans(request) if isinstance(settings.model, OpenAIModel) else []
    plans += plan_models(request, [ANY] * (count_models(request) - len(plans)))
    number = tokens = 0
    for plan in plans:
        there = calls.there(list(plan.requests())) if plan.model is not ANY else set[str]()
        for planned in plan.samples:
            if planned.key in there:
                continue
            for rubric in planned.question.rubrics:
                number += 1
                characters = len(rubric.prompt) + len(planned.question.text) + len(planned.question.reference)
                tokens += characters // CHARACTERS + settings.eval.max_new_tokens
    return number, tokens
