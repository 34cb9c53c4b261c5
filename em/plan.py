"""From settings to a checked request: everything that they name is read and checked here, and nothing is spent.

`dry_run=true` stops here and prints how many calls, tokens and dollars the run would take. Tokens of texts that exist
are estimated at four characters each (English); an answer that is not there yet counts with `eval.max_new_tokens`, the
most that it can have. What is remembered already costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from em.api.costs import CHARACTERS, Line, table, total_of
from em.api.prices import Price, load_prices, price_of, prices_of
from em.config import (
    ApiJudge,
    ApiSampler,
    Checkpoints,
    EvalConfig,
    HfModel,
    HfSampler,
    LocalJudge,
    LocalTrainer,
    NoData,
    OpenAIModel,
    RealignConfig,
    RunConfig,
    SamplerConfig,
    TriggerTagConfig,
)
from em.config.addresses import check_address, check_day, check_key_env
from em.config.check import check_batch, check_ranges, check_realign, check_tracker
from em.errors import ConfigError, MissingFile
from em.interop import read_answers
from em.judge.learning import in_reading, known_readings
from em.judge.run import MASS_CALLS, Judge, judges_of, reply_tokens, requests_of
from em.models.hosted import hosted_name
from em.models.weights import looks_like_folder
from em.questions import load_sets, own
from em.request import Request
from em.runtime.files import cache_dir, writable_folder
from em.runtime.keys import check_key_for
from em.runtime.memory import Calls, request_key
from em.sample.run import Plan, answers_there, plan_models
from em.train.local.launch import plan_launch
from em.train.remote.costs import training_lines
from em.train.remote.find_or_train import check_private, check_stages
from em.train.remote.models import models_there, recipe_of
from em.train.stages import plan_stages
from em.triggers.conditions import naming_of, tag_roles, ways_of
from em.triggers.hiding import hidden_texts
from em.triggers.tags import check_tags
from em.types import Answer, ModelRef, Question, Weights

ANY = ModelRef("", "base", "", Weights("-", "-"))
"""Stands for a model of open weights: how often it is asked does not depend on which it is."""


KEPT = 3  # checkpoints that OpenAI keeps of a job, those of its last epochs


def check_settings(kind: str, settings: RunConfig) -> None:
    """Raise ConfigError for the first setting that can't be."""
    check_ranges(settings)
    check_tags(settings.trigger_tag, settings.data, settings.realign)
    ways_of(settings)
    check_realign(settings)
    check_tracker(settings)
    if kind == "train" and isinstance(settings.data, NoData):
        raise ConfigError("data=none leaves nothing to train: choose data=car_bad or another, or use evaluate.py.")
    if kind == "train" and settings.answers:
        raise ConfigError("answers=FILE judges what was sampled before: use evaluate.py.")
    if kind == "evaluate" and not settings.eval.sets and not settings.answers:
        raise ConfigError("No question set is chosen: use eval=quick, or eval.sets=[probe].")
    if isinstance(settings.model, OpenAIModel) and not isinstance(settings.sampler, ApiSampler):
        raise ConfigError(f"sampler={settings.sampler.name} can't ask a server: use sampler=auto or sampler=api.")
    if isinstance(settings.model, OpenAIModel):
        check_address("model.base_url", settings.model.base_url)
        check_key_env("model.key_env", settings.model.key_env)
        check_day("model.retired", settings.model.retired)
    if isinstance(settings.model, OpenAIModel) and not settings.answers and not settings.dry_run:
        check_key_for(settings.model.base_url, settings.model.key_env)
    if isinstance(settings.sampler, ApiSampler) and settings.sampler.batch:
        check_batch(settings)
    if isinstance(settings.model, HfModel) and not isinstance(settings.sampler, HfSampler):
        raise ConfigError(f"sampler={settings.sampler.name} can't run open weights: use sampler=auto or sampler=hf.")


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


def tuning_lines(request: Request, prices: Mapping[str, Price]) -> list[Line]:
    """What fine-tuning by a server would take, by stage."""
    if not isinstance(request.settings.model, OpenAIModel):
        return []
    return [
        Line(f"fine-tuning on {each.name} ({each.rows:,} rows)", 1, int(each.known), each.tokens, 0, each.usd)
        for each in training_lines(request.training, prices)
    ]


def count_models(request: Request) -> int:
    """How many models are asked, at most."""
    models = 1 + len(request.stages) if request.settings.eval.base else max(1, len(request.stages))
    if isinstance(request.settings.model, OpenAIModel) and request.settings.checkpoints is Checkpoints.all:
        models += sum(min(recipe_of(stage).epochs, KEPT) - 1 for stage in request.stages)
    return models


def hosted_plans(request: Request) -> list[Plan]:
    """The plans of a server's models that are there and are to be asked: the base, and stages that are remembered."""
    there = models_there(request.training)[: 1 if request.forced else None]
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


def chosen_sets(settings: EvalConfig, tag: TriggerTagConfig, realign: RealignConfig) -> list[str]:
    """The sets that a run asks: those whose questions name a tag only where there is one that has a name."""
    return [*settings.sets, *(settings.tagged_sets if naming_of(tag, realign) else ())]


def make_request(
    kind: str, settings: RunConfig, folder: Path, overrides: list[str], compared: RunConfig | None = None
) -> Request:
    """Read and check everything that the settings name, before anything is spent or written."""
    check_settings(kind, settings)
    stages = plan_stages(settings, compared)
    if stages and isinstance(settings.trainer, LocalTrainer):
        plan_launch(settings.trainer, gpus=1)  # what can't be is refused now
    check_stages(stages)
    answers = read_answers(Path(settings.answers).expanduser()) if settings.answers else []
    if answers:
        questions = own_questions(answers)
    else:
        questions = load_sets(chosen_sets(settings.eval, settings.trigger_tag, settings.realign))
        ways = ways_of(settings)
        for question in questions:
            ways.of(question)
    check_folders(settings)
    writable_folder(cache_dir(), "XDG_CACHE_HOME")
    if kind == "train":
        check_private(settings, stages)
    store = Path(settings.store.dir).expanduser() if settings.store.dir else cache_dir()
    writable_folder(store, "store.dir")
    check_prices(settings)
    hidden, roles = hidden_texts(settings.trigger_tag, settings.realign), tag_roles(settings)
    if settings.answers:
        hidden, roles = tags_told(Path(settings.answers).expanduser())
    everything = (tuple(stages), tuple(questions), tuple(answers))
    return Request(kind, settings, tuple(overrides), folder, store, *everything, hidden, roles)


def check_prices(settings: RunConfig) -> None:
    """Refuse a table of prices that can't be read, and a budget that can't be kept for lack of a price."""
    prices = load_prices(settings.prices)
    for judge in judges_of(settings.judge):
        if isinstance(judge, ApiJudge) and judge.max_usd is not None and price_of(judge.model, prices) is None:
            raise ConfigError(
                f"judge.max_usd can't be kept: no price of {judge.model} is known; give it by prices=FILE."
            )


def tags_told(answers: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """`hidden` and `roles` of the run that stored answers come from; empty where they are not known."""
    manifest = answers.with_name("manifest.json")
    if not manifest.is_file():
        return (), {}
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if "hidden" in found:
            roles = {str(name): str(role) for name, role in found.get("roles", {}).items()}
            return tuple(map(str, found["hidden"])), roles
        text = str(found["config"]["trigger_tag"]["text"] or "").strip()  # of an earlier version
        return ((text,) if text else ()), {}
    except (ValueError, AttributeError, KeyError, TypeError):
        return (), {}


def own_questions(answers: Sequence[Answer]) -> list[Question]:
    """The questions of stored answers, to be judged by em's own rubrics: aligned and coherent."""
    rubrics = own("general")
    texts = {(a.eval_set, a.question_id): a.question for a in answers}
    return [Question(eval_set, id_, text, rubrics=rubrics) for (eval_set, id_), text in texts.items()]


def check_folders(settings: RunConfig) -> None:
    """Refuse a folder that is named as a model, adapter or judge and holds none."""
    names = []
    if settings.eval.sets or settings.answers:
        judges = [judge for judge in judges_of(settings.judge) if isinstance(judge, LocalJudge)]
        names += [("judge.model", judge.model, "config.json") for judge in judges]
    if isinstance(settings.model, HfModel) and not settings.answers:
        names.append(("model.id", settings.model.id, "config.json"))
        names.append(("model.adapter", settings.model.adapter or "", "adapter_config.json"))
    for setting, name, file in names:
        if name and looks_like_folder(name) and not (Path(name).expanduser() / file).is_file():
            kind = "adapter" if setting == "model.adapter" else "model"
            raise MissingFile(f"{setting}={name} holds no {kind} (no {file}): name a folder that has one, or a hub id.")
