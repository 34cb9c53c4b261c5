"""Measure the report of a large judged table: medians of wall and processor seconds of report.py.

python -m benchmarks.judged_table TABLE.csv.gz --json judged_table.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def read_cpu_seconds() -> float:
    """Return the processor seconds of all child processes so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_report(table: Path) -> tuple[float, float]:
    """Return wall and processor seconds of one report."""
    with tempfile.TemporaryDirectory() as out:
        began, before = time.monotonic(), read_cpu_seconds()
        command = [sys.executable, str(ROOT / "report.py"), str(table), "--out", out]
        subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - began, read_cpu_seconds() - before


def main() -> None:
    """Print both times, and write the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    taken = [measure_report(arguments.table) for _ in range(arguments.runs)]
    medians = {
        "report_seconds": statistics.median(wall for wall, _ in taken),
        "report_cpu_seconds": statistics.median(processor for _, processor in taken),
    }
    for name, value in medians.items():
        print(f"{name:20} {value:6.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(medians, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
