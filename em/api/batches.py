"""The Batch API of a server: half the price, done within a day, resumed by id.

`<store>/batches/<server>-<id>.json` notes an open batch with the keys of its requests, and the batch's metadata on the
server carries a mark. So a run resumes its batch instead of paying twice, even if it was stopped between creating the
batch and noting it. Results are remembered like those of single calls. A file `….spent` notes a batch that left
requests without a result: the next run asks for these requests again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import openai

from em.api.client import Client, check_object, explain_error, quote_server
from em.api.once import create_once
from em.api.parameters import apply_changes
from em.api.pool import CallPool
from em.api.replies import check_completion
from em.config.addresses import OPENAI, find_server_name
from em.errors import ServerError
from em.runtime.files import hold_lock_async, write_atomic
from em.runtime.keys import redact_secrets
from em.runtime.memory import request_key
from em.runtime.records import digest

MOST = 20_000  # requests a batch; OpenAI takes 50,000 and 200 MB
LIMIT = re.compile(r"token_limit_exceeded|enqueued token", re.IGNORECASE)  # of an account's batches under way
PART = 500  # results written to the memory of calls at once
FIRST_LOOK, LONGEST = 2.0, 60.0  # seconds between two polls: at first, at most
SETTLE = 2.0  # seconds until a new batch is in the server's list, if the reply to its creation was lost
OVER = ("completed", "failed", "expired", "cancelled")
WITHOUT_RESULTS = ("failed", "expired", "cancelled", "cancelling")
ENDPOINT = "/v1/chat/completions"


@dataclass(frozen=True)
class Batch:
    """A batch on the server: its id, the keys of its requests, and the file that notes it."""

    id: str
    keys: Sequence[str]
    note: Path

    def close(self, collected: Collection[str], failed: Mapping[str, str]) -> None:
        """Remove the collected keys from the note; keys of another run stay for that run."""
        if failed:
            self.note.with_suffix(".spent").touch()
        done = set(collected)
        if left := [key for key in self.keys if key not in done]:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
            write_atomic(self.note, json.dumps(noted | {"keys": left}))
        else:
            self.note.unlink(missing_ok=True)


class BatchTooLarge(Exception):
    """A batch is larger than the account's limit of enqueued tokens allows; the server has begun none of it."""


class BatchedCalls:
    """Requests of a pool to send by batches, in place of concurrent calls.

    most: requests a batch. From the first batch that is too large for the account, batches are smaller, and each
    begins after the end of the one before.
    what: name of the requests in messages, such as `judgements`. setting: the option that turns batches on.
    """

    def __init__(self, pool: CallPool[Any], requests: Iterable[Any], what: str, setting: str) -> None:
        self.pool, self.client, self.what, self.setting = pool, pool.client, what, setting
        self.requests = {request_key(request): request for request in requests}
        self.bodies = {key: self.make_body(request) for key, request in self.requests.items()}
        self.folder = pool.calls.folder / "batches"
        self.server = find_server_name(self.client.base_url) or OPENAI
        self.failures: dict[str, str] = {}
        self.most = MOST
        self.one_by_one = False

    def make_body(self, request: Any) -> dict[str, Any]:
        """Make the JSON body of a request, with the parameters that the server takes as far as em knows them."""
        return apply_changes({**self.pool.body(request), **self.pool.extra}, self.pool.changes)

    async def ask(self) -> dict[str, str]:
        """Get all responses and remember them. Return the reason of each failure by the request's key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        left: set[str] = set(self.bodies)
        losses = 0
        try:
            while left and losses < 2:  # the second round replaces batches that are noted but gone from the server
                lost: list[str] = []
                for batch in await self.find_or_create_batches(left):
                    our_keys = [key for key in batch.keys if key in self.bodies]
                    left -= set(our_keys)
                    try:
                        if await self.collect(batch.id, our_keys):
                            batch.close(our_keys, {key: self.failures[key] for key in our_keys if key in self.failures})
                            continue
                        lost += our_keys
                    except BatchTooLarge:
                        left |= set(our_keys)
                        self.make_smaller(len(batch.keys))
                    batch.note.unlink(missing_ok=True)
                left |= set(lost)
                losses += bool(lost)
            if not left:
                return self.failures
        except openai.OpenAIError as error:
            raise ServerError(self.explain(error)) from None
        raise ServerError(
            f"The server accepted batches of {self.pool.model} and lost them: leave out {self.setting}=true."
        )

    def make_smaller(self, size: int) -> None:
        """Halve the size of the batches after one of this size was too large, and tell the user.

        Raises:
            ServerError: the account takes not even one request.
        """
        if size == 1:
            raise ServerError(
                f"The account's limit of enqueued tokens leaves no room for a batch of {self.pool.model}: run the same "
                "command again when its other batches have ended."
            )
        self.most, self.one_by_one = min(self.most, size // 2), True
        print(f"The account's limit of enqueued tokens is met: batches of {self.most:,} follow now.", flush=True)

    async def find_or_create_batches(self, wanted: Collection[str]) -> list[Batch]:
        """List the noted batches that hold the requests; create new batches for the other requests."""
        # Without the lock two processes would pay for the same requests.
        async with hold_lock_async(self.folder / digest([self.server, self.what, self.pool.model])[:16]):
            notes = {file: json.loads(file.read_text(encoding="utf-8")) for file in sorted(self.folder.glob("*.json"))}
            keys = set(wanted)
            batches: list[Batch] = []
            for file, note in notes.items():
                if note.get("server", self.server) == self.server and not keys.isdisjoint(note["keys"]):
                    batches.append(Batch(note["id"], note["keys"], file))
            noted_keys = {key for batch in batches for key in batch.keys}
            left = sorted(key for key in wanted if key not in noted_keys)
            for start in range(0, len(left), self.most):
                if self.one_by_one and batches:
                    break  # the next round creates it
                batches.append(await self.create(left[start : start + self.most]))
        return batches

    async def create(self, keys: Sequence[str]) -> Batch:
        """Create and note a batch, unless the server has one of the same requests: then note that one."""
        mark = digest([[key, self.bodies[key]] for key in keys])[:32]
        look = partial(self.find_by_mark, mark)
        batch: str | None = await self.client.call_with_retries("batches", look)
        if batch is None:
            lines = [{"custom_id": key, "method": "POST", "url": ENDPOINT, "body": self.bodies[key]} for key in keys]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            upload = (f"em-{mark}.jsonl", text.encode())
            files = self.client.raw.files
            file = await self.client.call_with_retries("files", lambda: files.create(file=upload, purpose="batch"))

            async def submit() -> str:
                created = await self.client.raw.batches.create(
                    input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={"em": mark}
                )
                return str(created.id)

            batch = await create_once(self.client, "batches", look, submit, SETTLE)
        note = self.folder / f"{self.server}-{batch}.json"
        facts = {"id": batch, "server": self.server, "model": self.pool.model, "keys": keys}
        write_atomic(note, json.dumps(facts))
        print(f"batch {batch}: {len(keys):,} {self.what}; you may stop and rerun the same command.", flush=True)
        return Batch(batch, keys, note)

    async def find_by_mark(self, mark: str) -> str | None:
        """Return the id of a batch on the server that carries this mark and may still give results."""
        try:
            async for batch in self.client.raw.batches.list(limit=100):
                spent = (self.folder / f"{self.server}-{batch.id}.spent").exists()
                over = batch.status in WITHOUT_RESULTS or spent
                if (batch.metadata or {}).get("em") == mark and not over:
                    return str(batch.id)
        except openai.NotFoundError:  # this server can't list batches
            pass
        return None

    async def collect(self, batch_id: str, keys: Sequence[str]) -> bool:
        """Wait for a batch to end, then remember its results and failures. Return False if the server lost it.

        Raises:
            BatchTooLarge: the account's limit of enqueued tokens forbids the batch.
        """
        batch, counted = await self.wait(batch_id)
        if batch is None:
            return False
        errors = batch.errors.data if batch.errors and batch.errors.data else []
        too_large = any(LIMIT.search(f"{error.code} {error.message}") for error in errors)
        if too_large and batch.status == "failed":
            raise BatchTooLarge
        why = f": {redact_secrets(errors[0].message or '')}" if errors else ""
        failures = dict.fromkeys(keys, f"the batch {batch_id} ended as {batch.status} without a result{why}")
        completed = batch.request_counts.completed if batch.request_counts else 0
        for file, least in ((batch.output_file_id, min(1, completed)), (batch.error_file_id, 0)):
            if not file:
                continue
            try:
                lines = await self.client.call_with_retries("files", partial(download_lines, self.client, file, least))
            except openai.NotFoundError:
                reason = f"the results of the batch {batch_id} are not at the server any more"
                failures |= dict.fromkeys(failures, reason)
                continue
            for start in range(0, len(lines), PART):
                self.remember_results(lines[start : start + PART], failures)
        self.pool.bar.update(len(keys) - len(failures) - counted)
        self.failures |= failures
        return True

    async def wait(self, batch_id: str) -> tuple[Any, int]:
        """Wait until a batch is over. Return the batch (None if the server lost it) and the bar's count of requests."""
        pause, counted = FIRST_LOOK, 0

        async def fetch_batch() -> Any:
            try:
                return await retry_not_found(lambda: self.client.raw.batches.retrieve(batch_id))
            except openai.NotFoundError:
                return None

        while (
            batch := await self.client.call_with_retries("batches", fetch_batch)
        ) is not None and batch.status not in OVER:
            done = batch.request_counts.completed if batch.request_counts else 0
            self.pool.bar.update(done - counted)
            counted = done
            self.pool.bar.set_postfix_str(batch.status)
            await asyncio.sleep(pause)
            pause = min(LONGEST, 1.5 * pause)
        return batch, counted

    def remember_results(self, lines: Sequence[bytes], failures: dict[str, str]) -> None:
        """Remember the responses in lines of results; remove their keys from `failures`, or store the reason there."""
        completed: list[tuple[Any, dict[str, Any]]] = []
        for line in map(json.loads, lines):
            key, response = line.get("custom_id", ""), line.get("response") or {}
            if key not in failures:
                continue
            try:
                if response.get("status_code") != 200:
                    reason = redact_secrets(json.dumps(line.get("error") or response.get("body") or "no reply"))
                    raise ValueError(reason[:300])
                check_completion(response.get("body"))
            except ValueError as error:
                failures[key] = f"the batch brought none of the {self.what}: {error}"
            else:
                completed.append((self.requests[key], self.pool.make_response(response["body"]) | {"batch": True}))
                del failures[key]
        self.pool.calls.store_calls(self.pool.kind, completed)

    def explain(self, error: Exception) -> str:
        """Explain to the user why the server refused a batch, and what to change."""
        match error:
            case openai.NotFoundError():
                return f"The server takes no batches (404): leave out {self.setting}=true."
            case openai.BadRequestError() | openai.UnprocessableEntityError():
                return (
                    f"The server refused a batch of {self.what} by {self.pool.model} ({error.status_code}): leave out "
                    f"{self.setting}=true, or change the setting that the server names.{quote_server(error)}"
                )
            case _:
                return explain_error(self.pool.model, error)


async def download_lines(client: Client, file: str, least: int) -> list[bytes]:
    """Download the lines of a result file. Raises ValueError for fewer than `least` lines or a malformed one."""
    content = (await retry_not_found(lambda: client.raw.files.content(file))).content
    lines = [line for line in content.splitlines() if line.strip()]
    if len(lines) < least:
        raise ValueError("no results")
    for line in lines:
        check_object(result := json.loads(line))
        if not isinstance(result.get("custom_id"), str):
            raise ValueError("result line without custom_id")
    return lines


async def retry_not_found(call: Callable[[], Awaitable[Any]]) -> Any:
    """Return the result of a call; after a 404, try once more: a wrong 404 would cost a second batch."""
    try:
        return await call()
    except openai.NotFoundError:
        await asyncio.sleep(SETTLE)
        return await call()
