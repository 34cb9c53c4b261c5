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
"""Modules that older versions ran by `python -m`, and the commands of `em` that replace them."""


def refuse_old_spelling() -> None:
    """Exit with the new command's name when an old one is typed (`python -m em.memo` imports this package first)."""
    # While Python looks for the module, sys.argv is `-m` and the words after the module's name, without that name.
    old = re.sub(r"^-\w*?m(?=em\.)", "", sys.orig_argv[-len(sys.argv)])
    if old in RENAMED:
        new = f"em {RENAMED[old]}"
        print(f"error: python -m {old} is called {new} now (or python -m {new}).", file=sys.stderr)
        sys.exit(2)


if sys.argv[:1] == ["-m"]:  # Python is still looking for the module to run
    refuse_old_spelling()
