"""Entry point of a launcher: `python -m em.runtime.launcher accelerate|torchrun ARGUMENTS…`, started by `processes`.

The launchers of Accelerate and torch start the ranks and end them all when one dies. This module adds two things: it
reports to the parent which rank died first, and it ends the launcher when the parent has ended.
"""

from __future__ import annotations

import signal
import sys

from em.runtime.processes import exit_with_parent, report_failure

DEADLY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS)
"""Signals that never follow from the end of another rank, as SIGTERM and SIGABRT may."""


def main() -> int:
    """Start the ranks and wait for them; return the exit code."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    exit_with_parent()
    kind, words = sys.argv[1], sys.argv[2:]
    try:
        if kind == "accelerate":
            from accelerate.commands.launch import launch_command, launch_command_parser

            launch_command(launch_command_parser().parse_args(words))
        else:
            from torch.distributed.run import main as torchrun

            torchrun(words)
    except ChildFailedError as error:
        killed = [each for each in error.failures.items() if -each[1].exitcode in DEADLY]
        rank, failure = killed[0] if killed else error.get_first_failure()
        how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
        hint = " (out of memory? lower trainer.device_tokens)" if failure.exitcode == -9 else ""
        # A rank that wrote its own failure file was the first to fail, so its report stays. But a killed rank writes
        # nothing, and the reports of its peers only say that they lost it, so this sentence replaces them.
        sentence = f"rank {rank} {how}{hint}, and the other ranks were ended; run the same command again."
        report_failure(sentence, "bug", at_last=bool(killed))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
