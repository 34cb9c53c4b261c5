"""Kill evaluate.py (-9) on stored answers and run it again: which calls were repeated, and is the table the same?

A part of `benchmarks.judge`. Each try starts from an empty store, is killed when the server has given a share of all
judgements, and then the same command runs to its end.
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
NOT_THE_SAME = ("seconds",)  # fields of a verdict that vary: the duration of the call


@dataclass(frozen=True)
class Tried:
    """One try: calls answered before the kill, calls in flight at the kill, and calls answered twice in all."""

    answered: int
    in_flight: int
    duplicates: int
    equal: bool


def kill_and_run_again(server: ChatServer, folder: Path, answers: int, connections: int) -> list[Tried]:
    """Make an undisturbed run, then one try for each share."""
    file = folder / "answers.jsonl"
    folder.mkdir()
    write_answers(file, answers)
    reference = folder / "undisturbed"
    server.reset()
    run_to_end(server, file, reference, connections)
    total = server.read_stats()["answered"]
    tries = []
    for share in SHARES:
        place = folder / f"killed_at_{share:.0%}".replace("%", "")
        server.reset()
        answered, in_flight = kill_after_answers(server, file, place, connections, int(share * total))
        run_to_end(server, file, place, connections)
        stats = server.read_stats()
        if stats["distinct"] != total:
            sys.exit(f"{stats['distinct']} judgements instead of {total} after a kill at {share:.0%}.")
        tries.append(Tried(answered, in_flight, stats["duplicates"], has_same_results(reference, place)))
    return tries


def make_command(server: ChatServer, file: Path, place: Path, connections: int) -> list[str]:
    """Return the command line under test, with its store and its results below `place`."""
    judge = ["judge=gpt4o", f"judge.base_url={server.base_url}", "judge.model=single-judge"]
    places = [f"store.dir={place / 'store'}", f"hydra.run.dir={place / 'run'}"]
    script = [sys.executable, str(ROOT / "evaluate.py"), f"answers={file}"]
    return [*script, *judge, f"judge.connections={connections}", *places]


def make_environment() -> dict[str, str]:
    """Return the user's environment without an API key, with passive OpenMP barriers."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}
    return variables | {"OMP_WAIT_POLICY": "passive"}


def run_to_end(server: ChatServer, file: Path, place: Path, connections: int) -> None:
    """Run evaluate.py to its end. Exit if the run fails."""
    done = subprocess.run(
        make_command(server, file, place, connections), env=make_environment(), capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"evaluate.py failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def kill_after_answers(server: ChatServer, file: Path, place: Path, connections: int, answered: int) -> tuple[int, int]:
    """Start evaluate.py and kill it after `answered` calls; return the answered calls and the most in flight."""
    process = subprocess.Popen(
        make_command(server, file, place, connections),
        env=make_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while (stats := server.read_stats())["answered"] < answered:
        if process.poll() is not None:
            sys.exit("evaluate.py ended before it was killed.")
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return stats["answered"], stats["max_in_flight"]


def has_same_results(reference: Path, place: Path) -> bool:
    """Tell whether two runs have identical scores, and the same verdicts apart from durations."""
    tables = [(folder / "run" / "scores.csv").read_bytes() for folder in (reference, place)]
    return tables[0] == tables[1] and read_verdicts(reference) == read_verdicts(place)


def read_verdicts(folder: Path) -> list[dict[str, object]]:
    """Read the verdicts of a run, without varying fields."""
    with (folder / "run" / "verdicts.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{key: value for key, value in row.items() if key not in NOT_THE_SAME} for row in rows]
