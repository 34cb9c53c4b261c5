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
from .distribution import number
from .faults import Bucket, Faults, retry_after, seconds_asked
from .models import Refused, not_found, read_call
from .options import Options
from .record import Record
from .replies import complete

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

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Handle POST /v1/chat/completions."""
        raw = await request.read()
        key = hashlib.blake2b(raw, digest_size=8).hexdigest()
        with self.record.arrived(key):
            if self.bucket.rate and not self.bucket.take():
                headers = self.bucket.told(refused=True)
                return self.limit(key, headers, "Rate limit reached: requests per second.")
            fault, turn = self.faults.draw()
            if fault:
                return await self.fail(request, key, fault, turn)
            try:
                self.let_in(request)
                if self.shop.faults.left:
                    chat = "chat" if b'"ft:' in raw else "judge"
                    if (failed := await tuning.fail(request, self.shop.faults.next(chat))) is not None:
                        return failed
                body = self.answer(key, raw)
            except Refused as refused:
                self.record.outcomes[f"{refused.status}"] += 1
                return web.json_response(refused.body, status=refused.status)
            if self.options.latency:
                await asyncio.sleep(self.options.latency)
            return web.Response(body=body, content_type="application/json", headers=self.bucket.told(refused=False))

    def answer(self, key: str, raw: bytes) -> bytes:
        """Return the completion for a request's body as JSON, and count the answer.

        Raises:
            Refused: the body, the model or the account is not accepted.
        """
        try:
            fields = json.loads(raw)
        except ValueError as error:
            raise Refused(400, "We could not parse the JSON body of your request.") from error
        call = read_call(fields)
        deleted = call.model.startswith("ft:") and ":stub:" in call.model and call.model not in self.shop.names()
        if deleted or self.ended(call.model):
            raise not_found(call.model)
        if 0 <= self.options.quota <= self.record.answers.total():
            raise Refused(429, "You exceeded your current quota.", "insufficient_quota")
        if number("blocked", call.prompt) / 2**64 < self.options.blocked:
            raise Refused(400, "The prompt was filtered by the content policy.", "content_filter", "prompt")
        body = complete(call, self.options, next(self.serial))
        refused = body["choices"][0]["message"]["refusal"] is not None
        self.record.other[f"chat {call.model}"] += 1
        self.record.answered(key, hash(call.prompt), "refusal" if refused else "ok")
        return json.dumps(body).encode()

    def let_in(self, request: web.Request) -> None:
        """Raise Refused for a wrong API key."""
        if self.options.key and request.headers.get("Authorization") != f"Bearer {self.options.key}":
            raise Refused(401, "Incorrect API key provided.", "invalid_api_key")

    def ended(self, model: str) -> bool:
        """Tell whether a model's shutdown date has come."""
        shutdown = self.options.shutdown_dates.get(model, "9999-12-31")
        today = datetime.datetime.now(datetime.UTC)
        return int(shutdown) <= today.timestamp() if shutdown.isdigit() else shutdown <= today.date().isoformat()

    def limit(self, key: str, headers: dict[str, str], message: str) -> web.Response:
        """Return a 429 response, and count it."""
        self.record.limited(key, seconds_asked(headers))
        return web.json_response(Refused(429, message, "rate_limit_exceeded").body, status=429, headers=headers)

    async def fail(self, request: web.Request, key: str, fault: str, turn: int) -> web.StreamResponse:
        """Return the response of a failing request, or end its connection. `turn`: earlier requests with this fault."""
        if fault == "rate_limited":
            return self.limit(key, retry_after(self.options.retry_after, turn), "Rate limit reached.")
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
                await self.drop(request, turn)
        return web.Response(status=500)

    async def drop(self, request: web.Request, turn: int) -> None:
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

    async def models(self, request: web.Request) -> web.Response:
        """Handle GET /v1/models and /v1/models/{id}."""
        self.record.other["GET /v1/models"] += 1
        try:
            self.let_in(request)
            tuned = [] if request.get("unlisted") else self.shop.names()
            listed = [self.described(each) for each in (*self.options.listed, *tuned)]
            if wanted := request.match_info.get("id"):
                matches = [each for each in listed if each["id"] == wanted]
                if not matches:
                    raise not_found(wanted)
                return web.json_response(matches[0])
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)
        return web.json_response({"object": "list", "data": listed})

    def described(self, model: str) -> dict[str, Any]:
        """Return a model as /v1/models shows it."""
        shown = {"id": model, "object": "model", "created": 1_780_000_000, "owned_by": "chat-server"}
        dates = self.options.shutdown_dates
        if model not in dates:
            return shown
        shutdown = dates[model]  # servers write a day, or seconds since 1970
        return shown | {"shutdown_date": int(shutdown) if shutdown.isdigit() else shutdown}

    async def stats(self, request: web.Request) -> web.Response:
        """Handle GET /stats; `?detail=1` adds the number of answers by the hash of the body."""
        return web.json_response(self.record.summary("detail" in request.query))

    async def change(self, request: web.Request) -> web.Response:
        """Handle POST /reset: forget all counts, and change the options that the body names."""
        changes = await request.json() if request.can_read_body else {}
        try:
            self.reset(self.options.changed(changes))
        except (TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"reset": True})


def application(options: Options) -> web.Application:
    """Build the application with all addresses."""
    service = Service(options)
    app = web.Application(client_max_size=2**30)
    app.router.add_post("/v1/chat/completions", service.chat)
    app.router.add_get("/v1/models", tuning.wrapped(service, service.models, "models"))
    app.router.add_get("/v1/models/{id:.+}", tuning.wrapped(service, service.models, "model"))
    app.router.add_get("/stats", service.stats)
    app.router.add_post("/reset", service.change)
    batches.add_routes(app, service)
    tuning.add_routes(app, service)
    return app
