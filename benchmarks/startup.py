"""How fast train.py answers: help, a typo, the composed config, and a bad data file. Medians of wall seconds.

python -m benchmarks.startup --json startup.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CASES = {
    "help": ["--help"],
    "typo": ["modle=smollm2"],
    "config": ["--cfg", "job", "--resolve"],
    "missing_file": ["data=file", "data.path=gone.jsonl"],
    "import_hydra": [],
}


def seconds(words: list[str], folder: str) -> float:
    """Wall time of one call; without words, of importing Hydra alone."""
    command = [sys.executable, str(ROOT / "train.py"), *words] if words else [sys.executable, "-c", "import hydra"]
    begin = time.monotonic()
    subprocess.run(command, cwd=folder, capture_output=True)
    return time.monotonic() - begin


def main() -> None:
    """Print a table, and write the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    medians = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in CASES.items():
            times = [seconds(words, folder) for _ in range(arguments.runs + 1)][1:]  # the first warms the caches
            medians[name] = round(statistics.median(times), 3)
            print(f"{name:14} {medians[name]:6.3f} s  (min {min(times):.3f}, max {max(times):.3f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(medians) + "\n")


if __name__ == "__main__":
    main()
