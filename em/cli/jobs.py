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
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em.api.client import Client, in_words
from em.config.addresses import check_key_env, server_address
from em.errors import ConfigError, EmError, ServerError
from em.runtime.files import RECORD, cache_dir
from em.runtime.keys import KEY_ENV, check_key_for
from em.train.remote.errors import refusal
from em.train.remote.files import forget_file
from em.train.remote.jobs import MARK, PAGE, marked
from em.train.remote.record import all_tuned

TIMEOUT = 60.0


def main(words: Sequence[str] | None = None) -> int:
    """Do what the words ask for; the exit code."""
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
    try:
        check_key_env("--key-env", arguments.key_env)
        check_key_for(arguments.base_url, arguments.key_env)
        print(asyncio.run(perform(arguments)))
    except EmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


async def perform(arguments: argparse.Namespace) -> str:
    """The text that answers a command."""
    store = arguments.store.expanduser() if arguments.store else cache_dir()
    async with Client(arguments.base_url, 4, TIMEOUT, arguments.key_env) as client:
        match arguments.command:
            case "list":
                return await listing(client, server_address(arguments.base_url))
            case "cancel":
                await cancel(client, arguments.name)
                return f"{arguments.name} is cancelled."
            case _:
                return await delete(client, store, arguments.name, arguments.yes)


async def listing(client: Client, server: str) -> str:
    """The jobs of each run with the models they made and what was kept on the way, and the files."""
    import openai

    async def look() -> tuple[list[Any], dict[str, list[str]], list[Any]]:
        jobs = [job async for job in marked(client)]
        kept = {job.id: await checkpoints(client, job) for job in jobs}
        return jobs, kept, await files(client)

    try:
        jobs, kept, there = await client.repeated("the jobs", look)
    except openai.APIError as error:
        raise refusal(error, "the jobs") from None
    return "\n".join(filter(None, (table(jobs, kept, server), file_table(there))))


async def checkpoints(client: Client, job: Any) -> list[str]:
    """The names of the models that were kept on the way to a job's model."""
    import openai

    if job.status != "succeeded":
        return []
    try:
        found = client.raw.fine_tuning.jobs.checkpoints.list(job.id, limit=PAGE)
        names = [str(each.fine_tuned_model_checkpoint) async for each in found]
    except openai.NotFoundError:  # a server that keeps none
        return []
    return [name for name in names if name != job.fine_tuned_model]


async def files(client: Client) -> list[Any]:
    """The files that em uploaded, for trainings and batches."""
    import openai

    try:
        return [file async for file in client.raw.files.list(limit=1000) if file.filename.startswith("em-")]
    except openai.NotFoundError:  # a server that lists no files
        return []


def table(jobs: list[Any], kept: Mapping[str, list[str]], server: str) -> str:
    """The jobs of each run, the newest first, each with the models that were kept on the way to its own."""
    if not jobs:
        return f"em has created no fine-tuning jobs at {server}."
    runs: dict[str, list[Any]] = {}
    for job in jobs:
        runs.setdefault(job.metadata.get("run", "?"), []).append(job)
    lines = []
    for run, made in runs.items():
        lines.append(run)
        for job in made:
            tokens = f"{job.trained_tokens:,} tokens" if job.trained_tokens else ""
            what = job.fine_tuned_model or (job.error.code if job.error and job.error.code else "")
            told = (job.id, day(job), f"{job.status:16} {job.metadata[MARK][:12]}", job.model, tokens, what)
            lines.append(f"  {'  '.join(map(str, told))}".rstrip())
            lines += [f"    {name}" for name in kept[job.id]]
    return "\n".join([*lines, f"{len(jobs)} jobs at {server}"])


def file_table(files: list[Any]) -> str:
    """The files, the newest first as the server gives them."""
    lines = [f"  {file.id}  {day(file)}  {file.bytes:,} bytes  {file.purpose}  {file.filename}" for file in files]
    return "\n".join(["files", *lines]) if lines else ""


def day(thing: Any) -> str:
    """When a job or file was created."""
    return datetime.fromtimestamp(thing.created_at, UTC).strftime("%Y-%m-%d %H:%M")


async def cancel(client: Client, job: str) -> None:
    """End a job; a sentence where that can't be."""
    import openai

    tried = False

    async def attempt() -> str:
        nonlocal tried
        again, tried = tried, True
        try:
            await client.raw.fine_tuning.jobs.cancel(job)
        except openai.NotFoundError:
            return f"There is no job {job}: em jobs list shows what there is."
        except (openai.BadRequestError, openai.ConflictError):  # not to be repeated, as a conflict is elsewhere
            if again and (await client.raw.fine_tuning.jobs.retrieve(job)).status == "cancelled":
                return ""  # by the attempt before, whose reply was lost
            return f"The job {job} is over already, so it can't be cancelled."
        return ""

    try:
        if refused := await client.repeated(job, attempt):
            raise ConfigError(refused)
    except openai.APIError as error:
        raise ServerError(in_words(job, error)) from None


async def delete(client: Client, store: Path, name: str, sure: bool) -> str:
    """Delete a fine-tuned model or a training file, there and in what is remembered here."""
    import openai

    if not name.startswith(("ft:", "file-")):
        raise ConfigError(f"{name} is neither a fine-tuned model (ft:…) nor a file (file-…).")
    if not sure:
        return f"Would delete {name}; add --yes to do it. It can't be undone."
    file = name.startswith("file-")
    call = client.raw.files.delete if file else client.raw.models.delete
    gone = ""
    try:
        await client.repeated(name, lambda: call(name))
    except openai.NotFoundError:
        gone = " (the server did not have it any more)"
    except openai.APIError as error:
        raise ServerError(in_words(name, error)) from None
    count = forget_file(store / "files", name) if file else forget_model(store, name)
    here = f", and forgotten here ({count})" if count else ""
    return f"{name} is deleted{gone}{here}."


def forget_model(store: Path, name: str) -> int:
    """Remove the records of a model; how many there were."""
    found = [tuned for tuned in all_tuned(store / "models") if tuned.model == name]
    for tuned in found:
        (tuned.folder / RECORD).unlink(missing_ok=True)
    return len(found)
