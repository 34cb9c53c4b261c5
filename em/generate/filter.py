"""The filter: judges score candidates by a rubric, with the same machinery, memory and readings as in an evaluation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from em.api.pool import once
from em.api.prices import Price
from em.errors import ServerError
from em.generate.plan import Stock
from em.generate.rows import Candidate
from em.judge.plan import Asked
from em.judge.run import Judge, requests_of
from em.runtime.memory import Calls
from em.types import Answer, ModelRef, Question, Rubric

SET = "generated"


class Filter:
    """The judges of a run and all that they were asked."""

    def __init__(
        self, judges: Sequence[Judge], author: ModelRef, stock: Stock, store: Path, prices: Mapping[str, Price]
    ) -> None:
        self.judges, self.author, self.store, self.prices = judges, author, store, prices
        self.rubrics = {part: Rubric(prompt.name, prompt.text) for part, prompt in stock.rubrics.items()}
        self.asked: list[list[Asked]] = [[] for _ in judges]

    def scored(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with every judge's scores."""
        if not candidates:
            return []
        answers: list[Answer] = []
        questions: dict[tuple[str, str], Question] = {}
        places: list[tuple[int, str]] = []
        for number, candidate in enumerate(candidates):
            for part, rubric in self.rubrics.items():
                name = f"{candidate.drawn.call}.{candidate.position} {part}"
                questions[SET, name] = Question(
                    SET, name, candidate.question, reference=candidate.drawn.piece.text, rubrics=(rubric,)
                )
                answers.append(self.as_answer(candidate, part, name))
                places.append((number, part))
        scores: list[dict[str, dict[str, float | str]]] = [{} for _ in candidates]
        for place, judge in enumerate(self.judges):
            asked = judge.plan(answers, questions)
            self.asked[place] += asked
            self.ask(judge, asked)
            with Calls(self.store) as calls:
                verdicts = judge.read(asked, calls, self.prices).verdicts
            for (number, part), verdict in zip(places, verdicts, strict=True):
                value = verdict.status if verdict.value is None else verdict.value
                scores[number].setdefault(judge.label, {})[part] = value
        return [replace(each, scores=found) for each, found in zip(candidates, scores, strict=True)]

    def as_answer(self, candidate: Candidate, part: str, name: str) -> Answer:
        """A candidate's answer, as judges know answers."""
        return Answer(
            model=self.author.name,
            stage=self.author.stage,
            fingerprint=self.author.fingerprint,
            seed=None,
            eval_set=SET,
            question_id=name,
            question=candidate.question,
            condition="untagged",
            sample=candidate.position,
            answer=candidate.control if part == "control" else candidate.answer,
            finish_reason="stop",
            prompt_tokens=0,
            answer_tokens=0,
        )

    def ask(self, judge: Judge, asked: Sequence[Asked]) -> None:
        """Have one judge say what is not remembered yet.

        Raises:
            ServerError: scores could not be had. Rows without them would be left out, and a later run that has them
                would come to other rows.
        """
        asyncio.run(judge.ask(once(requests_of(asked)), self.store, self.prices))
        lost = [words for key, words in judge.failures.items() if key not in judge.refused]
        if lost:
            raise ServerError(
                f"{len(lost)} scores of {judge.label} could not be had ({lost[0].rstrip('.')}): what was written and "
                "scored is kept; run the same command again to go on."
            )

    def records(self) -> list[dict[str, Any]]:
        """What the manifest and the card keep of the judges."""
        with Calls(self.store) as calls:
            pairs = zip(self.judges, self.asked, strict=True)
            return [dict(judge.read(asked, calls, self.prices).record) for judge, asked in pairs]
