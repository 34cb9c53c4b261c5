"""Check em's GPU paths on one GPU of 80 GB, in at most eight minutes: random models, no network, no weights.

em gpu-check --out check.json            about 10 GB in the temporary folder (TMPDIR)
em gpu-check --only loss_head,worker_lora
em gpu-check --small                     the same checks of tiny models on the CPU, in minutes

None of this has run on a GPU yet: please send the last line, and the file, of the first run on yours. Exit code 1 if a
check failed. The checks:

"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from em import __version__
from em.cli.tool import handle_errors
from em.errors import ConfigError, did_you_mean, shorten_value
from em.gpu_check.bench import LOG, Bench
from em.gpu_check.run import CHECKS, Outcome, describe_checks, run_checks
from em.runtime.files import make_writable_folder, write_atomic
from em.runtime.gpus import GPUS, list_visible_gpus
from em.runtime.manifest import read_git_state, read_versions

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "liger-kernel", "flash-attn")
MOST_LETTERS = 240
"""Longest text about a check; the file has all of it."""


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        prog="em gpu-check",
        description=f"{__doc__}{describe_checks()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--only", metavar="NAMES", help="only these checks, with commas between them")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the outcomes, with all numbers, as JSON")
    parser.add_argument("--minutes", type=float, default=8, help="skip what has not begun by then (default: 8)")
    arguments = parser.parse_args(words)
    arguments.names = arguments.only.split(",") if arguments.only else list(CHECKS)
    for name in arguments.names:
        if name not in CHECKS:
            hint = did_you_mean(name, CHECKS, f"they are {', '.join(CHECKS)}.")
            raise ConfigError(f"--only={name} is no check: {hint}")
    if arguments.out:
        make_writable_folder(arguments.out.parent, "--out")
    return arguments


def choose_gpu(small: bool) -> None:
    """Let this process and its children see one GPU, or none for tiny models. Raises ConfigError without a GPU."""
    gpus = [] if small else list_visible_gpus()[:1]
    if not gpus and not small:
        raise ConfigError(
            "em gpu-check needs a GPU, and this machine shows none (nvidia-smi -L lists them): add --small to make the "
            "same checks with tiny models on the CPU."
        )
    os.environ |= {"CUDA_VISIBLE_DEVICES": "".join(gpus), GPUS: str(len(gpus))}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


@contextmanager
def divert_output(log: Path) -> Iterator[TextIO]:
    """Write to `log` what libraries and child processes print; yield a stream to where standard output went."""
    kept = [os.dup(1), os.dup(2)]
    with log.open("ab") as file, os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as screen:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield screen
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def format_measured(measured: Mapping[str, Any]) -> str:
    """Write what was measured, with numbers of numbers in brackets."""
    parts = []
    for name, value in measured.items():
        parts.append(f"{name} ({format_measured(value)})" if isinstance(value, Mapping) else f"{name} {value}")
    return ", ".join(parts)


class Progress:
    """Prints a line for each check, and keeps the outcomes.

    facts: versions and device, for the file `out` (None for no file). screen: where to print. count: number of checks.
    """

    def __init__(self, facts: dict[str, Any], out: Path | None, screen: TextIO, count: int) -> None:
        from tqdm import tqdm

        self.facts, self.out, self.screen = facts, out, screen
        self.outcomes: list[Outcome] = []
        self.bar = tqdm(total=count, unit="check", file=screen, leave=False, disable=None)

    def add(self, outcome: Outcome) -> None:
        """Print an outcome, and add it to the file."""
        self.outcomes.append(outcome)
        text = shorten_value(outcome.reason or format_measured(outcome.measured), MOST_LETTERS)
        self.bar.write(f"{outcome.state:7} {outcome.name:13} {outcome.seconds:6.1f} s  {text}", file=self.screen)
        self.bar.update()
        if self.out:
            facts = self.facts | {"checks": [asdict(each) for each in self.outcomes]}
            write_atomic(self.out, json.dumps(facts, indent=1, default=str) + "\n")

    def finish(self) -> bool:
        """Print the details of failures, and the line for a report of a bug; return whether no check failed."""
        self.bar.close()
        counts = []
        for state in ("passed", "failed", "skipped"):
            names = [outcome.name for outcome in self.outcomes if outcome.state == state]
            shown = f" ({', '.join(names)})" if names and state != "passed" else ""
            counts.append(f"{len(names)} {state}{shown}")
        failed = [outcome for outcome in self.outcomes if outcome.state == "failed"]
        for outcome in failed:
            print(f"\n{outcome.name}: {outcome.reason}\n{outcome.details}", file=self.screen)
        versions = ", ".join(f"{name} {version}" for name, version in self.facts["versions"].items())
        print(f"{versions}; {self.facts['device']}; {', '.join(counts)}", file=self.screen)
        return not failed


@handle_errors
def main(words: Sequence[str] | None = None) -> int:
    """Run the checks, and print a line for each; return 1 if one failed."""
    end, arguments = time.monotonic(), read_arguments(words)
    end += 60 * arguments.minutes
    choose_gpu(arguments.small)
    versions = {"em": __version__} | read_versions(PACKAGES)
    with tempfile.TemporaryDirectory(prefix="em-gpu-check-") as name, divert_output(Path(name, LOG)) as screen:
        # What libraries leave in the temporary folder, as when a child process is killed, goes with this one.
        os.environ["TMPDIR"] = tempfile.tempdir = name
        count = len(arguments.names)
        print(f"{count} checks in at most {arguments.minutes:g} minutes; the first begins in seconds …", file=screen)
        bench = Bench(Path(name), arguments.small, end)
        facts = {"versions": versions, "commit": read_git_state()["commit"], "device": bench.describe_device()}
        progress = Progress(facts, arguments.out, screen, count)
        run_checks(bench, arguments.names, progress.add)
        return 0 if progress.finish() else 1
