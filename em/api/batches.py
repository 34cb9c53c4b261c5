"""A server's Batch API: half the price, done within a day, and found again by id.

Open batches are noted in `<store>/batches/<server>-<id>.json` with the keys of their requests, and on the server by a
mark in their metadata: a run that was stopped, even between creating a batch and noting it, finds it again instead of
paying twice. Results are remembered as if they had been asked one by one. A batch that left requests without a result
is noted as spent (`….spent`): what it failed is asked for anew.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from em.api.client import Client, check_completion, check_object, in_words, its_words
from em.api.once import create_once
from em.config.addresses import OPENAI, server_name
from em.errors import ServerError
from em.runtime.files import alone, write_atomic
from em.runtime.keys import without_secrets
from em.runtime.records import digest

MOST = 20_000  # requests a batch; OpenAI takes 50,000 and 200 MB
PART = 500  # results that are remembered at once
FIRST_LOOK, LONGEST = 2.0, 60.0  # seconds between looks
SETTLE = 2.0  # seconds after which a batch whose creation went unanswered is in the list, if it was created
OVER = ("completed", "failed", "expired", "cancelled")
WITHOUT_RESULTS = ("failed", "expired", "cancelled", "cancelling")
Found = Sequence[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Work:
    """Chat completions that are asked for by batches.

    what: their name in sentences, as in `judgements`; setting: what asks for batches.
    bodies: what is asked, by the key of each request. remember: keeps completions, each with its key.
    """

    model: str
    what: str
    setting: str
    bodies: Mapping[str, dict[str, Any]]
    remember: Callable[[Found], None]


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


async def ask_by_batch(client: Client, work: Work, folder: Path, bar: Any) -> dict[str, str]:
    """Have all completions made, and remember them. Returns what failed, in words, by the request's key.

    Raises:
        ServerError: the server takes no batches, or refused one.
    """
    import openai

    folder.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    left = work
    try:
        for _ in range(2):  # the second time for batches that were noted and that the server has no more
            lost: list[str] = []
            for batch in await placed(client, left, folder):
                mine = [key for key in batch.keys if key in work.bodies]
                if (failed := await collect(client, work, batch.id, mine, bar)) is None:
                    batch.note.unlink(missing_ok=True)
                    lost += mine
                    continue
                failures |= failed
                batch.close(mine, failed)
            if not lost:
                return failures
            left = replace(work, bodies={key: work.bodies[key] for key in lost})
    except openai.OpenAIError as error:
        raise ServerError(refusal(work, error)) from None
    raise ServerError(f"The server has lost the batches of {work.model} that it took: leave out {work.setting}=true.")


async def placed(client: Client, work: Work, folder: Path) -> list[Batch]:
    """The batches that hold the requests: those that are noted, and new ones for the rest."""
    server = server_name(client.base_url) or OPENAI
    async with alone(folder / digest([server, work.what, work.model])[:16]):  # two processes would pay twice
        batches = [*noted(folder, server, work.bodies)]
        there = {key for batch in batches for key in batch.keys}
        left = sorted(key for key in work.bodies if key not in there)
        for start in range(0, len(left), MOST):
            batches.append(await create(client, work, left[start : start + MOST], folder, server))
    return batches


def noted(folder: Path, server: str, wanted: Collection[str]) -> Iterator[Batch]:
    """Batches of a server that were created before and hold some of these requests."""
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if found.get("server", server) == server and any(key in wanted for key in found["keys"]):
            yield Batch(found["id"], found["keys"], file)


async def create(client: Client, work: Work, keys: Sequence[str], folder: Path, server: str) -> Batch:
    """Create a batch, or find the one that was created for the same requests; note it."""
    begun = f"{server}-"
    mark = digest([[key, work.bodies[key]] for key in keys])[:32]
    spent = {path.stem.removeprefix(begun) for path in folder.glob(f"{begun}*.spent")}
    look_up = partial(look, client, mark, spent)
    found = await client.repeated("batches", look_up)
    if found is None:
        lines = [
            {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": work.bodies[key]}
            for key in keys
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        upload = (f"em-{mark}.jsonl", text.encode())
        file = await client.repeated("files", lambda: client.raw.files.create(file=upload, purpose="batch"))

        async def submit() -> str:
            batch = await client.raw.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"em": mark}
            )
            return str(batch.id)

        found = await create_once(client, "batches", look_up, submit, SETTLE)
    note = folder / f"{begun}{found}.json"
    write_atomic(note, json.dumps({"id": found, "server": server, "model": work.model, "keys": keys}))
    print(f"batch {found}: {len(keys):,} {work.what}; stop and run the same command again as you like.", flush=True)
    return Batch(found, keys, note)


async def look(client: Client, mark: str, spent: Collection[str]) -> str | None:
    """The id of a batch on the server that carries this mark and may still bring results.

    Args:
        spent: ids of batches that have brought what they can.
    """
    import openai

    try:
        async for batch in client.raw.batches.list(limit=100):
            over = batch.status in WITHOUT_RESULTS or batch.id in spent
            if (batch.metadata or {}).get("em") == mark and not over:
                return str(batch.id)
    except openai.NotFoundError:  # a server that lists no batches
        pass
    return None


async def collect(client: Client, work: Work, batch: str, keys: Sequence[str], bar: Any) -> dict[str, str] | None:
    """Wait for a batch to end, and remember its results.

    Returns what failed, in words, by key; None where the server has no such batch.
    """
    import openai

    wait, counted = FIRST_LOOK, 0

    async def look() -> Any:
        try:
            return await twice(lambda: client.raw.batches.retrieve(batch))
        except openai.NotFoundError:
            return None

    while (found := await client.repeated("batches", look)) is not None and found.status not in OVER:
        done = found.request_counts.completed if found.request_counts else 0
        bar.update(done - counted)
        counted = done
        bar.set_postfix_str(found.status)
        await asyncio.sleep(wait)
        wait = min(LONGEST, 1.5 * wait)
    if found is None:
        return None
    errors = found.errors.data if found.errors and found.errors.data else []
    why = f": {without_secrets(errors[0].message or '')}" if errors else ""
    failures = dict.fromkeys(keys, f"the batch {batch} ended as {found.status} without a result{why}")
    completed = found.request_counts.completed if found.request_counts else 0
    for file, least in ((found.output_file_id, min(1, completed)), (found.error_file_id, 0)):
        if not file:
            continue
        try:
            lines = await client.repeated("files", partial(lines_of, client, file, least))
        except openai.NotFoundError:
            failures |= dict.fromkeys(failures, f"the results of the batch {batch} are not at the server any more")
            continue
        for start in range(0, len(lines), PART):
            take(lines[start : start + PART], work, failures)
    bar.update(len(keys) - len(failures) - counted)
    return failures


async def lines_of(client: Client, file: str, least: int) -> list[bytes]:
    """The lines of a file of results.

    Raises:
        ValueError: it has fewer lines than that, is cut off, or something else than results.
    """
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
    import openai

    try:
        return await call()
    except openai.NotFoundError:
        await asyncio.sleep(SETTLE)
        return await call()


def take(lines: Sequence[bytes], work: Work, failures: dict[str, str]) -> None:
    """Remember lines of a batch's results, or why there is none."""
    good: list[tuple[str, dict[str, Any]]] = []
    for line in map(json.loads, lines):
        key, response = line.get("custom_id", ""), line.get("response") or {}
        if key not in failures:
            continue
        try:
            if response.get("status_code") != 200:
                told = without_secrets(json.dumps(line.get("error") or response.get("body") or "no reply"))
                raise ValueError(told[:300])
            check_completion(response.get("body"))
        except ValueError as error:
            failures[key] = f"the batch brought none of the {work.what}: {error}"
        else:
            good.append((key, response["body"]))
    work.remember(good)
    for key, _ in good:
        failures.pop(key)


def refusal(work: Work, error: Exception) -> str:
    """What the server's refusal of a batch means for the user."""
    import openai

    match error:
        case openai.NotFoundError():
            return f"The server takes no batches (404): leave out {work.setting}=true."
        case openai.BadRequestError() | openai.UnprocessableEntityError():
            return (
                f"The server refused a batch of {work.what} by {work.model} ({error.status_code}): leave out "
                f"{work.setting}=true, or mend what it names.{its_words(error)}"
            )
        case _:
            return in_words(work.model, error)
