"""The server's addresses: models, chat completions, and the counts and options for tests."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
from itertools import count
from typing import Any

from aiohttp import web

from . import batches, tuning
from .distribution import hash_values
from .faults import Bucket, Faults, make_retry_headers, read_wait
from .models import Refused, make_not_found, read_call, refuse_parameters
from .options import Options
from .record import Record
from .replies import complete_chat

FOREVER = 3600.0
HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"


class Service:
    """One server: its options, faults, limits and counts."""

    def __init__(self, options: Options) -> None:
        self.serial = count(1)
        self.reset(options)

    def reset(self, options: Options) -> None:
        """Forget all counts, faults, limits, batches and jobs, and set the options."""
        self.options = options
        self.faults, self.bucket, self.record = Faults(options), Bucket(options), Record()
        self.shelf, self.shop = batches.Shelf(), tuning.Workshop(options)

    async def handle_chat(self, request: web.Request) -> web.StreamResponse:
        """Handle POST /v1/chat/completions."""
        raw = await request.read()
        key = hashlib.blake2b(raw, digest_size=8).hexdigest()
        with self.record.track_arrival(key):
            if self.bucket.rate and not self.bucket.take_token():
                headers = self.bucket.make_headers(refused=True)
                return self.respond_limited(key, headers, "Rate limit reached: requests per second.")
            fault, turn = self.faults.draw_fault()
            if fault:
                return await self.respond_fault(request, key, fault, turn)
            try:
                self.check_key(request)
                if self.shop.faults.left:
                    chat = "chat" if b'"ft:' in raw else "judge"
                    if (failed := await tuning.respond_fault(request, self.shop.faults.take_fault(chat))) is not None:
                        return failed
                body = self.make_answer(key, raw)
            except Refused as refused:
                self.record.outcomes[f"{refused.status}"] += 1
                return web.json_response(refused.body, status=refused.status)
            if self.options.latency:
                await asyncio.sleep(self.options.latency)
            return web.Response(
                body=body, content_type="application/json", headers=self.bucket.make_headers(refused=False)
            )

    def make_answer(self, key: str, raw: bytes) -> bytes:
        """Return the completion for a request's body as JSON, and count the answer.

        Raises:
            Refused: the body, the model or the account is not accepted.
        """
        try:
            fields = json.loads(raw)
        except ValueError as error:
            raise Refused(400, "We could not parse the JSON body of your request.") from error
        refuse_parameters(fields, self.options.refused, self.options.wording)
        call = read_call(fields)
        deleted = call.model.startswith("ft:") and ":stub:" in call.model and call.model not in self.shop.list_models()
        if deleted or self.is_shut_down(call.model):
            raise make_not_found(call.model)
        if 0 <= self.options.quota <= self.record.answers.total():
            raise Refused(429, "You exceeded your current quota.", "insufficient_quota")
        if hash_values("blocked", call.prompt) / 2**64 < self.options.blocked:
            raise Refused(400, "The prompt was filtered by the content policy.", "content_filter", "prompt")
        body = complete_chat(call, self.options, next(self.serial))
        refused = body["choices"][0]["message"]["refusal"] is not None
        self.record.other[f"chat {call.model}"] += 1
        self.record.count_answer(key, hash(call.prompt), "refusal" if refused else "ok")
        return json.dumps(body).encode()

    def check_key(self, request: web.Request) -> None:
        """Raise Refused for a wrong API key."""
        if self.options.key and request.headers.get("Authorization") != f"Bearer {self.options.key}":
            raise Refused(401, "Incorrect API key provided.", "invalid_api_key")

    def is_shut_down(self, model: str) -> bool:
        """Tell whether a model's shutdown date has come."""
        shutdown = self.options.shutdown_dates.get(model, "9999-12-31")
        today = datetime.datetime.now(datetime.UTC)
        return int(shutdown) <= today.timestamp() if shutdown.isdigit() else shutdown <= today.date().isoformat()

    def respond_limited(self, key: str, headers: dict[str, str], message: str) -> web.Response:
        """Return a 429 response, and count it."""
        self.record.count_limit(key, read_wait(headers))
        return web.json_response(Refused(429, message, "rate_limit_exceeded").body, status=429, headers=headers)

    async def respond_fault(self, request: web.Request, key: str, fault: str, turn: int) -> web.StreamResponse:
        """Return the response of a failing request, or end its connection. `turn`: earlier requests with this fault."""
        if fault == "rate_limited":
            return self.respond_limited(key, make_retry_headers(self.options.retry_after, turn), "Rate limit reached.")
        self.record.outcomes[fault] += 1
        match fault:
            case "server_errors" if turn % 3 == 2:
                return web.Response(text=HTML, content_type="text/html", status=502)
            case "server_errors":
                status = (500, 503)[turn % 3]
                return web.json_response(Refused(status, "The server had an error.").body, status=status)
            case "malformed":
                text = ('{"id": "chatcmpl-0", "choices": [{"mess', '{"status": "busy"}')[turn % 2]
                return web.Response(text=text, content_type="application/json")
            case "hangs":
                await asyncio.sleep(FOREVER)  # until the client disconnects
            case _:
                await self.drop_connection(request, turn)
        return web.Response(status=500)

    async def drop_connection(self, request: web.Request, turn: int) -> None:
        """End the connection: close it, reset it, or end it within the body."""
        transport = request.transport
        if transport is None:
            return
        if turn % 3 == 2:
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "400"})
            await response.prepare(request)
            await response.write(b'{"id": "chatcmpl-0", "object": "chat.comp')
        if turn % 3 == 1:
            transport.abort()
        else:
            transport.close()
        await asyncio.sleep(0)

    async def handle_models(self, request: web.Request) -> web.Response:
        """Handle GET /v1/models and /v1/models/{id}."""
        self.record.other["GET /v1/models"] += 1
        try:
            self.check_key(request)
            tuned = [] if request.get("unlisted") else self.shop.list_models()
            listed = [self.describe_model(each) for each in (*self.options.listed, *tuned)]
            if wanted := request.match_info.get("id"):
                matches = [each for each in listed if each["id"] == wanted]
                if not matches:
                    raise make_not_found(wanted)
                return web.json_response(matches[0])
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)
        return web.json_response({"object": "list", "data": listed})

    def describe_model(self, model: str) -> dict[str, Any]:
        """Return a model as /v1/models shows it."""
        shown = {"id": model, "object": "model", "created": 1_780_000_000, "owned_by": "chat-server"}
        shown |= {"root": self.options.root, "parent": self.options.parent or None} if self.options.root else {}
        dates = self.options.shutdown_dates
        if model not in dates:
            return shown
        shutdown = dates[model]  # servers write a day, or seconds since 1970
        return shown | {"shutdown_date": int(shutdown) if shutdown.isdigit() else shutdown}

    async def handle_stats(self, request: web.Request) -> web.Response:
        """Handle GET /stats; `?detail=1` adds the number of answers by the hash of the body."""
        return web.json_response(self.record.summarise("detail" in request.query))

    async def handle_reset(self, request: web.Request) -> web.Response:
        """Handle POST /reset: forget all counts, and change the options that the body names."""
        changes = await request.json() if request.can_read_body else {}
        try:
            self.reset(self.options.change(changes))
        except (TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"reset": True})


def build_application(options: Options) -> web.Application:
    """Build the application with all addresses."""
    service = Service(options)
    app = web.Application(client_max_size=2**30)
    app.router.add_post("/v1/chat/completions", service.handle_chat)
    app.router.add_get("/v1/models", tuning.wrap_handler(service, service.handle_models, "models"))
    app.router.add_get("/v1/models/{id:.+}", tuning.wrap_handler(service, service.handle_models, "model"))
    app.router.add_get("/stats", service.handle_stats)
    app.router.add_post("/reset", service.handle_reset)
    batches.add_batch_routes(app, service)
    tuning.add_tuning_routes(app, service)
    return app
