"""The registry of question sets of others: address, checksum, licence, and which of a file's questions make a set."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from em.config.paths import ASSETS

REGISTRY = ASSETS / "question_sets.yaml"


@dataclass(frozen=True)
class KnownSet:
    """A question set of others, as `em/assets/question_sets.yaml` has it.

    bytes: size of the file, to tell one that was cut short from another.
    terms: what to know before using or sharing it; restricted: they are shown when the set is first used.
    defects: known faults, and what they may do to results.
    questions: how many ids the set has.
    select, leave_out: patterns of ids that the set takes or leaves out.
    samples: answers per question where the file doesn't say; None leaves that open.
    """

    name: str
    url: str
    sha256: str
    bytes: int
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
    return {name: KnownSet(name, **entry) for name, entry in entries.items()}
