"""Verdicts of a run's judges: made ready before anything is spent, asked as answers come, remembered, collected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from em.api.lifetimes import check_judge
from em.api.prices import Budget
from em.config import ApiJudge, LocalJudge
from em.config.addresses import OPENAI, server_name
from em.errors import ConfigError, EmError
from em.judge.learning import identity, in_reading, parameters, plain_key
from em.judge.local import JudgeSpec
from em.judge.plan import Asked, Terms, collect, given, plan_verdicts
from em.judge.pool import Outcome
from em.judge.readings import RULE
from em.models.hosted import hosted_name
from em.models.weights import resolve_weights
from em.runtime.gpus import where
from em.runtime.manifest import Manifest
from em.runtime.memory import Calls, request_key
from em.runtime.records import digest, pause_garbage_collection
from em.runtime.shards import run_sharded
from em.types import Answer, JudgeRequest, ModelRef, Prices, Question, Verdict, Weights

PART = 1000  # judgements that are read at a time
MASS_CALLS = 11  # of one judgement that is read by `mass`, at most


@dataclass
class Judge:
    """A judge that can be asked.

    hidden: the trigger tags, which it must not see.
    unavailable: why its server can't be asked now, which matters only if something is not remembered.
    budget: what is left of `judge.max_usd`.
    outcome: what the judging of a server's model found out.
    """

    settings: LocalJudge | ApiJudge
    weights: Weights | None = None
    hidden: tuple[str, ...] = ()
    unavailable: EmError | None = None
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        self.budget = Budget(self.settings.max_usd if isinstance(self.settings, ApiJudge) else None)

    @property
    def identity(self) -> str:
        """What judges: checksum of a local model, or a server's name of one."""
        if isinstance(self.settings, ApiJudge):
            return identity(self.settings)
        assert self.weights is not None
        return f"{self.settings.model}@{digest(self.weights.identity)[:8]}"

    @property
    def reading(self) -> str:
        """How it is read; empty for a server's model that has not been asked yet."""
        return self.outcome.reading if isinstance(self.settings, ApiJudge) else "exact"

    @property
    def label(self) -> str:
        """The judge's name in tables: two ways of reading one model are two judges."""
        return f"{self.identity} ({self.reading})" if isinstance(self.settings, ApiJudge) else self.identity

    def plan(self, answers: Sequence[Answer], questions: Mapping[tuple[str, str], Question]) -> list[Asked]:
        """Every judgement that the answers ask for."""
        settings = self.settings
        precision = where(settings.precision.value) if isinstance(settings, LocalJudge) else ""
        reading = "exact" if isinstance(settings, LocalJudge) else ""
        return plan_verdicts(self.identity, answers, questions, reading, precision, self.hidden)

    def final(self, asked: Asked) -> Asked:
        """A planned judgement, in the way in which it was asked."""
        if isinstance(self.settings, LocalJudge):
            return asked
        reading = self.outcome.reading_of(asked.request)
        return Asked(asked.answer, asked.rubric, in_reading(self.settings, asked.request, reading))

    def relation(self, model: ModelRef) -> str:
        """`the model` or `its base` where the judge is the model under test or its base, else empty."""
        if isinstance(self.settings, LocalJudge):
            assert self.weights is not None
            same = model.base.path != "" and model.base.identity == self.weights.identity
            return "" if not same else "its base" if model.trained else "the model"
        if model.base.path:  # open weights, which may be what a server of one's own serves
            same = model.base.identity.removeprefix("hub:").split("@")[0] == self.settings.model
            return "" if not same else "its base" if model.trained else "the model"
        server, name = hosted_name(model)
        if server != server_name(self.settings.base_url):
            return ""
        tuned = name.startswith("ft:") and name.split(":")[1] == self.settings.model
        return "its base" if tuned else "the model" if name == self.settings.model else ""

    def relation_to_author(self, answer: Answer) -> str:
        """The same for the author of a stored answer, who is known by name and fingerprint alone."""
        if answer.model in (self.settings.model, self.settings.name):
            return "the model"
        if isinstance(self.settings, LocalJudge):
            assert self.weights is not None
            return "the model" if answer.fingerprint == digest(self.weights.identity) else ""
        hosted = digest(f"openai:{server_name(self.settings.base_url)}|{self.settings.model}")
        return "the model" if answer.fingerprint == hosted else ""


def ready_judges(
    chosen: Sequence[LocalJudge | ApiJudge], hidden: tuple[str, ...], spending: bool, manifest: Manifest
) -> list[Judge]:
    """The judges, each of which can be had; asked for first, before anything is trained or sampled.

    Args:
        hidden: the trigger tags.
        spending: refuse at once what can't be asked. Else it is refused only if not all of it is remembered.
    """
    judges = []
    for each in chosen:
        if isinstance(each, LocalJudge):
            judges.append(Judge(each, resolve_weights(each.model, each.revision), hidden))
            if judges[-1].weights.identity.startswith("embedded:"):  # type: ignore[union-attr]
                manifest.note(
                    "The judge is the embedded model of 135 million parameters. Its scores show that the pipeline "
                    "works; they say nothing about alignment. Name a capable judge with judge.model=… before you draw "
                    "conclusions."
                )
        else:
            judges.append(Judge(each, hidden=hidden))
            try:
                notes = check_judge(each)
            except EmError as error:
                if spending:
                    raise
                judges[-1].unavailable, notes = error, []
            for note in notes:
                print(f"warning: {note}", flush=True)
                manifest.note(note)
    refuse_twins(judges)
    return judges


def refuse_twins(judges: Sequence[Judge]) -> None:
    """Two judges of a panel that tables could not tell apart would be mixed."""
    seen: set[tuple[str, str]] = set()
    for judge in judges:
        settings = judge.settings
        way = settings.reading.value if isinstance(settings, ApiJudge) else "exact"
        if (judge.identity, way) in seen:
            raise ConfigError(
                f"Two judges of the panel are {judge.identity} read in the same way ({way}), which tables can't tell "
                "apart: choose another model, or another reading."
            )
        seen.add((judge.identity, way))


def note_judges(judges: Sequence[Judge], relations: Mapping[tuple[str, str], str], manifest: Manifest) -> None:
    """Say it at the top of the report where a judge judges its own kind."""
    for judge in judges:
        if any(relation for (_, label), relation in relations.items() if label == judge.label):
            manifest.note(f"The judge {judge.identity} is the model under test, or its base: it judges its own kind.")


async def judge_locally(judge: Judge, asked: Sequence[Asked], memory: Calls) -> None:
    """Have a local judge say what is not remembered yet, in children of ours."""
    settings = judge.settings
    assert isinstance(settings, LocalJudge)
    assert judge.weights is not None
    by_key = {request_key(a.request): a.request for a in asked if given(a.answer)}
    if len(memory.there(list(by_key))) == len(by_key):
        return  # a child would load the model for nothing
    spec = JudgeSpec(
        path=judge.weights.path,
        label=settings.model,
        precision=settings.precision.value,
        requests=tuple(by_key.values()),
        batch_size=settings.batch_size,
        store=str(memory.folder),
    )
    await run_sharded("judge", spec)


@dataclass(frozen=True)
class Judged:
    """All that one judge said, in the order of what was asked, and what is to be told of it.

    prompts: of the rubrics, by set and rubric; snapshots: what the server calls its model.
    calls, prompt_tokens, reply_tokens, usd: of the calls, each once, though the same text may be judged for several.
    """

    judge: Judge
    verdicts: Sequence[Verdict]
    prompts: Mapping[str, str]
    snapshots: Sequence[str]
    calls: int
    prompt_tokens: int
    reply_tokens: int
    usd: float | None


@pause_garbage_collection()
def judged(judge: Judge, asked: Sequence[Asked], calls: Calls, prices: Prices) -> Judged:
    """What is remembered of a judge, as verdicts; read part by part, for all replies at once would fill the memory."""
    settings = judge.settings
    price = prices.of(settings.model) if isinstance(settings, ApiJudge) else None
    terms = Terms(judge.label, settings.min_mass, price)
    verdicts, snapshots, seen = list[Verdict](), set[tuple[str, str]](), set[str]()
    prompt_tokens = reply_tokens = 0
    told = list[float]()
    for start in range(0, len(asked), PART):
        planned = asked[start : start + PART]
        part = [judge.final(a) for a in planned]
        keys = [
            judge.outcome.keys.get(before.request) or request_key(after.request)
            for before, after in zip(planned, part, strict=True)
        ]
        responses = calls.known(list(dict.fromkeys(keys)))
        failures = {}
        if judge.outcome.failures:
            words = judge.outcome.failures
            by_plain = {plain_key(a.request): key for a, key in zip(part, keys, strict=True)}
            failures = {key: words[plain] for plain, key in by_plain.items() if plain in words}
        read = list(collect(part, keys, responses, failures, terms))
        verdicts += read
        for key, verdict, one in zip(keys, read, part, strict=True):
            if key in seen or key not in responses or not given(one.answer):
                continue
            seen.add(key)
            response = responses[key]
            snapshots.add((response.get("model") or "", response.get("system_fingerprint") or ""))
            prompt_tokens += verdict.prompt_tokens or 0
            reply_tokens += verdict.reply_tokens or 0
            if verdict.usd is not None:
                told.append(verdict.usd)
    rubrics = {(a.answer.eval_set, a.rubric.name): a.rubric.prompt for a in asked}
    prompts = {f"{eval_set}/{name}": digest(prompt) for (eval_set, name), prompt in rubrics.items()}
    usd = round(sum(told), 6) if told else None
    named = sorted(filter(None, (" ".join(snapshot).strip() for snapshot in snapshots)))
    return Judged(judge, verdicts, prompts, named, len(seen), prompt_tokens, reply_tokens, usd)


def judge_record(found: Judged) -> dict[str, Any]:
    """What the manifest keeps of a judge: everything that another would need to judge the same again."""
    judge, settings, verdicts = found.judge, found.judge.settings, found.verdicts
    hosted = isinstance(settings, ApiJudge)
    return {
        "name": settings.name,
        "label": judge.label,
        "model": settings.model,
        "server": server_name(settings.base_url) or OPENAI if isinstance(settings, ApiJudge) else "",
        "identity": judge.identity if hosted or judge.weights is None else judge.weights.identity,
        "reading": judge.reading,
        "rule": RULE,
        "min_mass": settings.min_mass,
        "prompts": found.prompts,
        "parameters": dict(parameters(settings, judge.reading)) if isinstance(settings, ApiJudge) else {},
        "snapshot": found.snapshots,
        "calls": found.calls,
        "prompt_tokens": found.prompt_tokens,
        "reply_tokens": found.reply_tokens,
        "usd": found.usd,
        "failed": sum(v.status == "error" for v in verdicts),
    }


def requests_of(asked: Sequence[Asked]) -> list[JudgeRequest]:
    """The calls of judgements on answers that are there."""
    return [a.request for a in asked if given(a.answer)]


def reply_tokens(settings: ApiJudge, reading: str) -> int:
    """The most tokens of a judge's reply: one where they are read by probabilities, else as many as it may think."""
    if reading in ("logprobs", "mass"):
        return 1
    return settings.samples * settings.max_reply_tokens
