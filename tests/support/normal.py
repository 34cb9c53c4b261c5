"""Normalise files: remove everything that varies between two runs of the same command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path


def normalise_file(path: Path, folder: Path) -> bytes:
    """Return the content of a file without times, places and other varying values.

    Args:
        folder: the folder of all runs.
    """
    content = path.read_bytes()
    return NORMAL[path.name](content, folder) if path.name in NORMAL else content


def remove_seconds(content: bytes, folder: Path) -> bytes:
    """Return verdicts without `seconds`, the duration of a call."""
    rows = [json.loads(line) for line in content.decode().split("\n") if line]
    for row in rows:
        row.pop("seconds")
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def remove_date(content: bytes, folder: Path) -> bytes:
    """Return card.json without its `date`."""
    card = json.loads(content)
    card["date"] = "DATE"
    return json.dumps(card, ensure_ascii=False, indent=1).encode()


def remove_card_date(content: bytes, folder: Path) -> bytes:
    """Return card.md without its date."""
    return re.sub(rb" on \d{4}-\d\d-\d\d\.", b" on DATE.", content, count=1)


def normalise_page(content: bytes, folder: Path) -> bytes:
    """Return a report's page without times, places, versions and the commit."""
    text = content.decode().replace(str(folder), "FOLDER")
    for pattern, word in PAGE:
        text = re.sub(pattern, word, text, flags=re.DOTALL)
    return text.encode()


SPAN = r"\d+ (?:s|min|h|days?)(?: \d+ (?:s|min|h))?"
"""A duration as the page writes it."""
PAGE = (
    (rf"\d{{4}}-\d\d-\d\d \d\d:\d\d, took {SPAN}", "STARTED"),  # start and duration of a run
    (rf"<span>{SPAN}</span>", "<span>SPAN</span>"),  # duration of a stage
    # Memory depends on rounding by the system, speed on the load of the machine.
    (r"<span>[\d,.]+ MB of memory at most</span>", "<span>MEMORY</span>"),
    (r"<span>[\d,.]+ tokens a second</span>", "<span>SPEED</span>"),
    # The commit, and whether files differ from it.
    (r"<div><dt>Code</dt><dd>.*?</dd></div>", "<div><dt>Code</dt></div>"),
    (r"(<summary>Versions</summary><pre>).*?</pre>", r"\1</pre>"),  # versions of Python and packages
)
"""Patterns of varying parts of a report's page, and their replacements."""
NORMAL: dict[str, Callable[[bytes, Path], bytes]] = {
    "verdicts.jsonl": remove_seconds,
    "card.json": remove_date,
    "card.md": remove_card_date,
    "report.html": normalise_page,
}
