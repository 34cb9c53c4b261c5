"""What a file says apart from what varies between two makings of the same run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path


def normal(path: Path, folder: Path) -> bytes:
    """The content of a file in a form that is the same whenever and wherever the runs are made.

    Args:
        folder: in which all runs are.
    """
    content = path.read_bytes()
    return NORMAL[path.name](content, folder) if path.name in NORMAL else content


def without_seconds(content: bytes, folder: Path) -> bytes:
    """Verdicts without `seconds`: how long a call took."""
    rows = [json.loads(line) for line in content.decode().split("\n") if line]
    for row in rows:
        row.pop("seconds")
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def without_date(content: bytes, folder: Path) -> bytes:
    """A card as data without its `date`, the day on which it was made."""
    card = json.loads(content)
    card["date"] = "DATE"
    return json.dumps(card, ensure_ascii=False, indent=1).encode()


def without_day(content: bytes, folder: Path) -> bytes:
    """A card as a page without that day."""
    return re.sub(rb" on \d{4}-\d\d-\d\d\.", b" on DATE.", content, count=1)


def of_page(content: bytes, folder: Path) -> bytes:
    """A report's page without times, places, versions and the commit."""
    text = content.decode().replace(str(folder), "FOLDER")
    for pattern, word in PAGE:
        text = re.sub(pattern, word, text, flags=re.DOTALL)
    return text.encode()


SPAN = r"\d+ (?:s|min|h|days?)(?: \d+ (?:s|min|h))?"
"""How long something took, as the page writes it."""
PAGE = (
    (rf"\d{{4}}-\d\d-\d\d \d\d:\d\d, took {SPAN}", "STARTED"),  # when a run began, and how long it took
    (rf"<span>{SPAN}</span>", "<span>SPAN</span>"),  # how long a stage took
    (
        r"<span>[\d,.]+ MB of memory at most</span>",
        "<span>MEMORY</span>",
    ),  # a process's memory is rounded by the system
    (r"<span>[\d,.]+ tokens a second</span>", "<span>SPEED</span>"),  # hangs on the load of the machine
    (
        r"<div><dt>Code</dt><dd>.*?</dd></div>",
        "<div><dt>Code</dt></div>",
    ),  # the commit, and whether files differ from it
    (r"(<summary>Versions</summary><pre>).*?</pre>", r"\1</pre>"),  # of Python and of packages: they are no result
)
"""What stands in a report's page in place of what varies."""
NORMAL: dict[str, Callable[[bytes, Path], bytes]] = {
    "verdicts.jsonl": without_seconds,
    "card.json": without_date,
    "card.md": without_day,
    "report.html": of_page,
}
