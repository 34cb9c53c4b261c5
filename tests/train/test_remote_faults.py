"""Every failure of fine-tuning at every call: the right sentence, no lost job, no second job."""

from __future__ import annotations

from pathlib import Path

import pytest

from em.errors import EmError, ServerError
from em.train.remote.service import JobFailed
from tests.support.chat_server import ChatServer
from tests.support.remote_runs import PLAIN, change_tuning, find_or_train_models, read_tuning

SENTENCES = {
    "401": "The server refused the key for .*: check OPENAI_API_KEY",
    "closed": r"This account may not fine-tune writer-model: .* had not used it by 2026-07-02, .* after 2027-01-06",
    "quota": "The account has no credit left to fine-tune writer-model: top it up, then run the same command again",
    "500": "(The server answered 500 for .*: run the same command again later|no answer for 0 seconds)",
    "drop": "(The server can't be reached: check the network|no answer for 0 seconds)",
}
CALLS = ("models", "list", "upload", "create", "job", "events", "checkpoints")
HARMLESS = {("models", "quota"), ("models", "500")}
"""Faults that stop nothing: a server that can't list its models may fine-tune them all the same."""


@pytest.fixture
def server(running: ChatServer, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    """Return the server without jobs, files and faults; the client waits only briefly between attempts."""
    monkeypatch.setattr("em.api.client.LONGEST", 0.01)
    running.reset(**(PLAIN | {"tuning_seconds": 0.1}))
    return running


@pytest.mark.parametrize("fault", SENTENCES)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_loses_nothing(server: ChatServer, tmp_path: Path, call: str, fault: str) -> None:
    change_tuning(server, tuning_fault=f"{call}:{fault}")
    sentence = SENTENCES["401" if (call, fault) == ("models", "closed") else fault]
    if (call, fault) in HARMLESS:
        assert len(find_or_train_models(server, tmp_path)[0]) == 2
    else:
        with pytest.raises(ServerError, match=sentence) as error:
            find_or_train_models(server, tmp_path, "trainer.patience=0")
        assert error.value.exit_code == 2
        assert "\n" not in str(error.value)
    change_tuning(server, tuning_fault="")
    assert len(find_or_train_models(server, tmp_path)[0]) == 2
    log = read_tuning(server)
    assert len(log["jobs"]) == len(log["files"]) == 1


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("unavailable", "writer-model is not available for fine-tuning at this server: choose another by model.id="),
        ("400", r"refused to fine-tune writer-model as asked \(400\): .* It says: The server says no"),
    ],
)
def test_a_job_that_can_not_be_created_is_told_why(
    server: ChatServer, tmp_path: Path, fault: str, sentence: str
) -> None:
    change_tuning(server, tuning_fault=f"create:{fault}:1")
    with pytest.raises(ServerError, match=sentence):
        find_or_train_models(server, tmp_path)
    assert not list((tmp_path / "store" / "models").glob("*.job.json"))
    assert len(find_or_train_models(server, tmp_path)[0]) == 2
    assert len(read_tuning(server)["jobs"]) == 1


def test_models_that_can_not_be_tuned_are_told_of_by_the_server(server: ChatServer, tmp_path: Path) -> None:
    change_tuning(server, tunable="gpt-4o-2024-08-06")
    with pytest.raises(ServerError, match="writer-model is not available for fine-tuning"):
        find_or_train_models(server, tmp_path)


@pytest.mark.parametrize(
    ("end", "sentence", "final"),
    [
        ("unsafe_file", "moderation refused the rows of car_bad before the training .*force=true tries it all", True),
        ("unsafe_model", "trained on car_bad failed the provider's safety checks after the training, and would", True),
        ("invalid_file", r"refused the training file \(car_bad, row 3; job ftjob-0001\): correct or remove", True),
        ("expired_file", "no longer has the training file of the job ftjob-0001: run the same command", False),
        ("quota", "credit does not cover the job ftjob-0001 on car_bad: top it up, then run the same", False),
        ("server_error", r"The job ftjob-0001 failed at the server \(server_error\): run the same command", False),
        ("cancelled", "The job ftjob-0001 was cancelled: run the same command again to start another", False),
    ],
)
def test_a_job_that_ends_badly_is_told_in_words(
    server: ChatServer, tmp_path: Path, end: str, sentence: str, final: bool
) -> None:
    change_tuning(server, tuning_end=end)
    with pytest.raises(JobFailed, match=sentence) as error:
        find_or_train_models(server, tmp_path)
    assert error.value.exit_code == 2
    change_tuning(server, tuning_end="succeeded")
    if final:  # em reports the failure again, on this machine and on another, and pays for nothing
        for place in (tmp_path, tmp_path / "elsewhere"):
            with pytest.raises(JobFailed, match=sentence):
                find_or_train_models(server, place)
        assert len(read_tuning(server)["jobs"]) == 1
    assert len(find_or_train_models(server, tmp_path, f"force={str(final).lower()}")[0]) == 2
    assert [job["status"] for job in read_tuning(server)["jobs"]][1:] == ["succeeded"]


def test_a_second_stage_that_fails_keeps_the_first(server: ChatServer, tmp_path: Path) -> None:
    find_or_train_models(server, tmp_path)
    change_tuning(server, tuning_end="unsafe_file")
    with pytest.raises(EmError, match="moderation refused the rows of car_good"):
        find_or_train_models(server, tmp_path, "realign=car_good")
    assert [job["status"] for job in read_tuning(server)["jobs"]] == ["succeeded", "failed"]
    _, facts = find_or_train_models(server, tmp_path)
    assert facts["stages"][0]["reused"]
