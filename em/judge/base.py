"""The base class of all judges: read verdicts from remembered responses, and describe the judge in the manifest.

Every verdict has a status; a failed judgement has no value. Raw responses are remembered, so that another threshold,
`judge.min_mass` or `judge.words` needs no new calls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from em.api.prices import compute_usd
from em.config.judge import OneJudge, WordRule
from em.judge.plan import WORDS, PlannedJudgement, can_judge, fill_prompt
from em.judge.readings import BY_PROBABILITY, RULE, count_word, read_response
from em.runtime.memory import Calls, request_key
from em.runtime.records import digest, pause_garbage_collection
from em.types import Answer, Judgement, JudgeRequest, ModelRef, Price, Prices, Question, Rubric, Verdict, Weights

PART = 1000  # judgements read at a time
NOTHING: Mapping[str, Any] = {}
Source = AsyncIterator[Iterable[JudgeRequest]]
"""Requests to a judge, in parts: the answers may still be in the making."""


@dataclass(frozen=True)
class JudgeResult:
    """The verdicts of one judge, in the order of the plan, and the judge's record for the manifest."""

    verdicts: Sequence[Verdict]
    record: Mapping[str, Any]


class Judge(ABC):
    """A judge: a model in a child process (`em.judge.local`) or behind a server (`em.judge.remote`).

    weights: the judge's weights; identity: their short name. hidden: the trigger tags, which the judge must not see.
    way: the configured reading; reading: the reading in use, empty while unknown.
    failures: reasons of failed judgements by the request's key.
    refused: keys of requests whose prompt was refused, which the next run need not retry.
    """

    here: ClassVar[bool]
    """Whether the judge needs this machine's devices: if so, it runs alone, without sampling or another such judge."""
    precision = ""

    def __init__(self, settings: OneJudge, weights: Weights, identity: str, way: str, hidden: tuple[str, ...]) -> None:
        self.settings, self.weights, self.identity, self.way, self.hidden = settings, weights, identity, way, hidden
        self.failures: dict[str, str] = {}
        self.refused: set[str] = set()

    @property
    def reading(self) -> str:
        """The way in which scores are read."""
        return self.way

    @property
    def word_rule(self) -> str:
        """The rule for words, if it is not the default and has an effect in this reading; else an empty text."""
        rule = self.settings.words
        return "" if rule is WordRule.likeliest or self.reading not in BY_PROBABILITY else rule.value

    @property
    def label(self) -> str:
        """The judge's name in tables, with the rule for words where that is not the default."""
        return f"{self.identity} (words {self.word_rule})" if self.word_rule else self.identity

    @abstractmethod
    def check(self, spending: bool) -> list[str]:
        """Check that the judge is available; return notes for the report.

        Args:
            spending: refuse an unavailable judge at once. Otherwise refuse it only if verdicts must still be made.
        """

    @abstractmethod
    async def ask(self, source: Source, memory: Calls, prices: Prices, planned: int | None = None) -> None:
        """Send the requests without a remembered response to the judge.

        Args:
            source: requests of the judge's plan.
            planned: their number, for the progress bar; None if it is not known yet.
        """

    @abstractmethod
    def find_relation(self, model: ModelRef) -> str:
        """Return `the model` or `its base` if the judge is the model under test or its base, else an empty text."""

    def find_author_relation(self, answer: Answer) -> str:
        """Return the relation to the author of a stored answer, by the author's name or fingerprint."""
        names = (self.settings.model, self.settings.name)
        return "the model" if answer.model in names or answer.fingerprint == digest(self.weights.identity) else ""

    def plan_judgements(
        self, answers: Sequence[Answer], questions: Mapping[tuple[str, str], Question]
    ) -> list[PlannedJudgement]:
        """Plan one judgement for each answer and each rubric of its question, in the order of the answers.

        Args:
            questions: by set and id.
        """
        judgements: list[PlannedJudgement] = []
        for answer in answers:
            question = questions[answer.eval_set, answer.question_id]
            for rubric in question.rubrics:
                prompt = fill_prompt(rubric, answer, question.reference, self.hidden)
                judgements.append(PlannedJudgement(answer, rubric, self.make_request(prompt, rubric)))
        return judgements

    def make_request(self, prompt: str, rubric: Rubric) -> JudgeRequest:
        """Make the request of a judgement."""
        words = () if rubric.labels else WORDS
        return JudgeRequest(self.identity, prompt, rubric.labels, words, self.reading, (), self.precision)

    def finalise_request(self, request: JudgeRequest) -> JudgeRequest:
        """Return a planned request in the form that the judge receives."""
        return request

    def find_key(self, request: JudgeRequest) -> str:
        """Return the key under which a request is remembered."""
        return request_key(request)

    def collect_details(self) -> dict[str, Any]:
        """Return further entries of the record, which a rerun of the same judge needs."""
        return {}

    @pause_garbage_collection()
    def read_verdicts(self, plan: Sequence[PlannedJudgement], calls: Calls, prices: Prices) -> JudgeResult:
        """Read the verdicts of a plan from remembered responses, in parts, as all responses would fill the RAM."""
        price = prices.find_price(self.settings.model)
        verdicts, by_call, snapshots = list[Verdict](), dict[str, Verdict](), set[str]()
        words = Counter[str]()
        for start in range(0, len(plan), PART):
            planned = plan[start : start + PART]
            part = [PlannedJudgement(p.answer, p.rubric, self.finalise_request(p.request)) for p in planned]
            keys = [self.find_key(each.request) if can_judge(each.answer) else "" for each in part]
            responses = calls.read_responses(list(dict.fromkeys(keys)))
            for each, key in zip(part, keys, strict=True):
                response = responses.get(key, NOTHING)
                verdicts.append(self.make_verdict(each, key, response, price))
                if response:
                    # By the default rule a word is never `ok`, so that most responses need not be read again.
                    if self.word_rule or verdicts[-1].status != "ok":
                        words.update(count_word(each.request, response, self.settings.min_mass))
                    by_call.setdefault(key, verdicts[-1])
                    snapshots.add(f"{response.get('model') or ''} {response.get('system_fingerprint') or ''}".strip())
        rubrics = {(each.answer.eval_set, each.rubric.name): each.rubric.prompt for each in plan}
        prompts = {f"{eval_set}/{name}": digest(prompt) for (eval_set, name), prompt in rubrics.items()}
        counts = self.sum_usage(by_call.values()) | {"failed": sum(verdict.status == "error" for verdict in verdicts)}
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
        if self.word_rule:
            record["words"] = self.word_rule
        return JudgeResult(verdicts, record | self.collect_details() | counts | words)

    @staticmethod
    def sum_usage(verdicts: Collection[Verdict]) -> dict[str, Any]:
        """Sum calls, tokens and dollars. `verdicts`: one per call, as equal requests share a call."""
        dollars = [verdict.usd for verdict in verdicts if verdict.usd is not None]
        return {
            "calls": len(verdicts),
            "prompt_tokens": sum(verdict.prompt_tokens or 0 for verdict in verdicts),
            "reply_tokens": sum(verdict.reply_tokens or 0 for verdict in verdicts),
            "usd": round(sum(dollars), 6) if dollars else None,
        }

    def make_verdict(
        self, planned: PlannedJudgement, key: str, response: Mapping[str, Any], price: Price | None
    ) -> Verdict:
        """Read one verdict. `key`: empty without an answer to judge; `response`: empty if none is remembered."""
        if response:
            judgement = read_response(planned.request, response, self.settings.min_mass, self.settings.words)
        elif key:
            judgement = Judgement("error", self.failures.get(key, "the judge was not asked"))
        else:
            judgement = Judgement("error", f"no answer: {planned.answer.finish_reason}")
        usage = response.get("usage") or (None, None, None)
        return Verdict(
            **planned.answer.get_sample_fields(),
            judge=self.label,
            rubric=planned.rubric.name,
            **vars(judgement),
            prompt_tokens=usage[0],
            reply_tokens=usage[1],
            seconds=response.get("seconds"),
            usd=compute_usd(price, usage, 0.5 if response.get("batch") else 1.0),
        )
