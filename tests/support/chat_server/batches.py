"""Files and the Batch API: the server answers files of requests later."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .distribution import hash_values
from .models import Refused
from .tuning import cut_page, wrap_handler

if TYPE_CHECKING:
    from .app import Service

ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass
class Shelf:
    """The files and batches of one server."""

    numbers: count[int] = field(default_factory=lambda: count(1))
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_file(self, name: str, purpose: str, content: bytes) -> dict[str, Any]:
        """Store a file, and return its record."""
        key = f"file-{next(self.numbers)}"
        shown = {"id": key, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        self.files[key] = shown | {"filename": name, "purpose": purpose, "status": "processed"}
        self.contents[key] = content
        return self.files[key]

    def find(self, what: dict[str, Any], key: str) -> Any:
        """Return the file, batch or job of an id.

        Raises:
            Refused: the id is unknown.
        """
        if key not in what:
            raise Refused(404, f"No such object: {key}", "not_found")
        return what[key]


class Batches:
    """The addresses of one server's files and batches. A batch ends at the first request for it after its time."""

    def __init__(self, service: Service) -> None:
        self.service = service

    @property
    def shelf(self) -> Shelf:
        """Return the files and batches since the last reset."""
        return self.service.shelf

    async def handle_upload(self, request: web.Request) -> Any:
        """Handle POST /v1/files."""
        form = await request.post()
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, web.FileField) or purpose not in ("batch", "fine-tune"):
            raise Refused(400, "'file' and purpose=batch or fine-tune are required", param="file")
        return self.shelf.add_file(file.filename, str(purpose), file.file.read())

    async def handle_file(self, request: web.Request) -> Any:
        """Handle GET /v1/files/{id}."""
        return self.shelf.find(self.shelf.files, request.match_info["id"])

    async def handle_files(self, request: web.Request) -> Any:
        """Handle GET /v1/files: all files or those of one purpose, newest first."""
        purpose = request.query.get("purpose")
        files = [each for each in reversed(self.shelf.files.values()) if purpose in (None, each["purpose"])]
        return cut_page(files, request)

    async def handle_content(self, request: web.Request) -> Any:
        """Handle GET /v1/files/{id}/content."""
        body: bytes = self.shelf.find(self.shelf.contents, request.match_info["id"])
        return web.Response(body=body, content_type="application/octet-stream")

    async def handle_delete(self, request: web.Request) -> Any:
        """Handle DELETE /v1/files/{id}."""
        key = request.match_info["id"]
        self.shelf.find(self.shelf.files, key)
        del self.shelf.files[key], self.shelf.contents[key]
        return {"id": key, "object": "file", "deleted": True}

    async def handle_create(self, request: web.Request) -> Any:
        """Handle POST /v1/batches."""
        fields = await request.json()
        content = self.shelf.find(self.shelf.contents, fields.get("input_file_id", ""))
        if fields.get("endpoint") != "/v1/chat/completions" or fields.get("completion_window") != "24h":
            raise Refused(400, "Only /v1/chat/completions within 24h is supported.", param="endpoint")
        now = int(time.time())
        key = f"batch_{next(self.shelf.numbers)}"
        self.shelf.batches[key] = {
            "id": key,
            "object": "batch",
            "endpoint": fields["endpoint"],
            "errors": None,
            "input_file_id": fields["input_file_id"],
            "completion_window": "24h",
            "status": "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "in_progress_at": now,
            "expires_at": now + 86400,
            "request_counts": {"total": len(content.splitlines()), "completed": 0, "failed": 0},
            "metadata": fields.get("metadata"),
            "ends": time.monotonic() + self.service.options.batch_seconds,
        }
        return self.describe_batch(key)

    async def handle_batch(self, request: web.Request) -> Any:
        """Handle GET /v1/batches/{id}."""
        return self.describe_batch(request.match_info["id"])

    async def handle_list(self, request: web.Request) -> Any:
        """Handle GET /v1/batches, newest first."""
        batches = [self.describe_batch(key) for key in reversed(list(self.shelf.batches))]
        after = request.query.get("after")
        start = next((i + 1 for i, each in enumerate(batches) if each["id"] == after), 0)
        limit = int(request.query.get("limit", 20))
        part = batches[start : start + limit]
        ends = {"first_id": part[0]["id"], "last_id": part[-1]["id"]} if part else {"first_id": None, "last_id": None}
        return {"object": "list", "data": part, "has_more": start + limit < len(batches), **ends}

    async def handle_cancel(self, request: web.Request) -> Any:
        """Handle POST /v1/batches/{id}/cancel."""
        batch = self.shelf.find(self.shelf.batches, request.match_info["id"])
        self.describe_batch(batch["id"])
        if batch["status"] in ENDED:
            raise Refused(409, f"A batch that is {batch['status']} can't be cancelled.")
        batch |= {"status": "cancelled", "cancelled_at": int(time.time())}
        return self.describe_batch(batch["id"])

    def describe_batch(self, key: str) -> dict[str, Any]:
        """Return the current state of a batch; end the batch first if its time has come."""
        batch: dict[str, Any] = self.shelf.find(self.shelf.batches, key)
        if batch["status"] not in ENDED and time.monotonic() >= batch["ends"]:
            self.end_batch(batch)
        return {name: value for name, value in batch.items() if name != "ends"}

    def end_batch(self, batch: dict[str, Any]) -> None:
        """End a batch in the way of `batch_end`, and answer its lines (all, half or none)."""
        how, now = self.service.options.batch_end, int(time.time())
        batch |= {"status": how, f"{how}_at": now}
        lines = self.shelf.contents[batch["input_file_id"]].splitlines()
        most = self.service.options.batch_most
        if most and len(lines) > max(0, most):
            text = "Enqueued token limit reached for this model in organization org-1. Please try again later."
            error = {"code": "token_limit_exceeded", "line": None, "message": text, "param": None}
            batch |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
            return
        if how == "failed":
            error = {"code": "invalid_json_line", "line": 1, "message": "This line is not parseable as valid JSON."}
            batch["errors"] = {"object": "list", "data": [error | {"param": None}]}
            return
        # A batch that expires has answers to some lines; the file of errors names the other lines.
        done = len(lines) // 2 if how == "expired" else len(lines)
        good: list[str] = []
        bad: list[str] = []
        for place, line in enumerate(lines):
            item = json.loads(line)
            response = self.answer_line(batch, item) if place < done else None
            late = {"code": "batch_expired", "message": "This request was not executed in time."}
            shown = {"id": f"batch_req_{batch['id']}_{place}", "custom_id": item["custom_id"]}
            ok = response is not None and response["status_code"] == 200
            result = json.dumps({**shown, "response": response, "error": None if response else late})
            (good if ok else bad).append(result)
        for name, part in (("output", good), ("error", bad)):
            if part:
                file = self.shelf.add_file(f"{batch['id']}_{name}.jsonl", "batch_output", "\n".join(part).encode())
                batch[f"{name}_file_id"] = file["id"]
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}

    def answer_line(self, batch: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
        """Return the response to one line of a batch."""
        raw = json.dumps(item["body"]).encode()
        draw = hash_values(batch["id"], item["custom_id"], self.service.options.seed) / 2**64
        try:
            if draw < self.service.options.batch_failed:
                raise Refused(500, self.service.options.batch_message)
            body = json.loads(self.service.make_answer(hashlib.blake2b(raw, digest_size=8).hexdigest(), raw))
        except Refused as refused:
            self.service.record.outcomes[f"batch {refused.status}"] += 1
            return {"status_code": refused.status, "request_id": item["custom_id"], "body": refused.body}
        return {"status_code": 200, "request_id": item["custom_id"], "body": body}


def add_batch_routes(app: web.Application, service: Service) -> None:
    """Add the addresses of files and batches."""
    batches = Batches(service)

    def count_calls(handler: Any, name: str) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            service.record.other[name] += 1
            try:
                service.check_key(request)
                reply = await handler(request)
            except Refused as refused:
                return web.json_response(refused.body, status=refused.status)
            return reply if isinstance(reply, web.StreamResponse) else web.json_response(reply)

        return handle

    for method, path, handler in (
        ("DELETE", "/v1/files/{id}", batches.handle_delete),
        ("POST", "/v1/batches/{id}/cancel", batches.handle_cancel),
    ):
        app.router.add_route(method, path, count_calls(handler, f"{method} {path}"))
    for method, path, handler, call in (
        ("POST", "/v1/files", batches.handle_upload, "upload"),
        ("GET", "/v1/files", batches.handle_files, "files"),
        ("GET", "/v1/files/{id}", batches.handle_file, "file"),
        ("GET", "/v1/files/{id}/content", batches.handle_content, "content"),
        ("POST", "/v1/batches", batches.handle_create, "batches"),
        ("GET", "/v1/batches", batches.handle_list, "batch_list"),
        ("GET", "/v1/batches/{id}", batches.handle_batch, "batch"),
    ):
        app.router.add_route(method, path, wrap_handler(service, count_calls(handler, f"{method} {path}"), call))
