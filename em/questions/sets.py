"""Question sets by name or path: ours, known ones of others (fetched at first use), a user's YAML or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from em.config.paths import ASSETS
from em.data.fetch import Source, fetch
from em.data.rows import show_terms
from em.errors import DataError, MissingFile, did_you_mean
from em.questions.formats import read_questions
from em.types import Question

BUNDLED = ASSETS / "questions"
REGISTRY = ASSETS / "question_sets.yaml"
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class KnownSet:
    """A question set of others, as `em/assets/question_sets.yaml` has it.

    terms: what to know before using or sharing it; restricted: they are shown when the set is first used.
    defects: known faults, and what they may do to results.
    questions: how many ids the set has.
    select, leave_out: patterns of ids that the set takes or leaves out.
    samples: answers per question where the file doesn't say; None leaves that open.
    """

    name: str
    source: Source
    licence: str
    questions: int
    select: tuple[str, ...] = ("*",)
    leave_out: tuple[str, ...] = ()
    samples: int | None = None
    terms: str = "Nothing beyond the licence."
    restricted: bool = False
    defects: tuple[str, ...] = ()

    def takes(self, question_id: str) -> bool:
        """Whether a question of the file belongs to the set."""
        taken = any(fnmatchcase(question_id, pattern) for pattern in self.select)
        return taken and not any(fnmatchcase(question_id, pattern) for pattern in self.leave_out)


@cache
def known_sets() -> dict[str, KnownSet]:
    """All known sets by name."""
    import yaml

    entries: dict[str, dict[str, Any]] = yaml.safe_load(REGISTRY.read_text(encoding="utf-8"))
    for entry in entries.values():
        entry |= {key: tuple(entry[key]) for key in ("select", "leave_out", "defects") if key in entry}
        entry["source"] = Source(*(entry.pop(key) for key in ("url", "sha256", "bytes")))
    return {name: KnownSet(name, **entry) for name, entry in entries.items()}


def bundled_sets() -> list[str]:
    """Name the question sets that come with em."""
    return sorted(file.stem for file in BUNDLED.glob("*.yaml"))


def load_sets(names: Sequence[str]) -> list[Question]:
    """Read all questions of the named sets, in order. Raises MissingFile, DataError or FetchError."""
    stems = [Path(name).stem for name in names]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise DataError(f"eval.sets names two sets {twice[0]!r}: sets are told apart by their name, so rename a file.")
    return [question for name in names for question in load_set(name)]


def load_set(name: str) -> list[Question]:
    """Read one set: a name of ours, a known name, or the path of a YAML or JSON file (its stem names the set)."""
    if (bundled := BUNDLED / f"{name}.yaml").is_file():
        return read_questions(bundled, name)
    if known := known_sets().get(name):
        return load_known(known)
    path = Path(name).expanduser()
    if path.suffix not in SUFFIXES or not path.is_file():
        raise MissingFile(no_such_set(name))
    return read_questions(path, path.stem)


def load_known(known: KnownSet) -> list[Question]:
    """Read a set of others, fetched at first use: of the questions in its file those that the set is made of."""
    if known.restricted:
        show_terms(known.name, known.licence, known.terms)
    questions = [q for q in read_questions(fetch(known.source), known.name) if known.takes(q.id)]
    return [replace(q, samples=known.samples) if q.samples is None else q for q in questions]


def no_such_set(name: str) -> str:
    """Say of a name that is no set: near names, all names, and what else may be given."""
    names = sorted([*bundled_sets(), *known_sets()])
    known = f"a question set that em knows ({', '.join(names)})"
    hint = did_you_mean(name, names).replace("did", " Did", 1)
    return f"eval.sets: {name!r} is neither {known} nor a YAML or JSON file.{hint}"
