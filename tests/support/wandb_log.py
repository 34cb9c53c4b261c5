"""Reads an offline W&B run: LevelDB's log format (blocks of 32 KiB; crc, length, type), with W&B's own messages.

Every checksum is verified, as W&B's own reader does; that one is no part of its Python package any more.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

BLOCK, HEADER, FULL, FIRST, LAST = 32768, 7, 1, 2, 4
IDENT = b":W&B" + struct.pack("<HB", 0xBEE1, 0)


def records(path: Path) -> Iterator[Any]:
    """The records of a `run-*.wandb` file, in order."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), HEADER, b""
    assert data[:HEADER] == IDENT, f"{path} doesn't begin as a W&B log"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        crc, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        body = data[at + HEADER : at + HEADER + length]
        assert len(body) == length, f"{path} ends within a record"
        assert zlib.crc32(bytes([kind]) + body) == crc, f"{path}: wrong checksum at byte {at}"
        at += HEADER + length
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record


@dataclass(frozen=True)
class Told:
    """What one offline run says, by kind."""

    folder: Path
    records: list[Any]

    @cached_property
    def run(self) -> Any:
        """The record of the run: its id, name, group, tags."""
        return next(r.run for r in self.records if r.WhichOneof("record_type") == "run")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings that it was started with."""
        return {item.key: json.loads(item.value_json) for item in self.run.config.update}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The summary metrics, the last of each."""
        return values(item for r in self.records for item in r.summary.update)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """What was logged, in order."""
        return [values(r.history.item) for r in self.records if r.WhichOneof("record_type") == "history"]

    @cached_property
    def artifacts(self) -> dict[str, Any]:
        """The artifacts by name; `use_after_commit` is true of an input."""
        return {r.artifact.name: r.artifact for r in self.records if r.WhichOneof("record_type") == "artifact"}

    @cached_property
    def exit_codes(self) -> list[int]:
        """How it ended."""
        return [r.exit.exit_code for r in self.records if r.WhichOneof("record_type") == "exit"]

    def curve(self, key: str) -> list[tuple[int, float]]:
        """The points of a curve, with the steps of their stage."""
        step = f"{key.split('/')[0]}/step"
        return [(point[step], point[key]) for point in self.history if key in point]

    def table(self, key: str) -> list[dict[str, Any]]:
        """The rows of a table that was logged."""
        [found] = [point[key] for point in self.history if key in point]
        document = json.loads((self.folder / "files" / found["path"]).read_text(encoding="utf-8"))
        return [dict(zip(document["columns"], row, strict=True)) for row in document["data"]]

    def file(self, artifact: str, name: str) -> Path:
        """A file of an artifact, where it lies until it is sent."""
        [entry] = [each for each in self.artifacts[artifact].manifest.contents if each.path == name]
        return Path(entry.local_path)


def values(items: Iterable[Any]) -> dict[str, Any]:
    """What was logged by name; a table or a picture comes in parts."""
    found: dict[str, Any] = {}
    for item in items:
        name, *part = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if part:
            found.setdefault(name, {})[".".join(part)] = value
        else:
            found[name] = value
    return found


def read_run(folder: Path) -> Told:
    """The one offline run below a run's folder."""
    [path] = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    return Told(path.parent, list(records(path)))
