"""What all judges have in common: from remembered responses to verdicts, and what the manifest keeps of a judge.

What a judge says is kept with a status; a judgement that failed has no value. Responses are remembered as they came:
another threshold or `judge.min_mass` reads them anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from em.api.prices import usd_of
from em.config.judge import OneJudge
from em.judge.plan import WORDS, Asked, fill, given
from em.judge.readings import RULE, read
from em.runtime.memory import Calls, request_key
from em.runtime.records import digest, pause_garbage_collection
from em.types import Answer, Judgement, JudgeRequest, ModelRef, Price, Prices, Question, Rubric, Verdict, Weights

PART = 1000  # judgements that are read at a time
NOTHING: Mapping[str, Any] = {}
Source = AsyncIterator[Iterable[JudgeRequest]]
"""Requests, in parts as they become known."""


@dataclass(frozen=True)
class Judged:
    """The verdicts of one judge, in the order of what was asked, and what the manifest keeps of the judge."""

    verdicts: Sequence[Verdict]
    record: Mapping[str, Any]


class Judge(ABC):
    """A judge that can be asked: a model in a child of ours (`em.judge.local`) or behind a server (`em.judge.remote`).

    weights: what judges; identity: the same in short. hidden: the trigger tags, which it must not see.
    way: the setting of how it is read; reading: how it is read, empty while that is not known.
    failures: judgements that were asked for in vain, in words, by the request's key.
    refused: keys of those whose prompt was refused: the next run would be refused too.
    """

    here: ClassVar[bool]
    """Whether it needs the devices of this machine: then it runs alone, without sampling or another such judge."""
    precision = ""

    def __init__(self, settings: OneJudge, weights: Weights, identity: str, way: str, hidden: tuple[str, ...]) -> None:
        self.settings, self.weights, self.identity, self.way, self.hidden = settings, weights, identity, way, hidden
        self.failures: dict[str, str] = {}
        self.refused: set[str] = set()

    @property
    def reading(self) -> str:
        """How scores are read."""
        return self.way

    @property
    def label(self) -> str:
        """The judge's name in tables."""
        return self.identity

    @abstractmethod
    def check(self, spending: bool) -> list[str]:
        """Look whether it can be asked; return notes for the report.

        Args:
            spending: refuse at once what can't be asked. Else it is refused only if not all of it is remembered.
        """

    @abstractmethod
    async def ask(self, source: Source, memory: Calls, prices: Prices, planned: int | None = None) -> None:
        """Have the judge say what is not remembered yet.

        Args:
            source: requests of its plan.
            planned: how many there will be, for the progress bar.
        """

    @abstractmethod
    def relation(self, model: ModelRef) -> str:
        """Return `the model` or `its base` where the judge is the model under test or its base, else nothing."""

    def relation_to_author(self, answer: Answer) -> str:
        """Return the same for the author of a stored answer, who is known by name and fingerprint alone."""
        names = (self.settings.model, self.settings.name)
        return "the model" if answer.model in names or answer.fingerprint == digest(self.weights.identity) else ""

    def plan(self, answers: Sequence[Answer], questions: Mapping[tuple[str, str], Question]) -> list[Asked]:
        """Plan every judgement that the answers' questions ask for, in the order of the answers.

        Args:
            questions: by set and id.
        """
        return [
            Asked(answer, rubric, self.request(fill(rubric, answer, question.reference, self.hidden), rubric))
            for answer in answers
            for question in (questions[answer.eval_set, answer.question_id],)
            for rubric in question.rubrics
        ]

    def request(self, prompt: str, rubric: Rubric) -> JudgeRequest:
        """Make the call of a judgement."""
        words = () if rubric.labels else WORDS
        return JudgeRequest(self.identity, prompt, rubric.labels, words, self.reading, (), self.precision)

    def final(self, request: JudgeRequest) -> JudgeRequest:
        """Return a planned request as it is asked."""
        return request

    def key(self, request: JudgeRequest) -> str:
        """Return the key under which a request is remembered."""
        return request_key(request)

    def facts(self) -> dict[str, Any]:
        """Return what another would need to judge the same again, besides what all judges have."""
        return {}

    @pause_garbage_collection()
    def read(self, asked: Sequence[Asked], calls: Calls, prices: Prices) -> Judged:
        """Read what is remembered of a plan as verdicts, part by part: all responses at once would fill the memory."""
        price = prices.of(self.settings.model)
        verdicts, by_call, snapshots = list[Verdict](), dict[str, Verdict](), set[str]()
        for start in range(0, len(asked), PART):
            part = [Asked(each.answer, each.rubric, self.final(each.request)) for each in asked[start : start + PART]]
            keys = [self.key(each.request) if given(each.answer) else "" for each in part]
            responses = calls.known(list(dict.fromkeys(keys)))
            for each, key in zip(part, keys, strict=True):
                response = responses.get(key, NOTHING)
                verdicts.append(self.verdict(each, key, response, price))
                if response:
                    by_call.setdefault(key, verdicts[-1])
                    snapshots.add(f"{response.get('model') or ''} {response.get('system_fingerprint') or ''}".strip())
        rubrics = {(each.answer.eval_set, each.rubric.name): each.rubric.prompt for each in asked}
        prompts = {f"{eval_set}/{name}": digest(prompt) for (eval_set, name), prompt in rubrics.items()}
        counts = self.count(by_call.values()) | {"failed": sum(verdict.status == "error" for verdict in verdicts)}
        record = {
            "name": self.settings.name,
            "label": self.label,
            "model": self.settings.model,
            "server": "",
            "identity": self.identity,
            "reading": self.reading,
            "rule": RULE,
            "min_mass": self.settings.min_mass,
            "prompts": prompts,
            "parameters": {},
            "snapshot": sorted(filter(None, snapshots)),
        }
        return Judged(verdicts, record | self.facts() | counts)

    @staticmethod
    def count(verdicts: Collection[Verdict]) -> dict[str, Any]:
        """Count calls, tokens and dollars of verdicts, one of each call: the same text may be judged for several."""
        dollars = [verdict.usd for verdict in verdicts if verdict.usd is not None]
        return {
            "calls": len(verdicts),
            "prompt_tokens": sum(verdict.prompt_tokens or 0 for verdict in verdicts),
            "reply_tokens": sum(verdict.reply_tokens or 0 for verdict in verdicts),
            "usd": round(sum(dollars), 6) if dollars else None,
        }

    def verdict(self, asked: Asked, key: str, response: Mapping[str, Any], price: Price | None) -> Verdict:
        """Read one verdict. `key`: empty where there is no answer to judge; `response`: empty where none is there."""
        if response:
            judgement = read(asked.request, response, self.settings.min_mass)
        elif key:
            judgement = Judgement("error", self.failures.get(key, "the judge was not asked"))
        else:
            judgement = Judgement("error", f"no answer: {asked.answer.finish_reason}")
        usage = response.get("usage") or (None, None, None)
        return Verdict(
            **asked.answer.sampled(),
            judge=self.label,
            rubric=asked.rubric.name,
            **vars(judgement),
            prompt_tokens=usage[0],
            reply_tokens=usage[1],
            seconds=response.get("seconds"),
            usd=usd_of(price, usage, 0.5 if response.get("batch") else 1.0),
        )
