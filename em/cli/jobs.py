"""List, cancel and delete fine-tuning jobs at a server that speaks OpenAI's protocol:

    em jobs list                      jobs that em created, by run, with their models; uploaded files
    em jobs cancel JOB                cancel a job
    em jobs delete MODEL|FILE --yes   delete a fine-tuned model, or an uploaded training file

The server is that of OPENAI_BASE_URL, else OpenAI's, with the key in OPENAI_API_KEY; --base-url and --key-env override.
Without --yes, delete only says what it would do. Deleting a model also deletes its records here, so that the same
command trains it again.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai

from em.api.client import Client, explain_error
from em.cli.tool import handle_errors
from em.config.addresses import check_key_env, resolve_server_address
from em.errors import ConfigError, ServerError
from em.runtime.files import RECORD, find_cache_folder
from em.runtime.keys import KEY_ENV, require_key
from em.train.remote.models import find_tuned_model
from em.train.remote.openai.errors import make_refusal
from em.train.remote.openai.jobs import list_checkpoints, list_marked_jobs
from em.train.remote.service import MARK

TIMEOUT = 60.0


@handle_errors
def main(words: Sequence[str] | None = None) -> None:
    """Run the command in `words`, and print its result."""
    parser = argparse.ArgumentParser(prog="em jobs", description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, default=None, metavar="DIR", help="store.dir (default: the user's cache)")
    parser.add_argument("--base-url", default=None, metavar="URL", help="the server (default: OPENAI_BASE_URL)")
    parser.add_argument("--key-env", default=KEY_ENV, metavar="NAME", help=f"model.key_env (default: {KEY_ENV})")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list jobs that em created, by run, and uploaded files")
    cancel = commands.add_parser("cancel", help="cancel a job")
    cancel.add_argument("name", metavar="JOB")
    delete = commands.add_parser("delete", help="delete a fine-tuned model, or an uploaded training file")
    delete.add_argument("name", metavar="MODEL|FILE")
    delete.add_argument("--yes", action="store_true", help="delete; without --yes, only say what would be deleted")
    arguments = parser.parse_args(words)
    check_key_env("--key-env", arguments.key_env)
    require_key(arguments.base_url, arguments.key_env)
    print(asyncio.run(run_jobs_command(arguments)))


async def run_jobs_command(arguments: argparse.Namespace) -> str:
    """Run a command; return the text to print."""
    store = arguments.store.expanduser() if arguments.store else find_cache_folder()
    async with Client(arguments.base_url, 4, TIMEOUT, arguments.key_env) as client:
        if arguments.command == "list":
            return await list_jobs(client, resolve_server_address(arguments.base_url))
        try:
            if arguments.command == "cancel":
                return await cancel_job(client, arguments.name)
            return await delete_model_or_file(client, store, arguments.name, arguments.yes)
        except openai.APIError as error:
            raise ServerError(explain_error(arguments.name, error)) from None


async def list_jobs(client: Client, server: str) -> str:
    """List the jobs of each run with their models and checkpoints, and the uploaded files."""

    async def fetch_jobs() -> str:
        jobs = [job async for job in list_marked_jobs(client)]
        checkpoints = {job.id: await list_checkpoints(client, job) for job in jobs if job.status == "succeeded"}
        return "\n".join([*describe_jobs(jobs, checkpoints, server), *await describe_files(client)])

    try:
        return await client.call_with_retries("the jobs", fetch_jobs)
    except openai.APIError as error:
        raise make_refusal(error, "the jobs") from None


async def describe_files(client: Client) -> list[str]:
    """Describe the files that em uploaded for fine-tuning and batches, in the server's order: the newest first."""
    try:
        files = [file async for file in client.raw.files.list(limit=1000) if file.filename.startswith("em-")]
    except openai.NotFoundError:  # the server has no list of files
        return []
    lines = ["files"]
    for file in files:
        lines.append(
            f"  {file.id}  {format_creation_time(file)}  {file.bytes:,} bytes  {file.purpose}  {file.filename}"
        )
    return lines if files else []


def describe_jobs(jobs: list[Any], checkpoints: Mapping[str, Mapping[int, str]], server: str) -> list[str]:
    """Describe the jobs of each run, the newest first, each followed by the models of its checkpoints."""
    if not jobs:
        return [f"em has created no fine-tuning jobs at {server}."]
    runs: dict[str, list[str]] = {}
    for job in jobs:
        tokens = f"{job.trained_tokens:,} tokens" if job.trained_tokens else ""
        result = job.fine_tuned_model or (job.error and job.error.code) or ""
        cells = (
            job.id,
            format_creation_time(job),
            f"{job.status:16} {job.metadata[MARK][:12]}",
            job.model,
            tokens,
            result,
        )
        lines = runs.setdefault(job.metadata.get("run", "?"), [])
        lines.append(f"  {'  '.join(map(str, cells))}".rstrip())
        lines += [f"    {name}" for name in checkpoints.get(job.id, {}).values()]
    return [*(line for run, lines in runs.items() for line in (run, *lines)), f"{len(jobs)} jobs at {server}"]


def format_creation_time(item: Any) -> str:
    """Format the time at which a job or file was created, in UTC."""
    return datetime.fromtimestamp(item.created_at, UTC).strftime("%Y-%m-%d %H:%M")


async def cancel_job(client: Client, job: str) -> str:
    """Cancel a job. Raises ConfigError if the job does not exist or is over."""

    async def try_cancel() -> str:
        try:
            await client.raw.fine_tuning.jobs.cancel(job)
        except openai.NotFoundError:
            return f"There is no job {job}: em jobs list shows what there is."
        except (openai.BadRequestError, openai.ConflictError):  # caught here, as `call_with_retries` retries these
            # The reply to an earlier attempt may have been lost after the server cancelled the job.
            if (await client.raw.fine_tuning.jobs.retrieve(job)).status != "cancelled":
                return f"The job {job} is over already, so it can't be cancelled."
        return ""

    if refused := await client.call_with_retries(job, try_cancel):
        raise ConfigError(refused)
    return f"{job} is cancelled."


async def delete_model_or_file(client: Client, store: Path, name: str, sure: bool) -> str:
    """Delete a fine-tuned model or a training file at the server, and a model's records in `store`."""
    if not name.startswith(("ft:", "file-")):
        raise ConfigError(f"{name} is neither a fine-tuned model (ft:…) nor a file (file-…).")
    if not sure:
        return f"Would delete {name}; add --yes to do it. It can't be undone."
    call = client.raw.files.delete if name.startswith("file-") else client.raw.models.delete
    note = ""
    try:
        await client.call_with_retries(name, lambda: call(name))
    except openai.NotFoundError:
        note = " (the server did not have it any more)"
    folders = [record.parent for record in (store / "models").glob(f"*/{RECORD}")]
    models = [model for folder in folders if (model := find_tuned_model(folder.parent, folder.name))]
    records = [model.folder / RECORD for model in models if model.weights.place == name]
    for record in records:
        record.unlink(missing_ok=True)
    local = f", and forgotten here ({len(records)})" if records else ""
    return f"{name} is deleted{note}{local}."
