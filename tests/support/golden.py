"""Checksums of what small runs of everything leave: the same before and after a change that should change nothing.

    python -m tests.support.golden --out FILE        make the runs (minutes on two cores), write their checksums
    python -m tests.support.golden --compare FILE    make them, print what differs from FILE; 1 if anything does

The runs use the root scripts, the command line and the test server alone, in a fresh folder, without network or keys:
training under two tags with realignment, judging by each reading, a panel, fine-tuning by a server, written data sets
and reports (`recipes`). Nothing that varies between two such makings counts (`normal`). `golden.txt` is what the code
gave when it was last written. The checksums of adapters, and so of all that trained models answer, hang on the CPU's
instructions and on the versions of torch and transformers: on another machine write a file of your own first.
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

from .normal import normal
from .places import ChatServer, Place
from .recipes import SERVER, make_runs, write_inputs

ADAPTER = "adapter_model.safetensors"
WANTED = (
    *("answers.jsonl", "verdicts.jsonl", "rows.jsonl", "control.jsonl", "provenance.jsonl", "skipped_rows.jsonl"),
    *("card.json", "card.md", "report.html"),
)
"""What counts of a folder besides its tables; `events.jsonl` does not, for it is a log with times."""


def main(words: Sequence[str] | None = None) -> int:
    """Make the runs, print and write or compare their checksums; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.golden", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the checksums there too")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="print what differs from that file, and exit 1")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make the runs there, and leave them")
    parser.add_argument(
        "--port", type=int, default=0, help="of the test server; no checksum hangs on it (any free one)"
    )
    arguments = parser.parse_args(words)
    # Read before the runs, in case that it is the file to be written.
    before = arguments.compare.read_text(encoding="utf-8").splitlines() if arguments.compare else []
    folder = arguments.keep.absolute() if arguments.keep else Path(tempfile.mkdtemp(prefix="em-golden-"))
    if arguments.keep and folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    try:
        lines = made(folder, arguments.port)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    text = "".join(f"{line}\n" for line in lines)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    if not arguments.compare:
        print(text, end="")
        return 0
    different = list(differences(before, lines))
    print("\n".join(different) if different else f"{len(lines)} files are the same.")
    return 1 if different else 0


def made(folder: Path, port: int) -> list[str]:
    """Make the runs in a folder; a line for each of their files. Times go to stderr."""
    begun = time.monotonic()
    with ChatServer(port, **SERVER) as server:
        place = Place(folder, server.base_url)
        place.make()
        write_inputs(folder)
        make_runs(place)
    for name, seconds in place.seconds.items():
        print(f"{seconds:6.1f} s  {name}", file=sys.stderr)
    print(f"{time.monotonic() - begun:6.1f} s  in all", file=sys.stderr)
    return sorted(lines_of(folder), key=lambda line: line.split("  ", 1)[1])


def lines_of(folder: Path) -> Iterator[str]:
    """A line `sha256  path` for each file that counts."""
    for top in ("runs", "reports"):
        for path in (folder / top).rglob("*"):
            if path.is_file() and (path.name in WANTED or path.suffix == ".csv"):
                yield line_of(path.relative_to(folder).as_posix(), normal(path, folder))
    for path in (folder / "runs").glob("*/manifest.json"):
        yield from adapters(folder, path)


def adapters(folder: Path, manifest: Path) -> Iterator[str]:
    """The lines of what a run trained, by the number and the name of the stage, with weights kept on the way."""
    for number, stage in enumerate(json.loads(manifest.read_text(encoding="utf-8"))["stages"], 1):
        trained = folder / (stage.get("path") or "nowhere")
        for path in trained.rglob(ADAPTER):
            name = f"{manifest.parent.relative_to(folder)}/stage_{number}-{stage['name']}/{path.relative_to(trained)}"
            yield line_of(name, path.read_bytes())


def line_of(name: str, content: bytes) -> str:
    """A line of a checksum and a name."""
    return f"{hashlib.sha256(content).hexdigest()}  {name}"


def differences(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    """What differs between two lists of checksums, a line for each file."""
    one, other = (dict(line.split("  ", 1)[::-1] for line in lines) for lines in (before, after))
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            yield f"{'missing' if name not in other else 'new' if name not in one else 'differs'}: {name}"


if __name__ == "__main__":
    sys.exit(main())
