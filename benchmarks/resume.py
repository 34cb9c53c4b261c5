"""Kill a run at random moments and run the same command again: are the artefacts the same, to the byte?

    python -m benchmarks.resume --tries 10 --json resume.json
    EM_MIRROR=… python -m benchmarks.resume --sweep --tries 3     # a sweep of eight runs instead

One undisturbed run gives the reference and the time that a run takes. Each try starts from an empty store, is
killed (-9) after a random share of that time, and run again to its end. Prints a table; the JSON file holds
`{tries, equal, repeated_answers, repeated_trainings}`: calls and models that were there and were made once more.
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


def command(folder: Path, sweep: bool) -> list[str]:
    """The run under test, with its memory and its results below `folder`."""
    place = f"hydra.{'sweep' if sweep else 'run'}.dir={folder / 'run'}"
    words = [*(SWEEP if sweep else []), *WORDS, f"store.dir={folder / 'store'}", place]
    return [sys.executable, str(ROOT / "train.py"), *words]


def artefacts(folder: Path) -> dict[Path, bytes]:
    """What the run, or each run of the sweep, has left."""
    found = (path for name in ARTEFACTS for path in (folder / "run").rglob(name))
    return {path.relative_to(folder): path.read_bytes() for path in found}


def trained(folder: Path) -> dict[str, float]:
    """When each model was finished, by its fingerprint: one that was trained again would have a later time."""
    return {path.parent.name: path.stat().st_mtime for path in (folder / "store" / "models").glob("*/em.json")}


def count(folder: Path, kind: str) -> int:
    """How many calls of a kind are remembered."""
    file = folder / "store" / "calls.sqlite"
    if not file.is_file():
        return 0
    with sqlite3.connect(file) as db:
        table = db.execute("select count(*) from sqlite_master where name = 'calls'").fetchone()[0]
        found: int = db.execute("select count(*) from calls where kind = ?", [kind]).fetchone()[0] if table else 0
    return found


def watch(folder: Path) -> int:
    """From here on note each call that is remembered, also one that was there already; how many there are."""
    calls = count(folder, "sample") + count(folder, "judge")
    if calls:
        with sqlite3.connect(folder / "store" / "calls.sqlite") as db:
            db.execute("create table noted (key text)")
            db.execute("create table before_kill as select key from calls")
            # It fires before `insert or ignore` finds that the call is there.
            db.execute("create trigger note before insert on calls begin insert into noted values (new.key); end")
    return calls


def repeated(folder: Path) -> int:
    """How many calls that were remembered when `watch` began were made again."""
    with sqlite3.connect(folder / "store" / "calls.sqlite") as db:
        if not db.execute("select count(*) from sqlite_master where name = 'noted'").fetchone()[0]:
            return 0
        found: int = db.execute("select count(*) from noted join before_kill using (key)").fetchone()[0]
    return found


def run_whole(folder: Path, sweep: bool) -> float:
    """Run to the end; seconds it took."""
    begin = time.monotonic()
    subprocess.run(command(folder, sweep), check=True, capture_output=True, env=environment())
    return time.monotonic() - begin


def environment() -> dict[str, str]:
    """Passive OpenMP barriers, as the Makefile sets them."""
    return dict(os.environ) | {"OMP_WAIT_POLICY": "passive"}


def kill_after(folder: Path, seconds: float, sweep: bool) -> str:
    """Start, kill -9 after some seconds, and say how far the run had come."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command(folder, sweep), stdout=quiet, stderr=quiet, env=environment())
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # the children look four times a second whether their parent lives
    if sweep:
        done = (path for path in (folder / "run").rglob("manifest.json") if '"status": "done"' in path.read_text())
        return f"job {len(list(done)) + 1}"
    if count(folder, "judge") or count(folder, "sample") == 32:
        return "judging"
    return "sampling" if trained(folder) else "training"


def main() -> None:
    """Print a line per try, and the sums."""
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
        whole = run_whole(reference, sweep)
        print(f"undisturbed run: {whole:.0f} s, {len(artefacts(reference))} artefacts", flush=True)
        print(f"{'try':>3} {'killed at':>9} {'during':>9} {'equal':>6} {'calls again':>12} {'models again':>13}")
        for number in range(1, arguments.tries + 1):
            folder = Path(scratch, str(number))
            seconds = chance.uniform(0.05, 0.95) * whole
            during = kill_after(folder, seconds, sweep)
            calls, made = watch(folder), trained(folder)
            run_whole(folder, sweep)
            same = artefacts(folder) == artefacts(reference)
            called, now = repeated(folder), trained(folder)
            made_again = sum(now[key] != when for key, when in made.items())
            equal, answers, models = equal + same, answers + called, models + made_again
            row = f"{number:>3} {seconds:>8.1f}s {during:>9} {same!s:>6}"
            print(f"{row} {called:>5} of {calls:<4} {made_again:>6} of {len(made):<4}", flush=True)
    print(f"{equal} of {arguments.tries} equal to the byte, {answers} calls and {models} models made again")
    if arguments.json:
        figures = {"tries": arguments.tries, "equal": equal}
        figures |= {"repeated_answers": answers, "repeated_trainings": models}
        arguments.json.write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
