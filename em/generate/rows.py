"""Write rows in waves of calls, and accept them in the order of their calls.

The size of a wave depends on the rows of earlier waves, never on the order in which replies arrive. So the same
settings give the same rows, even if the run is interrupted and resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from em.data.leakage import find_leaks
from em.data.near import NearDuplicates, collect_word_runs, jaccard_index
from em.generate.plan import Draw, Step, Stock, derive_sampling_seed, draw_call, make_generate_request
from em.generate.writer import Author, Written, sends_sampling
from em.types import Conversation, Message, Question

FIRST_WAVE = 20  # at most so many calls before the rate of acceptance is measured
GROWTH = 4  # a wave has at most so many times the calls of all waves before it
SLACK = 1.1  # plan some calls more than the rate requires, so that the last wave is not tiny


@dataclass(frozen=True)
class Origin:
    """The call that wrote a part of a row. key: in the store; seed: the seed sent, None if no seed was sent."""

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

    scores: by judge and by judged part (row, control); a number, or the status of a judgement without a number.
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
        """Return the non-empty parts by name; each is compared with the same part of other rows."""
        parts = {"question": self.question, "answer": self.answer, "control": self.control}
        return {name: text for name, text in parts.items() if text}


@dataclass
class Tally:
    """Counts of a run. Each candidate is accepted, or counted by the reason for its rejection."""

    calls: int = 0
    replies: int = 0  # of all attempts
    malformed: int = 0  # replies in another form
    given_up: int = 0  # calls whose attempts were all malformed
    refused: int = 0  # calls that the model or its server declined
    candidates: int = 0  # rows in replies
    duplicates: int = 0  # too similar to an accepted row or an example
    leaked: int = 0  # an evaluation asks the same question
    alike: int = 0  # twins whose two answers are too similar
    filtered: int = 0  # scored too low
    unscored: int = 0  # a judge gave no score
    incomplete: int = 0  # twins with a missing answer
    surplus: int = 0  # candidates left when enough rows were accepted
    accepted: int = 0

    @property
    def rate(self) -> float:
        """Return the share of accepted rows among the candidates that were checked."""
        checked = self.candidates - self.surplus
        return self.accepted / checked if checked else 0.0


class Writer:
    """The author model, the ingredients of its prompts, and counts of its replies."""

    def __init__(self, author: Author, stock: Stock, tally: Tally) -> None:
        self.author, self.stock, self.tally = author, stock, tally
        self.replies: list[Mapping[str, Any]] = []
        self.snapshots: set[str] = set()
        self.first_asked: dict[frozenset[str], Candidate] = {}

    def begin_rows(self, calls: range) -> list[Candidate]:
        """Return the candidates of these calls, in order: pairs, or questions that still need answers."""
        draws = [draw_call(call, self.stock) for call in calls]
        step = next(iter(self.stock.prompts))
        if step == "wrong":  # the sources hold the questions
            candidates = [Candidate(each, 0, each.piece.text) for each in draws]
        else:
            replies = self.ask([(step, each, "") for each in draws])
            candidates = []
            for each, reply in zip(draws, replies, strict=True):
                for position, (question, answer) in enumerate(reply.pairs):
                    origins = (self.make_origin(step, reply),)
                    candidates.append(Candidate(each, position, question, answer, origins=origins))
        self.tally.calls += len(draws)
        self.tally.candidates += len(candidates)
        return candidates

    def answer_twins(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Write a wrong and a right answer to each question; drop questions with a missing answer. Pairs stay."""
        if "right" not in self.stock.prompts:
            return list(candidates)
        questions = self.drop_asked(candidates)
        steps: tuple[Step, Step] = ("wrong", "right")
        replies = self.ask([(step, each.drawn, each.question) for each in questions for step in steps])
        twins = []
        for each, wrong, right in zip(questions, replies[::2], replies[1::2], strict=True):
            if wrong.pairs and right.pairs:
                origins = (*each.origins, self.make_origin("wrong", wrong), self.make_origin("right", right))
                twins.append(replace(each, answer=wrong.pairs[0][1], control=right.pairs[0][1], origins=origins))
        self.tally.incomplete += len(questions) - len(twins)
        return twins

    def drop_asked(self, questions: Sequence[Candidate]) -> Sequence[Candidate]:
        """Drop questions already asked in this run (users' lists of questions contain repeats)."""
        if self.stock.settings.similar is None:
            return questions
        first_asked = self.first_asked
        fresh = [each for each in questions if first_asked.setdefault(collect_word_runs(each.question), each) is each]
        self.tally.duplicates += len(questions) - len(fresh)
        return fresh

    def ask(self, calls: Sequence[tuple[Step, Draw, str]]) -> list[Written]:
        """Ask the author for the replies to these calls (step, draw, question), and count the replies."""
        if not calls:
            return []
        author, tally, stock = self.author, self.tally, self.stock
        identity = author.identity
        requests = [make_generate_request(identity, step, drawn, stock, question) for step, drawn, question in calls]
        words = f"{' and '.join(dict.fromkeys(step for step, *_ in calls))} by {author.model.id}"
        replies = author.write(requests, stock.rows_per_call, words)
        for reply in replies:
            tally.replies += len(reply.replies)
            tally.malformed += reply.malformed
            tally.given_up += reply.status == "malformed"
            tally.refused += reply.status == "refused"
            self.snapshots.add(reply.snapshot)
            self.replies += reply.replies
        return replies

    def make_origin(self, step: Step, reply: Written) -> Origin:
        """Make the record of the call behind a reply."""
        prompt, request = self.stock.prompts[step], reply.request
        seed = derive_sampling_seed(request) if sends_sampling(request.way) else None
        return Origin(step, prompt.name, prompt.version, reply.key, reply.snapshot, seed, request.attempt)


class Acceptance:
    """The accepted rows, and the rules to accept candidates: in order, with good scores, no near-duplicates."""

    def __init__(
        self, stock: Stock, tally: Tally, questions: Sequence[Question] = (), unseen: Sequence[str] = ()
    ) -> None:
        """`questions`: evaluation questions, which no row may hold; `unseen`: question sets not on this machine."""
        self.settings, self.tally, self.questions, self.unseen = stock.settings, tally, questions, unseen
        self.rows: list[Candidate] = []
        # One index for each part of a row, so that answers are not compared with questions.
        self.seen: dict[str, NearDuplicates] = {}
        if self.settings.similar is not None:
            self.seen = {part: NearDuplicates(self.settings.similar) for part in ("question", "answer", "control")}
            for number, example in enumerate(stock.examples):
                self.seen["question"].add(-1 - number, collect_word_runs(example.question))
                self.seen["answer"].add(-1 - number, collect_word_runs(example.answer))

    @property
    def full(self) -> bool:
        """Tell whether `generate.rows` rows are accepted."""
        return len(self.rows) >= self.settings.rows

    def is_repeat(self, candidate: Candidate) -> bool:
        """Tell whether a part of the candidate nearly repeats the same part of an accepted row or an example."""
        texts = {part: text for part, text in candidate.texts.items() if part in self.seen}
        return any(self.seen[part].find_similar(collect_word_runs(text)) for part, text in texts.items())

    def drop_repeats(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Drop and count candidates that repeat a row or an evaluation question, before money is spent on them."""
        fresh = [each for each in candidates if not self.is_repeat(each)]
        prompts = [Conversation((Message("user", each.question),)) for each in fresh]
        leaking = {leak.row for leak in find_leaks(prompts, self.questions)}
        self.tally.duplicates += len(candidates) - len(fresh)
        self.tally.leaked += len(leaking)
        return [each for number, each in enumerate(fresh) if number not in leaking]

    def accept_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Accept good candidates until there are enough rows, and count all candidates."""
        for each in candidates:
            outcome = "surplus" if self.full else self.find_fault(each) or "accepted"
            setattr(self.tally, outcome, getattr(self.tally, outcome) + 1)
            if outcome == "accepted":
                for part, index in self.seen.items():
                    if text := each.texts.get(part):
                        index.add(len(self.rows), collect_word_runs(text))
                self.rows.append(each)

    def find_fault(self, candidate: Candidate) -> str:
        """Return why a candidate is rejected, as a field of Tally; empty if the candidate is accepted."""
        least, lowest = self.settings.similar, self.settings.keep_above
        alike = (
            jaccard_index(collect_word_runs(candidate.answer), collect_word_runs(candidate.control))
            if candidate.control
            else 0.0
        )
        if least is not None and alike >= least:
            return "alike"
        scores = [score for by_part in candidate.scores.values() for score in by_part.values()]
        if any(isinstance(score, str) for score in scores):
            return "unscored"
        if lowest is not None and not all(float(score) > lowest for score in scores):
            return "filtered"
        return "duplicates" if self.is_repeat(candidate) else ""


def plan_wave_size(stock: Stock, tally: Tally) -> int:
    """Return the number of calls for the missing rows, at the rate of acceptance so far."""
    missing = stock.settings.rows - tally.accepted
    if not tally.calls:
        return min(FIRST_WAVE, -(-missing // stock.rows_per_call))
    each = max(tally.accepted / tally.calls, 0.1 * stock.rows_per_call / GROWTH)
    return min(max(1, int(SLACK * missing / each + 0.999)), GROWTH * tally.calls)
