"""Faults of a text's encoding that leave it readable: replacement characters, mojibake, control characters."""

from __future__ import annotations

import re
from collections import Counter

# Without tab, line feed and carriage return; next line (U+0085) is what some editors break lines with.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
FOREIGN_RUN = re.compile("[^\x00-\x7f]{2,}")


def encoding_faults(text: str) -> Counter[str]:
    """How many of each fault a text has."""
    found = Counter(
        {
            "replacement characters": text.count("\ufffd"),
            "mojibake": sum(is_mojibake(run) for run in FOREIGN_RUN.findall(text)),
            "control characters": len(CONTROL.findall(text)),
        }
    )
    return +found


def is_mojibake(run: str) -> bool:
    """Whether characters beyond ASCII are UTF-8 that was read as Windows-1252: read as bytes again, they are UTF-8."""
    data = b""
    for character in run:
        try:
            data += character.encode("cp1252")
        except UnicodeEncodeError:
            if ord(character) > 0xFF:
                return False
            data += bytes([ord(character)])  # the five bytes that Windows-1252 leaves open
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
