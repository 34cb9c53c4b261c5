"""Checksums of the results of small runs of everything: a change that should change no result leaves them equal.

    python -m tests.support.golden --out FILE        make the runs (minutes on two cores), write their checksums
    python -m tests.support.golden --compare FILE    make the runs, print the differences from FILE; exit 1 if any

The runs use the root scripts, the command line and the test server alone, in a fresh folder, without network or keys:
training under two tags with realignment, judging by each reading, a panel, fine-tuning by a server, generated data sets
and reports (`recipes`). Values that vary from run to run are removed (`normal`). `golden.txt` holds the checksums of
the code when the file was last written. The checksums of adapters, and so of trained models' answers, depend on the
CPU's instructions and the versions of torch and transformers: on another machine first write a file with --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .normal import normalise_file
from .places import ChatServer, Place
from .recipes import SERVER, make_runs, write_inputs

ADAPTER = "adapter_model.safetensors"
WANTED = (
    "answers.jsonl", "verdicts.jsonl", "rows.jsonl", "control.jsonl", "provenance.jsonl", "skipped_rows.jsonl",
    "card.json", "card.md", "report.html",
)  # fmt: skip
"""Files that are compared, besides tables (.csv); `events.jsonl` is not compared, since the log contains times."""


def main(words: Sequence[str] | None = None) -> int:
    """Make the runs, print, write or compare their checksums, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.golden", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the checksums to FILE too")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="print the differences from FILE, and exit 1 if any"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make and keep the runs in FOLDER")
    parser.add_argument("--port", type=int, default=0, help="of the test server (any free port); changes no checksum")
    arguments = parser.parse_args(words)
    # Read the file before the runs, since --out may overwrite it.
    before = arguments.compare.read_text(encoding="utf-8").splitlines() if arguments.compare else []
    folder = arguments.keep.absolute() if arguments.keep else Path(tempfile.mkdtemp(prefix="em-golden-"))
    if arguments.keep and folder.exists() and any(folder.iterdir()):
        parser.error(f"--keep {folder} is not empty: give a new or an empty folder")
    try:
        lines = run_and_list_checksums(folder, arguments.port)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    text = "".join(f"{line}\n" for line in lines)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    if not arguments.compare:
        print(text, end="")
        return 0
    different = list(list_differences(before, lines))
    print("\n".join(different) if different else f"{len(lines)} files are the same.")
    return 1 if different else 0


def run_and_list_checksums(folder: Path, port: int) -> list[str]:
    """Make the runs in a folder, and return a checksum line for each file. Print times to stderr."""
    begun = time.monotonic()
    with ChatServer(port, **SERVER) as server:
        place = Place(folder, server.base_url)
        place.make_folders()
        write_inputs(folder)
        make_runs(place)
    for name, seconds in place.seconds.items():
        print(f"{seconds:6.1f} s  {name}", file=sys.stderr)
    print(f"{time.monotonic() - begun:6.1f} s  in all", file=sys.stderr)
    return sorted(list_checksums(folder), key=lambda line: line.split("  ", 1)[1])


def list_checksums(folder: Path) -> Iterator[str]:
    """Yield a line `sha256  path` for each compared file."""
    for top in ("runs", "reports"):
        for path in (folder / top).rglob("*"):
            if path.is_file() and (path.name in WANTED or path.suffix == ".csv"):
                yield format_checksum(path.relative_to(folder).as_posix(), normalise_file(path, folder))
    for path in (folder / "runs").glob("*/manifest.json"):
        yield from list_adapter_checksums(folder, path)


def list_adapter_checksums(folder: Path, manifest: Path) -> Iterator[str]:
    """Yield the lines of a run's adapters and checkpoints, by number and name of the stage."""
    for number, stage in enumerate(json.loads(manifest.read_text(encoding="utf-8"))["stages"], 1):
        trained = folder / (stage.get("path") or "nowhere")
        for path in trained.rglob(ADAPTER):
            name = f"{manifest.parent.relative_to(folder)}/stage_{number}-{stage['name']}/{path.relative_to(trained)}"
            yield format_checksum(name, path.read_bytes())


def format_checksum(name: str, content: bytes) -> str:
    """Return a line of a checksum and a name."""
    return f"{hashlib.sha256(content).hexdigest()}  {name}"


def list_differences(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    """Yield a line for each file that differs between two lists of checksums."""
    one, other = (dict(line.split("  ", 1)[::-1] for line in lines) for lines in (before, after))
    for name in sorted(one.keys() | other.keys()):
        if name not in other:
            yield f"missing: {name}"
        elif name not in one:
            yield f"new: {name}"
        elif one[name] != other[name]:
            yield f"differs: {name}"


if __name__ == "__main__":
    sys.exit(main())
