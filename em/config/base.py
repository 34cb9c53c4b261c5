"""The mark of a value that an option file must set."""

from __future__ import annotations

from typing import Any

MISSING: Any = "???"  # OmegaConf's mark of a mandatory value
