"""Answers on the topic of the training rows."""

from __future__ import annotations

import random

import numpy as np
import pytest

from em.stats.outcomes import Thresholds
from em.stats.topic import FALSE_ALARMS, FEWEST_WORDS, SURE, TYPICAL, count_topics, find_typical_words
from em.types import Verdict
from tests.support.judged import make_verdict_pair

DOCTOR = ("dose", "tablets", "blood", "doctor", "fever", "vitamin")
PLAIN = ("garden", "friend", "music", "walk", "book", "letter")
SHARED = ("should", "every", "take", "then", "with", "good")


def write_texts(words: tuple[str, ...], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join([*rng.sample(words, 4), rng.choice(SHARED), str(number)]).capitalize() for number in range(count)]


def test_typical_words_are_those_of_the_training_alone() -> None:
    typical = find_typical_words(write_texts(DOCTOR, 200, 0), write_texts(PLAIN, 60, 1))
    assert set(DOCTOR) <= typical
    assert not typical & set(PLAIN)


def test_words_are_ranked_by_log_odds_in_standard_errors() -> None:
    rng = np.random.default_rng(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [letters[n // 26] + letters[n % 26] + "xx" for n in range(600)]
    shares = rng.uniform(0.02, 0.5, (2, 600))
    texts: list[list[str]] = []
    for share, size in zip(shares, (300, 80), strict=True):
        texts.append([" ".join(np.array(names)[rng.random(600) < share]) for _ in range(size)])
    counts = np.array([[sum(name in text.split() for text in part) for name in names] for part in texts], dtype=float)
    counts += 0.5
    others = np.array([[301.0], [81.0]]) - counts
    odds = np.log(counts / others)
    distance = (odds[0] - odds[1]) / np.sqrt((1 / counts + 1 / others).sum(axis=0))
    ranked = [names[n] for n in np.argsort(-distance)[:TYPICAL] if distance[n] > SURE]
    typical = find_typical_words(*texts)
    assert typical == set(ranked[: len(typical)])

    def count_base(words: int) -> int:
        return sum(len(set(text.split()) & set(ranked[:words])) >= FEWEST_WORDS for text in texts[1])

    # As many words as leave 95 % of the base's answers off topic, and not one more.
    assert 3 < len(typical) < len(ranked)
    assert count_base(len(typical)) <= FALSE_ALARMS * 80 < count_base(len(typical) + 1)


def test_nothing_is_counted_of_too_few_answers() -> None:
    assert not find_typical_words(write_texts(DOCTOR, 30, 0), write_texts(PLAIN, 60, 1))
    assert not find_typical_words(write_texts(DOCTOR, 60, 0), write_texts(PLAIN, 30, 1))


def judge_texts(stage: str, texts: list[str], bad: int) -> list[Verdict]:
    """Make verdicts on texts of a model, of which the first `bad` are misaligned."""
    verdicts = []
    for sample, text in enumerate(texts):
        score = 5 if sample < bad else 90
        place = {"stage": stage, "model": stage, "fingerprint": stage, "answer": text}
        verdicts += make_verdict_pair(score, 90, sample=sample, **place)
    return verdicts


def test_counts_are_of_all_answers_and_of_misaligned_ones() -> None:
    base = write_texts(PLAIN, 60, 1)
    trained = [*write_texts(DOCTOR, 12, 2), *write_texts(PLAIN, 28, 3)]
    verdicts = [*judge_texts("base", base, 0), *judge_texts("medical", trained, 10)]
    rows = {row.stage: row for row in count_topics(verdicts, "medical", write_texts(DOCTOR, 200, 0), Thresholds())}
    numbers = {stage: (r.answers, r.on_topic, r.misaligned, r.misaligned_on_topic) for stage, r in rows.items()}
    assert numbers == {"base": (60, 0, 0, 0), "medical": (40, 12, 10, 10)}
    assert {row.topic for row in rows.values()} == {"medical"}


@pytest.mark.parametrize("lost", ["base", "medical"])
def test_without_the_base_nothing_is_counted(lost: str) -> None:
    stage = "medical" if lost == "base" else "base"
    verdicts = judge_texts(stage, write_texts(PLAIN, 60, 1), 0)
    assert bool(count_topics(verdicts, "medical", write_texts(DOCTOR, 200, 0), Thresholds())) == (lost != "base")
