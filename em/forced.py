"""Stages that a forced run has paid a service for: until that run has ended, the same command pays for them no more."""

from __future__ import annotations

from pathlib import Path

from em.request import Request
from em.tuned import marks_of

NOTE = "forced"
"""The file in a trained model's folder that names the fine-tune which a run has made anew."""


def note_forced(models: Path, mark: str, tuned: str) -> None:
    """Note that a run which has not ended has made this model anew."""
    (models / mark / NOTE).write_text(f"{tuned}\n", encoding="utf-8")


def paid_by_force(models: Path, mark: str, tuned: str) -> bool:
    """Whether a run that has not ended has made this model anew."""
    try:
        return (models / mark / NOTE).read_text(encoding="utf-8").strip() == tuned
    except OSError:
        return False


def forget_forced(request: Request) -> None:
    """The run has ended: forced once more, it trains once more."""
    if request.forced:
        for mark in marks_of(request):
            (request.store / "models" / mark / NOTE).unlink(missing_ok=True)
