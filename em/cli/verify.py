"""Verify sets: fetch each one, and check its checksum, its number of rows, and every row."""

from __future__ import annotations

import sys
import time

from em.cli.show import describe_questions, describe_rows
from em.config import BundledData
from em.data.findings import find_encoding_faults, join_messages
from em.data.profile import profile_rows
from em.data.registry import DataSet, is_named, read_data_sets
from em.data.rows import find_data_file, read_all_rows
from em.errors import DataError, EmError
from em.questions.registry import find_set, load_local_questions
from em.questions.sets import KnownSet, list_bundled_sets, load_set, read_known_sets
from em.runtime.files import hash_file


def verify_sets(names: list[str], profiled: bool) -> int:
    """Check the named sets, or all sets without names; print the state of each. Return 1 if a set is faulty, else 0.

    Args:
        profiled: profile the rows too. Question sets then come first, so that rows can be compared with them.
    """
    rows, questions = [*read_data_sets()], [*list_bundled_sets(), *read_known_sets()]
    bad, good, begin = list[str](), 0, time.monotonic()
    for name in names or ([*questions, *rows] if profiled else [*rows, *questions]):
        start = time.monotonic()
        lines: tuple[str, ...] = ()
        try:
            summary, lines = verify_set(name, profiled)
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


def verify_set(name: str, profiled: bool) -> tuple[str, tuple[str, ...]]:
    """Check one set; return its size in words and the lines of its profile. Raises EmError if the set is faulty.

    Both are empty for a set that em may not fetch.
    """
    data_set = find_set(name)
    if isinstance(data_set, DataSet):
        return verify_rows(data_set, profiled) if is_named(data_set.config) else ("", ())
    questions = load_set(name)
    ids = len({question.id for question in questions})
    if isinstance(data_set, KnownSet) and ids != data_set.questions:
        raise DataError(f"{name} has {ids} questions, and the registry says {data_set.questions}.")
    return f"{ids} questions", tuple(describe_questions(questions)) if profiled else ()


def verify_rows(data_set: DataSet, profiled: bool) -> tuple[str, tuple[str, ...]]:
    """Check a set of rows by reading every row; return its size in words and the lines of its profile."""
    config = data_set.config
    match config:
        case BundledData(file=file, sha256=checksum) if hash_file(find_data_file(config)) != checksum:
            raise DataError(f"em/assets/data/{file} was changed (another sha256 than the registry's): restore it.")
    conversations = read_all_rows(config).conversations
    rows = len(conversations)
    if config.rows is not None and rows != config.rows:
        raise DataError(f"{config.name} has {rows:,} rows that can be used, and the registry says {config.rows:,}.")
    faulty = sum(bool(find_encoding_faults(join_messages(row))) for row in conversations)
    summary = f"{rows:,} rows" + (f", {faulty:,} with faults of encoding" if faulty else "")
    if not profiled:
        return summary, ()
    questions, unseen = load_local_questions()
    return summary, tuple(describe_rows(profile_rows(conversations, questions), rows, unseen))
