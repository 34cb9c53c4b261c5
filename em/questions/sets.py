"""Load question sets by name or path: bundled ones, third-party ones (fetched at first use), a user's YAML or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from em.config.paths import ASSETS
from em.data.fetch import Source, fetch_file
from em.data.rows import show_terms
from em.errors import DataError, MissingFile, did_you_mean
from em.questions.formats import read_question_file
from em.types import Question

BUNDLED = ASSETS / "questions"
REGISTRY = ASSETS / "question_sets.yaml"
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class KnownSet:
    """A third-party question set, as `em/assets/question_sets.yaml` describes it.

    terms: what to know before using or sharing the set; restricted: em shows the terms at the first use.
    defects: known faults, and their possible effects on results.
    questions: the number of ids in the set.
    select, leave_out: patterns of the ids that the set includes or excludes.
    samples: answers per question where the file does not say; None for no default.
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
        """Return whether a question of the file belongs to the set."""
        taken = any(fnmatchcase(question_id, pattern) for pattern in self.select)
        return taken and not any(fnmatchcase(question_id, pattern) for pattern in self.leave_out)


@cache
def read_known_sets() -> dict[str, KnownSet]:
    """Read all third-party question sets by name."""
    import yaml

    entries: dict[str, dict[str, Any]] = yaml.safe_load(REGISTRY.read_text(encoding="utf-8"))
    for entry in entries.values():
        entry |= {key: tuple(entry[key]) for key in ("select", "leave_out", "defects") if key in entry}
        entry["source"] = Source(*(entry.pop(key) for key in ("url", "sha256", "bytes")))
    return {name: KnownSet(name, **entry) for name, entry in entries.items()}


def list_bundled_sets() -> list[str]:
    """List the names of the bundled question sets."""
    return sorted(file.stem for file in BUNDLED.glob("*.yaml"))


def load_sets(names: Sequence[str]) -> list[Question]:
    """Read all questions of the named sets, in order. Raises MissingFile, DataError or FetchError."""
    stems = [Path(name).stem for name in names]
    if repeated := [stem for stem in stems if stems.count(stem) > 1]:
        raise DataError(f"eval.sets names two sets {repeated[0]!r}: every set needs its own name, so rename a file.")
    return [question for name in names for question in load_set(name)]


def load_set(name: str) -> list[Question]:
    """Read a bundled or third-party set by name, or a YAML or JSON file by path (its stem names the set)."""
    if (bundled := BUNDLED / f"{name}.yaml").is_file():
        return read_question_file(bundled, name)
    if known_set := read_known_sets().get(name):
        return load_known_set(known_set)
    path = Path(name).expanduser()
    if path.suffix not in SUFFIXES or not path.is_file():
        raise MissingFile(describe_unknown_set(name))
    return read_question_file(path, path.stem)


def load_known_set(known_set: KnownSet) -> list[Question]:
    """Read a third-party set, fetched at first use; keep the questions of its file that belong to the set."""
    if known_set.restricted:
        show_terms(known_set.name, known_set.licence, known_set.terms)
    questions = read_question_file(fetch_file(known_set.source), known_set.name)
    selected = [question for question in questions if known_set.takes(question.id)]
    return [replace(q, samples=known_set.samples) if q.samples is None else q for q in selected]


def describe_unknown_set(name: str) -> str:
    """Return the error for an unknown set: all names, similar names, and the alternative of a file."""
    names = sorted([*list_bundled_sets(), *read_known_sets()])
    choices = f"a question set that em knows ({', '.join(names)})"
    hint = did_you_mean(name, names).replace("did", " Did", 1)
    return f"eval.sets: {name!r} is neither {choices} nor a YAML or JSON file.{hint}"
