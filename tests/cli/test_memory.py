"""The command that measures and prunes the cache of calls."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from em.cli.memory import main
from em.runtime.memory import Calls, request_key
from em.types import JudgeRequest


def make_judge_request(judge: str, number: int) -> JudgeRequest:
    """Make a request to a judge."""
    return JudgeRequest(judge, f"Rate answer {number}.", (), (), "logprobs")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with 5 calls of one judge, 40 days old, and 3 new calls of another."""
    with Calls(tmp_path) as calls:
        calls.store_calls("judge", [(make_judge_request("old-judge", i), {"said": i}) for i in range(5)])
        calls.db.execute("update calls set created = ?", [time.time() - 40 * 86400])
        calls.store_calls("judge", [(make_judge_request("new-judge", i), {"said": i}) for i in range(3)])
    return tmp_path


def run_memory(capsys: pytest.CaptureFixture[str], store: Path, *words: str) -> str:
    """Run the command, which must succeed; return its output."""
    assert main(["--store", str(store), *words]) == 0
    return capsys.readouterr().out


def test_the_size_is_told_by_kind_and_model(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run_memory(capsys, store, "size").splitlines()
    assert any(line.startswith("judge") and line.endswith("old-judge") and " 5 " in line for line in lines)
    assert any(line.endswith("new-judge") and " 3 " in line for line in lines)
    assert lines[-1].startswith("8 calls in ")


def test_show_names_what_looks_inside_instead(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(store), "show", "--contains", "answer 2", "--limit", "3"]) == 2
    sentence = f"error: em memory show was removed: use sqlite3 {store}/calls.sqlite, table calls.\n"
    assert capsys.readouterr().err == sentence
    with pytest.raises(SystemExit, match="2"):
        main(["--store", str(store), "size", "--limit", "3"])


def test_nothing_is_forgotten_without_yes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Would forget 5 calls" in run_memory(capsys, store, "prune", "--older-than", "30")
    with Calls(store) as calls:
        assert len(calls.read_responses([request_key(make_judge_request("old-judge", i)) for i in range(5)])) == 5


def test_what_is_forgotten_is_what_was_asked_for(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Forgot 5 calls" in run_memory(capsys, store, "prune", "--older-than", "30", "--kind", "judge", "--yes")
    with Calls(store) as calls:
        assert calls.read_responses([request_key(make_judge_request("old-judge", i)) for i in range(5)]) == {}
        assert len(calls.read_responses([request_key(make_judge_request("new-judge", i)) for i in range(3)])) == 3
    assert "Forgot 1 calls" in run_memory(capsys, store, "prune", "--contains", "answer 1", "--model", "new", "--yes")


def test_a_folder_without_a_store_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", str(tmp_path), "size"]) == 2
    assert "--store DIR" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
