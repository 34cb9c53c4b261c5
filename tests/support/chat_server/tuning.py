"""Fine-tuning jobs, with their events, checkpoints and models; and the faults of calls and jobs.

A job goes through its states by the clock (`tuning_seconds`): validating_files, queued, running, and its end
(`tuning_end`). Each request updates the state. `tuning_fault` is `CALL:FAULT[:COUNT][,…]`:

| call | address |
|---|---|
| models, model, upload, file, files | GET /v1/models, GET /v1/models/{id}, POST, GET /v1/files/{id}, GET /v1/files |
| content | GET /v1/files/{id}/content |
| batches, batch, batch_list | POST, GET /v1/batches/{id}, GET /v1/batches |
| chat, judge | POST /v1/chat/completions of fine-tuned models, and of all others |
| list, create, job, events, checkpoints, cancel | below /v1/fine_tuning/jobs |

| fault | result |
|---|---|
| a number | an error of that status |
| drop, hang | the connection ends; no reply ever comes |
| lost | the server does the work, but the reply never comes |
| malformed | 200 with truncated JSON |
| html, busy | 200 with a page for people, and with an error as JSON |
| late | of `list`: without the jobs that no earlier list contained |
| unlisted | of `models`: without fine-tunes |
| quota, closed, unavailable | 429 insufficient_quota, 403, 400 of the model |
| file_gone | of `create`: the file has expired, and is refused from now on |
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .jobs import ENDED, compute_falling_loss, compute_progress, describe_events, describe_job, find_flaw, update_job
from .models import Refused, make_not_found
from .options import Options

if TYPE_CHECKING:
    from .app import Service

Handler = Callable[[web.Request], Awaitable[Any]]


class PlannedFaults:
    """The planned faults by call."""

    def __init__(self, text: str) -> None:
        self.left: dict[str, list[tuple[str, int]]] = {}
        for each in filter(None, text.split(",")):
            call, fault, *times = each.split(":")
            self.left.setdefault(call, []).append((fault, int(times[0]) if times else 10**9))

    def take_fault(self, call: str) -> str:
        """Take the next fault of a call; empty for none."""
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
    """Expired files that the server still shows but refuses for new jobs."""
    expired: set[str] = field(default_factory=set)
    """Files whose jobs fail."""

    def __post_init__(self) -> None:
        self.faults = PlannedFaults(self.options.tuning_fault)

    def list_models(self) -> list[str]:
        """Update all jobs, and return the names of the models that they trained."""
        for job in self.jobs.values():
            update_job(self, job)
        return list(self.models)


class Tuning:
    """The addresses of one server's fine-tuning."""

    def __init__(self, service: Service) -> None:
        self.service = service

    @property
    def shop(self) -> Workshop:
        """Return the jobs since the last reset."""
        return self.service.shop

    def find_job(self, request: web.Request) -> dict[str, Any]:
        """Return the updated job of an address."""
        job: dict[str, Any] = self.service.shelf.find(self.shop.jobs, request.match_info["id"])
        update_job(self.shop, job)
        return job

    async def handle_create(self, request: web.Request) -> Any:
        """Handle POST /v1/fine_tuning/jobs."""
        body = await request.json()
        shelf, options = self.service.shelf, self.service.options
        tunable = [each for each in options.tunable.split(",") if each] or options.listed
        if body.get("model") not in (*tunable, *self.shop.list_models()):
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
        chosen = {
            "n_epochs": 3 if knobs.get("n_epochs", "auto") == "auto" else knobs["n_epochs"],
            "batch_size": 4 if knobs.get("batch_size", "auto") == "auto" else knobs["batch_size"],
            "learning_rate_multiplier": (
                1.8 if knobs.get("learning_rate_multiplier", "auto") == "auto" else knobs["learning_rate_multiplier"]
            ),
        }
        steps = max(1, chosen["n_epochs"] * -(-len(rows) // chosen["batch_size"]))
        job = {
            "id": f"ftjob-{next(self.shop.numbers):04d}",
            "object": "fine_tuning.job",
            "created_at": int(time.time()),
            "finished_at": None,
            "error": None,
            "fine_tuned_model": None,
            "hyperparameters": chosen,
            "method": {"type": "supervised", "supervised": {"hyperparameters": chosen}},
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
            "_tokens": sum(len(row) for row in rows) // 4 * chosen["n_epochs"],
            "_suffix": body.get("suffix") or "",
            "_end": "expired_file" if file["id"] in self.shop.expired else find_flaw(rows) or options.tuning_end,
        }
        self.shop.jobs[job["id"]] = job
        return describe_job(job)

    async def handle_list(self, request: web.Request) -> Any:
        """Handle GET /v1/fine_tuning/jobs, newest first."""
        wanted = {key[9:-1]: value for key, value in request.query.items() if key.startswith("metadata[")}
        jobs = list(reversed(self.shop.jobs.values()))
        for job in jobs:
            update_job(self.shop, job)
        if request.get("late"):
            jobs = [job for job in jobs if job.get("_listed")]
        for job in jobs:
            job["_listed"] = True
        matching = [job for job in jobs if all((job["metadata"] or {}).get(k) == v for k, v in wanted.items())]
        return cut_page([describe_job(job) for job in matching], request)

    async def handle_job(self, request: web.Request) -> Any:
        """Handle GET /v1/fine_tuning/jobs/{id}."""
        return describe_job(self.find_job(request))

    async def handle_cancel(self, request: web.Request) -> Any:
        """Handle POST /v1/fine_tuning/jobs/{id}/cancel."""
        job = self.find_job(request)
        if job["status"] in ENDED:
            raise Refused(400, f"Job has already {job['status']}.", "invalid_job_state")
        job |= {"status": "cancelled", "finished_at": int(time.time()), "_share": compute_progress(job)}
        return describe_job(job)

    async def handle_events(self, request: web.Request) -> Any:
        """Handle GET /v1/fine_tuning/jobs/{id}/events, newest first."""
        return cut_page(describe_events(self.find_job(request))[::-1], request)

    async def handle_checkpoints(self, request: web.Request) -> Any:
        """Handle GET /v1/fine_tuning/jobs/{id}/checkpoints: return those of the last three epochs."""
        job = self.find_job(request)
        if job["status"] != "succeeded":
            return cut_page([], request)
        epochs = job["hyperparameters"]["n_epochs"]
        saved = []
        for epoch in range(max(1, epochs - 2), epochs + 1):
            step = job["_steps"] * epoch // epochs
            last = epoch == epochs
            name = job["fine_tuned_model"] if last else f"{job['fine_tuned_model']}:ckpt-step-{step}"
            saved.append(
                {
                    "id": f"ftckpt-{job['id']}-{step}",
                    "object": "fine_tuning.job.checkpoint",
                    "created_at": job["finished_at"],
                    "fine_tuned_model_checkpoint": name,
                    "fine_tuning_job_id": job["id"],
                    "metrics": {"step": step, "train_loss": compute_falling_loss(step)},
                    "step_number": step,
                }
            )
        return cut_page(saved[::-1], request)

    async def handle_delete(self, request: web.Request) -> Any:
        """Handle DELETE /v1/models/{id}."""
        name = request.match_info["id"]
        if name not in self.shop.list_models():
            raise make_not_found(name)
        del self.shop.models[name]
        return {"id": name, "object": "model", "deleted": True}

    async def handle_end(self, request: web.Request) -> Any:
        """Handle POST /tuning/{id}/end, for tests: end a job now."""
        self.service.shelf.find(self.shop.jobs, request.match_info["id"])["_seconds"] = 0.0
        return describe_job(self.find_job(request))

    async def handle_change(self, request: web.Request) -> Any:
        """Handle POST /tuning, for tests: change faults, ends and times; jobs and files stay."""
        changes = await request.json()
        self.service.options = self.shop.options = self.service.options.change(changes)
        self.shop.faults = PlannedFaults(self.service.options.tuning_fault)
        return {"changed": True}

    async def handle_record(self, request: web.Request) -> Any:
        """Handle GET /tuning, for tests: return the bodies of requests for jobs, the calls, the jobs and the files."""
        self.shop.list_models()
        files = {key: each for key, each in self.service.shelf.files.items() if each["purpose"] == "fine-tune"}
        return {
            "asked": self.shop.asked,
            "calls": self.shop.calls,
            "jobs": [describe_job(job) for job in self.shop.jobs.values()],
            "files": [each | {"content": self.service.shelf.contents[key].decode()} for key, each in files.items()],
        }


def cut_page(items: list[dict[str, Any]], request: web.Request) -> dict[str, Any]:
    """Return the part of a list that the request's query asks for."""
    after, limit = request.query.get("after"), int(request.query.get("limit", 20))
    start = next((i + 1 for i, each in enumerate(items) if each["id"] == after), 0)
    return {"object": "list", "data": items[start : start + limit], "has_more": start + limit < len(items)}


async def respond_fault(request: web.Request, fault: str) -> web.Response | None:
    """Return the response of a failing call, or raise Refused; return None if the call succeeds."""
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


def wrap_handler(service: Service, handler: Handler, call: str) -> Handler:
    """Wrap a handler: record its calls, apply its faults, and turn refusals into responses."""

    async def handle(request: web.Request) -> web.StreamResponse:
        service.shop.calls.append(call)
        try:
            if call not in ("record", "change"):  # of tests
                service.check_key(request)
            fault = service.shop.faults.take_fault(call)
            if fault == "file_gone":
                service.shop.gone.add((await request.json())["training_file"])
                fault = ""
            if fault != "lost" and (failed := await respond_fault(request, fault)) is not None:
                return failed
            reply = await handler(request)
            if fault == "lost":
                await asyncio.sleep(3600)
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)
        return reply if isinstance(reply, web.StreamResponse) else web.json_response(reply)

    return handle


def add_tuning_routes(app: web.Application, service: Service) -> None:
    """Add the addresses of fine-tuning."""
    tuning = Tuning(service)
    jobs = "/v1/fine_tuning/jobs"
    for method, path, handler, call in (
        ("POST", jobs, tuning.handle_create, "create"),
        ("GET", jobs, tuning.handle_list, "list"),
        ("GET", jobs + "/{id}", tuning.handle_job, "job"),
        ("POST", jobs + "/{id}/cancel", tuning.handle_cancel, "cancel"),
        ("GET", jobs + "/{id}/events", tuning.handle_events, "events"),
        ("GET", jobs + "/{id}/checkpoints", tuning.handle_checkpoints, "checkpoints"),
        ("DELETE", "/v1/models/{id:.+}", tuning.handle_delete, "delete"),
    ):
        app.router.add_route(method, path, wrap_handler(service, handler, call))
    app.router.add_get("/tuning", wrap_handler(service, tuning.handle_record, "record"))
    app.router.add_post("/tuning", wrap_handler(service, tuning.handle_change, "change"))
    app.router.add_post("/tuning/{id}/end", wrap_handler(service, tuning.handle_end, "change"))
