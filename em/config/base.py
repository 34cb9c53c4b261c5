"""The mark of a value that an option file must give."""

from __future__ import annotations

from typing import Any

MISSING: Any = "???"  # OmegaConf's mark for a value that an option file must give
