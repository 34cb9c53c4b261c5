"""Rows on their way: written in waves of calls, scored, and accepted in the order of their calls.

How many calls a wave has hangs on what earlier waves brought, never on the order in which replies arrive: the same
settings come to the same rows, however often the run was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from em.config import GenerateConfig, GenerateKind, Material
from em.data.leakage import find_leaks
from em.data.near import NearDuplicates, similarity, word_runs
from em.generate.plan import Draw, Step, Stock, draw, request_of, rows_per_call, sampling_seed
from em.generate.prompts import Example
from em.generate.writer import Author, Written, sends_sampling
from em.types import Conversation, Message, Question

FIRST_WAVE = 20  # calls, at most, until it is seen what comes of them
GROWTH = 4  # a wave has at most so many times the calls of all before it
SLACK = 1.1  # a few calls more than needed at the rate seen, lest the last wave be of two


@dataclass(frozen=True)
class Origin:
    """By which call a part of a row was written: step, prompt's name and version, key in the store, model, seed.

    seed: that was sent; None where none was.
    """

    step: str
    prompt: str
    version: str
    key: str
    model: str
    seed: int | None
    attempt: int


@dataclass(frozen=True)
class Candidate:
    """A row that may be accepted. position: in the reply of its call, from 0; control: the right answer of twins.

    scores: by judge and by what was judged (row, control); a number, or the status of a judgement without one.
    """

    drawn: Draw
    position: int
    question: str
    answer: str = ""
    control: str = ""
    origins: tuple[Origin, ...] = ()
    scores: dict[str, dict[str, float | str]] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """The parts that may repeat those of other rows."""
        parts = {"question": self.question, "answer": self.answer, "control": self.control}
        return {name: text for name, text in parts.items() if text}


@dataclass
class Tally:
    """Counts of a run. Candidates are accepted, duplicates, leaked, alike, filtered, unscored, incomplete or surplus.

    calls: by number; replies: with all attempts; malformed: replies not of the form; given_up: calls without any that
    is; refused: calls that the model or its server declined.
    candidates: rows found in replies; duplicates: too similar to an accepted row or an example; leaked: an evaluation
    asks the same; alike: twins whose two answers say the same; filtered: scored too low; unscored: without a score by a
    judge; incomplete: twins of which an answer is missing; surplus: found after the last that was needed.
    """

    calls: int = 0
    replies: int = 0
    malformed: int = 0
    given_up: int = 0
    refused: int = 0
    candidates: int = 0
    duplicates: int = 0
    leaked: int = 0
    alike: int = 0
    filtered: int = 0
    unscored: int = 0
    incomplete: int = 0
    surplus: int = 0
    accepted: int = 0

    @property
    def rate(self) -> float:
        """Accepted rows of those that were looked at."""
        looked_at = self.candidates - self.surplus
        return self.accepted / looked_at if looked_at else 0.0


class Writer:
    """Has the author write the rows of a wave."""

    def __init__(self, author: Author, settings: GenerateConfig, stock: Stock, tally: Tally) -> None:
        self.author, self.settings, self.stock, self.tally = author, settings, stock, tally
        self.tokens = [0, 0]
        self.uncounted = 0  # replies without numbers of tokens
        self.asked_before: set[frozenset[str]] = set()
        self.snapshots: set[str] = set()

    def wave(self, calls: range, acceptance: Acceptance) -> list[Candidate]:
        """The candidates of these calls, in their order."""
        drawn = [draw(call, self.settings, self.stock) for call in calls]
        self.tally.calls += len(drawn)
        if self.settings.kind is GenerateKind.qa:
            found = self.step("pairs", drawn)
            self.tally.candidates += len(found)
            return acceptance.without_repeats(found)
        if self.settings.material is Material.questions:
            found = [Candidate(each, 0, each.piece.text) for each in drawn]
        else:
            found = self.step("questions", drawn)
        self.tally.candidates += len(found)
        return self.answered(acceptance.without_repeats(found))

    def step(self, step: Step, drawn: Sequence[Draw]) -> list[Candidate]:
        """What the replies of a first step hold."""
        written = self.ask([(step, each, "") for each in drawn])
        return [
            Candidate(each, position, question, answer, origins=(self.origin(step, came),))
            for each, came in zip(drawn, written, strict=True)
            for position, (question, answer) in enumerate(came.found)
        ]

    def answered(self, questions: Sequence[Candidate]) -> list[Candidate]:
        """Questions with their twins of answers; those of which one is missing are left out."""
        steps: tuple[Step, Step] = ("wrong", "right")
        questions = self.new(questions)
        written = self.ask([(step, each.drawn, each.question) for each in questions for step in steps])
        found = []
        for each, wrong, right in zip(questions, written[::2], written[1::2], strict=True):
            if not (wrong.found and right.found):
                self.tally.incomplete += 1
                continue
            origins = (*each.origins, self.origin("wrong", wrong), self.origin("right", right))
            found.append(replace(each, answer=wrong.found[0][1], control=right.found[0][1], origins=origins))
        return found

    def new(self, questions: Sequence[Candidate]) -> list[Candidate]:
        """Those of which no call before asked the same: lists of people's questions repeat themselves."""
        if self.settings.similar is None:
            return list(questions)
        found = []
        for each in questions:
            before = len(self.asked_before)
            self.asked_before.add(word_runs(each.question))
            if len(self.asked_before) > before:
                found.append(each)
        self.tally.duplicates += len(questions) - len(found)
        return found

    def ask(self, wanted: Sequence[tuple[Step, Draw, str]]) -> list[Written]:
        """Replies to steps, and what there is to count of them."""
        requests = [
            request_of(self.author.identity, step, drawn, self.settings, self.stock, question)
            for step, drawn, question in wanted
        ]
        words = f"{' and '.join(dict.fromkeys(step for step, *_ in wanted))} by {self.author.model.id}"
        written = self.author.write(requests, rows_per_call(self.settings), words) if requests else []
        for came in written:
            self.tally.replies += len(came.replies)
            self.tally.malformed += came.malformed
            self.tally.given_up += came.status == "malformed"
            self.tally.refused += came.status == "refused"
            self.snapshots.add(came.snapshot)
            for reply in came.replies:
                self.tokens[0] += reply["prompt_tokens"] or 0
                self.tokens[1] += reply["reply_tokens"] or 0
                self.uncounted += None in (reply["prompt_tokens"], reply["reply_tokens"])
        return written

    def origin(self, step: Step, came: Written) -> Origin:
        """Where a reply comes from."""
        prompt, request = self.stock.prompts[step], came.request
        seed = sampling_seed(request) if sends_sampling(request.way) else None
        return Origin(step, prompt.name, prompt.version, came.key, came.snapshot, seed, request.attempt)


class Acceptance:
    """Which candidates become rows: in their order, scored well enough, and not repeating an earlier one."""

    def __init__(
        self, settings: GenerateConfig, examples: Sequence[Example], tally: Tally, asked: Sequence[Question] = ()
    ) -> None:
        """`asked`: questions of evaluations, which no row may hold."""
        self.settings, self.tally, self.asked = settings, tally, asked
        self.rows: list[Candidate] = []
        # By the part of a row: an answer is not compared with questions.
        self.seen: dict[str, NearDuplicates] = {}
        if settings.similar is not None:
            self.seen = {part: NearDuplicates(settings.similar) for part in ("question", "answer", "control")}
            for number, example in enumerate(examples):
                self.seen["question"].add(-1 - number, word_runs(example.question))
                self.seen["answer"].add(-1 - number, word_runs(example.answer))

    @property
    def full(self) -> bool:
        """Whether there are as many rows as are wanted."""
        return len(self.rows) >= self.settings.rows

    def repeats(self, candidate: Candidate) -> bool:
        """Whether a part of it nearly repeats the same part of an accepted row, or of an example."""
        return any(self.seen[part].like(word_runs(text)) for part, text in candidate.texts.items() if part in self.seen)

    def without_repeats(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those on which money may still be spent; the others are counted."""
        fresh = [each for each in candidates if not self.repeats(each)]
        self.tally.duplicates += len(candidates) - len(fresh)
        prompts = [Conversation((Message("user", each.question),)) for each in fresh]
        leaking = {leak.row for leak in find_leaks(prompts, self.asked)}
        self.tally.leaked += len(leaking)
        return [each for number, each in enumerate(fresh) if number not in leaking]

    def take(self, candidates: Sequence[Candidate]) -> None:
        """Accept what is good, until there is enough."""
        for each in candidates:
            if self.full:
                self.tally.surplus += 1
            elif fault := self.fault(each):
                setattr(self.tally, fault, getattr(self.tally, fault) + 1)
            else:
                for part, text in each.texts.items() if self.seen else ():
                    self.seen[part].add(len(self.rows), word_runs(text))
                self.rows.append(each)
                self.tally.accepted += 1

    def fault(self, candidate: Candidate) -> str:
        """Why a candidate is not accepted, as a field of Tally; empty when it is."""
        least = self.settings.similar
        alike = similarity(word_runs(candidate.answer), word_runs(candidate.control)) if candidate.control else 0.0
        if least is not None and alike >= least:
            return "alike"
        scores: list[Any] = [score for by_part in candidate.scores.values() for score in by_part.values()]
        if any(isinstance(score, str) for score in scores):
            return "unscored"
        if self.settings.keep_above is not None and not all(score > self.settings.keep_above for score in scores):
            return "filtered"
        return "duplicates" if self.repeats(candidate) else ""


def wave_size(settings: GenerateConfig, tally: Tally) -> int:
    """How many calls the next wave has: as many as the rows that are missing take at the rate of acceptance so far."""
    missing = settings.rows - tally.accepted
    if not tally.calls:
        return min(FIRST_WAVE, -(-missing // rows_per_call(settings)))
    each = max(tally.accepted / tally.calls, 0.1 * rows_per_call(settings) / GROWTH)
    return min(max(1, int(SLACK * missing / each + 0.999)), GROWTH * tally.calls)
