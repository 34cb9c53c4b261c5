"""Judging by a server's Batch API: half the price, done within a day, and found again by id.

Open batches are noted in `<store>/batches/<id>.json` with the keys of their requests, and on the server by a mark in
their metadata: a run that was stopped, even between creating a batch and noting it, finds it again instead of paying
twice. Results are remembered as if they had been asked one by one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from em.client import Client, check_completion, in_words
from em.config import ApiJudge
from em.errors import ServerError
from em.judge.readings import body, kept
from em.store import Calls, exclusive, request_key
from em.types import JudgeRequest, digest

MOST = 20_000  # requests a batch; OpenAI takes 50,000 and 200 MB
FIRST_LOOK, LONGEST = 2.0, 60.0  # seconds between looks
OVER = ("completed", "failed", "expired", "cancelled")


async def judge_by_batch(
    judge: ApiJudge, client: Client, requests: Sequence[JudgeRequest], calls: Calls, folder: Path, bar: Any
) -> dict[str, str]:
    """Judge all requests by batches; remember the results. Returns what failed, in words, by the request's key.

    Raises:
        ServerError: the server takes no batches, or refused one.
    """
    import openai

    by_key = {request_key(r): r for r in requests}
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / "judge"):  # two processes would pay for the same batch
        try:
            batches = [*open_batches(folder, by_key)]
            placed = {key for _, keys in batches for key in keys}
            left = sorted(key for key in by_key if key not in placed)
            for start in range(0, len(left), MOST):
                part = left[start : start + MOST]
                batches.append((await create(judge, client, [by_key[key] for key in part], folder), part))
            failures: dict[str, str] = {}
            for batch_id, keys in batches:
                failures |= await collect(client, batch_id, {k: by_key[k] for k in keys if k in by_key}, calls, bar)
                (folder / f"{batch_id}.json").unlink(missing_ok=True)
        except openai.OpenAIError as error:
            raise ServerError(in_words(judge.model, error)) from None
    return failures


def open_batches(folder: Path, by_key: Mapping[str, JudgeRequest]) -> Iterator[tuple[str, list[str]]]:
    """Batches that were created before and hold some of these requests."""
    for file in sorted(folder.glob("*.json")):
        noted = json.loads(file.read_text(encoding="utf-8"))
        if any(key in by_key for key in noted["keys"]):
            yield noted["id"], noted["keys"]


async def create(judge: ApiJudge, client: Client, requests: Sequence[JudgeRequest], folder: Path) -> str:
    """Create a batch, or find the one that was created for the same requests; note it. Returns its id."""
    keys = [request_key(r) for r in requests]
    mark = digest(keys)[:32]
    found = await marked(client, mark)
    if found is None:
        lines = [
            {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body(request, judge.model)}
            for key, request in zip(keys, requests, strict=True)
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        file = await client.raw.files.create(file=(f"em-{mark}.jsonl", text.encode()), purpose="batch")
        batch = await client.raw.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"em": mark},
        )
        found = str(batch.id)
    note = folder / f"{found}.json"
    partial = note.with_suffix(".partial")
    partial.write_text(json.dumps({"id": found, "judge": judge.model, "keys": keys}), encoding="utf-8")
    partial.replace(note)
    print(f"batch {found}: {len(keys):,} judgements; stop and run the same command again as you like.", flush=True)
    return found


async def marked(client: Client, mark: str) -> str | None:
    """The id of a batch on the server that carries this mark and may still bring results."""
    import openai

    try:
        async for batch in client.raw.batches.list(limit=100):
            if (batch.metadata or {}).get("em") == mark and batch.status not in ("failed", "expired", "cancelled"):
                return str(batch.id)
    except (openai.NotFoundError, openai.APIStatusError):
        return None
    return None


async def collect(
    client: Client, batch_id: str, by_key: Mapping[str, JudgeRequest], calls: Calls, bar: Any
) -> dict[str, str]:
    """Wait for a batch to end, and remember its results. Returns what failed, in words, by key."""
    wait, counted = FIRST_LOOK, 0
    while (batch := await client.raw.batches.retrieve(batch_id)).status not in OVER:
        done = batch.request_counts.completed if batch.request_counts else 0
        bar.update(done - counted)
        counted = done
        bar.set_postfix_str(batch.status)
        await asyncio.sleep(wait)
        wait = min(LONGEST, 1.5 * wait)
    failures = dict.fromkeys(by_key, f"the batch {batch_id} ended as {batch.status} without a result")
    for file in filter(None, (batch.output_file_id, batch.error_file_id)):
        content = await client.raw.files.content(file)
        for line in content.content.splitlines():
            if line.strip():
                take(json.loads(line), by_key, calls, failures)
    bar.update(len(by_key) - len(failures) - counted)
    return failures


def take(line: Mapping[str, Any], by_key: Mapping[str, JudgeRequest], calls: Calls, failures: dict[str, str]) -> None:
    """Remember one line of a batch's results, or why there is none."""
    key = line.get("custom_id", "")
    if key not in by_key:
        return
    response = line.get("response") or {}
    try:
        if response.get("status_code") != 200:
            raise ValueError(json.dumps(line.get("error") or response.get("body") or "no reply")[:300])
        check_completion(response.get("body"))
    except ValueError as error:
        failures[key] = f"the batch brought no judgement: {error}"
        return
    calls.remember("judge", [(by_key[key], kept(response["body"]))])
    failures.pop(key, None)
