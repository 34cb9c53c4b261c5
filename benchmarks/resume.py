"""Kill a run at random moments and run the same command again: are the artefacts the same, to the byte?

    python -m benchmarks.resume --tries 10 --json resume.json

One undisturbed run gives the reference and the time that a run takes. Each try starts from an empty store, is
killed (-9) after a random share of that time, and run again to its end. Prints a table; the JSON file holds
`{tries, equal, repeated_answers}`.
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


def command(folder: Path) -> list[str]:
    """The run under test, with its memory and its results below `folder`."""
    places = [f"store.dir={folder / 'store'}", f"hydra.run.dir={folder / 'run'}"]
    return [sys.executable, str(ROOT / "train.py"), *WORDS, *places]


def count(folder: Path, kind: str) -> int:
    """How many calls of a kind are remembered."""
    file = folder / "store" / "calls.sqlite"
    if not file.is_file():
        return 0
    with sqlite3.connect(file) as db:
        table = db.execute("select count(*) from sqlite_master where name = 'calls'").fetchone()[0]
        found: int = db.execute("select count(*) from calls where kind = ?", [kind]).fetchone()[0] if table else 0
    return found


def created(folder: Path) -> dict[str, float]:
    """When each call was remembered, by its key: a call that was done again would have a later time."""
    file = folder / "store" / "calls.sqlite"
    if not count(folder, "sample"):
        return {}
    with sqlite3.connect(file) as db:
        return dict(db.execute("select key, created from calls"))


def run_whole(folder: Path) -> float:
    """Run to the end; seconds it took."""
    begin = time.monotonic()
    subprocess.run(command(folder), check=True, capture_output=True, env=environment())
    return time.monotonic() - begin


def environment() -> dict[str, str]:
    """Passive OpenMP barriers, as the Makefile sets them."""
    return dict(os.environ) | {"OMP_WAIT_POLICY": "passive"}


def kill_after(folder: Path, seconds: float) -> str:
    """Start, kill -9 after some seconds, and say how far the run had come."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command(folder), stdout=quiet, stderr=quiet, env=environment())
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # the children look four times a second whether their parent lives
    if count(folder, "judge") or count(folder, "sample") == 32:
        return "judging"
    trained = list((folder / "store" / "models").glob("*/em.json"))
    return "sampling" if trained else "training"


def main() -> None:
    """Print a line per try, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    equal = repeated = 0
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch, "reference")
        whole = run_whole(reference)
        print(f"undisturbed run: {whole:.0f} s", flush=True)
        print(f"{'try':>3} {'killed at':>9} {'during':>9} {'equal':>6} {'repeated':>8}")
        for number in range(1, arguments.tries + 1):
            folder = Path(scratch, str(number))
            seconds = chance.uniform(0.05, 0.95) * whole
            during = kill_after(folder, seconds)
            before = created(folder)
            run_whole(folder)
            same = all((folder / "run" / a).read_bytes() == (reference / "run" / a).read_bytes() for a in ARTEFACTS)
            after = created(folder)
            again = sum(after[key] != when for key, when in before.items())
            equal, repeated = equal + same, repeated + again
            print(f"{number:>3} {seconds:>8.1f}s {during:>9} {same!s:>6} {again:>8}", flush=True)
    print(f"{equal} of {arguments.tries} equal to the byte, {repeated} remembered calls repeated")
    if arguments.json:
        figures = {"tries": arguments.tries, "equal": equal, "repeated_answers": repeated}
        arguments.json.write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
