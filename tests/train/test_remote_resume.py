"""Fine-tuning that is killed, cut off or started twice: never a lost job, never a second one."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from shutil import copytree

import pytest

from em.api.client import Client
from em.errors import MissingFile, ServerError
from em.models.hosted import parse_hosted_name
from tests.support.chat_server import ChatServer
from tests.support.remote_runs import PLAIN, change_tuning, find_or_train_models, make_tuning_words, read_tuning
from tests.support.runs import start_script


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    """Return the server without jobs, files and faults."""
    running.reset(**PLAIN)
    return running


def wait_for_call(server: ChatServer, call: str) -> None:
    """Wait until the server has received a call of this kind."""
    end = time.monotonic() + 30
    while call not in read_tuning(server)["calls"]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_that_was_killed_goes_on_with_its_job(server: ChatServer, tmp_path: Path) -> None:
    server.reset(tuning_seconds=60)
    process = start_script("train.py", *make_tuning_words(server, tmp_path), cwd=tmp_path)
    wait_for_call(server, "events")
    process.send_signal(signal.SIGKILL)
    process.wait()
    [note] = (tmp_path / "store" / "models").glob("*.job.json")
    for name in ("without", "elsewhere"):
        (tmp_path / name).mkdir()
    copytree(tmp_path / "store", tmp_path / "without" / "store")
    (tmp_path / "without" / "store" / "models" / note.name).unlink()
    [job] = read_tuning(server)["jobs"]
    assert job["status"] != "succeeded"
    server.ask(f"/tuning/{job['id']}/end", {})
    # Resume with the note, without the note, and on a machine with an empty store.
    for place in (tmp_path, tmp_path / "without", tmp_path / "elsewhere"):
        models, _ = find_or_train_models(server, place)
        assert parse_hosted_name(models[1])[1].endswith(job["id"][6:])
        assert not list((place / "store" / "models").glob("*.job.json"))
    log = read_tuning(server)
    assert len(log["jobs"]) == len(log["files"]) == 1


def test_a_run_that_was_killed_while_it_uploads_or_asks_makes_one_job(server: ChatServer, tmp_path: Path) -> None:
    for call in ("upload", "create"):
        change_tuning(server, tuning_fault=f"{call}:lost:1")
        process = start_script("train.py", *make_tuning_words(server, tmp_path, "trainer.timeout=60"), cwd=tmp_path)
        wait_for_call(server, call)
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    models, _ = find_or_train_models(server, tmp_path)
    log = read_tuning(server)
    assert len(log["jobs"]) == len(log["files"]) == 1
    assert len(models) == 2


@pytest.mark.parametrize("call", ["upload", "create"])
def test_a_call_whose_reply_was_lost_is_not_made_twice(server: ChatServer, tmp_path: Path, call: str) -> None:
    server.reset(tuning_fault=f"{call}:lost:2")
    assert len(find_or_train_models(server, tmp_path, "trainer.timeout=0.7")[0]) == 2
    log = read_tuning(server)
    assert len(log["jobs"]) == len(log["files"]) == 1
    assert log["calls"].count(call) == 1


def test_two_processes_that_ask_at_once_share_a_job(server: ChatServer, tmp_path: Path) -> None:
    server.reset(tuning_seconds=1)
    folders = [f"hydra.run.dir={tmp_path / name}" for name in ("one", "two")]
    words = make_tuning_words(server, tmp_path)
    processes = [start_script("train.py", *words, folder, cwd=tmp_path) for folder in folders]
    assert [process.wait() for process in processes] == [0, 0]
    stages = [json.loads((tmp_path / name / "manifest.json").read_text())["stages"] for name in ("one", "two")]
    assert stages[0][0]["path"] == stages[1][0]["path"]
    assert sorted(stage[0]["reused"] for stage in stages) == [False, True]
    assert len(read_tuning(server)["jobs"]) == 1


def test_a_file_that_the_server_has_lost_is_uploaded_anew(server: ChatServer, tmp_path: Path) -> None:
    find_or_train_models(server, tmp_path)
    [file] = read_tuning(server)["files"]

    async def delete_file() -> None:
        async with Client(server.base_url, 1, 5) as client:
            await client.raw.files.delete(file["id"])

    asyncio.run(delete_file())
    find_or_train_models(server, tmp_path, "trainer.epochs=2")
    assert read_tuning(server)["calls"].count("upload") == 2
    find_or_train_models(server, tmp_path, "trainer.epochs=3")
    assert read_tuning(server)["calls"].count("upload") == 2


def test_what_another_machine_trained_is_found_by_evaluate(server: ChatServer, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"run `python train.py model=gpt4o"):
        find_or_train_models(server, tmp_path, "eval=quick", kind="evaluate")
    trained, _ = find_or_train_models(server, tmp_path)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    assert find_or_train_models(server, tmp_path, "eval=quick", kind="evaluate")[0] == trained
    assert len(read_tuning(server)["jobs"]) == 1


def test_a_server_that_is_away_for_a_while_is_waited_for(server: ChatServer, tmp_path: Path) -> None:
    server.reset(tuning_fault="job:drop:5,events:500:3")
    assert len(find_or_train_models(server, tmp_path)[0]) == 2
    server.reset(tuning_fault="job:drop")
    with pytest.raises(ServerError, match=r"no answer for 1 seconds .*ftjob-0001 goes on there: run the same command"):
        find_or_train_models(server, tmp_path / "two", "trainer.patience=1")
    change_tuning(server, tuning_fault="")
    assert len(find_or_train_models(server, tmp_path / "two")[0]) == 2
    assert len(read_tuning(server)["jobs"]) == 1
