"""Atomic writes: a file is complete or missing, even if several processes write it at once and some are killed."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from em.runtime.files import open_atomic, write_atomic
from tests.support.places import ROOT

WRITERS, ROUNDS, LENGTH = 4, 40, 100_000
WRITE_AGAIN_AND_AGAIN = f"""
import sys
from pathlib import Path
from em.runtime.files import open_atomic, write_atomic
path, letter = Path(sys.argv[1]), sys.argv[2]
for number in range({ROUNDS}):
    if number % 2:
        write_atomic(path, letter * {LENGTH})
    else:
        with open_atomic(path) as file:
            for part in range(10):
                file.write(letter * {LENGTH // 10})
"""
BE_KILLED = """
import os, sys
from pathlib import Path
from em.runtime.files import open_atomic
with open_atomic(Path(sys.argv[1])) as file:
    file.write("half")
    file.flush()
    print("written", flush=True)
    sys.stdin.read()
"""


def start_python(code: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_processes_that_write_one_file_at_once_neither_fail_nor_mix(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    writers = [start_python(WRITE_AGAIN_AND_AGAIN, str(path), letter) for letter in "abcd"[:WRITERS]]
    letters_read = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_text(encoding="utf-8")
            assert (len(content), len(set(content))) == (LENGTH, 1)
            letters_read.add(content[0])
        time.sleep(0.001)
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * WRITERS
    assert letters_read
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with start_python(BE_KILLED, str(path)) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        write_atomic(path, "of another, while the first still writes")
        assert len(list(tmp_path.iterdir())) == 2
        writer.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2
    elsewhere = tmp_path / "scores.csv.another-machine.1.0.partial"
    strange = tmp_path / f"scores.csv.{platform.node()}.what.0.partial"
    for each in (elsewhere, strange):
        each.touch()
    write_atomic(path, "whole")
    assert path.read_text(encoding="utf-8") == "whole"
    assert set(tmp_path.iterdir()) == {path, elsewhere, strange}


def test_a_writer_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "em.json"
    write_atomic(path, b"before")
    with pytest.raises(ZeroDivisionError), open_atomic(path) as file:
        file.write(str(1 / 0))
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "no folder" / "em.json", "whole")


def test_two_files_of_one_process_at_once_have_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    with open_atomic(path, newline="") as first, open_atomic(path, newline="") as second:
        assert first.name != second.name
        assert str(os.getpid()) in first.name
        first.write("first\r\n")
        second.write("second\r\n")
    assert path.read_bytes() == b"first\r\n"
