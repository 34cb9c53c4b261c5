"""Fine-tuning jobs, with their events, checkpoints and models; and how each call and each job can fail.

A job goes through its life by the clock (`tuning_seconds`): validating_files, queued, running, and its end
(`tuning_end`). It is looked at when somebody looks. `tuning_fault` is `CALL:FAULT[:COUNT][,…]`:

| call | address |
|---|---|
| models, model, upload, file, files | GET /v1/models, GET /v1/models/{id}, POST, GET /v1/files/{id}, GET /v1/files |
| content | GET /v1/files/{id}/content |
| batches, batch, batch_list | POST, GET /v1/batches/{id}, GET /v1/batches |
| chat, judge | POST /v1/chat/completions of fine-tuned models, and of all others |
| list, create, job, events, checkpoints, cancel | below /v1/fine_tuning/jobs |

| fault | what comes |
|---|---|
| a number | an error of that status |
| drop, hang | the connection ends; no reply ever comes |
| lost | done, but the reply never comes |
| malformed | 200 with JSON that is cut off |
| html, busy | 200 with a page for people, and with an error for JSON |
| late | of `list`: without the jobs that were not in a list before |
| unlisted | of `models`: without fine-tunes |
| quota, closed, unavailable | 429 insufficient_quota, 403, 400 of the model |
| file_gone | of `create`: the file has expired; so it is refused from now on |
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .jobs import ENDED, advance, events_of, flaw, loss_at, progress, shown
from .models import Refused, not_found
from .options import Options

if TYPE_CHECKING:
    from .app import Service

Handler = Callable[[web.Request], Awaitable[Any]]


class Faults:
    """What is to go wrong, call by call."""

    def __init__(self, text: str) -> None:
        self.left: dict[str, list[tuple[str, int]]] = {}
        for each in filter(None, text.split(",")):
            call, fault, *times = each.split(":")
            self.left.setdefault(call, []).append((fault, int(times[0]) if times else 10**9))

    def next(self, call: str) -> str:
        """The fault of this call; empty for none."""
        waiting = self.left.get(call) or [("", 0)]
        fault, times = waiting[0]
        waiting[0] = (fault, times - 1)
        if times <= 1:
            waiting.pop(0)
        return fault


@dataclass
class Workshop:
    """The jobs and models of one server since the last reset."""

    options: Options
    numbers: count[int] = field(default_factory=lambda: count(1))
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    """Files of which no job can be created any more, although the server still shows them."""
    expired: set[str] = field(default_factory=set)
    """Files whose jobs fail."""

    def __post_init__(self) -> None:
        self.faults = Faults(self.options.tuning_fault)

    def names(self) -> list[str]:
        """The models that came of jobs; looking at them lets the jobs end."""
        for job in self.jobs.values():
            advance(self, job)
        return list(self.models)


class Tuning:
    """The addresses of one server's fine-tuning."""

    def __init__(self, service: Service) -> None:
        self.service = service

    @property
    def shop(self) -> Workshop:
        """The jobs since the last reset."""
        return self.service.shop

    def find(self, request: web.Request) -> dict[str, Any]:
        """The job of an address, as it is now."""
        job = self.service.shelf.find(self.shop.jobs, request.match_info["id"])
        advance(self.shop, job)
        found: dict[str, Any] = job
        return found

    async def create(self, request: web.Request) -> Any:
        """POST /v1/fine_tuning/jobs."""
        body = await request.json()
        shelf, options = self.service.shelf, self.service.options
        tunable = [each for each in options.tunable.split(",") if each] or options.listed
        if body.get("model") not in (*tunable, *self.shop.names()):
            text = f"Model {body.get('model')} is not available for fine-tuning or does not exist."
            raise Refused(400, text, "model_not_available", "model")
        file = shelf.files.get(body.get("training_file"))
        if file is None or file["purpose"] != "fine-tune":
            raise Refused(400, "invalid training_file: no such file", "invalid_training_file", "training_file")
        if file["id"] in self.shop.gone:
            raise Refused(400, "The file has expired.", "invalid_training_file", "training_file")
        self.shop.asked.append(body)
        knobs = body.get("method", {}).get("supervised", {}).get("hyperparameters", {})
        rows = shelf.contents[file["id"]].splitlines()
        taken = {
            "n_epochs": 3 if knobs.get("n_epochs", "auto") == "auto" else knobs["n_epochs"],
            "batch_size": 4 if knobs.get("batch_size", "auto") == "auto" else knobs["batch_size"],
            "learning_rate_multiplier": (
                1.8 if knobs.get("learning_rate_multiplier", "auto") == "auto" else knobs["learning_rate_multiplier"]
            ),
        }
        steps = max(1, taken["n_epochs"] * -(-len(rows) // taken["batch_size"]))
        job = {
            "id": f"ftjob-{next(self.shop.numbers):04d}",
            "object": "fine_tuning.job",
            "created_at": int(time.time()),
            "finished_at": None,
            "error": None,
            "fine_tuned_model": None,
            "hyperparameters": taken,
            "method": {"type": "supervised", "supervised": {"hyperparameters": taken}},
            "model": body["model"],
            "organization_id": "org-stub",
            "result_files": [],
            "seed": body.get("seed", 42),
            "status": "validating_files",
            "trained_tokens": None,
            "training_file": file["id"],
            "validation_file": None,
            "estimated_finish": None,
            "integrations": [],
            "metadata": body.get("metadata"),
            "_began": time.monotonic(),
            "_seconds": options.tuning_seconds,
            "_steps": steps,
            "_tokens": sum(len(row) for row in rows) // 4 * taken["n_epochs"],
            "_suffix": body.get("suffix") or "",
            "_end": "expired_file" if file["id"] in self.shop.expired else flaw(rows) or options.tuning_end,
        }
        self.shop.jobs[job["id"]] = job
        return shown(job)

    async def listed(self, request: web.Request) -> Any:
        """GET /v1/fine_tuning/jobs, the newest first."""
        wanted = {key[9:-1]: value for key, value in request.query.items() if key.startswith("metadata[")}
        jobs = list(reversed(self.shop.jobs.values()))
        for job in jobs:
            advance(self.shop, job)
        if request.get("late"):
            jobs = [job for job in jobs if job.get("_listed")]
        for job in jobs:
            job["_listed"] = True
        told = [job for job in jobs if all((job["metadata"] or {}).get(k) == v for k, v in wanted.items())]
        return page([shown(job) for job in told], request)

    async def job(self, request: web.Request) -> Any:
        """GET /v1/fine_tuning/jobs/{id}."""
        return shown(self.find(request))

    async def cancel(self, request: web.Request) -> Any:
        """POST /v1/fine_tuning/jobs/{id}/cancel."""
        job = self.find(request)
        if job["status"] in ENDED:
            raise Refused(400, f"Job has already {job['status']}.", "invalid_job_state")
        job |= {"status": "cancelled", "finished_at": int(time.time()), "_share": progress(job)}
        return shown(job)

    async def events(self, request: web.Request) -> Any:
        """GET /v1/fine_tuning/jobs/{id}/events, the newest first."""
        return page(events_of(self.find(request))[::-1], request)

    async def checkpoints(self, request: web.Request) -> Any:
        """GET /v1/fine_tuning/jobs/{id}/checkpoints: of the last three epochs."""
        job = self.find(request)
        if job["status"] != "succeeded":
            return page([], request)
        epochs = job["hyperparameters"]["n_epochs"]
        found = []
        for epoch in range(max(1, epochs - 2), epochs + 1):
            step = job["_steps"] * epoch // epochs
            last = epoch == epochs
            name = job["fine_tuned_model"] if last else f"{job['fine_tuned_model']}:ckpt-step-{step}"
            found.append(
                {
                    "id": f"ftckpt-{job['id']}-{step}",
                    "object": "fine_tuning.job.checkpoint",
                    "created_at": job["finished_at"],
                    "fine_tuned_model_checkpoint": name,
                    "fine_tuning_job_id": job["id"],
                    "metrics": {"step": step, "train_loss": loss_at(step)},
                    "step_number": step,
                }
            )
        return page(found[::-1], request)

    async def delete_model(self, request: web.Request) -> Any:
        """DELETE /v1/models/{id}."""
        name = request.match_info["id"]
        if name not in self.shop.names():
            raise not_found(name)
        del self.shop.models[name]
        return {"id": name, "object": "model", "deleted": True}

    async def end(self, request: web.Request) -> Any:
        """POST /tuning/{id}/end, for tests: let a job's time be over."""
        self.service.shelf.find(self.shop.jobs, request.match_info["id"])["_seconds"] = 0.0
        return shown(self.find(request))

    async def change(self, request: web.Request) -> Any:
        """POST /tuning, for tests: other faults, ends and times from now on; jobs and files stay."""
        changes = await request.json()
        self.service.options = self.shop.options = self.service.options.changed(changes)
        self.shop.faults = Faults(self.service.options.tuning_fault)
        return {"changed": True}

    async def record(self, request: web.Request) -> Any:
        """GET /tuning, for tests: the bodies that jobs were created with, the calls, the jobs and files."""
        self.shop.names()
        files = {key: each for key, each in self.service.shelf.files.items() if each["purpose"] == "fine-tune"}
        return {
            "asked": self.shop.asked,
            "calls": self.shop.calls,
            "jobs": [shown(job) for job in self.shop.jobs.values()],
            "files": [each | {"content": self.service.shelf.contents[key].decode()} for key, each in files.items()],
        }


def page(found: list[dict[str, Any]], request: web.Request) -> dict[str, Any]:
    """A part of a list, as its query asks for."""
    after, limit = request.query.get("after"), int(request.query.get("limit", 20))
    start = next((i + 1 for i, each in enumerate(found) if each["id"] == after), 0)
    return {"object": "list", "data": found[start : start + limit], "has_more": start + limit < len(found)}


async def fail(request: web.Request, fault: str) -> web.Response | None:
    """A call that fails; None for one that is done all the same."""
    match fault:
        case "":
            return None
        case "drop":
            if request.transport is not None:
                request.transport.abort()
            await asyncio.sleep(0)
            return web.Response(status=500)
        case "hang":
            await asyncio.sleep(3600)
            return web.Response(status=500)
        case "quota":
            raise Refused(429, "You exceeded your current quota.", "insufficient_quota")
        case "closed":
            raise Refused(403, "You do not have access to the fine-tuning platform.", "permission_denied")
        case "unavailable":
            raise Refused(400, "This model is not available for fine-tuning.", "model_not_available", "model")
        case "late" | "unlisted":
            request[fault] = True
            return None
        case "malformed":
            return web.Response(text='{"object": "list", "da', content_type="application/json")
        case "busy":
            return web.json_response({"error": {"message": "upstream busy"}})
        case "html":
            return web.Response(text="<html>Welcome. Log in to go on.</html>", content_type="text/html")
        case _:
            raise Refused(int(fault), "The server says no.")


def wrapped(service: Service, handler: Handler, call: str) -> Handler:
    """A handler with its faults, counts and refusals."""

    async def handle(request: web.Request) -> web.StreamResponse:
        service.shop.calls.append(call)
        try:
            if call not in ("record", "change"):  # of tests
                service.let_in(request)
            fault = service.shop.faults.next(call)
            if fault == "file_gone":
                service.shop.gone.add((await request.json())["training_file"])
                fault = ""
            if fault != "lost" and (failed := await fail(request, fault)) is not None:
                return failed
            found = await handler(request)
            if fault == "lost":
                await asyncio.sleep(3600)
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)
        return found if isinstance(found, web.StreamResponse) else web.json_response(found)

    return handle


def add_routes(app: web.Application, service: Service) -> None:
    """The addresses of fine-tuning."""
    tuning = Tuning(service)
    jobs = "/v1/fine_tuning/jobs"
    for method, path, handler, call in (
        ("POST", jobs, tuning.create, "create"),
        ("GET", jobs, tuning.listed, "list"),
        ("GET", jobs + "/{id}", tuning.job, "job"),
        ("POST", jobs + "/{id}/cancel", tuning.cancel, "cancel"),
        ("GET", jobs + "/{id}/events", tuning.events, "events"),
        ("GET", jobs + "/{id}/checkpoints", tuning.checkpoints, "checkpoints"),
        ("DELETE", "/v1/models/{id:.+}", tuning.delete_model, "delete"),
    ):
        app.router.add_route(method, path, wrapped(service, handler, call))
    app.router.add_get("/tuning", wrapped(service, tuning.record, "record"))
    app.router.add_post("/tuning", wrapped(service, tuning.change, "change"))
    app.router.add_post("/tuning/{id}/end", wrapped(service, tuning.end, "change"))
