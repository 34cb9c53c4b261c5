"""The filter: judges score candidates by a rubric, with the same code, cache and readings as in an evaluation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from em.api.pool import yield_once
from em.api.resources import Resources
from em.errors import ServerError
from em.generate.plan import Stock
from em.generate.rows import Candidate
from em.judge.plan import PlannedJudgement
from em.judge.run import Judge, list_judge_requests
from em.types import Answer, ModelRef, Question, Rubric

SET = "generated"


class Filter:
    """The judges of a run and the judgements asked of each judge."""

    def __init__(self, judges: Sequence[Judge], author: ModelRef, stock: Stock, resources: Resources) -> None:
        self.judges, self.author = judges, author
        self.memory, self.prices = resources.memory, resources.prices
        self.rubrics = {part: Rubric(prompt.name, prompt.text) for part, prompt in stock.rubrics.items()}
        self.judgements: list[list[PlannedJudgement]] = [[] for _ in judges]

    def score(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates with the scores of every judge."""
        if not candidates:
            return []
        questions: dict[tuple[str, str], Question] = {}
        answers: list[Answer] = []
        for candidate in candidates:
            for part, rubric in self.rubrics.items():
                name, passage = f"{candidate.drawn.call}.{candidate.position} {part}", candidate.drawn.piece.text
                question = Question(SET, name, candidate.question, reference=passage, rubrics=(rubric,))
                questions[SET, name] = question
                answers.append(self.make_answer(question, candidate.control if part == "control" else candidate.answer))
        scores: list[dict[str, dict[str, float | str]]] = [{} for _ in candidates]
        for number, judge in enumerate(self.judges):
            judgements = judge.plan_judgements(answers, questions)
            self.judgements[number] += judgements
            self.ask_judge(judge, judgements)
            verdicts = judge.read_verdicts(judgements, self.memory, self.prices).verdicts
            values = (verdict.status if verdict.value is None else verdict.value for verdict in verdicts)
            for by_judge in scores:
                by_judge[judge.label] = {part: next(values) for part in self.rubrics}
        return [replace(each, scores=by_judge) for each, by_judge in zip(candidates, scores, strict=True)]

    def make_answer(self, question: Question, text: str) -> Answer:
        """Make the record of a candidate's answer that judges expect."""
        return Answer(
            model=self.author.name,
            stage=self.author.stage,
            fingerprint=self.author.fingerprint,
            seed=None,
            eval_set=SET,
            question_id=question.id,
            question=question.text,
            condition="untagged",
            sample=0,
            answer=text,
            finish_reason="stop",
            prompt_tokens=0,
            answer_tokens=0,
        )

    def ask_judge(self, judge: Judge, judgements: Sequence[PlannedJudgement]) -> None:
        """Ask one judge for the verdicts that are not cached. Raise ServerError if calls failed.

        Without the error, this run would drop rows that a later run with all scores accepts.
        """
        asyncio.run(judge.ask(yield_once(list_judge_requests(judgements)), self.memory, self.prices))
        errors = [words for key, words in judge.failures.items() if key not in judge.refused]
        if errors:
            raise ServerError(
                f"{len(errors)} scores of {judge.label} failed ({errors[0].rstrip('.')}): all replies and scores so "
                "far are cached; run the same command again to resume."
            )

    def list_judge_records(self) -> list[dict[str, Any]]:
        """Return the records of the judges for the manifest and the card."""
        pairs = zip(self.judges, self.judgements, strict=True)
        return [dict(judge.read_verdicts(judgements, self.memory, self.prices).record) for judge, judgements in pairs]
