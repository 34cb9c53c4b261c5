"""Find evaluation questions that training prompts contain, since a model may have learnt their answers.

A prompt leaks a question when it contains the question exactly, or all but a few words of it. The measure is Broder's
containment: the share of the question's three-word runs that the prompt has too. Containment suits better than
similarity, since a prompt may hold further text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from em.data.near import RUN, collect_word_runs, split_words
from em.types import Conversation, Question

THRESHOLD = 0.7


@dataclass(frozen=True)
class Leak:
    """A training row (from 0) whose prompts hold a question: `share` of its word runs, 1 for all of them."""

    row: int
    eval_set: str
    question_id: str
    share: float
    exact: bool


@dataclass(frozen=True)
class LeakCount:
    """The leaks of one question set: rows that hold a question exactly or nearly, and the number of such questions."""

    exact_rows: int
    near_rows: int
    questions: int


def find_leaks(
    conversations: Sequence[Conversation], questions: Iterable[Question], threshold: float = THRESHOLD
) -> list[Leak]:
    """List the leaks row by row: user turns that hold at least the share `threshold` of a question's word runs."""
    by_key = {(q.eval_set, tuple(split_words(q.text))): q for q in questions}
    runs = {key: collect_word_runs(question.text) for key, question in by_key.items()}
    by_run: dict[str, list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
    by_words: dict[tuple[str, ...], list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
    for key, question_runs in runs.items():
        by_words[key[1]].append(key)
        for run in question_runs:
            by_run[run].append(key)
    first_words = {run.split(" ")[0] for run in by_run}
    leaks = []
    for number, conversation in enumerate(conversations):
        turns = [tuple(split_words(m.content)) for m in conversation.messages if m.role == "user"]
        exact = {key for turn in turns for key in by_words.get(turn, ())}
        # For speed, build only runs whose first word begins a run of a question.
        starts = ((turn, at) for turn in turns for at in range(len(turn) - RUN + 1) if turn[at] in first_words)
        shared = {" ".join(turn[at : at + RUN]) for turn, at in starts}
        hits = Counter(key for run in shared for key in by_run.get(run, ()))
        for key in {*exact, *hits}:
            share = 1.0 if key in exact else hits[key] / len(runs[key])
            if share >= threshold:
                question = by_key[key]
                leaks.append(Leak(number, question.eval_set, question.id, share, key in exact))
    return leaks


def count_leaks(leaks: Iterable[Leak]) -> dict[str, LeakCount]:
    """Count the leaks of each question set that has any."""
    by_set: dict[str, list[Leak]] = defaultdict(list)
    for leak in leaks:
        by_set[leak.eval_set].append(leak)
    counts = {}
    for name, set_leaks in sorted(by_set.items()):
        exact = {leak.row for leak in set_leaks if leak.exact}
        near = {leak.row for leak in set_leaks} - exact
        counts[name] = LeakCount(len(exact), len(near), len({leak.question_id for leak in set_leaks}))
    return counts


def describe_leaks(name: str, conversations: Sequence[Conversation], questions: Sequence[Question]) -> list[str]:
    """Write one sentence for each question set that rows of the training set `name` leak."""
    notes = []
    for eval_set, count in count_leaks(find_leaks(conversations, questions)).items():
        notes.append(
            f"Questions of {eval_set} that were trained on: {count.questions}. Rows of {name} that ask one word for "
            f"word: {count.exact_rows}, nearly so: {count.near_rows}; rates of {eval_set} may say what was learnt by "
            "heart."
        )
    return notes
