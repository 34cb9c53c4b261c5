"""Compare the speed of judging by em, inspect_ai and AsyncOpenAI: a real server with 0.2 s latency, 100 connections.

    python -m benchmarks.judge --json judge.json

The server (`tests.support.chat_server`) has its own process, and inspect_ai its own environment, installed if need be.
A round has 2,000 calls of each stack in a fresh process, and the order rotates with the rounds. A ratio compares two
measurements of one round. All stacks must give the same scores, and the server must count exactly the calls.

Then em alone: 20,000 calls (growth of memory), the same calls from the cache, a server that allows 100 calls a second,
with and without headers that say so, and kills during a run (`benchmarks.judge_kill`). `benchmarks.judge_peers`
describes the comparison, `--help` the options.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import CORES
from benchmarks.judge_children import INSPECT, install_inspect, run_child
from benchmarks.judge_figures import Figures, add_rounds, add_spread, print_report
from benchmarks.judge_kill import kill_and_run_again
from benchmarks.judge_peers import WARM
from benchmarks.judge_rows import write_answers
from tests.support.chat_server import ChatServer

VARIANTS = ("ours", "asyncopenai", "inspect")
MODEL = "single-judge"
EARLY = 2000  # calls after which memory should no longer grow
PARTS = ("rounds", "long", "limited", "killed")


@dataclass
class Study:
    """The state of a run of the benchmark: the command line, the server, and the figures so far."""

    arguments: argparse.Namespace
    scratch: Path
    server: ChatServer
    inspect_python: str
    figures: Figures
    number: int = 0

    def run_stack(self, variant: str, calls: int, label: str, **more: Any) -> dict[str, Any]:
        """Run one stack in a fresh process, print its line, return its result. Exit if a call or score is missing."""
        self.number += 1
        folder = self.scratch / f"{self.number:03}-{variant}"
        folder.mkdir()
        spec = {
            "calls": calls,
            "model": MODEL,
            "base_url": self.server.base_url,
            "connections": self.arguments.connections,
            "answers": str(self.scratch / "answers.jsonl"),
            "prompts": str(self.scratch / "prompts.jsonl"),
            "store": str(folder),
            "folder": str(folder),
        } | more
        before = self.server.read_stats()
        result = run_child(self.inspect_python if variant == "inspect" else sys.executable, variant, spec, folder)
        if variant == "prompts":
            return result
        after = self.server.read_stats()
        result["answered"] = after["answered"] - before["answered"]
        # em probes a judge once per store: in the store of the warm-up, and in the store of the timed calls.
        probes = 1 if variant == "ours" else 0
        expected = WARM + probes + (0 if spec.get("remembered") else calls + probes)
        if result["scores"] != calls or result["answered"] != expected:
            sys.exit(f"{variant}: {result['scores']} scores from {result['answered']} answers, expected {calls}.")
        per_call = 1000 * result["cpu_seconds"] / calls
        line = f"{result['seconds']:8.2f} s {calls / result['seconds']:8.0f} calls/s {per_call:6.2f} ms of CPU a call"
        print(f"{label:>10} {variant:20} {line} {result['rss_mb_peak']:6.0f} MB", flush=True)
        return result

    def write_figures(self) -> None:
        """Write the figures so far as JSON."""
        if self.arguments.json:
            self.arguments.json.write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print, and write the figures; write after each part, so that an interrupted run leaves some figures."""
    arguments = parse_arguments()
    begin = time.monotonic()
    python = arguments.inspect_python or (install_inspect() if "inspect" in arguments.variants else "")
    with (
        tempfile.TemporaryDirectory(prefix="em-benchmark-") as scratch,
        ChatServer(latency=arguments.latency) as server,
    ):
        study = Study(arguments, Path(scratch), server, python, {"cores": CORES, "latency": arguments.latency})
        most = max(arguments.calls, arguments.long_calls if "long" in arguments.parts else 0, arguments.limited_calls)
        write_answers(study.scratch / "answers.jsonl", math.ceil(most / 2))
        study.run_stack("prompts", arguments.calls, "")
        for part in arguments.parts:
            {"rounds": measure_rounds, "long": measure_long_run, "limited": measure_limited, "killed": measure_killed}[
                part
            ](study)
            study.figures["minutes"] = round((time.monotonic() - begin) / 60, 1)
            study.write_figures()
    print_report(study.figures)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000, help="of a round (default 2000)")
    parser.add_argument("--long-calls", type=int, default=20000, help="of the long run (default 20000)")
    parser.add_argument("--limited-calls", type=int, default=3000, help="to the limited server (default 3000)")
    parser.add_argument("--rate", type=float, default=100, help="its calls a second (default 100)")
    parser.add_argument("--killed-answers", type=int, default=1000, help="each judged twice (default 1000)")
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds (default 0.2)")
    parser.add_argument("--inspect-python", help=f"a Python with {INSPECT} and openai (default: install one)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    return parser.parse_args()


def measure_rounds(study: Study) -> None:
    """Measure all stacks in turns."""
    variants, measured = study.arguments.variants, []
    for number in range(study.arguments.rounds):
        turn = number % len(variants)
        label = f"round {number + 1}"
        measured.append(
            {v: study.run_stack(v, study.arguments.calls, label) for v in variants[turn:] + variants[:turn]}
        )
        means = {variant: result["mean"] for variant, result in measured[-1].items()}
        if max(means.values()) - min(means.values()) > 1e-4:
            sys.exit(f"The mean scores of the stacks differ: {means}.")
        add_rounds(study.figures, measured, study.arguments.calls)
        study.write_figures()


def measure_long_run(study: Study) -> None:
    """Measure ten times as many calls by em, then the same calls from the cache."""
    calls = study.arguments.long_calls
    study.server.reset()
    store = study.scratch / "long"
    store.mkdir()
    first = study.run_stack("ours", calls, f"{calls}", store=str(store), early=EARLY)
    study.figures["calls_per_second_ours_long"] = round(calls / first["seconds"], 1)
    study.figures["cpu_ms_per_call_long"] = round(1000 * first["cpu_seconds"] / calls, 3)
    study.figures["memory_growth_mb"] = round(first["rss_mb_peak"] - first["rss_mb_early"], 1)
    again = [study.run_stack("ours", calls, "again", store=str(store), remembered=True) for _ in range(3)]
    if {each["mean"] for each in again} != {first["mean"]}:
        sys.exit("The mean score from the cache differs from the mean score of the first run.")
    add_spread(study.figures, "cached_rows_per_s", [calls / each["seconds"] for each in again], 0)


def measure_limited(study: Study) -> None:
    """Measure at a server that limits calls a second, with and without headers; exclude the first second's burst."""
    calls, rate = study.arguments.limited_calls, study.arguments.rate
    for name, headers in (("with_headers", True), ("without_headers", False)):
        study.server.reset(rate=rate, limit_headers=headers)
        result = study.run_stack("ours", calls, name[:10])
        stats = study.server.read_stats()
        study.figures[f"rate_{name}"] = round((calls - rate) / result["seconds"], 1)
        study.figures[f"percent_429_{name}"] = round(100 * stats["outcomes"].get("429", 0) / stats["arrivals"], 2)
    study.server.reset(rate=0, limit_headers=False)


def measure_killed(study: Study) -> None:
    """Kill evaluate.py during runs, run it again, and count repeated calls."""
    tries = kill_and_run_again(
        study.server, study.scratch / "killed", study.arguments.killed_answers, study.arguments.connections
    )
    for each in tries:
        print(f"{'killed':>10} {asdict(each)}", flush=True)
    study.figures["killed"] = len(tries)
    study.figures["killed_equal"] = sum(each.equal for each in tries)
    study.figures["killed_duplicates"] = max(each.duplicates for each in tries)
    study.figures["killed_duplicates_within_flight"] = sum(each.duplicates <= each.in_flight for each in tries)


if __name__ == "__main__":
    main()
