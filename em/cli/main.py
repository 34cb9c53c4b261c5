"""The command `em`: runs and small tools under one name.

`em train WORDS` does the same as `python train.py WORDS` in a checkout, and as `python -m em train WORDS` where the
command is not on the path. em imports a command only when the user types it, so that `em --help` is instant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from em import __version__
from em.errors import did_you_mean

RUNS = {
    "train": "train a model, evaluate it, write the report",
    "evaluate": "evaluate a base model, a trained one, an adapter, or stored answers",
    "generate": "have a model write a data set from your texts or questions",
}
TOOLS = {
    "report": "one page that compares runs and judged tables",
    "data": "list, show, fetch and verify the sets that em knows",
    "judge": "how far two judges agree on the same answers",
    "jobs": "list, cancel and delete fine-tuning jobs at a server",
    "memory": "measure and prune the cache of model calls",
    "power": "how often the report would find an effect, and what to add to a study",
    "gpu-check": "check em's GPU paths on one GPU in eight minutes, with random models",
    "models": "fetch the packages that contain models ahead of their first use",
    "reference": "print every option and setting as Markdown",
}
REMOVED = {"dashboard": "make the panels by hand, as docs/wandb.md lists them"}
"""Commands of older versions, and what to do instead."""


def main() -> None:
    """Run the command that the command line names, and exit with its code."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h"):
        print(describe_commands())
    elif command == "--version":
        print(f"em {__version__}")
    elif command in RUNS or command in TOOLS:
        sys.argv = [f"em {command}", *words]
        start(command)
    elif command in REMOVED:
        print(f"error: em {command} was removed: {REMOVED[command]}.", file=sys.stderr)
        sys.exit(2)
    else:
        hint = did_you_mean(command, [*RUNS, *TOOLS], "em --help lists the commands.")
        print(f"error: em {command} is no command: {hint}", file=sys.stderr)
        sys.exit(2)


def start(command: str) -> None:
    """Run `command` with the words of the command line, and exit with its code."""
    if command in RUNS:
        from em.cli.hydra import main as run

        sys.exit(run(command))
    sys.exit(import_tool(command)(sys.argv[1:]))


def describe_commands() -> str:
    """Describe every command in one line."""
    lines = [f"  em {name:10} {text}" for name, text in (RUNS | TOOLS).items()]
    return "\n".join(["usage: em COMMAND [WORDS]", "", *lines, "", "em COMMAND --help says more about each."])


def import_tool(command: str) -> Callable[[list[str]], int]:
    """Import and return the `main` of a tool."""
    match command:
        case "report":
            from em.cli.report import main as tool
        case "data":
            from em.cli.data import main as tool
        case "judge":
            from em.cli.judge import main as tool
        case "jobs":
            from em.cli.jobs import main as tool
        case "memory":
            from em.cli.memory import main as tool
        case "power":
            from em.cli.power import main as tool
        case "gpu-check":
            from em.cli.gpu_check import main as tool
        case "models":
            from em.cli.models import main as tool
        case _:
            from em.cli.reference import main as tool
    return tool
