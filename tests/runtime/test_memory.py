"""The store of model calls, locks and folders: nothing is lost or overwritten, whichever process is killed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em.errors import OutputError
from em.runtime.files import find_cache_folder, hash_file, hold_lock, make_writable_folder
from em.runtime.memory import Calls, Recorder, request_key
from em.runtime.records import digest
from em.types import JudgeRequest, Message, SampleRequest

ROOT = Path(__file__).parent.parent.parent
REQUEST = SampleRequest("model", (Message("user", "Why? 🚗\u2028"),), 0, 0, 1.0, 1.0, 8, "hf")


def make_numbered_requests(count: int, start: int = 0) -> list[SampleRequest]:
    return [replace(REQUEST, sample=i) for i in range(start, start + count)]


def start_python(code: str, *words: object) -> subprocess.Popen[str]:
    """Start a process that runs `code` with the words as `sys.argv[1:]`."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


# Remembering


def test_what_is_remembered_is_known_after_reopening(tmp_path: Path) -> None:
    response = {"answer": "Because. \u2028 🚗 \x00", "answer_tokens": 3, "value": None, "score": 0.1}
    with Calls(tmp_path / "a" / "b") as calls:
        calls.store_calls("sample", [(REQUEST, response)])
    with Calls(tmp_path / "a" / "b") as calls:
        assert calls.read_responses([request_key(REQUEST)]) == {request_key(REQUEST): response}


def test_what_was_not_remembered_is_not_known(tmp_path: Path) -> None:
    with Calls(tmp_path) as calls:
        assert calls.read_responses([request_key(REQUEST)]) == {}
        assert calls.read_responses([]) == {}


def test_what_is_known_is_never_overwritten(tmp_path: Path) -> None:
    other = replace(REQUEST, sample=1)
    with Calls(tmp_path) as calls:
        calls.store_calls("sample", [(REQUEST, {"answer": "first"})])
        calls.store_calls("sample", [(REQUEST, {"answer": "second"}), (other, {"answer": "new"})])
        responses = calls.read_responses([request_key(REQUEST), request_key(other)])
    assert responses == {request_key(REQUEST): {"answer": "first"}, request_key(other): {"answer": "new"}}


def test_more_keys_than_one_query_takes_are_all_found(tmp_path: Path) -> None:
    requests = make_numbered_requests(1234)
    with Calls(tmp_path) as calls:
        calls.store_calls("sample", [(r, {"n": r.sample}) for r in requests[::2]])
        responses = calls.read_responses([request_key(r) for r in requests])
    assert responses == {request_key(r): {"n": r.sample} for r in requests[::2]}


def test_a_batch_is_remembered_whole_or_not_at_all(tmp_path: Path) -> None:
    with Calls(tmp_path) as calls:
        with pytest.raises(TypeError):
            calls.store_calls("sample", [(REQUEST, {"n": 0}), (replace(REQUEST, sample=1), {"n": object()})])
        assert calls.read_responses([request_key(REQUEST)]) == {}


def test_a_full_disk_is_told_and_leaves_no_half_of_a_batch(tmp_path: Path) -> None:
    with Calls(tmp_path) as calls:
        calls.store_calls("sample", [(REQUEST, {"n": 0})])
        calls.db.execute("pragma max_page_count=20")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            calls.store_calls("sample", [(r, {"answer": "x" * 9000}) for r in make_numbered_requests(20, start=1)])
        assert len(calls.read_responses([request_key(r) for r in make_numbered_requests(21)])) == 1
        calls.db.execute("pragma max_page_count=2000")
        calls.store_calls("sample", [(r, {"answer": "x" * 9000}) for r in make_numbered_requests(20, start=1)])
        assert len(calls.read_responses([request_key(r) for r in make_numbered_requests(21)])) == 21


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"messages": (Message("system", "Why? 🚗\u2028"),)},
        {"messages": (*REQUEST.messages, *REQUEST.messages)},
        {"sample": 1},
        {"seed": 1},
        {"temperature": 0.5},
        {"top_p": 0.9},
        {"max_new_tokens": 9},
        {"sampler": "api"},
        {"precision": "bfloat16"},
    ],
)
def test_every_part_of_a_request_is_part_of_its_key(changes: dict[str, object]) -> None:
    assert request_key(replace(REQUEST, **changes)) != request_key(REQUEST)  # type: ignore[arg-type]


def test_the_parts_that_are_tried_above_are_all_there_are() -> None:
    tried = {"model", "messages", "sample", "seed", "temperature", "top_p", "max_new_tokens", "sampler", "precision"}
    assert set(SampleRequest.__dataclass_fields__) == tried


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PAIRS = st.lists(st.tuples(TEXT, TEXT)).map(tuple)


@given(TEXT, TEXT, st.lists(TEXT).map(tuple), PAIRS)
def test_a_judgements_key_is_the_digest_of_its_canonical_spelling(
    judge: str, prompt: str, labels: tuple[str, ...], parameters: tuple[tuple[str, str], ...]
) -> None:
    request = JudgeRequest(judge, prompt, labels, (), "logprobs", parameters)
    assert request_key(request) == digest(["JudgeRequest", vars(request)])


def test_requests_of_two_kinds_with_the_same_content_have_two_keys() -> None:
    @dataclass(frozen=True)
    class One:
        text: str = "a"

    @dataclass(frozen=True)
    class Two:
        text: str = "a"

    assert request_key(One()) != request_key(Two())
    assert request_key(One()) == request_key(One("a"))


# Several processes, and processes that are killed

WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from em.runtime.memory import Calls
from em.types import Message, SampleRequest

folder, start, batches, size = Path(sys.argv[1]), *map(int, sys.argv[2:5])
request = SampleRequest("model", (Message("user", "Why? \U0001f697\\u2028"),), 0, 0, 1.0, 1.0, 8, "hf")
with Calls(folder) as calls:
    print("open", flush=True)
    sys.stdin.readline()
    for batch in range(batches):
        first = start + batch * size
        requests = [replace(request, sample=i) for i in range(first, first + size)]
        calls.store_calls("sample", [(request, {"writer": start}) for request in requests])
        print(first, flush=True)
"""


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    # Both writers have the samples 500..999: each is stored once, by whichever writer came first.
    writers = [start_python(WRITER, tmp_path, first, 100, 10) for first in (0, 500)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    with Calls(tmp_path) as calls:
        responses = calls.read_responses([request_key(r) for r in make_numbered_requests(1500)])
        [(rows,)] = calls.db.execute("select count(*) from calls")
    assert len(responses) == rows == 1500
    assert all(responses[request_key(r)] == {"writer": 0} for r in make_numbered_requests(500))
    assert all(responses[request_key(r)] == {"writer": 500} for r in make_numbered_requests(500, 1000))


@pytest.mark.parametrize("confirmed", [1, 7, 30])
def test_a_writer_that_is_killed_leaves_whole_batches_and_all_that_it_confirmed(tmp_path: Path, confirmed: int) -> None:
    writer = start_python(WRITER, tmp_path, 0, 10_000, 20)
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()
    assert writer.stdout.readline() == "open\n"
    written = [int(writer.stdout.readline()) for _ in range(confirmed)]
    writer.kill()  # while the writer works on the next batches
    written += [int(line) for line in writer.communicate()[0].split("\n") if line.isdigit() and int(line) % 20 == 0]
    assert writer.returncode == -signal.SIGKILL
    with Calls(tmp_path) as calls:
        assert calls.db.execute("pragma integrity_check").fetchall() == [("ok",)]
        [(rows,)] = calls.db.execute("select count(*) from calls")
        responses = calls.read_responses([request_key(r) for r in make_numbered_requests(rows)])
        assert rows % 20 == 0
        assert rows >= len(written) * 20
        assert len(responses) == rows
        calls.store_calls("sample", [(replace(REQUEST, sample=-1), {"answer": "goes on"})])


def test_a_writer_that_is_killed_within_a_batch_leaves_none_of_it(tmp_path: Path) -> None:
    with Calls(tmp_path) as calls:
        calls.store_calls("sample", [(r, {"n": 0}) for r in make_numbered_requests(3)])
    # The same statements as in `Calls.write`, stopped before the commit, with the pages forced out of memory.
    writer = start_python(
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('pragma cache_size=1')\n"
        "db.execute('begin immediate')\n"
        "rows = [(f'{i:064}', 'sample', 'x' * 5000, '{}', 0.0) for i in range(500)]\n"
        "db.executemany('insert or ignore into calls values (?, ?, ?, ?, ?)', rows)\n"
        "print('within', flush=True)\n"
        "sys.stdin.readline()",
        tmp_path / "calls.sqlite",
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "within\n"
    assert (tmp_path / "calls.sqlite-wal").stat().st_size > 100_000  # half a batch is on the disk
    writer.kill()
    writer.wait()
    with Calls(tmp_path) as calls:
        [(rows,)] = calls.db.execute("select count(*) from calls")
        assert rows == 3
        calls.store_calls("sample", [(r, {"n": 1}) for r in make_numbered_requests(5)])
        assert len(calls.read_responses([request_key(r) for r in make_numbered_requests(5)])) == 5


def test_a_fresh_store_can_be_opened_by_many_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    for attempt in range(40):
        barrier = threading.Barrier(4)

        def open_store(folder: Path, barrier: threading.Barrier) -> None:
            barrier.wait()
            try:
                Calls(folder).close()
            except sqlite3.Error as error:
                failures.append(error)

        threads = [threading.Thread(target=open_store, args=(tmp_path / str(attempt), barrier)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


# Locks

HOLDER = """
import sys
from pathlib import Path
from em.runtime.memory import hold_lock

with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def is_held(path: Path) -> bool:
    """Return whether another process holds the lock of `path` now."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(path.with_name(path.name + ".lock")).acquire(timeout=0):
            return False
    except Timeout:
        return True


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_a_lock_is_exclusive_and_is_let_go_by_a_holder_that_is_gone(tmp_path: Path, how: str) -> None:
    path = tmp_path / "models" / "mark"
    holder = start_python(HOLDER, path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert is_held(path)
    if how == "killed":
        os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert not is_held(path)
    with hold_lock(path):
        assert is_held(path)


def test_a_lock_says_that_it_waits_and_goes_on_when_it_is_free(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "mark"):
        waiting = start_python(HOLDER, tmp_path / "mark")
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "Waiting for another process that works on mark …\n"
    assert waiting.stdout.readline() == "held\n"
    waiting.communicate()


def test_a_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold_lock(tmp_path / "mark"):
        raise KeyError
    assert not is_held(tmp_path / "mark")


# Places


def test_a_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert make_writable_folder(tmp_path / "a" / "b", "store.dir") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_path_below_a_regular_file_is_refused_by_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(OutputError, match=r"can't be written \(.+\): choose another folder with store\.dir=FOLDER"):
            make_writable_folder(path, "store.dir")
    assert (tmp_path / "file").read_text() == "text"


def test_a_place_where_nothing_can_be_made_is_refused() -> None:
    with pytest.raises(OutputError, match=r"/proc/em can't be written"):
        make_writable_folder(Path("/proc/em"), "hydra.run.dir")


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_cache_folder() == tmp_path / "em"


def test_a_checksum_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert hash_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# From an event loop


def test_a_recorder_has_a_call_on_the_disk_before_it_returns(tmp_path: Path) -> None:
    async def record_calls() -> None:
        async with Recorder(tmp_path) as recorder:

            async def record_call(number: int) -> None:
                request = SampleRequest("m", (), number, 0, 1.0, 1.0, 5, "api")
                await recorder.store_call("sample", request, {"answer": str(number)})
                with sqlite3.connect(tmp_path / "calls.sqlite") as db:
                    assert db.execute("select count(*) from calls where key = ?", [request_key(request)]).fetchone()[0]

            await asyncio.gather(*(record_call(number) for number in range(40)))

    asyncio.run(record_calls())
    with Calls(tmp_path) as calls:
        assert calls.db.execute("select count(*) from calls").fetchone() == (40,)


def test_what_the_disk_says_reaches_whoever_waits(tmp_path: Path) -> None:
    async def record_call() -> None:
        async with Recorder(tmp_path) as recorder:
            recorder.calls.result()
            with sqlite3.connect(tmp_path / "calls.sqlite") as db:
                db.execute("drop table calls")
            request = SampleRequest("m", (), 0, 0, 1.0, 1.0, 5, "api")
            await recorder.store_call("sample", request, {"answer": ""})

    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        asyncio.run(record_call())
