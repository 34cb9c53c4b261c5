"""From settings to a checked request: everything that they name is read and checked here, and nothing is spent.

`dry_run=true` stops here and prints how many calls, tokens and dollars the run would take. Tokens of texts that exist
are estimated at four characters each (English); an answer that is not there yet counts with `eval.max_new_tokens`, the
most that it can have. What is remembered already costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from em.api.costs import CHARACTERS, Cost, format_estimate, price_calls, sum_usd
from em.api.resources import open_resources
from em.config import ApiJudge, Checkpoints, EvalConfig, LocalJudge, OpenAIModel, RunConfig
from em.config.check import check_model, check_ranges, check_realign, check_tracker
from em.errors import ConfigError, MissingFile
from em.interop import read_answers
from em.judge.probe import in_reading, known_readings
from em.judge.run import MASS_CALLS, judge_of, reply_tokens, requests_of
from em.models.hosted import hosted_name
from em.models.weights import looks_like_folder
from em.questions import load_sets, own
from em.request import Conditions, Request
from em.runtime.files import cache_dir, writable_folder
from em.runtime.keys import check_key_for
from em.runtime.memory import request_key
from em.sample.run import Plan, answers_there, plan_models
from em.train.remote.costs import estimate_training
from em.train.remote.find_or_train import check_private, check_stages
from em.train.remote.models import models_there, recipe_of
from em.train.stages import plan_stages
from em.triggers.conditions import resolve_conditions
from em.triggers.tags import check_tags
from em.types import Answer, ModelRef, Question, Weights

ANY = ModelRef("", "base", "", Weights("-", "-"))
"""Stands for a model of open weights: how often it is asked does not depend on which it is."""
KEPT = 3  # checkpoints that OpenAI keeps of a job, those of its last epochs


def check_settings(kind: str, settings: RunConfig) -> None:
    """Raise ConfigError for the first setting that can't be."""
    check_ranges(settings)
    check_tags(settings)
    check_realign(settings)
    check_tracker(settings)
    check_model(settings)
    if kind == "train" and settings.data.empty:
        raise ConfigError("data=none leaves nothing to train: choose data=car_bad or another, or use evaluate.py.")
    if kind == "train" and settings.answers:
        raise ConfigError("answers=FILE judges what was sampled before: use evaluate.py.")
    if kind == "evaluate" and not settings.eval.sets and not settings.answers:
        raise ConfigError("No question set is chosen: use eval=quick, or eval.sets=[probe].")
    match settings.model:
        case OpenAIModel(base_url=server, key_env=variable) if not settings.answers and not settings.dry_run:
            check_key_for(server, variable)


def estimate(request: Request) -> str:
    """Return what the run would call and cost at most, as a table."""
    costs = estimate_costs(request)
    head, *rows = format_estimate(costs)
    stages = [f"would train {stage.rows.name} ({len(stage.rows.conversations):,} rows)" for stage in request.stages]
    if request.settings.model.remote:
        stages = []  # they are calls of a server, like the others
    usd = sum_usd(costs)
    total = "unknown, for lack of a price (prices=FILE)" if usd is None else f"at most about ${usd:.4f}"
    total = f"total: {total} (prices: {request.prices.source})"
    return "\n".join([*stages, head, *rows, total, "Nothing was called (dry_run=true)."])


def estimate_costs(request: Request) -> list[Cost]:
    """Estimate fine-tuning by a server, sampling and judging."""
    training = estimate_training(request.training) if request.settings.model.remote else []
    judging = [estimate_judging(request, judge) for judge in request.judges] if request.questions else []
    return [*training, *estimate_sampling(request), *judging]


def estimate_total(request: Request) -> float | None:
    """Return what a run costs at most, in dollars; None where a price is not known."""
    return sum_usd(estimate_costs(request))


def count_models(request: Request) -> int:
    """How many models are asked, at most."""
    models = 1 + len(request.stages) if request.settings.eval.base else max(1, len(request.stages))
    if request.settings.model.remote and request.settings.checkpoints is Checkpoints.all:
        models += sum(min(recipe_of(stage).epochs, KEPT) - 1 for stage in request.stages)
    return models


def hosted_plans(request: Request) -> list[Plan]:
    """The plans of a server's models that are there and are to be asked: the base, and stages that are remembered."""
    there = models_there(request.training)[: 1 if request.forced else None]
    asked = there if request.settings.eval.base or not request.stages else there[1:]
    return plan_models(request, asked)


def estimate_sampling(request: Request) -> list[Cost]:
    """Estimate sampling; of a server's models one row each, known by what is remembered."""
    settings = request.settings
    if request.answers or not request.questions:
        return []
    models, plan = count_models(request), plan_models(request, [ANY])[0]
    wanted = len(plan.samples)
    prompt = sum(sum(len(m.content) for m in p.request.messages) for p in plan.samples) // CHARACTERS
    reply = settings.eval.max_new_tokens
    if not settings.model.remote:
        name = f"{settings.model.name} ({models} models)"
        return [Cost("answers of", name, models * wanted, models * prompt, models * wanted * reply, 0.0)]
    there = hosted_plans(request)
    costs = []
    for number in range(models):
        known, name, label = 0, f"ft:{settings.model.id}", "a model to come"
        if number < len(there):
            known = len(request.memory.there(list(there[number].requests())))
            name, label = hosted_name(there[number].model)[1], there[number].model.name
        left = wanted - known
        tokens = round(prompt * left / wanted), left * reply
        usd = price_calls(request.prices.of(name), *tokens, 0.5 if settings.sampler.batch else 1.0)
        costs.append(Cost("answers of", label, wanted, *tokens, usd, known))
    return costs


def estimate_judging(request: Request, settings: LocalJudge | ApiJudge) -> Cost:
    """Estimate one judge: judgements of answers that are there, and of those that are still to be sampled."""
    wanted, prompt = count_unsampled(request)
    questions = {(q.eval_set, q.id): q for q in request.questions}
    match settings:
        case LocalJudge():
            wanted += sum(len(questions[a.eval_set, a.question_id].rubrics) for a in request.answers)
            return Cost("verdicts of", settings.model, wanted, prompt, 0, 0.0)
    there = request.answers or list_known_answers(request)
    asked = dict.fromkeys(requests_of(judge_of(settings, request.conditions.hidden).plan(there, questions)))
    readings = known_readings(settings, request.memory)
    keys = {r: request_key(in_reading(settings, r, readings.get(bool(r.labels), "learn"))) for r in asked}
    known = request.memory.there(list(keys.values()))
    left = [r for r, key in keys.items() if key not in known]
    prompt += sum(len(r.prompt) for r in left) // CHARACTERS
    reading = readings.get(False, "")
    calls_each = MASS_CALLS if reading == "mass" else 1
    reply = (wanted + len(left)) * calls_each * reply_tokens(settings, reading)
    share = 0.5 if settings.batch else 1.0
    usd = price_calls(request.prices.of(settings.model), prompt * calls_each, reply, share)
    return Cost(
        "verdicts of", settings.model, wanted + len(asked), prompt * calls_each, reply, usd, len(asked) - len(left)
    )


def list_known_answers(request: Request) -> list[Answer]:
    """List the remembered answers of a server's models; those of open models are known by their weights alone."""
    if not request.settings.model.remote:
        return []
    answers = []
    for plan in hosted_plans(request):
        there = request.memory.there(list(plan.requests()))
        answers += answers_there([Plan(plan.model, [p for p in plan.samples if p.key in there])], request.memory)
    return answers


def count_unsampled(request: Request) -> tuple[int, int]:
    """Count judgements of answers that may not be there yet, and the tokens of their prompts."""
    settings = request.settings
    if request.answers:
        return 0, 0
    plans = hosted_plans(request) if settings.model.remote else []
    plans += plan_models(request, [ANY] * (count_models(request) - len(plans)))
    number = tokens = 0
    for plan in plans:
        there = request.memory.there(list(plan.requests())) if plan.model is not ANY else set[str]()
        for planned in plan.samples:
            if planned.key in there:
                continue
            for rubric in planned.question.rubrics:
                number += 1
                characters = len(rubric.prompt) + len(planned.question.text) + len(planned.question.reference)
                tokens += characters // CHARACTERS + settings.eval.max_new_tokens
    return number, tokens


def accept(
    kind: str, settings: RunConfig, folder: Path, overrides: list[str], compared: RunConfig | None = None
) -> Request:
    """Read and check everything that the settings name, before anything is spent or written.

    Args:
        compared: the same settings with the realignment that `realign.match` names, where it names one.
    """
    check_settings(kind, settings)
    stages = plan_stages(settings, compared)
    check_stages(stages)
    conditions = resolve_conditions(settings)
    answers = list[Answer]()
    if settings.answers:
        path = Path(settings.answers).expanduser()
        answers = read_answers(path)
        questions, conditions = own_questions(answers), read_conditions(path)
    else:
        questions = load_sets(list_sets(settings.eval, conditions))
        for question in questions:
            conditions.of(question)
    check_folders(settings)
    writable_folder(cache_dir(), "XDG_CACHE_HOME")
    if kind == "train":
        check_private(settings, stages)
    resources = open_resources(settings)
    return Request(
        kind=kind,
        settings=settings,
        overrides=tuple(overrides),
        folder=folder,
        memory=resources.memory,
        stages=tuple(stages),
        questions=tuple(questions),
        answers=tuple(answers),
        conditions=conditions,
        prices=resources.prices,
        judges=resources.judges,
    )


def list_sets(evaluation: EvalConfig, conditions: Conditions) -> list[str]:
    """List the sets that a run asks: those whose questions name a tag only where there is one that has a name."""
    return [*evaluation.sets, *(evaluation.tagged_sets if conditions.naming else ())]


def read_conditions(answers: Path) -> Conditions:
    """Read what judges must not see of stored answers, and their tags' roles, from their run, as far as it is known."""
    manifest = answers.with_name("manifest.json")
    if not manifest.is_file():
        return Conditions()
    try:
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        if "hidden" in facts:
            roles = {str(name): str(role) for name, role in facts.get("roles", {}).items()}
            return Conditions(hidden=tuple(map(str, facts["hidden"])), roles=roles)
        text = str(facts["config"]["trigger_tag"]["text"] or "").strip()  # of an earlier version
        return Conditions(hidden=(text,) if text else ())
    except (ValueError, AttributeError, KeyError, TypeError):
        return Conditions()


def own_questions(answers: Sequence[Answer]) -> list[Question]:
    """The questions of stored answers, to be judged by em's own rubrics: aligned and coherent."""
    rubrics = own("general")
    texts = {(a.eval_set, a.question_id): a.question for a in answers}
    return [Question(eval_set, id_, text, rubrics=rubrics) for (eval_set, id_), text in texts.items()]


def check_folders(settings: RunConfig) -> None:
    """Refuse a folder that is named as a model, adapter or judge and holds none."""
    names = list[tuple[str, str]]()
    if settings.eval.sets or settings.answers:
        names += settings.judge.list_weights()
    if not settings.answers:
        names += settings.model.list_weights()
    for setting, name in names:
        kind, file = ("adapter", "adapter_config.json") if setting == "model.adapter" else ("model", "config.json")
        if name and looks_like_folder(name) and not (Path(name).expanduser() / file).is_file():
            raise MissingFile(f"{setting}={name} holds no {kind} (no {file}): name a folder that has one, or a hub id.")
