"""Kill a run at random moments and run the same command again: are the artefacts the same, byte for byte?

    python -m benchmarks.resume --tries 10 --json resume.json
    EM_MIRROR=… python -m benchmarks.resume --sweep --tries 3     # a sweep of eight runs instead

One undisturbed run gives the reference and the duration of a run. Each try starts from an empty store, is killed (-9)
after a random share of that duration, and then the same command runs to its end. The output is a table; the JSON file
holds `{tries, equal, repeated_answers, repeated_trainings}`: numbers of cached calls and finished models made again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
ARTEFACTS = ("answers.jsonl", "verdicts.jsonl", "scores.csv")
WORDS = ["data.limit=8", "eval.sets=[probe]", "eval.samples=2", "eval.max_new_tokens=24", "sampler.batch_size=4"]
SWEEP = ["-m", "data=car_bad,car_good", "realign=none,neutral", "seed=0,1"]


def make_command(folder: Path, sweep: bool) -> list[str]:
    """Return the command line under test, with its store and its results below `folder`."""
    place = f"hydra.{'sweep' if sweep else 'run'}.dir={folder / 'run'}"
    words = [*(SWEEP if sweep else []), *WORDS, f"store.dir={folder / 'store'}", place]
    return [sys.executable, str(ROOT / "train.py"), *words]


def read_artefacts(folder: Path) -> dict[Path, bytes]:
    """Read the artefacts of the run, or of each run of the sweep."""
    paths = (path for name in ARTEFACTS for path in (folder / "run").rglob(name))
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def list_models(folder: Path) -> dict[str, float]:
    """Return when each model was finished, by fingerprint; a repeated training gives a later time."""
    return {path.parent.name: path.stat().st_mtime for path in (folder / "store" / "models").glob("*/em.json")}


def count_calls(folder: Path, kind: str) -> int:
    """Return the number of cached calls of a kind."""
    file = folder / "store" / "calls.sqlite"
    if not file.is_file():
        return 0
    with sqlite3.connect(file) as db:
        table = db.execute("select count(*) from sqlite_master where name = 'calls'").fetchone()[0]
        rows: int = db.execute("select count(*) from calls where kind = ?", [kind]).fetchone()[0] if table else 0
    return rows


def watch_calls(folder: Path) -> int:
    """Make the store note every call stored from now on, even if it is cached; return the number of cached calls."""
    calls = count_calls(folder, "sample") + count_calls(folder, "judge")
    if calls:
        with sqlite3.connect(folder / "store" / "calls.sqlite") as db:
            db.execute("create table noted (key text)")
            db.execute("create table before_kill as select key from calls")
            # The trigger fires before `insert or ignore` skips a cached call.
            db.execute("create trigger note before insert on calls begin insert into noted values (new.key); end")
    return calls


def count_repeated(folder: Path) -> int:
    """Return how many of the calls that were cached when `watch_calls` began were made again."""
    with sqlite3.connect(folder / "store" / "calls.sqlite") as db:
        if not db.execute("select count(*) from sqlite_master where name = 'noted'").fetchone()[0]:
            return 0
        calls: int = db.execute("select count(*) from noted join before_kill using (key)").fetchone()[0]
    return calls


def run_to_end(folder: Path, sweep: bool) -> float:
    """Run the command to its end, and return the seconds."""
    begin = time.monotonic()
    subprocess.run(make_command(folder, sweep), check=True, capture_output=True, env=make_environment())
    return time.monotonic() - begin


def make_environment() -> dict[str, str]:
    """Return the user's environment with passive OpenMP barriers, as the Makefile sets them."""
    return dict(os.environ) | {"OMP_WAIT_POLICY": "passive"}


def kill_after(folder: Path, seconds: float, sweep: bool) -> str:
    """Start the command, kill it (-9) after some seconds, and return the phase that the run had reached."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(make_command(folder, sweep), stdout=quiet, stderr=quiet, env=make_environment())
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # children check four times a second whether their parent lives, and then end
    if sweep:
        done = (path for path in (folder / "run").rglob("manifest.json") if '"status": "done"' in path.read_text())
        return f"job {len(list(done)) + 1}"
    if count_calls(folder, "judge") or count_calls(folder, "sample") == 32:
        return "judging"
    return "sampling" if list_models(folder) else "training"


def main() -> None:
    """Print a line for each try, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chance, sweep = random.Random(arguments.seed), arguments.sweep
    equal = answers = models = 0
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch, "reference")
        duration = run_to_end(reference, sweep)
        print(f"undisturbed run: {duration:.0f} s, {len(read_artefacts(reference))} artefacts", flush=True)
        print(f"{'try':>3} {'killed at':>9} {'during':>9} {'equal':>6} {'calls again':>12} {'models again':>13}")
        for number in range(1, arguments.tries + 1):
            folder = Path(scratch, str(number))
            seconds = chance.uniform(0.05, 0.95) * duration
            during = kill_after(folder, seconds, sweep)
            calls, models_before = watch_calls(folder), list_models(folder)
            run_to_end(folder, sweep)
            same = read_artefacts(folder) == read_artefacts(reference)
            repeated_calls, models_now = count_repeated(folder), list_models(folder)
            retrained = sum(models_now[key] != when for key, when in models_before.items())
            equal, answers, models = equal + same, answers + repeated_calls, models + retrained
            row = f"{number:>3} {seconds:>8.1f}s {during:>9} {same!s:>6}"
            print(f"{row} {repeated_calls:>5} of {calls:<4} {retrained:>6} of {len(models_before):<4}", flush=True)
    print(f"{equal} of {arguments.tries} equal to the byte, {answers} calls and {models} models made again")
    if arguments.json:
        figures = {"tries": arguments.tries, "equal": equal}
        figures |= {"repeated_answers": answers, "repeated_trainings": models}
        arguments.json.write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
