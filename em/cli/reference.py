"""em reference: print every option and setting as Markdown, from the schemas and the option files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from em.config.help import reference


def main(words: Sequence[str] | None = None) -> int:
    """Print the page; the exit code."""
    argparse.ArgumentParser(prog="em reference", description=(__doc__ or "").splitlines()[0]).parse_args(words)
    sys.stdout.write(reference())
    return 0
