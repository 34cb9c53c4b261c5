"""Terms that forbid more than a usual licence are shown once a user, when the set is first used."""

from __future__ import annotations

from typing import Protocol

from em.store import cache_dir
from em.types import digest


class HasTerms(Protocol):
    """A set of rows or of questions."""

    @property
    def name(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def terms(self) -> str: ...
    @property
    def restricted(self) -> bool: ...


def show_terms(config: HasTerms) -> None:
    """Print the terms of a restricted set unless this user has seen them, here or of a set with the same terms."""
    if not config.restricted or not config.terms:
        return
    seen = cache_dir() / "terms" / digest([config.licence, config.terms])[:16]
    if seen.exists():
        return
    print(f"Terms of {config.name} (licence: {config.licence or 'none stated'}): {' '.join(config.terms.split())}")
    try:
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()
    except OSError:
        return  # they are shown again next time
