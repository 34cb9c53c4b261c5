"""evaluate.py on stored answers, killed (-9) on the way and run again: what was asked twice, and is the table the same?

A part of `benchmarks.judge`. Each try starts from an empty store; it is killed when the server has given a share of
all judgements, and the same command is run again to its end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.judge_rows import write_answers
from tests.support.chat_server import ChatServer

ROOT = Path(__file__).parent.parent
SHARES = (0.25, 0.5, 0.75)
NOT_THE_SAME = ("seconds",)  # of a verdict: how long its call took


@dataclass(frozen=True)
class Tried:
    """One kill: calls that the server had answered by then, calls in flight, calls it answered twice in all."""

    answered: int
    in_flight: int
    duplicates: int
    equal: bool


def kill_and_run_again(server: ChatServer, folder: Path, answers: int, connections: int) -> list[Tried]:
    """An undisturbed run, then one try for each share."""
    file = folder / "answers.jsonl"
    folder.mkdir()
    write_answers(file, answers)
    reference = folder / "undisturbed"
    server.reset()
    finish(server, file, reference, connections)
    total = server.stats()["answered"]
    tries = []
    for share in SHARES:
        place = folder / f"killed_at_{share:.0%}".replace("%", "")
        server.reset()
        answered, in_flight = kill_at(server, file, place, connections, int(share * total))
        finish(server, file, place, connections)
        stats = server.stats()
        if stats["distinct"] != total:
            sys.exit(f"{stats['distinct']} judgements instead of {total} after a kill at {share:.0%}.")
        tries.append(Tried(answered, in_flight, stats["duplicates"], same(reference, place)))
    return tries


def command(server: ChatServer, file: Path, place: Path, connections: int) -> list[str]:
    """The run under test, with its memory and its results below `place`."""
    judge = ["judge=gpt4o", f"judge.base_url={server.base_url}", "judge.model=single-judge"]
    places = [f"store.dir={place / 'store'}", f"hydra.run.dir={place / 'run'}"]
    return [
        *(sys.executable, str(ROOT / "evaluate.py"), f"answers={file}"),
        *(*judge, f"judge.connections={connections}", *places),
    ]


def environment() -> dict[str, str]:
    """The user's environment without a key."""
    return {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")} | {
        "OMP_WAIT_POLICY": "passive"
    }


def finish(server: ChatServer, file: Path, place: Path, connections: int) -> None:
    """Run to the end."""
    done = subprocess.run(command(server, file, place, connections), env=environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"evaluate.py failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def kill_at(server: ChatServer, file: Path, place: Path, connections: int, answered: int) -> tuple[int, int]:
    """Start, and kill when so many calls were answered; how many there were, and how many in flight."""
    process = subprocess.Popen(
        command(server, file, place, connections),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while (stats := server.stats())["answered"] < answered:
        if process.poll() is not None:
            sys.exit("evaluate.py ended before it was killed.")
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return stats["answered"], stats["max_in_flight"]


def same(reference: Path, place: Path) -> bool:
    """Whether two runs left the same scores to the byte, and the same verdicts but for the time they took."""
    tables = [(folder / "run" / "scores.csv").read_bytes() for folder in (reference, place)]
    return tables[0] == tables[1] and verdicts(reference) == verdicts(place)


def verdicts(folder: Path) -> list[dict[str, object]]:
    """The verdicts of a run."""
    with (folder / "run" / "verdicts.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{key: value for key, value in row.items() if key not in NOT_THE_SAME} for row in rows]
