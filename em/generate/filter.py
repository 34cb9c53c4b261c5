"""The filter: judges score candidates by a rubric, with the same machinery, memory and readings as in an evaluation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from em.api.pool import once
from em.api.resources import Resources
from em.errors import ServerError
from em.generate.plan import Stock
from em.generate.rows import Candidate
from em.judge.plan import Asked
from em.judge.run import Judge, requests_of
from em.types import Answer, ModelRef, Question, Rubric

SET = "generated"


class Filter:
    """The judges of a run and all that they were asked."""

    def __init__(self, judges: Sequence[Judge], author: ModelRef, stock: Stock, resources: Resources) -> None:
        self.judges, self.author = judges, author
        self.memory, self.prices = resources.memory, resources.prices
        self.rubrics = {part: Rubric(prompt.name, prompt.text) for part, prompt in stock.rubrics.items()}
        self.asked: list[list[Asked]] = [[] for _ in judges]

    def score(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Give the candidates every judge's scores."""
        if not candidates:
            return []
        questions: dict[tuple[str, str], Question] = {}
        answers: list[Answer] = []
        for candidate in candidates:
            for part, rubric in self.rubrics.items():
                name, passage = f"{candidate.drawn.call}.{candidate.position} {part}", candidate.drawn.piece.text
                question = Question(SET, name, candidate.question, reference=passage, rubrics=(rubric,))
                questions[SET, name] = question
                answers.append(self.as_answer(question, candidate.control if part == "control" else candidate.answer))
        scores: list[dict[str, dict[str, float | str]]] = [{} for _ in candidates]
        for number, judge in enumerate(self.judges):
            asked = judge.plan(answers, questions)
            self.asked[number] += asked
            self.ask(judge, asked)
            verdicts = judge.read(asked, self.memory, self.prices).verdicts
            values = (verdict.status if verdict.value is None else verdict.value for verdict in verdicts)
            for by_judge in scores:
                by_judge[judge.label] = {part: next(values) for part in self.rubrics}
        return [replace(each, scores=by_judge) for each, by_judge in zip(candidates, scores, strict=True)]

    def as_answer(self, question: Question, text: str) -> Answer:
        """Present a candidate's answer as judges know answers."""
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

    def ask(self, judge: Judge, asked: Sequence[Asked]) -> None:
        """Have one judge say what is not remembered yet. Raises ServerError where scores could not be had.

        Rows without them would be left out, and a later run that has them would come to other rows.
        """
        asyncio.run(judge.ask(once(requests_of(asked)), self.memory, self.prices))
        lost = [words for key, words in judge.failures.items() if key not in judge.refused]
        if lost:
            raise ServerError(
                f"{len(lost)} scores of {judge.label} could not be had ({lost[0].rstrip('.')}): what was written and "
                "scored is kept; run the same command again to go on."
            )

    def records(self) -> list[dict[str, Any]]:
        """Make the records of the judges that the manifest and the card keep."""
        pairs = zip(self.judges, self.asked, strict=True)
        return [dict(judge.read(asked, self.memory, self.prices).record) for judge, asked in pairs]
