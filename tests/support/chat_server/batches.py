"""Files and the Batch API: requests by the file, answered later."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .distribution import number
from .models import Refused
from .tuning import page, wrapped

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
        """Keep a file."""
        key = f"file-{next(self.numbers)}"
        shown = {"id": key, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        self.files[key] = shown | {"filename": name, "purpose": purpose, "status": "processed"}
        self.contents[key] = content
        return self.files[key]

    def find(self, what: dict[str, Any], key: str) -> Any:
        """A file or batch.

        Raises:
            Refused: there is none of this id.
        """
        if key not in what:
            raise Refused(404, f"No such object: {key}", "not_found")
        return what[key]


class Batches:
    """The addresses of one server's files and batches. A batch ends when it is looked at after its time."""

    def __init__(self, service: Service) -> None:
        self.service = service

    @property
    def shelf(self) -> Shelf:
        """The files and batches since the last reset."""
        return self.service.shelf

    async def upload(self, request: web.Request) -> Any:
        """POST /v1/files."""
        form = await request.post()
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, web.FileField) or purpose not in ("batch", "fine-tune"):
            raise Refused(400, "'file' and purpose=batch or fine-tune are required", param="file")
        return self.shelf.add_file(file.filename, str(purpose), file.file.read())

    async def file(self, request: web.Request) -> Any:
        """GET /v1/files/{id}."""
        return self.shelf.find(self.shelf.files, request.match_info["id"])

    async def files(self, request: web.Request) -> Any:
        """GET /v1/files, those of one purpose, the newest first."""
        purpose = request.query.get("purpose")
        found = [each for each in reversed(self.shelf.files.values()) if purpose in (None, each["purpose"])]
        return page(found, request)

    async def content(self, request: web.Request) -> Any:
        """GET /v1/files/{id}/content."""
        body: bytes = self.shelf.find(self.shelf.contents, request.match_info["id"])
        return web.Response(body=body, content_type="application/octet-stream")

    async def delete(self, request: web.Request) -> Any:
        """DELETE /v1/files/{id}."""
        key = request.match_info["id"]
        self.shelf.find(self.shelf.files, key)
        del self.shelf.files[key], self.shelf.contents[key]
        return {"id": key, "object": "file", "deleted": True}

    async def create(self, request: web.Request) -> Any:
        """POST /v1/batches."""
        asked = await request.json()
        content = self.shelf.find(self.shelf.contents, asked.get("input_file_id", ""))
        if asked.get("endpoint") != "/v1/chat/completions" or asked.get("completion_window") != "24h":
            raise Refused(400, "Only /v1/chat/completions within 24h is supported.", param="endpoint")
        now = int(time.time())
        key = f"batch_{next(self.shelf.numbers)}"
        self.shelf.batches[key] = {
            "id": key,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "status": "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "in_progress_at": now,
            "expires_at": now + 86400,
            "request_counts": {"total": len(content.splitlines()), "completed": 0, "failed": 0},
            "metadata": asked.get("metadata"),
            "ends": time.monotonic() + self.service.options.batch_seconds,
        }
        return self.shown(key)

    async def batch(self, request: web.Request) -> Any:
        """GET /v1/batches/{id}."""
        return self.shown(request.match_info["id"])

    async def listed(self, request: web.Request) -> Any:
        """GET /v1/batches, the newest first."""
        found = [self.shown(key) for key in reversed(list(self.shelf.batches))]
        after = request.query.get("after")
        start = next((i + 1 for i, each in enumerate(found) if each["id"] == after), 0)
        limit = int(request.query.get("limit", 20))
        part = found[start : start + limit]
        ends = {"first_id": part[0]["id"], "last_id": part[-1]["id"]} if part else {"first_id": None, "last_id": None}
        return {"object": "list", "data": part, "has_more": start + limit < len(found), **ends}

    async def cancel(self, request: web.Request) -> Any:
        """POST /v1/batches/{id}/cancel."""
        batch = self.shelf.find(self.shelf.batches, request.match_info["id"])
        self.shown(batch["id"])
        if batch["status"] in ENDED:
            raise Refused(409, f"A batch that is {batch['status']} can't be cancelled.")
        batch |= {"status": "cancelled", "cancelled_at": int(time.time())}
        return self.shown(batch["id"])

    def shown(self, key: str) -> dict[str, Any]:
        """A batch as it is now."""
        batch: dict[str, Any] = self.shelf.find(self.shelf.batches, key)
        if batch["status"] not in ENDED and time.monotonic() >= batch["ends"]:
            self.end(batch)
        return {name: value for name, value in batch.items() if name != "ends"}

    def end(self, batch: dict[str, Any]) -> None:
        """Answer a batch's lines, as far as it comes to that."""
        how, now = self.service.options.batch_end, int(time.time())
        batch |= {"status": how, f"{how}_at": now}
        if how == "failed":
            error = {"code": "invalid_json_line", "line": 1, "message": "This line is not parseable as valid JSON."}
            batch["errors"] = {"object": "list", "data": [error | {"param": None}]}
            return
        lines = self.shelf.contents[batch["input_file_id"]].splitlines()
        # A batch that expires has answered some of its lines; the rest is named in the file of errors.
        done = len(lines) // 2 if how == "expired" else len(lines)
        good: list[str] = []
        bad: list[str] = []
        for place, line in enumerate(lines):
            asked = json.loads(line)
            response = self.answer(batch, asked) if place < done else None
            late = {"code": "batch_expired", "message": "This request was not executed in time."}
            shown = {"id": f"batch_req_{batch['id']}_{place}", "custom_id": asked["custom_id"]}
            ok = response is not None and response["status_code"] == 200
            (good if ok else bad).append(
                json.dumps({**shown, "response": response, "error": None if response else late})
            )
        for name, part in (("output", good), ("error", bad)):
            if part:
                file = self.shelf.add_file(f"{batch['id']}_{name}.jsonl", "batch_output", "\n".join(part).encode())
                batch[f"{name}_file_id"] = file["id"]
        batch["request_counts"] = {"total": len(lines), "completed": len(good), "failed": len(bad)}

    def answer(self, batch: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        """The response to one line."""
        raw = json.dumps(asked["body"]).encode()
        unlucky = number(batch["id"], asked["custom_id"], self.service.options.seed) / 2**64
        try:
            if unlucky < self.service.options.batch_failed:
                raise Refused(500, self.service.options.batch_message)
            body = json.loads(self.service.answer(hashlib.blake2b(raw, digest_size=8).hexdigest(), raw))
        except Refused as refused:
            self.service.record.outcomes[f"batch {refused.status}"] += 1
            return {"status_code": refused.status, "request_id": asked["custom_id"], "body": refused.body}
        return {"status_code": 200, "request_id": asked["custom_id"], "body": body}


def add_routes(app: web.Application, service: Service) -> None:
    """The addresses of files and batches."""
    batches = Batches(service)

    def counted(handler: Any, name: str) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            service.record.other[name] += 1
            try:
                service.let_in(request)
                found = await handler(request)
            except Refused as refused:
                return web.json_response(refused.body, status=refused.status)
            return found if isinstance(found, web.StreamResponse) else web.json_response(found)

        return handle

    for method, path, handler in (
        ("DELETE", "/v1/files/{id}", batches.delete),
        ("POST", "/v1/batches/{id}/cancel", batches.cancel),
    ):
        app.router.add_route(method, path, counted(handler, f"{method} {path}"))
    for method, path, handler, call in (
        ("POST", "/v1/files", batches.upload, "upload"),
        ("GET", "/v1/files", batches.files, "files"),
        ("GET", "/v1/files/{id}", batches.file, "file"),
        ("GET", "/v1/files/{id}/content", batches.content, "content"),
        ("POST", "/v1/batches", batches.create, "batches"),
        ("GET", "/v1/batches", batches.listed, "batch_list"),
        ("GET", "/v1/batches/{id}", batches.batch, "batch"),
    ):
        app.router.add_route(method, path, wrapped(service, counted(handler, f"{method} {path}"), call))
