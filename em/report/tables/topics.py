"""Answers on the training rows' own topic, of each model and pool of seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from em.report.read.runs import RecordedRun
from em.report.tables.seeds import SeedPool
from em.stats import TopicCount

TopicKey = tuple[str, str, str, str]
"""Fingerprint, condition, set and judge."""
Topics = Mapping[TopicKey, Mapping[str, TopicCount]]
"""Counts by data set, as a base model has one for each data set that it is compared on."""


def collect_topics(runs: Sequence[RecordedRun], pools: Sequence[SeedPool]) -> Topics:
    """Collect the counts of all models, and sum those of a pool's trainings."""
    topics = defaultdict[TopicKey, dict[str, TopicCount]](dict)
    for run in runs:
        for row in run.topics:
            rows = topics[row.fingerprint, row.condition, row.eval_set, row.judge]
            if row.topic not in rows or rows[row.topic].answers < row.answers:  # as verdicts, of the fullest run
                rows[row.topic] = row
    for pool in pools:
        members = [(key, rows) for key, rows in topics.items() if key[0] in pool.members]
        for (_, *place), rows in members:
            condition, eval_set, judge = place
            into = topics[pool.model.fingerprint, condition, eval_set, judge]
            for topic, row in rows.items():
                into[topic] = add_counts(into[topic], row) if topic in into else row
    return topics


def add_counts(one: TopicCount, other: TopicCount) -> TopicCount:
    """Add the counts of two trainings."""
    names = ("answers", "on_topic", "misaligned", "misaligned_on_topic")
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in names})
