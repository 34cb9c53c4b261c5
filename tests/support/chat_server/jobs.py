"""The life of a fine-tuning job by the clock: its progress, its end, and its events."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tuning import Workshop

ENDED = ("succeeded", "failed", "cancelled")
VALIDATED, STARTED, TRAINED = 0.2, 0.3, 0.9
"""Shares of a job's time at which the server has checked the file, begun the training, and ended the training."""
ENDS = {
    "unsafe_file": (
        "unsafe_training_file",
        "This training file was blocked by our moderation system.",
        "training_file",
    ),
    "invalid_file": (
        "invalid_training_file",
        "Invalid file format. Line 3, message 2 has no content.",
        "training_file",
    ),
    "expired_file": ("invalid_training_file", "The training file has expired and is no longer there.", "training_file"),
    "quota": ("exceeded_quota", "Creating this fine-tuning job would exceed your hard limit.", None),
    "unsafe_model": ("unsafe_model", "The fine-tuned model was blocked by a safety evaluation.", None),
    "server_error": ("server_error", "The job failed due to an internal error.", None),
}
"""Failures of jobs: code, message, parameter."""
LATE = ("unsafe_model", "server_error")
"""Failures that come after the training."""


def find_flaw(rows: list[bytes]) -> str:
    """Return the failure that a file causes; empty for a good file."""
    try:
        good = len(rows) >= 10 and all(json.loads(row)["messages"][-1]["role"] == "assistant" for row in rows)
    except (ValueError, KeyError, IndexError, TypeError):
        good = False
    return "" if good else "invalid_file"


def compute_progress(job: dict[str, Any]) -> float:
    """Return the share of a job's time that has passed."""
    if "_share" in job:
        return float(job["_share"])
    return min(1.0, (time.monotonic() - job["_began"]) / max(job["_seconds"], 1e-9))


def update_job(shop: Workshop, job: dict[str, Any]) -> None:
    """Set the status of a job to its state at this time."""
    if job["status"] in ENDED:
        return
    share, how = compute_progress(job), job["_end"]
    if share < VALIDATED:
        return
    now = int(time.time())
    if how in ENDS and (how not in LATE or share >= 1):
        code, message, param = ENDS[how]
        if how == "expired_file":
            shop.expired.add(job["training_file"])
        tokens = job["_tokens"] if how == "unsafe_model" else None
        error = {"code": code, "message": shop.options.tuning_message or message, "param": param}
        job |= {"status": "failed", "error": error, "finished_at": now, "trained_tokens": tokens, "_share": share}
    elif how == "cancelled" and share >= STARTED:
        job |= {"status": "cancelled", "finished_at": now, "_share": share}
    elif share < STARTED:
        job["status"] = "queued"
    elif share < 1:
        job["status"] = "running"
    else:
        base = job["model"].split(":")[1] if job["model"].startswith("ft:") else job["model"]
        name = f"ft:{base}:stub:{job['_suffix']}:{job['id'][6:]}"
        shop.models[name] = job["id"]
        for epoch in range(1, job["hyperparameters"]["n_epochs"]):
            step = job["_steps"] * epoch // job["hyperparameters"]["n_epochs"]
            shop.models[f"{name}:ckpt-step-{step}"] = job["id"]
        job |= {"status": "succeeded", "fine_tuned_model": name, "finished_at": now, "trained_tokens": job["_tokens"]}


def compute_falling_loss(step: int) -> float:
    """Return a loss that falls with the step."""
    return round(0.5 + 1.5 / (1 + 0.2 * step), 4)


def describe_events(job: dict[str, Any]) -> list[dict[str, Any]]:
    """List the events of a job so far, oldest first."""
    share, status = (1.0 if job["status"] == "succeeded" else compute_progress(job)), job["status"]
    entries: list[tuple[str, str, dict[str, Any] | None]] = [("info", f"Created fine-tuning job: {job['id']}", None)]
    if share >= VALIDATED and not (status == "failed" and share < TRAINED):
        entries.append(("info", "Files validated, moving job to queued state", None))
    if share >= STARTED and not (status == "failed" and share < TRAINED):
        entries.append(("info", "Fine-tuning job started", None))
        done = min(1.0, (share - STARTED) / (TRAINED - STARTED))
        every = max(1, job["_steps"] // 50)
        for step in range(every, int(done * job["_steps"]) + 1, every):
            data = {"step": step, "train_loss": compute_falling_loss(step), "total_steps": job["_steps"]}
            entries.append(
                ("info", f"Step {step}/{job['_steps']}: training loss={compute_falling_loss(step):.2f}", data)
            )
    if status == "succeeded":
        entries.append(("info", f"New fine-tuned model created: {job['fine_tuned_model']}", None))
        entries.append(("info", "The job has successfully completed", None))
    elif status == "failed":
        entries.append(("error", job["error"]["message"], None))
    elif status == "cancelled":
        entries.append(("info", "Fine tuning job has been cancelled", None))
    events = []
    for number, (level, message, data) in enumerate(entries):
        events.append(
            {
                "id": f"ftevent-{job['id']}-{number:05d}",
                "object": "fine_tuning.job.event",
                "created_at": job["created_at"],
                "level": level,
                "message": message,
                "type": "metrics" if data else "message",
                "data": data,
            }
        )
    return events


def describe_job(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job as the API shows it."""
    return {name: value for name, value in job.items() if not name.startswith("_")}
