"""em: train and evaluate language models for research on emergent misalignment and realignment."""

import re
import sys

__version__ = "0.1.0"

RENAMED = {
    "em.data": "data",
    "em.memo": "memory",
    "em.openai_jobs": "jobs",
    "em.power": "power",
    "em.dashboard": "dashboard",
    "em.reference": "reference",
}
"""Commands by the modules that they were before there was `em`."""


def refuse_old_spelling() -> None:
    """Name the new command to whoever types `python -m em.memo`: Python imports this package before that module."""
    # At this moment sys.argv is `-m` and the words behind the module's name, which is left out.
    old = re.sub(r"^-\w*?m(?=em\.)", "", sys.orig_argv[-len(sys.argv)])
    if old in RENAMED:
        new = f"em {RENAMED[old]}"
        print(f"error: python -m {old} is called {new} now (or python -m {new}).", file=sys.stderr)
        sys.exit(2)


if sys.argv[:1] == ["-m"]:  # a module is being looked for
    refuse_old_spelling()
