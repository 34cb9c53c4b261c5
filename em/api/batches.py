"""A server's Batch API: half the price, done within a day, and found again by id.

Open batches are noted in `<store>/batches/<server>-<id>.json` with the keys of their requests, and on the server by a
mark in their metadata: a run that was stopped, even between creating a batch and noting it, finds it again instead of
paying twice. Results are remembered as if they had been asked one by one. A batch that left requests without a result
is noted as spent (`….spent`): what it failed is asked for anew.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import openai

from em.api.client import Client, check_completion, check_object, in_words, its_words
from em.api.once import create_once
from em.api.pool import Pool
from em.config.addresses import OPENAI, server_name
from em.errors import ServerError
from em.runtime.files import alone, write_atomic
from em.runtime.keys import without_secrets
from em.runtime.memory import request_key
from em.runtime.records import digest

MOST = 20_000  # requests a batch; OpenAI takes 50,000 and 200 MB
PART = 500  # results that are remembered at once
FIRST_LOOK, LONGEST = 2.0, 60.0  # seconds between looks
SETTLE = 2.0  # seconds after which a batch whose creation went unanswered is in the list, if it was created
OVER = ("completed", "failed", "expired", "cancelled")
WITHOUT_RESULTS = ("failed", "expired", "cancelled", "cancelling")
ENDPOINT = "/v1/chat/completions"


@dataclass(frozen=True)
class Batch:
    """A batch that was created: its id, the keys of its requests, and where it is noted."""

    id: str
    keys: Sequence[str]
    note: Path

    def close(self, brought: Collection[str], failed: Mapping[str, str]) -> None:
        """Note that it has brought what it can bring of some requests; the rest of them another run may want."""
        if failed:
            self.note.with_suffix(".spent").touch()
        done = set(brought)
        if left := [key for key in self.keys if key not in done]:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
            write_atomic(self.note, json.dumps(noted | {"keys": left}))
        else:
            self.note.unlink(missing_ok=True)


class Work:
    """Requests of a pool that are asked for by batches, in place of calls side by side.

    what: their name in sentences, as in `judgements`. setting: what asks for batches.
    """

    def __init__(self, pool: Pool[Any], requests: Iterable[Any], what: str, setting: str) -> None:
        self.pool, self.client, self.what, self.setting = pool, pool.client, what, setting
        self.requests = {request_key(request): request for request in requests}
        self.bodies = {key: pool.body(request) for key, request in self.requests.items()}
        self.folder = pool.calls.folder / "batches"
        self.server = server_name(self.client.base_url) or OPENAI
        self.failures: dict[str, str] = {}

    async def ask(self) -> dict[str, str]:
        """Have all responses made, and remember them. Return what failed, in words, by the request's key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        left: Collection[str] = self.bodies
        try:
            for _ in range(2):  # the second time for batches that were noted and that the server has no more
                lost: list[str] = []
                for batch in await self.place(left):
                    mine = [key for key in batch.keys if key in self.bodies]
                    if await self.collect(batch.id, mine):
                        batch.close(mine, {key: self.failures[key] for key in mine if key in self.failures})
                    else:
                        batch.note.unlink(missing_ok=True)
                        lost += mine
                if not lost:
                    return self.failures
                left = lost
        except openai.OpenAIError as error:
            raise ServerError(self.explain(error)) from None
        raise ServerError(
            f"The server has lost the batches of {self.pool.model} that it took: leave out {self.setting}=true."
        )

    async def place(self, wanted: Collection[str]) -> list[Batch]:
        """List the batches that hold the requests: those that are noted, and new ones for the rest."""
        # Two processes would pay twice.
        async with alone(self.folder / digest([self.server, self.what, self.pool.model])[:16]):
            notes = {file: json.loads(file.read_text(encoding="utf-8")) for file in sorted(self.folder.glob("*.json"))}
            keys = set(wanted)
            batches = [
                Batch(note["id"], note["keys"], file)
                for file, note in notes.items()
                if note.get("server", self.server) == self.server and not keys.isdisjoint(note["keys"])
            ]
            there = {key for batch in batches for key in batch.keys}
            left = sorted(key for key in wanted if key not in there)
            for start in range(0, len(left), MOST):
                batches.append(await self.create(left[start : start + MOST]))
        return batches

    async def create(self, keys: Sequence[str]) -> Batch:
        """Create a batch, or find the one that was created for the same requests; note it."""
        mark = digest([[key, self.bodies[key]] for key in keys])[:32]
        look = partial(self.look, mark)
        batch: str | None = await self.client.repeated("batches", look)
        if batch is None:
            lines = [{"custom_id": key, "method": "POST", "url": ENDPOINT, "body": self.bodies[key]} for key in keys]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            upload = (f"em-{mark}.jsonl", text.encode())
            files = self.client.raw.files
            file = await self.client.repeated("files", lambda: files.create(file=upload, purpose="batch"))

            async def submit() -> str:
                created = await self.client.raw.batches.create(
                    input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={"em": mark}
                )
                return str(created.id)

            batch = await create_once(self.client, "batches", look, submit, SETTLE)
        note = self.folder / f"{self.server}-{batch}.json"
        facts = {"id": batch, "server": self.server, "model": self.pool.model, "keys": keys}
        write_atomic(note, json.dumps(facts))
        print(f"batch {batch}: {len(keys):,} {self.what}; stop and run the same command again as you like.", flush=True)
        return Batch(batch, keys, note)

    async def look(self, mark: str) -> str | None:
        """Return the id of a batch on the server that carries this mark and may still bring results."""
        try:
            async for batch in self.client.raw.batches.list(limit=100):
                spent = (self.folder / f"{self.server}-{batch.id}.spent").exists()
                over = batch.status in WITHOUT_RESULTS or spent
                if (batch.metadata or {}).get("em") == mark and not over:
                    return str(batch.id)
        except openai.NotFoundError:  # a server that lists no batches
            pass
        return None

    async def collect(self, batch_id: str, keys: Sequence[str]) -> bool:
        """Wait for a batch to end, and remember its results, or why there are none; False where it is lost."""
        batch, counted = await self.wait(batch_id)
        if batch is None:
            return False
        errors = batch.errors.data if batch.errors and batch.errors.data else []
        why = f": {without_secrets(errors[0].message or '')}" if errors else ""
        failures = dict.fromkeys(keys, f"the batch {batch_id} ended as {batch.status} without a result{why}")
        completed = batch.request_counts.completed if batch.request_counts else 0
        for file, least in ((batch.output_file_id, min(1, completed)), (batch.error_file_id, 0)):
            if not file:
                continue
            try:
                lines = await self.client.repeated("files", partial(lines_of, self.client, file, least))
            except openai.NotFoundError:
                gone = f"the results of the batch {batch_id} are not at the server any more"
                failures |= dict.fromkeys(failures, gone)
                continue
            for start in range(0, len(lines), PART):
                self.take(lines[start : start + PART], failures)
        self.pool.bar.update(len(keys) - len(failures) - counted)
        self.failures |= failures
        return True

    async def wait(self, batch_id: str) -> tuple[Any, int]:
        """Wait until a batch is over: it (None where the server has it no more), and how many the bar has counted."""
        pause, counted = FIRST_LOOK, 0

        async def retrieve() -> Any:
            try:
                return await twice(lambda: self.client.raw.batches.retrieve(batch_id))
            except openai.NotFoundError:
                return None

        while (batch := await self.client.repeated("batches", retrieve)) is not None and batch.status not in OVER:
            done = batch.request_counts.completed if batch.request_counts else 0
            self.pool.bar.update(done - counted)
            counted = done
            self.pool.bar.set_postfix_str(batch.status)
            await asyncio.sleep(pause)
            pause = min(LONGEST, 1.5 * pause)
        return batch, counted

    def take(self, lines: Sequence[bytes], failures: dict[str, str]) -> None:
        """Remember the responses in lines of a batch's results, and take their keys from `failures`, or say why not."""
        good: list[tuple[Any, dict[str, Any]]] = []
        for line in map(json.loads, lines):
            key, response = line.get("custom_id", ""), line.get("response") or {}
            if key not in failures:
                continue
            try:
                if response.get("status_code") != 200:
                    reason = without_secrets(json.dumps(line.get("error") or response.get("body") or "no reply"))
                    raise ValueError(reason[:300])
                check_completion(response.get("body"))
            except ValueError as error:
                failures[key] = f"the batch brought none of the {self.what}: {error}"
            else:
                good.append((self.requests[key], self.pool.response(response["body"]) | {"batch": True}))
                del failures[key]
        self.pool.calls.remember(self.pool.kind, good)

    def explain(self, error: Exception) -> str:
        """Say what the server's refusal of a batch means for the user."""
        match error:
            case openai.NotFoundError():
                return f"The server takes no batches (404): leave out {self.setting}=true."
            case openai.BadRequestError() | openai.UnprocessableEntityError():
                return (
                    f"The server refused a batch of {self.what} by {self.pool.model} ({error.status_code}): leave out "
                    f"{self.setting}=true, or mend what it names.{its_words(error)}"
                )
            case _:
                return in_words(self.pool.model, error)


async def lines_of(client: Client, file: str, least: int) -> list[bytes]:
    """Read a file of results. Raises ValueError for fewer lines than that, and for what is no result."""
    content = (await twice(lambda: client.raw.files.content(file))).content
    lines = [line for line in content.splitlines() if line.strip()]
    if len(lines) < least:
        raise ValueError("no results")
    for line in lines:
        check_object(found := json.loads(line))
        if not isinstance(found.get("custom_id"), str):
            raise ValueError("no result of a request")
    return lines


async def twice(call: Callable[[], Awaitable[Any]]) -> Any:
    """What a call returns. A 404 counts once it comes a second time: another batch would be paid for."""
    try:
        return await call()
    except openai.NotFoundError:
        await asyncio.sleep(SETTLE)
        return await call()
