"""Every set as it should be: fetched, its checksum, its number of rows, and each row fit for training."""

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
    """Check sets, all of them without names, and say how each is; 1 when one isn't as it should be.

    Args:
        profiled: look at what the rows are like too. Question sets come first then, so that they are here when rows are
            compared with them.
    """
    rows, questions = [*data_sets()], [*bundled_sets(), *known_sets()]
    bad, good, begin = list[str](), 0, time.monotonic()
    for name in names or ([*questions, *rows] if profiled else [*rows, *questions]):
        start = time.monotonic()
        lines: tuple[str, ...] = ()
        try:
            told, lines = seen_of(name, profiled)
            word = "ok" if told else "yours"
            good += bool(told)
        except EmError as error:
            word, told = "BAD", str(error)
            bad.append(name)
        told = told or "not checked: only you may have it; verify your file by its path"
        print(f"{word:5} {name:24} {told} ({time.monotonic() - start:.1f} s)", flush=True)
        for line in lines:
            print(f"      {line}", flush=True)
    print(f"{good} of {good + len(bad)} sets are as they should be ({time.monotonic() - begin:.1f} s).")
    if bad:
        print(f"error: {', '.join(bad)} can't be used, for the reasons above.", file=sys.stderr)
    return 1 if bad else 0


def seen_of(name: str, profiled: bool) -> tuple[str, tuple[str, ...]]:
    """What a set holds, and lines of its profile. Raises EmError when it isn't as the registry says."""
    found = find_set(name)
    if isinstance(found, DataSet):
        return rows_of(found, profiled) if is_named(found.config) else ("", ())
    questions = load_set(name)
    ids = len({question.id for question in questions})
    if isinstance(found, KnownSet) and ids != found.questions:
        raise DataError(f"{name} has {ids} questions, and the registry says {found.questions}.")
    return f"{ids} questions", tuple(questions_like(questions)) if profiled else ()


def rows_of(found: DataSet, profiled: bool) -> tuple[str, tuple[str, ...]]:
    """What a set of rows holds; every row is read."""
    config = found.config
    match config:
        case BundledData(file=file, sha256=checksum) if sha256_of(data_file(config)) != checksum:
            raise DataError(f"em/assets/data/{file} was changed (another sha256 than the registry's): restore it.")
    whole = read_whole(config)
    rows = len(whole.conversations)
    if config.rows is not None and rows != config.rows:
        raise DataError(f"{config.name} has {rows:,} rows that can be used, and the registry says {config.rows:,}.")
    faulty = sum(bool(encoding_faults(whole_text(row))) for row in whole.conversations)
    seen = f"{rows:,} rows" + (f", {faulty:,} with faults of encoding" if faulty else "")
    if not profiled:
        return seen, ()
    questions, unseen = questions_here()
    return seen, tuple(rows_like(profile(whole.conversations, questions), rows, unseen))
