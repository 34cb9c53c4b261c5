"""The registry of question sets of others: address, checksum, licence, and which of a file's questions make a set."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

REGISTRY = Path(__file__).parents[1] / "bundled" / "question_sets.yaml"


@dataclass(frozen=True)
class KnownSet:
    """A question set of others, as `em/bundled/question_sets.yaml` has it.

    bytes: size of the file, to tell one that was cut short from another.
    select, leave_out: patterns of ids that the set takes or leaves out.
    samples: answers per question where the file doesn't say; None leaves that open.
    """

    name: str
    url: str
    sha256: str
    bytes: int
    licence: str
    select: tuple[str, ...] = ("*",)
    leave_out: tuple[str, ...] = ()
    samples: int | None = None

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
        entry |= {key: tuple(entry[key]) for key in ("select", "leave_out") if key in entry}
    return {name: KnownSet(name, **entry) for name, entry in entries.items()}
