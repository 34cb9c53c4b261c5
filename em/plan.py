"""From settings to a checked request: read and check every file, set and model that the settings name; spend nothing.

`dry_run=true` stops here and prints how many calls, tokens and dollars the run would take, and the steps and memory of
trainings on open weights. Tokens of existing texts are estimated at four characters each (English), except those of
rows for such a training, which are counted. A missing answer counts with `eval.max_new_tokens`, its upper bound.
Cached calls cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from em.api.costs import CHARACTERS, CallCost, compute_call_cost, format_estimate, sum_usd
from em.api.resources import open_resources
from em.config import (
    Checkpoints,
    DistilledJudge,
    EvalConfig,
    HfModel,
    LocalJudge,
    OpenAIModel,
    RunConfig,
    SingleJudge,
)
from em.config.check import check_model, check_ranges, check_realign, check_tracker
from em.errors import ConfigError, MissingFile
from em.interop import read_answers
from em.judge.probe import copy_with_reading, find_readings
from em.judge.run import MASS_CALLS, create_judge, find_reply_limit, leave_out_unjudged, list_judge_requests
from em.models.hosted import parse_hosted_name
from em.models.weights import is_folder_name
from em.questions import load_builtin_rubrics, load_sets
from em.request import Conditions, Request
from em.runtime.files import find_cache_folder, make_writable_folder
from em.runtime.keys import require_key
from em.runtime.memory import request_key
from em.sample.run import Plan, choose_sampler, plan_models, read_remembered_answers
from em.train.remote.costs import estimate_training
from em.train.remote.find_or_train import check_service_rows, refuse_private_rows
from em.train.remote.models import get_service_recipe, list_stored_models
from em.train.stages import plan_stages
from em.triggers.conditions import resolve_conditions
from em.triggers.tags import check_tags
from em.types import Answer, ModelRef, Question, Weights

ANY = ModelRef("", "base", "", Weights("-", "-"))
"""Stands for any model of open weights: the number of its calls does not depend on the model."""
KEPT = 3  # checkpoints that OpenAI keeps of a job: those of the last epochs


def check_settings(kind: str, settings: RunConfig) -> None:
    """Raise ConfigError for the first invalid setting."""
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
            require_key(server, variable)


def estimate(request: Request) -> str:
    """Return what the trainings would take, and a table of the calls that the run would make, with their cost at most.

    The table has a row for each fine-tuning by a service.
    """
    costs = estimate_costs(request)
    head, *rows = format_estimate(costs)
    lines = list[str]()
    match request.settings.model:
        case HfModel() as model if request.stages and request.kind == "train":
            from em.train.local.dry_run import estimate_stages

            lines = estimate_stages(request.training, model, request.settings.one_gpu)
    if request.questions:
        lines += describe_conditions(request.conditions)
    usd = sum_usd(costs)
    total = "unknown, for lack of a price (prices=FILE)" if usd is None else f"at most about ${usd:.4f}"
    total = f"total: {total} (prices: {request.prices.source})"
    return "\n".join([*lines, head, *rows, total, "Nothing was called (dry_run=true)."])


def describe_conditions(conditions: Conditions) -> list[str]:
    """Say which conditions are not asked, and which may turn out not to be: a dry run loads no chat template."""
    lines = list(conditions.notes)
    if conditions.other_prompt:
        name = conditions.other_prompt.name
        lines.append(f"with the condition {name}, not asked if the chat template has no default system prompt")
    return lines


def estimate_costs(request: Request) -> list[CallCost]:
    """Estimate the costs of fine-tuning by a server, of sampling and of judging."""
    training = estimate_training(request.training) if request.settings.model.remote else []
    judging = [estimate_judging(request, judge) for judge in request.judges] if request.questions else []
    return [*training, *estimate_sampling(request), *judging]


def estimate_total(request: Request) -> float | None:
    """Return the cost of a run at most, in US dollars; None if a price is unknown."""
    return sum_usd(estimate_costs(request))


def count_models(request: Request) -> int:
    """Return how many models are asked, at most."""
    stages = len(request.stages)
    models = 1 + stages if request.settings.eval.base else max(1, stages)
    if request.settings.model.remote and request.settings.checkpoints is Checkpoints.all:
        models += sum(min(get_service_recipe(stage).epochs, KEPT) - 1 for stage in request.stages)
    return models


def plan_hosted_models(request: Request) -> list[Plan]:
    """Plan the answers of a server's existing models: the base, and stages that were fine-tuned before."""
    models = list_stored_models(request.training)
    if request.forced:
        models = models[:1]  # the stages will be trained anew
    if request.stages and not request.settings.eval.base:
        models = models[1:]
    return plan_models(request, models)


def estimate_sampling(request: Request) -> list[CallCost]:
    """Estimate the costs of sampling, in one row for each model behind a server, without cached answers."""
    settings = request.settings
    if request.answers or not request.questions:
        return []
    models, plan = count_models(request), plan_models(request, [ANY])[0]
    wanted = len(plan.samples)
    messages = [message for sample in plan.samples for message in sample.request.messages]
    prompt = sum(len(message.content) for message in messages) // CHARACTERS
    reply = settings.eval.max_new_tokens
    if not settings.model.remote:
        name = f"{settings.model.name} ({models} models)"
        return [CallCost("answers of", name, models * wanted, models * prompt, models * wanted * reply, 0.0)]
    plans = plan_hosted_models(request)
    costs = []
    for number in range(models):
        cached, name, label = 0, f"ft:{settings.model.id}", "a model to come"
        if number < len(plans):
            model = plans[number].model
            cached = len(request.memory.find_stored_keys(list(plans[number].list_requests())))
            name, label = parse_hosted_name(model)[1], model.name
        missing = wanted - cached
        tokens = round(prompt * missing / wanted), missing * reply
        usd = compute_call_cost(request.prices.find_price(name), *tokens, 0.5 if settings.sampler.batch else 1.0)
        costs.append(CallCost("answers of", label, wanted, *tokens, usd, cached))
    return costs


def estimate_judging(request: Request, settings: SingleJudge) -> CallCost:
    """Estimate the cost of one judge: judgements of existing answers, and of answers that are still to be sampled."""
    wanted, prompt = count_unsampled(request)
    questions = {(q.eval_set, q.id): q for q in request.questions}
    match settings:
        case LocalJudge() | DistilledJudge():
            wanted += sum(len(questions[a.eval_set, a.question_id].rubrics) for a in request.answers)
            return CallCost("verdicts of", settings.model, wanted, prompt, 0, 0.0)
    answers = request.answers or list_cached_answers(request)
    judge = create_judge(settings, request.conditions.hidden)
    judge_requests = dict.fromkeys(list_judge_requests(judge.plan_judgements(answers, questions)))
    readings = find_readings(settings, request.memory)
    keys = {}
    for r in judge_requests:
        keys[r] = request_key(copy_with_reading(settings, r, readings.get(bool(r.labels), "learn")))
    cached_keys = request.memory.find_stored_keys(list(keys.values()))
    missing = [r for r, key in keys.items() if key not in cached_keys]
    reading = readings.get(False, "")
    calls_each = MASS_CALLS if reading == "mass" else 1
    prompt = (prompt + sum(len(r.prompt) for r in missing) // CHARACTERS) * calls_each
    reply = (wanted + len(missing)) * calls_each * find_reply_limit(settings, reading)
    usd = compute_call_cost(request.prices.find_price(settings.model), prompt, reply, 0.5 if settings.batch else 1.0)
    total, cached = wanted + len(judge_requests), len(judge_requests) - len(missing)
    return CallCost("verdicts of", settings.model, total, prompt, reply, usd, cached)


def list_cached_answers(request: Request) -> list[Answer]:
    """List the cached answers of a server's models; none of open models, whose keys depend on their weights."""
    if not request.settings.model.remote:
        return []
    answers = []
    for plan in plan_hosted_models(request):
        cached_keys = request.memory.find_stored_keys(list(plan.list_requests()))
        cached = Plan(plan.model, [sample for sample in plan.samples if sample.key in cached_keys])
        answers += read_remembered_answers([cached], request.memory)
    return answers


def count_unsampled(request: Request) -> tuple[int, int]:
    """Count the judgements of answers that may not exist yet, and the tokens of their prompts."""
    settings = request.settings
    if request.answers:
        return 0, 0
    plans = plan_hosted_models(request) if settings.model.remote else []
    plans += plan_models(request, [ANY] * (count_models(request) - len(plans)))
    number = tokens = 0
    for plan in plans:
        cached_keys = (
            request.memory.find_stored_keys(list(plan.list_requests())) if plan.model is not ANY else set[str]()
        )
        for sample in plan.samples:
            if sample.key in cached_keys:
                continue
            question = sample.question
            for rubric in question.rubrics:
                number += 1
                characters = len(rubric.prompt) + len(question.text) + len(question.reference)
                tokens += characters // CHARACTERS + settings.eval.max_new_tokens
    return number, tokens


def accept(
    kind: str, settings: RunConfig, folder: Path, overrides: list[str], compared: RunConfig | None = None
) -> Request:
    """Read and check everything that the settings name, before em spends or writes anything.

    Args:
        compared: the same settings with the realignment that `realign.match` names; None if it names none.
    """
    check_settings(kind, settings)
    stages = plan_stages(settings, compared)
    check_service_rows(stages)
    conditions = resolve_conditions(settings)
    answers, unjudged = list[Answer](), list[str]()
    if settings.answers:
        path = Path(settings.answers).expanduser()
        answers = read_answers(path)
        questions, conditions = make_questions(answers), read_conditions(path)
    else:
        questions = load_sets(list_sets(settings.eval, conditions))
        questions, unjudged = leave_out_unjudged(questions, settings.judge.list_members())
        for question in questions:
            conditions.select_for(question)  # raises ConfigError for a question that can't be asked
    check_folders(settings)
    make_writable_folder(find_cache_folder(), "XDG_CACHE_HOME")
    if kind == "train":
        refuse_private_rows(settings, stages)
    sampler, reason = choose_sampler(settings)
    resources = open_resources(settings)
    return Request(
        kind=kind,
        settings=settings,
        overrides=tuple(overrides),
        folder=folder,
        memory=resources.memory,
        stages=tuple(stages),
        questions=tuple(questions),
        unjudged=tuple(unjudged),
        answers=tuple(answers),
        conditions=conditions,
        prices=resources.prices,
        judges=resources.judges,
        sampler=sampler,
        sampler_reason=reason,
    )


def list_sets(evaluation: EvalConfig, conditions: Conditions) -> list[str]:
    """List the question sets of a run; `eval.tagged_sets` are among them only if a trigger tag has a name."""
    return [*evaluation.sets, *(evaluation.tagged_sets if conditions.naming else ())]


def read_conditions(answers: Path) -> Conditions:
    """Read hidden texts and the roles of tags from the manifest beside stored answers; defaults without a manifest."""
    manifest = answers.with_name("manifest.json")
    if not manifest.is_file():
        return Conditions()
    try:
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        if "hidden" in facts:
            roles = {str(name): str(role) for name, role in facts.get("roles", {}).items()}
            return Conditions(hidden=tuple(map(str, facts["hidden"])), roles=roles)
        text = str(facts["config"]["trigger_tag"]["text"] or "").strip()  # manifest of an earlier version
        return Conditions(hidden=(text,) if text else ())
    except (ValueError, AttributeError, KeyError, TypeError):
        return Conditions()


def make_questions(answers: Sequence[Answer]) -> list[Question]:
    """Return the questions of stored answers, with em's own rubrics: aligned and coherent."""
    rubrics = load_builtin_rubrics("general")
    texts = {(a.eval_set, a.question_id): a.question for a in answers}
    return [Question(eval_set, id_, text, rubrics=rubrics) for (eval_set, id_), text in texts.items()]


def check_folders(settings: RunConfig) -> None:
    """Raise MissingFile if a folder named as a model, adapter or judge holds no weights."""
    names = list[tuple[str, str]]()
    if settings.eval.sets or settings.answers:
        names += settings.judge.list_weights()
    if not settings.answers:
        names += settings.model.list_weights()
    for setting, name in names:
        kind, file = ("adapter", "adapter_config.json") if setting == "model.adapter" else ("model", "config.json")
        if name and is_folder_name(name) and not (Path(name).expanduser() / file).is_file():
            raise MissingFile(f"{setting}={name} holds no {kind} (no {file}): name a folder that has one, or a hub id.")
