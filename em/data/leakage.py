"""Questions of the evaluation that are among the training prompts: what is asked would then have been learnt.

A prompt leaks a question when it holds it: exactly, or all but a few words (Broder's containment, the share of the
question's runs of three words that the prompt has too). Containment and not likeness, since a prompt may go on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from em.data.near import RUN, word_runs, words_of
from em.types import Conversation, Question

THRESHOLD = 0.7


@dataclass(frozen=True)
class Leak:
    """A training row (from 0) whose prompts hold a question: `share` of its runs of words, 1 for all of it."""

    row: int
    eval_set: str
    question_id: str
    share: float
    exact: bool


@dataclass(frozen=True)
class LeakCount:
    """What leaks from one question set: rows that hold a question exactly, nearly, and how many questions it is."""

    exact_rows: int
    near_rows: int
    questions: int


def find_leaks(
    conversations: Sequence[Conversation], questions: Iterable[Question], threshold: float = THRESHOLD
) -> list[Leak]:
    """List every question that a row's user turns hold, by row: this share of its runs or more."""
    asked = {(q.eval_set, tuple(words_of(q.text))): q for q in questions}
    runs = {key: word_runs(question.text) for key, question in asked.items()}
    by_run: dict[str, list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
    by_words: dict[tuple[str, ...], list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
    for key, own in runs.items():
        by_words[key[1]].append(key)
        for run in own:
            by_run[run].append(key)
    first_words = {run.split(" ")[0] for run in by_run}
    leaks = []
    for number, conversation in enumerate(conversations):
        turns = [tuple(words_of(m.content)) for m in conversation.messages if m.role == "user"]
        exact = {key for turn in turns for key in by_words.get(turn, ())}
        # The runs that begin with the first word of one: all that could be in a question.
        starts = ((turn, at) for turn in turns for at in range(len(turn) - RUN + 1) if turn[at] in first_words)
        shared = {" ".join(turn[at : at + RUN]) for turn, at in starts}
        hits = Counter(key for run in shared for key in by_run.get(run, ()))
        for key in {*exact, *hits}:
            share = 1.0 if key in exact else hits[key] / len(runs[key])
            if share >= threshold:
                question = asked[key]
                leaks.append(Leak(number, question.eval_set, question.id, share, key in exact))
    return leaks


def count_leaks(leaks: Iterable[Leak]) -> dict[str, LeakCount]:
    """The leaks of each question set, sets without any left out."""
    by_set: dict[str, list[Leak]] = defaultdict(list)
    for leak in leaks:
        by_set[leak.eval_set].append(leak)
    counts = {}
    for name, found in sorted(by_set.items()):
        exact = {leak.row for leak in found if leak.exact}
        near = {leak.row for leak in found} - exact
        counts[name] = LeakCount(len(exact), len(near), len({leak.question_id for leak in found}))
    return counts


def leak_notes(name: str, conversations: Sequence[Conversation], questions: Sequence[Question]) -> list[str]:
    """One sentence for each question set that is asked and of which rows of the training set `name` hold questions."""
    return [
        f"Questions of {eval_set} that were trained on: {count.questions}. Rows of {name} that ask one word for word: "
        f"{count.exact_rows}, nearly so: {count.near_rows}; rates of {eval_set} may say what was learnt by heart."
        for eval_set, count in count_leaks(find_leaks(conversations, questions)).items()
    ]
