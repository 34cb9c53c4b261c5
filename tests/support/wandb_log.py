"""Read an offline W&B run: LevelDB's log format (blocks of 32 KiB; crc, length, type), with W&B's messages.

Every checksum is verified, as in W&B's reader, which is no longer part of the Python package.
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


def read_log_records(path: Path) -> Iterator[Any]:
    """Yield the records of a `run-*.wandb` file, in order."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), HEADER, b""
    assert data[:HEADER] == IDENT, f"{path} doesn't begin with the header of a W&B log"
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
class OfflineRun:
    """The records of one offline run, by kind."""

    folder: Path
    records: list[Any]

    @cached_property
    def run(self) -> Any:
        """Return the record of the run: id, name, group, tags."""
        return next(r.run for r in self.records if r.WhichOneof("record_type") == "run")

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return the settings of the run."""
        return {item.key: json.loads(item.value_json) for item in self.run.config.update}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Return the last value of each summary metric."""
        return collect_logged_values(item for r in self.records for item in r.summary.update)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """Return the logged points, in order."""
        return [collect_logged_values(r.history.item) for r in self.records if r.WhichOneof("record_type") == "history"]

    @cached_property
    def artifacts(self) -> dict[str, Any]:
        """Return the artifacts by name; `use_after_commit` is true for inputs."""
        return {r.artifact.name: r.artifact for r in self.records if r.WhichOneof("record_type") == "artifact"}

    @cached_property
    def exit_codes(self) -> list[int]:
        """Return the exit codes; none while the run goes on."""
        return [r.exit.exit_code for r in self.records if r.WhichOneof("record_type") == "exit"]

    def read_curve(self, key: str) -> list[tuple[int, float]]:
        """Return the points (step, value) of a curve; steps count within the stage."""
        step = f"{key.split('/')[0]}/step"
        return [(point[step], point[key]) for point in self.history if key in point]

    def read_table(self, key: str) -> list[dict[str, Any]]:
        """Return the rows of a logged table."""
        [reference] = [point[key] for point in self.history if key in point]
        document = json.loads((self.folder / "files" / reference["path"]).read_text(encoding="utf-8"))
        return [dict(zip(document["columns"], row, strict=True)) for row in document["data"]]

    def find_artifact_file(self, artifact: str, name: str) -> Path:
        """Return the local path of an artifact's file."""
        [entry] = [each for each in self.artifacts[artifact].manifest.contents if each.path == name]
        return Path(entry.local_path)


def collect_logged_values(items: Iterable[Any]) -> dict[str, Any]:
    """Return the logged values by name; a table or a picture comes in parts."""
    logged: dict[str, Any] = {}
    for item in items:
        name, *part = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if part:
            logged.setdefault(name, {})[".".join(part)] = value
        else:
            logged[name] = value
    return logged


def read_run(folder: Path) -> OfflineRun:
    """Read the only offline run below a run's folder."""
    [path] = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    return OfflineRun(path.parent, list(read_log_records(path)))
