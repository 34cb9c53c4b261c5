"""Run the checks: those that measure time first and alone, then em's child processes side by side."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from em.errors import ChildFailed
from em.gpu_check import arithmetic, children, speed
from em.gpu_check.bench import LOG, Bench, CheckFailed, Measured, Skipped

CHECKS: dict[str, Callable[[Bench], Measured]] = {
    "machine": arithmetic.check_machine,
    "loss_head": arithmetic.check_loss_head,
    "step_is_plain": arithmetic.check_step_is_plain,
    "ways_agree": arithmetic.check_ways_agree,
    "draws": arithmetic.check_draws,
    "answers": arithmetic.check_answers,
    "judge_exact": arithmetic.check_judge_exact,
    "lora_8b": speed.check_lora_8b,
    "sampling_8b": speed.check_sampling_8b,
    "worker_lora": children.check_worker_lora,
    "worker_full": children.check_worker_full,
    "worker_fsdp": children.check_worker_fsdp,
    "worker_qlora": children.check_worker_qlora,
    "worker_split": children.check_worker_split,
    "worker_resume": children.check_worker_resume,
    "worker_stages": children.check_worker_stages,
    "worker_oom": children.check_worker_oom,
}
ALONE = "worker_oom"
"""The check of child processes that fills the memory."""
CHILDREN = 3
"""Most child processes at a time: they spend most of it on imports."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check. state: passed, failed or skipped. details: the traceback of a failure."""

    name: str
    state: str
    seconds: float
    reason: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    details: str = ""


def run_checks(bench: Bench, names: Sequence[str], report: Callable[[Outcome], None]) -> None:
    """Run the named checks, and report each outcome when it is known."""
    for name in names:
        if not name.startswith("worker_"):
            report(run_check(bench, name))
    with ThreadPoolExecutor(min(CHILDREN, os.cpu_count() or 1)) as pool:
        try:
            side_by_side = [name for name in names if name.startswith("worker_") and name != ALONE]
            for future in as_completed([pool.submit(run_check, bench, name) for name in side_by_side]):
                report(future.result())
        except BaseException:
            bench.end = 0.0  # ends the child processes
            raise
    if ALONE in names:
        report(run_check(bench, ALONE))


def run_check(bench: Bench, name: str) -> Outcome:
    """Run one check; return its outcome, whatever it raises."""
    begun = time.monotonic()
    state, reason, measured, details = "passed", "", Measured(), ""
    try:
        if begun > bench.end:
            raise Skipped("the time was up")
        measured = CHECKS[name](bench)
    except Skipped as error:
        state, reason = "skipped", str(error)
    except CheckFailed as error:
        state, reason = "failed", str(error)
    except Exception as error:  # the other checks say whether it is this one alone
        state, reason, details = "failed", f"{type(error).__name__}: {error}", traceback.format_exc()
        if isinstance(error, ChildFailed):
            details = error.details
    if state == "failed" and name.startswith("worker_"):
        details += read_last_lines(bench.folder / LOG)
    bench.free_memory()
    return Outcome(name, state, round(time.monotonic() - begun, 1), reason, measured, details)


def read_last_lines(log: Path) -> str:
    """Read the last lines that child processes printed, without the older states of progress bars."""
    text = log.read_bytes().decode(errors="replace") if log.is_file() else ""
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")[-20:]]
    return "\n".join(["Last lines of all child processes:", *lines])


def describe_checks() -> str:
    """List the checks with what each asserts."""
    return "\n".join(f"  {name:14} {(check.__doc__ or '').strip()}" for name, check in CHECKS.items())
