"""Question sets by name or path: ours, known ones of others (fetched at first use), a user's YAML or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from em.config.paths import ASSETS
from em.data.fetch import fetch
from em.data.rows import show_terms
from em.errors import DataError, MissingFile, did_you_mean
from em.questions.formats import read_questions
from em.questions.known import KnownSet, known_sets
from em.types import Question

BUNDLED = ASSETS / "questions"
SUFFIXES = (".yaml", ".yml", ".json")


def load_sets(names: Sequence[str]) -> list[Question]:
    """All questions of the named sets, in order.

    Raises:
        MissingFile: a name that is no set, with near names.
        DataError: a fault in a set, with its place.
        FetchError: a set of others that can't be had.
    """
    stems = [Path(name).stem for name in names]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise DataError(f"eval.sets names two sets {twice[0]!r}: sets are told apart by their name, so rename a file.")
    fetched: dict[str, Path] = {}
    return [question for name in names for question in load_set(name, fetched)]


def load_set(name: str, fetched: dict[str, Path] | None = None) -> list[Question]:
    """One set: a name of ours, a known name, or the path of a YAML or JSON file (its stem names the set).

    Args:
        fetched: files of others by their address, as far as they are here already; what is fetched is added.
    """
    if (bundled := BUNDLED / f"{name}.yaml").is_file():
        return read_questions(bundled, name)
    if known := known_sets().get(name):
        return load_known(known, {} if fetched is None else fetched)
    path = Path(name).expanduser()
    if path.suffix not in SUFFIXES or not path.is_file():
        raise MissingFile(no_such_set(name))
    return read_questions(path, path.stem)


def load_known(known: KnownSet, fetched: dict[str, Path]) -> list[Question]:
    """A set of others: fetched once an address, and of its questions those that the set is made of."""
    show_terms(known)
    if known.url not in fetched:
        fetched[known.url] = fetch(known.url, known.sha256, known.bytes)
    questions = [q for q in read_questions(fetched[known.url], known.name) if known.takes(q.id)]
    return [replace(q, samples=known.samples) if q.samples is None else q for q in questions]


def no_such_set(name: str) -> str:
    """What to say of a name that is no set: near names, all names, and what else may be given."""
    names = sorted([*(file.stem for file in BUNDLED.glob("*.yaml")), *known_sets()])
    hint = did_you_mean(name, names).replace("did", " Did", 1)
    return (
        f"eval.sets: {name!r} is neither a question set that em knows ({', '.join(names)}) nor a YAML or JSON file."
        f"{hint}"
    )
