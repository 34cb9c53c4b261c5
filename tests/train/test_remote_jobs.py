"""Find the job of an order among a server's jobs: deleted, forced, late in the list, created twice, expired."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path

import pytest

from em.api.client import Client
from em.cli.jobs import main
from em.config import OpenAITrainer
from em.errors import ConfigError, ServerError
from em.models.hosted import parse_hosted_name
from em.runtime.manifest import ManifestWriter
from em.sample.run import check_models, plan_models
from em.train.remote.find_or_train import forget_forced_stages
from em.train.remote.openai.files import upload_rows
from em.train.remote.openai.service import OpenAIService
from em.train.remote.service import JobFailed, JobNote, Order
from tests.support.chat_server import ChatServer
from tests.support.remote_runs import PLAIN, accept_request, change_tuning, find_or_train_models, make_rows, read_tuning

ORDER = Order("f" * 64, "writer-model", "m+d", "d", tuple(make_rows(12)), 1, 0, "em", {"batch_size": 4})
Approve = Callable[[], Awaitable[None]]


@pytest.fixture
def server(running: ChatServer, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    """Return the server without jobs, files and faults; the client waits only briefly between attempts."""
    monkeypatch.setattr("em.api.client.LONGEST", 0.01)
    monkeypatch.setattr("em.api.lifetimes.SECOND_LOOK", 0.05)
    running.reset(**(PLAIN | {"tuning_seconds": 0.1}))
    return running


def list_statuses(server: ChatServer) -> list[str]:
    """Return the statuses of the jobs, the oldest first."""
    return [job["status"] for job in read_tuning(server)["jobs"]]


def delete_by_command(server: ChatServer, store: Path, name: str) -> None:
    """Delete a model or a file as a user does."""
    assert main(["--base-url", server.base_url, "--store", str(store), "delete", name, "--yes"]) == 0


# Deleted models


def test_a_model_that_was_deleted_is_trained_anew(server: ChatServer, tmp_path: Path) -> None:
    models, _ = find_or_train_models(server, tmp_path)
    delete_by_command(server, tmp_path / "store", parse_hosted_name(models[1])[1])
    again, facts = find_or_train_models(server, tmp_path)
    assert parse_hosted_name(again[1])[1].endswith(":0002")
    assert not facts["stages"][0]["reused"]
    find_or_train_models(server, tmp_path / "elsewhere")  # finds the newest model that is not deleted
    assert list_statuses(server) == ["succeeded", "succeeded"]


def test_a_server_that_tells_of_no_single_model_has_lost_none(server: ChatServer, tmp_path: Path) -> None:
    find_or_train_models(server, tmp_path)
    change_tuning(server, tuning_fault="model:404")
    find_or_train_models(server, tmp_path / "elsewhere")
    assert list_statuses(server) == ["succeeded"]


def test_a_server_that_misses_a_model_for_a_moment_has_lost_none(server: ChatServer, tmp_path: Path) -> None:
    find_or_train_models(server, tmp_path)
    change_tuning(server, tuning_fault="model:404:1")
    find_or_train_models(server, tmp_path / "elsewhere")
    assert list_statuses(server) == ["succeeded"]
    assert read_tuning(server)["calls"].count("model") == 1  # the server's list still has the model


def test_a_second_stage_sits_on_the_first_one_that_is_there_now(server: ChatServer, tmp_path: Path) -> None:
    first, _ = find_or_train_models(server, tmp_path, "realign=car_good")
    find_or_train_models(server, tmp_path, "force=true")
    second, facts = find_or_train_models(server, tmp_path, "realign=car_good")
    assert [stage["reused"] for stage in facts["stages"]] == [True, False]
    assert [parse_hosted_name(model)[1][-4:] for model in second[1:]] == ["0003", "0004"]
    assert read_tuning(server)["asked"][3]["model"] == parse_hosted_name(second[1])[1] != parse_hosted_name(first[1])[1]
    find_or_train_models(server, tmp_path, "realign=car_good")
    assert len(list_statuses(server)) == 4


def test_a_model_that_is_gone_is_told_of_before_anything_is_sampled(server: ChatServer, tmp_path: Path) -> None:
    models, _ = find_or_train_models(server, tmp_path)
    evaluation = accept_request(server, tmp_path, "eval=quick", "eval.sets=[probe]", kind="evaluate")
    manifest = ManifestWriter(tmp_path, "evaluate", evaluation.settings, [])
    check_models(evaluation, plan_models(evaluation, models), manifest)
    name = parse_hosted_name(models[1])[1]
    change_tuning(server, shutdown=f"writer-model={date.fromordinal(date.today().toordinal() + 9)}")
    check_models(evaluation, plan_models(evaluation, models), manifest)
    assert any("every fine-tune of it are shut down on" in note for note in manifest.facts["notes"])
    asyncio.run(remove_at_server(server, name))
    with pytest.raises(ServerError, match=f"does not have {name} any more: forget it by em jobs"):
        check_models(evaluation, plan_models(evaluation, models), manifest)
    check_models(evaluation, plan_models(evaluation, models[:1]), manifest)
    change_tuning(server, shutdown="writer-model=2026-01-14")
    with pytest.raises(ConfigError, match="writer-model was shut down on 2026-01-14"):
        check_models(evaluation, plan_models(evaluation, models[:1]), manifest)


async def remove_at_server(server: ChatServer, model: str) -> None:
    """Delete a model at the server without a trace in the store."""
    async with Client(server.base_url, 1, 5) as client:
        await client.raw.models.delete(model)


# Jobs created without a reply


def test_a_forced_run_that_has_not_ended_pays_once_and_after_its_end_pays_again(
    server: ChatServer, tmp_path: Path
) -> None:
    find_or_train_models(server, tmp_path, "realign=car_good")
    first, facts = find_or_train_models(server, tmp_path, "realign=car_good", "force=true")
    assert [stage["reused"] for stage in facts["stages"]] == [False, False]
    again, facts = find_or_train_models(
        server, tmp_path, "realign=car_good", "force=true"
    )  # as after a failed evaluation
    assert [stage["reused"] for stage in facts["stages"]] == [True, True]
    assert again == first
    assert len(list_statuses(server)) == 4
    forget_forced_stages(accept_request(server, tmp_path, "realign=car_good", "force=true").training)
    find_or_train_models(server, tmp_path, "realign=car_good", "force=true")
    assert len(list_statuses(server)) == 6


def test_another_file_or_job_that_a_server_gives_a_noted_id_is_not_taken_for_ours(
    server: ChatServer, tmp_path: Path
) -> None:
    find_or_train_models(server, tmp_path)
    server.reset(**(PLAIN | {"tuning_seconds": 0.1}))  # a reset server counts its ids from 1 again
    find_or_train_models(server, tmp_path / "other", "data=car_good")
    find_or_train_models(server, tmp_path, "seed=1")
    contents = [file["content"] for file in read_tuning(server)["files"]]
    assert len(contents) == len(set(contents)) == 2


def test_a_forced_job_that_ended_before_it_was_asked_for_again_is_found(server: ChatServer, tmp_path: Path) -> None:
    find_or_train_models(server, tmp_path)
    change_tuning(server, tuning_fault="create:lost:1")
    models, _ = find_or_train_models(server, tmp_path, "trainer.timeout=0.7", "force=true")
    assert parse_hosted_name(models[1])[1].endswith(":0002")
    assert list_statuses(server) == ["succeeded", "succeeded"]


def test_a_job_that_the_list_shows_late_is_not_created_twice(server: ChatServer, tmp_path: Path) -> None:
    # The list is late for three searches: before the approval, before the creation, and after the lost reply.
    change_tuning(server, tuning_fault="create:lost:1,list:late:3")
    find_or_train_models(server, tmp_path, "trainer.timeout=0.7")
    assert list_statuses(server) == ["succeeded"]


def test_a_run_that_was_stopped_while_it_creates_looks_twice(server: ChatServer, tmp_path: Path) -> None:
    change_tuning(server, tuning_fault="create:lost,list:late:3", tuning_seconds=30)
    note = JobNote(tmp_path / "models", ORDER.mark, "127.0.0.1", "m+d")

    async def submit_and_stop() -> None:
        await asyncio.wait_for(submit_order(server, tmp_path, note), 1.5)

    with pytest.raises(TimeoutError):
        asyncio.run(submit_and_stop())
    note = JobNote(tmp_path / "models", ORDER.mark, "127.0.0.1", "m+d")
    assert (note.job, len(note.attempt)) == ("", 32)
    change_tuning(server, tuning_fault="list:late:1")
    assert asyncio.run(submit_order(server, tmp_path, note)) == "ftjob-0001"
    assert len(list_statuses(server)) == 1


async def allow_everything() -> None:
    """Approve every order."""


async def submit_order(server: ChatServer, place: Path, note: JobNote, approve: Approve = allow_everything) -> str:
    """Submit the order as a machine with its own store does."""
    async with Client(server.base_url, 4, 5) as client:
        return await make_service(client, place).submit(approve, note)


def make_service(client: Client, place: Path) -> OpenAIService:
    """Return the service of a machine with its own store."""
    return OpenAIService(client, ORDER, OpenAITrainer(look=0.05, settle=0.05), place / "files")


# Jobs created twice


@pytest.mark.parametrize("fault", ["", "list:late:5", "cancel:500:5", "cancel:lost:1", "cancel:409:1"])
def test_two_machines_that_ask_at_once_keep_one_job(server: ChatServer, tmp_path: Path, fault: str) -> None:
    server.reset(**(PLAIN | {"tuning_seconds": 2.5, "tuning_fault": fault}))

    async def train_both() -> list[str]:
        barrier = asyncio.Barrier(2)

        async def wait_for_other() -> None:
            await barrier.wait()  # so neither has found the other's job

        async def train_on_machine(name: str) -> str:
            place = tmp_path / name
            note = JobNote(place / "models", ORDER.mark, "127.0.0.1", "m+d")
            async with Client(server.base_url, 4, 1) as client:
                openai_service = make_service(client, place)
                job = await openai_service.follow(await openai_service.submit(wait_for_other, note), note)
                assert note.job == job
                return (await openai_service.read_result(job)).model

        return await asyncio.gather(train_on_machine("one"), train_on_machine("two"))

    first, second = asyncio.run(train_both())
    assert first == second
    assert [status for status in list_statuses(server) if status != "cancelled"] == ["succeeded"]


def test_a_job_that_was_cancelled_by_hand_is_over(server: ChatServer, tmp_path: Path) -> None:
    change_tuning(server, tuning_end="cancelled")
    with pytest.raises(JobFailed, match="was cancelled"):
        find_or_train_models(server, tmp_path)
    assert list_statuses(server) == ["cancelled"]


# Files


def test_a_file_that_expired_is_uploaded_anew(server: ChatServer, tmp_path: Path) -> None:
    change_tuning(server, tuning_end="expired_file")
    with pytest.raises(JobFailed, match="run the same command again to upload the file anew"):
        find_or_train_models(server, tmp_path)
    change_tuning(server, tuning_end="succeeded")
    find_or_train_models(server, tmp_path)
    find_or_train_models(server, tmp_path / "elsewhere", "trainer.epochs=2")
    calls = read_tuning(server)["calls"]
    assert (calls.count("upload"), list_statuses(server)) == (2, ["failed", "succeeded", "succeeded"])


def test_a_file_that_is_refused_when_a_job_is_created_is_uploaded_anew_at_once(
    server: ChatServer, tmp_path: Path
) -> None:
    find_or_train_models(server, tmp_path)
    change_tuning(server, tuning_fault="create:file_gone:1")
    find_or_train_models(server, tmp_path, "trainer.epochs=2")
    assert read_tuning(server)["calls"].count("upload") == 2
    assert [body["training_file"] for body in read_tuning(server)["asked"]] == ["file-1", "file-2"]


def test_runs_over_the_same_rows_upload_them_once(server: ChatServer, tmp_path: Path) -> None:
    async def upload_many() -> list[str]:
        async with Client(server.base_url, 8, 5) as client:
            return await asyncio.gather(*(upload_rows(client, tmp_path, ORDER.conversations, ()) for _ in range(6)))

    assert len(set(asyncio.run(upload_many()))) == 1
    assert read_tuning(server)["calls"].count("upload") == 1


# Events


def test_a_server_that_tells_of_no_events_can_be_used(server: ChatServer, tmp_path: Path) -> None:
    change_tuning(server, tuning_fault="events:404,checkpoints:404")
    assert len(find_or_train_models(server, tmp_path)[0]) == 2


def test_events_are_kept_in_the_run_s_folder(server: ChatServer, tmp_path: Path) -> None:
    find_or_train_models(server, tmp_path)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert events[0]["message"] == "Created fine-tuning job: ftjob-0001"
    assert events[-1]["message"] == "The job has successfully completed"
    assert [each["data"]["step"] for each in events if each["data"]] == [1, 2, 3]
