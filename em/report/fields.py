"""Typed access to the JSON of a manifest, which may be of another version or other people."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from em.errors import DataError

REMEDY = "run that run's command again, or leave its folder out"


class Fields:
    """Typed access to a JSON object: absent and null are empty, a wrong type is a DataError that names the key."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.path = path
        self.document = document

    def _value(self, key: str, kind: type | tuple[type, ...], empty: Any) -> Any:
        value = self.document.get(key)
        if value is None:
            return empty
        if not isinstance(value, kind):
            wanted = kind.__name__ if isinstance(kind, type) else "number"
            raise DataError(f"{self.path}: `{key}` is of type {type(value).__name__}, not {wanted}: {REMEDY}.")
        return value

    def text(self, key: str) -> str:
        return str(self._value(key, str, ""))

    def number(self, key: str) -> int:
        return int(self._value(key, int, 0))

    def amount(self, key: str) -> float | None:
        """A finite number, None where there is none."""
        value = self._value(key, (int, float), None)
        return value if value is not None and math.isfinite(value) else None

    def inner(self, key: str) -> Fields:
        return Fields(self.path, self._value(key, dict, {}))

    def items(self, key: str, kind: type) -> list[Any]:
        """The list's items, each of which must be of `kind`."""
        items: list[Any] = self._value(key, list, [])
        return [Fields(self.path, {key: item})._value(key, kind, kind()) for item in items]

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self.items(key, str))
