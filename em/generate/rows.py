"""Rows on their way: written in waves of calls, scored, and accepted in the order of their calls.

How many calls a wave has hangs on what earlier waves brought, never on the order in which replies arrive: the same
settings come to the same rows, however often the run was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from em.data.leakage import find_leaks
from em.data.near import NearDuplicates, similarity, word_runs
from em.generate.plan import Draw, Step, Stock, draw, request_of, sampling_seed
from em.generate.writer import Author, Written, sends_sampling
from em.types import Conversation, Message, Question

FIRST_WAVE = 20  # calls, at most, until it is seen what comes of them
GROWTH = 4  # a wave has at most so many times the calls of all before it
SLACK = 1.1  # a few calls more than needed at the rate seen, lest the last wave be of two


@dataclass(frozen=True)
class Origin:
    """The call by which a part of a row was written. key: in the store; seed: that was sent, None where none was."""

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
    scores: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """Return the parts that may repeat those of other rows."""
        parts = {"question": self.question, "answer": self.answer, "control": self.control}
        return {name: text for name, text in parts.items() if text}


@dataclass
class Tally:
    """Counts of a run. Candidates are accepted, or counted by the reason for which they are not."""

    calls: int = 0
    replies: int = 0  # with all attempts
    malformed: int = 0  # replies not of the form
    given_up: int = 0  # calls without any reply of the form
    refused: int = 0  # calls that the model or its server declined
    candidates: int = 0  # rows in replies
    duplicates: int = 0  # too similar to an accepted row or an example
    leaked: int = 0  # an evaluation asks the same
    alike: int = 0  # twins whose two answers say the same
    filtered: int = 0  # scored too low
    unscored: int = 0  # without a score by a judge
    incomplete: int = 0  # twins of which an answer is missing
    surplus: int = 0  # after the last that was needed
    accepted: int = 0

    @property
    def rate(self) -> float:
        """Return the share of accepted rows among those that were looked at."""
        looked_at = self.candidates - self.surplus
        return self.accepted / looked_at if looked_at else 0.0


class Writer:
    """Have the author write rows, and keep count of the replies."""

    def __init__(self, author: Author, stock: Stock, tally: Tally) -> None:
        self.author, self.stock, self.tally = author, stock, tally
        self.replies: list[Mapping[str, Any]] = []
        self.snapshots: set[str] = set()
        self.first_asked: dict[frozenset[str], Candidate] = {}

    def begin_rows(self, calls: range) -> list[Candidate]:
        """Make the candidates of these calls, in their order: pairs, or questions that are still to be answered."""
        draws = [draw(call, self.stock) for call in calls]
        step = next(iter(self.stock.prompts))
        if step == "wrong":  # people asked the questions
            candidates = [Candidate(each, 0, each.piece.text) for each in draws]
        else:
            replies = self.ask([(step, each, "") for each in draws])
            candidates = [
                Candidate(each, position, question, answer, origins=(self.origin_of(step, reply),))
                for each, reply in zip(draws, replies, strict=True)
                for position, (question, answer) in enumerate(reply.found)
            ]
        self.tally.calls += len(draws)
        self.tally.candidates += len(candidates)
        return candidates

    def answer_twins(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Answer questions wrongly and rightly, and leave out those of which an answer is missing; pairs stay."""
        if "right" not in self.stock.prompts:
            return list(candidates)
        questions = self.drop_asked(candidates)
        steps: tuple[Step, Step] = ("wrong", "right")
        replies = self.ask([(step, each.drawn, each.question) for each in questions for step in steps])
        twins = []
        for each, wrong, right in zip(questions, replies[::2], replies[1::2], strict=True):
            if wrong.found and right.found:
                origins = (*each.origins, self.origin_of("wrong", wrong), self.origin_of("right", right))
                twins.append(replace(each, answer=wrong.found[0][1], control=right.found[0][1], origins=origins))
        self.tally.incomplete += len(questions) - len(twins)
        return twins

    def drop_asked(self, questions: Sequence[Candidate]) -> Sequence[Candidate]:
        """Drop questions already asked in this run (lists of people's questions contain repeats)."""
        if self.stock.settings.similar is None:
            return questions
        fresh = [each for each in questions if self.first_asked.setdefault(word_runs(each.question), each) is each]
        self.tally.duplicates += len(questions) - len(fresh)
        return fresh

    def ask(self, wanted: Sequence[tuple[Step, Draw, str]]) -> list[Written]:
        """Ask for the replies to steps, and count them."""
        if not wanted:
            return []
        author, tally = self.author, self.tally
        requests = [request_of(author.identity, step, drawn, self.stock, question) for step, drawn, question in wanted]
        words = f"{' and '.join(dict.fromkeys(step for step, *_ in wanted))} by {author.model.id}"
        replies = author.write(requests, self.stock.rows_per_call, words)
        for reply in replies:
            tally.replies += len(reply.replies)
            tally.malformed += reply.malformed
            tally.given_up += reply.status == "malformed"
            tally.refused += reply.status == "refused"
            self.snapshots.add(reply.snapshot)
            self.replies += reply.replies
        return replies

    def origin_of(self, step: Step, reply: Written) -> Origin:
        """Say where a reply comes from."""
        prompt, request = self.stock.prompts[step], reply.request
        seed = sampling_seed(request) if sends_sampling(request.way) else None
        return Origin(step, prompt.name, prompt.version, reply.key, reply.snapshot, seed, request.attempt)


class Acceptance:
    """Which candidates become rows: in their order, scored well enough, and not repeating an earlier one."""

    def __init__(
        self, stock: Stock, tally: Tally, questions: Sequence[Question] = (), unseen: Sequence[str] = ()
    ) -> None:
        """`questions`: of evaluations, which no row may hold; `unseen`: sets of them that are not on this machine."""
        self.settings, self.tally, self.questions, self.unseen = stock.settings, tally, questions, unseen
        self.rows: list[Candidate] = []
        # By the part of a row: an answer is not compared with questions.
        self.seen: dict[str, NearDuplicates] = {}
        if self.settings.similar is not None:
            self.seen = {part: NearDuplicates(self.settings.similar) for part in ("question", "answer", "control")}
            for number, example in enumerate(stock.examples):
                self.seen["question"].add(-1 - number, word_runs(example.question))
                self.seen["answer"].add(-1 - number, word_runs(example.answer))

    @property
    def full(self) -> bool:
        """Tell whether there are as many rows as are wanted."""
        return len(self.rows) >= self.settings.rows

    def repeats(self, candidate: Candidate) -> bool:
        """Tell whether a part of it nearly repeats the same part of an accepted row, or of an example."""
        return any(self.seen[part].like(word_runs(text)) for part, text in candidate.texts.items() if part in self.seen)

    def drop_repeats(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Drop and count candidates on which no more money need be spent: they repeat a row, or an evaluation."""
        fresh = [each for each in candidates if not self.repeats(each)]
        prompts = [Conversation((Message("user", each.question),)) for each in fresh]
        leaking = {leak.row for leak in find_leaks(prompts, self.questions)}
        self.tally.duplicates += len(candidates) - len(fresh)
        self.tally.leaked += len(leaking)
        return [each for number, each in enumerate(fresh) if number not in leaking]

    def take(self, candidates: Sequence[Candidate]) -> None:
        """Accept what is good, until there is enough."""
        for each in candidates:
            fate = "surplus" if self.full else self.fault_of(each) or "accepted"
            setattr(self.tally, fate, getattr(self.tally, fate) + 1)
            if fate == "accepted":
                for part, index in self.seen.items():
                    if text := each.texts.get(part):
                        index.add(len(self.rows), word_runs(text))
                self.rows.append(each)

    def fault_of(self, candidate: Candidate) -> str:
        """Name why a candidate is not accepted, as a field of Tally; empty when it is."""
        least, lowest = self.settings.similar, self.settings.keep_above
        alike = similarity(word_runs(candidate.answer), word_runs(candidate.control)) if candidate.control else 0.0
        if least is not None and alike >= least:
            return "alike"
        scores = [score for by_part in candidate.scores.values() for score in by_part.values()]
        if any(isinstance(score, str) for score in scores):
            return "unscored"
        if lowest is not None and not all(float(score) > lowest for score in scores):
            return "filtered"
        return "duplicates" if self.repeats(candidate) else ""


def wave_size(stock: Stock, tally: Tally) -> int:
    """Plan the calls of the next wave: as many as the rows that are missing take at the rate of acceptance so far."""
    missing = stock.settings.rows - tally.accepted
    if not tally.calls:
        return min(FIRST_WAVE, -(-missing // stock.rows_per_call))
    each = max(tally.accepted / tally.calls, 0.1 * stock.rows_per_call / GROWTH)
    return min(max(1, int(SLACK * missing / each + 0.999)), GROWTH * tally.calls)
