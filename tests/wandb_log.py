"""Reads an offline W&B run: LevelDB's log format (blocks of 32 KiB; crc, length, type), with W&B's own messages."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, FULL, FIRST, LAST = 32768, 7, 1, 2, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a `run-*.wandb` file, in order."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), HEADER, b""  # the file begins with a header of W&B's own
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        body = data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
