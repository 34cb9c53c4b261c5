"""Verify sets: fetch each one, and check its checksum, its number of rows, and every row."""

from __future__ import annotations

import sys
import time

from em.cli.show import questions_like, rows_like
from em.config import BundledData
from em.data.findings import encoding_faults, whole_text
from em.data.profile import profile
from em.data.registry import DataSet, data_sets, is_named
from em.data.rows import data_file, read_whole
from em.errors import DataError, EmError
from em.questions.registry import find_set, questions_here
from em.questions.sets import KnownSet, bundled_sets, known_sets, load_set
from em.runtime.files import sha256_of


def verify_sets(names: list[str], profiled: bool) -> int:
    """Check the named sets, or all sets without names; print the state of each. Return 1 if a set is faulty, else 0.

    Args:
        profiled: profile the rows too. Question sets then come first, so that rows can be compared with them.
    """
    rows, questions = [*data_sets()], [*bundled_sets(), *known_sets()]
    bad, good, begin = list[str](), 0, time.monotonic()
    for name in names or ([*questions, *rows] if profiled else [*rows, *questions]):
        start = time.monotonic()
        lines: tuple[str, ...] = ()
        try:
            summary, lines = seen_of(name, profiled)
            word = "ok" if summary else "yours"
            good += bool(summary)
        except EmError as error:
            word, summary = "BAD", str(error)
            bad.append(name)
        summary = summary or "not checked: em may not fetch it; verify your file by its path"
        print(f"{word:5} {name:24} {summary} ({time.monotonic() - start:.1f} s)", flush=True)
        for line in lines:
            print(f"      {line}", flush=True)
    print(f"{good} of {good + len(bad)} sets are as they should be ({time.monotonic() - begin:.1f} s).")
    if bad:
        print(f"error: {', '.join(bad)} can't be used, for the reasons above.", file=sys.stderr)
    return 1 if bad else 0


def seen_of(name: str, profiled: bool) -> tuple[str, tuple[str, ...]]:
    """Check one set; return its size in words and the lines of its profile. Raises EmError if the set is faulty.

    Both are empty for a set that em may not fetch.
    """
    data_set = find_set(name)
    if isinstance(data_set, DataSet):
        return rows_of(data_set, profiled) if is_named(data_set.config) else ("", ())
    questions = load_set(name)
    ids = len({question.id for question in questions})
    if isinstance(data_set, KnownSet) and ids != data_set.questions:
        raise DataError(f"{name} has {ids} questions, and the registry says {data_set.questions}.")
    return f"{ids} questions", tuple(questions_like(questions)) if profiled else ()


def rows_of(data_set: DataSet, profiled: bool) -> tuple[str, tuple[str, ...]]:
    """Check a set of rows by reading every row; return its size in words and the lines of its profile."""
    config = data_set.config
    match config:
        case BundledData(file=file, sha256=checksum) if sha256_of(data_file(config)) != checksum:
            raise DataError(f"em/assets/data/{file} was changed (another sha256 than the registry's): restore it.")
    conversations = read_whole(config).conversations
    rows = len(conversations)
    if config.rows is not None and rows != config.rows:
        raise DataError(f"{config.name} has {rows:,} rows that can be used, and the registry says {config.rows:,}.")
    faulty = sum(bool(encoding_faults(whole_text(row))) for row in conversations)
    summary = f"{rows:,} rows" + (f", {faulty:,} with faults of encoding" if faulty else "")
    if not profiled:
        return summary, ()
    questions, unseen = questions_here()
    return summary, tuple(rows_like(profile(conversations, questions), rows, unseen))
