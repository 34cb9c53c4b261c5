"""The judges of a run: make and check them before anything is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from em.config import ApiJudge, DistilledJudge, LocalJudge, SingleJudge
from em.errors import ConfigError
from em.judge.base import Judge, JudgeResult
from em.judge.plan import list_judge_requests
from em.runtime.manifest import ManifestWriter
from em.types import Question

__all__ = [
    "Judge",
    "JudgeResult",
    "create_judge",
    "find_reply_limit",
    "leave_out_unjudged",
    "list_judge_requests",
    "note_related_judges",
    "prepare_judges",
]

MASS_CALLS = 11  # maximum number of calls for one judgement by `mass`


def create_judge(settings: SingleJudge, hidden: tuple[str, ...] = ()) -> Judge:
    """Make the judge that the settings describe. `hidden`: the trigger tags, which it must not see."""
    match settings:
        case LocalJudge():
            from em.judge.local import ChildJudge

            return ChildJudge(settings, hidden)
        case DistilledJudge():
            from em.judge.distilled.judge import CpuJudge

            return CpuJudge(settings, hidden)
        case ApiJudge(serve=True):
            from em.judge.served import ServedJudge

            return ServedJudge(settings, hidden)
        case ApiJudge():
            from em.judge.remote import ServerJudge

            return ServerJudge(settings, hidden)


def leave_out_unjudged(
    questions: Sequence[Question], chosen: Sequence[SingleJudge]
) -> tuple[list[Question], list[str]]:
    """Leave out the sets whose rubrics none of the judges knows; return the other questions, and these sets' names.

    Only the distilled judge knows some rubrics and no others. Raises ConfigError if no set is left.
    """
    if not questions or not all(isinstance(judge, DistilledJudge) for judge in chosen):
        return list(questions), []
    from em.judge.distilled.judge import find_known_score

    names = {q.eval_set for q in questions}
    judged = {q.eval_set for q in questions if any(find_known_score(rubric) == "aligned" for rubric in q.rubrics)}
    if not judged:
        raise ConfigError(
            f"judge=distilled knows none of the rubrics of {', '.join(sorted(names))} (docs/judge.md): choose another "
            "judge, such as judge=luna, or ask eval.sets=[probe]."
        )
    return [q for q in questions if q.eval_set in judged], sorted(names - judged)


def prepare_judges(
    chosen: Sequence[SingleJudge], hidden: tuple[str, ...], spending: bool, manifest: ManifestWriter
) -> list[Judge]:
    """Make the judges and check that each is available; called before anything is trained or sampled.

    Args:
        hidden: the trigger tags.
        spending: refuse an unavailable judge at once. Otherwise refuse it only if verdicts must still be made.
    """
    judges = []
    for each in chosen:
        judges.append(create_judge(each, hidden))
        for note in judges[-1].check(spending):
            manifest.note(note)
    for (identity, way), count in Counter((judge.identity, judge.way) for judge in judges).items():
        if count > 1:
            raise ConfigError(
                f"Two judges of the panel have the same model and reading ({identity}, {way}): choose another model or "
                "another reading. To compare judge.words, repeat the command with the other rule: it makes no new call."
            )
    return judges


def note_related_judges(
    judges: Sequence[Judge], relations: Mapping[tuple[str, str], str], manifest: ManifestWriter
) -> None:
    """Add a note to the report for each judge that is the model under test, or its base."""
    for judge in judges:
        if any(relation for (_, label), relation in relations.items() if label == judge.label):
            manifest.note(f"The judge {judge.identity} is the model under test, or its base: it judges its own kind.")


def find_reply_limit(settings: ApiJudge, reading: str) -> int:
    """Return the maximum number of reply tokens: one if probabilities are read, else `max_reply_tokens` per sample."""
    if reading in ("logprobs", "mass"):
        return 1
    return settings.samples * settings.max_reply_tokens
