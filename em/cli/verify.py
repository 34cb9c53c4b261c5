"""Every set as it should be: fetched, its checksum, its number of rows, and each row fit for training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Check:
    """What came of one set: what was seen, or why it isn't as it should be. None of both for one that is a user's.

    profile: lines on what its rows are like, where they were asked for.
    """

    name: str
    seen: str
    fault: str
    seconds: float
    profile: tuple[str, ...] = ()


def verify(names: list[str], profiled: bool = False) -> Iterator[Check]:
    """Check sets one after another, all of them without names. A fault of one does not end the others.

    Args:
        profiled: look at what the rows are like too. Question sets come first then, so that they are here when rows are
            compared with them.
    """
    rows, questions = [*data_sets()], [*bundled_sets(), *known_sets()]
    for name in names or ([*questions, *rows] if profiled else [*rows, *questions]):
        begin = time.monotonic()
        seen = fault = ""
        profile: tuple[str, ...] = ()
        try:
            seen, profile = seen_of(name, profiled)
        except EmError as error:
            fault = str(error)
        yield Check(name, seen, fault, time.monotonic() - begin, profile)


def seen_of(name: str, profiled: bool) -> tuple[str, tuple[str, ...]]:
    """What a set holds, and lines of its profile. Raises EmError when it isn't as the registry says."""
    match find_set(name):
        case DataSet() as found:
            return rows_of(found, profiled) if is_named(found.config) else ("", ())
        case KnownSet() as known:
            questions = load_set(name)
            ids = len({question.id for question in questions})
            if ids != known.questions:
                raise DataError(f"{name} has {ids} questions, and the registry says {known.questions}.")
        case _:
            questions = load_set(name)
            ids = len({question.id for question in questions})
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
