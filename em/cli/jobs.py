"""Fine-tunings at a server that speaks OpenAI's protocol, from the command line:

    em jobs list                      jobs that em created, by run, with their models; its files
    em jobs cancel JOB                end a job
    em jobs delete MODEL|FILE --yes   delete a fine-tuned model, or an uploaded training file

The server is OPENAI_BASE_URL or OpenAI's own, the key that of OPENAI_API_KEY; --base-url and --key-env name others.
Without --yes, delete only says what it would do. A model that is deleted is forgotten here too: the same words train
it anew.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai

from em.api.client import Client, in_words
from em.cli.tool import answer_errors
from em.config.addresses import check_key_env, server_address
from em.errors import ConfigError, ServerError
from em.runtime.files import RECORD, cache_dir
from em.runtime.keys import KEY_ENV, check_key_for
from em.train.remote.models import find_tuned
from em.train.remote.openai.errors import refusal
from em.train.remote.openai.jobs import list_checkpoints, marked
from em.train.remote.service import MARK

TIMEOUT = 60.0


@answer_errors
def main(words: Sequence[str] | None = None) -> None:
    """Do what the words ask for."""
    parser = argparse.ArgumentParser(prog="em jobs", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, default=None, metavar="DIR", help="store.dir (default: the user's cache)")
    parser.add_argument("--base-url", default=None, metavar="URL", help="the server (default: OPENAI_BASE_URL)")
    parser.add_argument("--key-env", default=KEY_ENV, metavar="NAME", help=f"model.key_env (default: {KEY_ENV})")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="jobs that em created, by run, and its files")
    cancel = commands.add_parser("cancel", help="end a job")
    cancel.add_argument("name", metavar="JOB")
    delete = commands.add_parser("delete", help="delete a fine-tuned model, or an uploaded training file")
    delete.add_argument("name", metavar="MODEL|FILE")
    delete.add_argument("--yes", action="store_true", help="do it; without it, only say what would be done")
    arguments = parser.parse_args(words)
    check_key_env("--key-env", arguments.key_env)
    check_key_for(arguments.base_url, arguments.key_env)
    print(asyncio.run(perform(arguments)))


async def perform(arguments: argparse.Namespace) -> str:
    """The text that answers a command."""
    store = arguments.store.expanduser() if arguments.store else cache_dir()
    async with Client(arguments.base_url, 4, TIMEOUT, arguments.key_env) as client:
        if arguments.command == "list":
            return await list_jobs(client, server_address(arguments.base_url))
        try:
            if arguments.command == "cancel":
                return await cancel(client, arguments.name)
            return await delete(client, store, arguments.name, arguments.yes)
        except openai.APIError as error:
            raise ServerError(in_words(arguments.name, error)) from None


async def list_jobs(client: Client, server: str) -> str:
    """List the jobs of each run with the models they made and what was kept on the way, and the files."""

    async def look() -> str:
        jobs = [job async for job in marked(client)]
        kept = {job.id: await list_checkpoints(client, job) if job.status == "succeeded" else {} for job in jobs}
        return "\n".join([*describe_jobs(jobs, kept, server), *await list_files(client)])

    try:
        return await client.repeated("the jobs", look)
    except openai.APIError as error:
        raise refusal(error, "the jobs") from None


async def list_files(client: Client) -> list[str]:
    """List the files that em uploaded, for trainings and batches: the newest first, as the server gives them."""
    try:
        files = [file async for file in client.raw.files.list(limit=1000) if file.filename.startswith("em-")]
    except openai.NotFoundError:  # a server that lists no files
        return []
    lines = [f"  {file.id}  {day(file)}  {file.bytes:,} bytes  {file.purpose}  {file.filename}" for file in files]
    return ["files", *lines] if lines else []


def describe_jobs(jobs: list[Any], kept: Mapping[str, Mapping[int, str]], server: str) -> list[str]:
    """Describe the jobs of each run, the newest first, each with the models that were kept on the way to its own."""
    if not jobs:
        return [f"em has created no fine-tuning jobs at {server}."]
    runs: dict[str, list[str]] = {}
    for job in jobs:
        tokens = f"{job.trained_tokens:,} tokens" if job.trained_tokens else ""
        made = job.fine_tuned_model or (job.error.code if job.error and job.error.code else "")
        cells = (job.id, day(job), f"{job.status:16} {job.metadata[MARK][:12]}", job.model, tokens, made)
        lines = runs.setdefault(job.metadata.get("run", "?"), [])
        lines += [f"  {'  '.join(map(str, cells))}".rstrip(), *(f"    {name}" for name in kept[job.id].values())]
    return [*(line for run, lines in runs.items() for line in (run, *lines)), f"{len(jobs)} jobs at {server}"]


def day(item: Any) -> str:
    """When a job or file was created."""
    return datetime.fromtimestamp(item.created_at, UTC).strftime("%Y-%m-%d %H:%M")


async def cancel(client: Client, job: str) -> str:
    """End a job; a sentence where that can't be."""

    async def attempt() -> str:
        try:
            await client.raw.fine_tuning.jobs.cancel(job)
        except openai.NotFoundError:
            return f"There is no job {job}: em jobs list shows what there is."
        except (openai.BadRequestError, openai.ConflictError):  # not to be repeated, as a conflict is elsewhere
            # It may be cancelled by an attempt before, whose reply was lost.
            if (await client.raw.fine_tuning.jobs.retrieve(job)).status != "cancelled":
                return f"The job {job} is over already, so it can't be cancelled."
        return ""

    if refused := await client.repeated(job, attempt):
        raise ConfigError(refused)
    return f"{job} is cancelled."


async def delete(client: Client, store: Path, name: str, sure: bool) -> str:
    """Delete a fine-tuned model or a training file, there and in what is remembered here."""
    if not name.startswith(("ft:", "file-")):
        raise ConfigError(f"{name} is neither a fine-tuned model (ft:…) nor a file (file-…).")
    if not sure:
        return f"Would delete {name}; add --yes to do it. It can't be undone."
    call = client.raw.files.delete if name.startswith("file-") else client.raw.models.delete
    gone = ""
    try:
        await client.repeated(name, lambda: call(name))
    except openai.NotFoundError:
        gone = " (the server did not have it any more)"
    folders = [record.parent for record in (store / "models").glob(f"*/{RECORD}")]
    models = [tuned for folder in folders if (tuned := find_tuned(folder.parent, folder.name))]
    records = [tuned.folder / RECORD for tuned in models if tuned.weights.place == name]
    for record in records:
        record.unlink(missing_ok=True)
    here = f", and forgotten here ({len(records)})" if records else ""
    return f"{name} is deleted{gone}{here}."
