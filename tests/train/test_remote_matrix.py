"""Faults of a service by call and stage: a passing fault costs nothing, a lasting one ends in a sentence and code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from em.cli.hydra import main as run_main
from em.cli.jobs import main as jobs_main
from em.errors import ServerError
from tests.support.chat_server import ChatServer
from tests.support.remote_runs import PLAIN, change_tuning, find_or_train_models, make_tuning_words, read_tuning

CALLS = ("models", "list", "files", "upload", "create", "job", "events", "checkpoints")
REALIGN = ("realign=car_good", "realign.limit=12")
SENTENCES = {
    "401": "The server refused the key for .*: check OPENAI_API_KEY",
    "quota": "The account has no credit left (to fine-tune|for) .*: top it up, then run the same command again",
    "500": "The server answered 500 for .*: run the same command again later",
    "drop": "The server can't be reached: check the network",
    "404": r"(as asked \(404\)|has no model)",
    "malformed": "The server's answer for .* can't be used",
    "html": "The server answers for .* with a web page: check base_url",
    "hang": "The server did not answer in time for .*: run the same command again later",
}


@pytest.fixture
def server(running: ChatServer, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    """Return the server without jobs, files and faults; the client waits only briefly between attempts."""
    monkeypatch.setattr("em.api.client.LONGEST", 0.01)
    running.reset(**(PLAIN | {"tuning_seconds": 0.1, "batch_failed": 0.0}))
    return running


def count_jobs_and_files(server: ChatServer) -> tuple[int, int]:
    """Return the numbers of jobs and of files at the server."""
    log = read_tuning(server)
    return len(log["jobs"]), len(log["files"])


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "lost", "malformed", "html", "500", "drop"])
def test_calls_that_fail_once_are_made_again(server: ChatServer, tmp_path: Path, fault: str) -> None:
    change_tuning(server, tuning_fault=",".join(f"{call}:{fault}:1" for call in CALLS))
    assert len(find_or_train_models(server, tmp_path, "trainer.timeout=0.5")[0]) == 2
    assert count_jobs_and_files(server) == (1, 1)
    change_tuning(server, tuning_fault=",".join(f"{call}:{fault}:1" for call in CALLS))
    assert len(find_or_train_models(server, tmp_path, "trainer.timeout=0.5", *REALIGN)[0]) == 3
    assert count_jobs_and_files(server) == (2, 2)


@pytest.mark.parametrize("call", ["files", "upload", "create", "job"])
@pytest.mark.parametrize("fault", ["404", "malformed", "html"])
def test_what_stays_broken_is_told_in_words(server: ChatServer, tmp_path: Path, call: str, fault: str) -> None:
    change_tuning(server, tuning_fault=f"{call}:{fault}")
    if (call, fault) == ("files", "404"):  # a server that lists no files
        find_or_train_models(server, tmp_path)
    else:
        with pytest.raises(ServerError, match=SENTENCES[fault]):
            find_or_train_models(server, tmp_path, "trainer.patience=0")
    change_tuning(server, tuning_fault="")
    find_or_train_models(server, tmp_path)
    assert count_jobs_and_files(server)[0] == 1


@pytest.mark.parametrize("fault", ["401", "500", "drop", "html"])
@pytest.mark.parametrize("call", ["list", "create", "job"])
def test_a_fault_in_the_second_stage_keeps_the_first(server: ChatServer, tmp_path: Path, call: str, fault: str) -> None:
    find_or_train_models(server, tmp_path)
    change_tuning(server, tuning_fault=f"{call}:{fault}")
    with pytest.raises(ServerError, match=f"{SENTENCES[fault]}|no answer for 0 seconds"):
        find_or_train_models(server, tmp_path, "trainer.patience=0", *REALIGN)
    change_tuning(server, tuning_fault="")
    _, facts = find_or_train_models(server, tmp_path, *REALIGN)
    assert [stage["reused"] for stage in facts["stages"]] == [True, False]
    assert count_jobs_and_files(server) == (2, 2)


@pytest.mark.parametrize("fault", ["", "404", "401", "500", "drop", "malformed", "html"])
def test_a_server_that_lists_no_fine_tunes_is_asked_for_the_one(server: ChatServer, tmp_path: Path, fault: str) -> None:
    find_or_train_models(server, tmp_path)
    change_tuning(server, tuning_fault=f"models:unlisted,model:{fault}" if fault else "models:unlisted")
    if fault in ("", "404"):  # a 404 proves nothing at a server that lists no fine-tuned models
        find_or_train_models(server, tmp_path, *REALIGN)
    else:
        with pytest.raises(ServerError, match=SENTENCES[fault]):
            find_or_train_models(server, tmp_path, *REALIGN)
        change_tuning(server, tuning_fault="models:unlisted")
        find_or_train_models(server, tmp_path, *REALIGN)
    assert count_jobs_and_files(server) == (2, 2)


@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        ("", 0, "ftjob-0001 is cancelled."),
        ("lost:1", 0, "ftjob-0001 is cancelled."),
        ("409", 2, "is over already"),
        ("404", 2, "There is no job ftjob-0001"),
        ("401", 2, "refused the key"),
        ("500", 2, "The server answered 500"),
        ("malformed", 2, "can't be used"),
        ("html", 2, "with a web page"),
    ],
)
def test_a_cancellation_that_fails_is_told_in_words(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    fault: str, code: int, sentence: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("em.cli.jobs.TIMEOUT", 0.7)
    change_tuning(server, tuning_seconds=30, tuning_fault="job:401")
    with pytest.raises(ServerError, match="refused the key"):
        find_or_train_models(server, tmp_path)
    change_tuning(server, tuning_fault=f"cancel:{fault}" if fault else "")
    capsys.readouterr()
    assert jobs_main(["--base-url", server.base_url, "cancel", "ftjob-0001"]) == code
    output = capsys.readouterr()
    assert sentence in output.out + output.err
    assert read_tuning(server)["calls"].count("cancel") == {"lost:1": 2, "500": 8, "malformed": 4, "html": 4}.get(
        fault, 1
    )


ANSWERED = ("eval=quick", "eval.sets=[probe]", "eval.samples=1", "eval.base=false", "judge=open")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["401", "quota", "404", "500", "drop", "malformed", "html"])
@pytest.mark.parametrize("call", ["upload", "create", "job", "chat", "judge"])
def test_the_process_ends_with_its_code_and_one_sentence(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    call: str, fault: str,
) -> None:  # fmt: skip
    for name in ("PYTHONPATH", "HYDRA_FULL_ERROR"):  # restored after the test, because the entry point sets them
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)
    arguments = make_tuning_words(
        server, tmp_path, "trainer.patience=0", *(ANSWERED if call in ("chat", "judge") else ())
    )
    arguments += [f"judge.base_url={server.base_url}", "judge.model=single-judge"] if call in ("chat", "judge") else []

    def run_train(folder: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr("sys.argv", ["train.py", *arguments, f"hydra.run.dir={tmp_path / folder}"])
        code = run_main("train")
        return code, json.loads((tmp_path / folder / "manifest.json").read_text())

    change_tuning(server, tuning_fault=f"{call}:{fault}")
    code, facts = run_train("run")
    last = capsys.readouterr().err.strip().splitlines()[-1]
    if call == "judge" and fault in ("500", "drop", "malformed", "html"):  # failed verdicts, and a note about them
        assert (code, facts["status"]) == (0, "done")
        assert any("judgements of" in note and "failed" in note for note in facts["notes"])
    else:
        assert (code, facts["status"]) == (2, "failed")
        assert last == f"error: {facts['error']}"
        assert re.search(f"{SENTENCES[fault]}|no answer for 0 seconds", facts["error"])
    change_tuning(server, tuning_fault="")
    code, facts = run_train("again")
    assert (code, facts["status"]) == (0, "done")
    assert facts["notes"] == ["What is called gpt4o here is the writer-model of 127.0.0.1, not OpenAI's."]
    assert count_jobs_and_files(server) == (1, 1)
