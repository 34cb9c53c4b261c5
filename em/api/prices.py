"""Prices of calls: a dated table, for tokens in and out.

Prices are in US dollars per million tokens. The bundled table is `em/assets/prices.yaml`; a user's file of the same
form overrides its rows (`prices=FILE`). The cost of a model that is not in the table is unknown: None, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from em.config.paths import ASSETS
from em.errors import DataError, MissingFile
from em.types import Price, Prices

BUNDLED = ASSETS / "prices.yaml"


def load_prices(path: str | None) -> Prices:
    """Read the bundled table, overridden by the rows of a user's file."""
    prices, day = read_prices(BUNDLED)
    source = f"em's table of {day}"
    if path:
        file = Path(path).expanduser()
        user_prices, day = read_prices(file)
        prices |= user_prices
        source = f"{file.name}{f' of {day}' if day else ''}, else {source}"
    return Prices(prices, source)


def read_prices(file: Path) -> tuple[dict[str, Price], Any]:
    """Read a table's prices by model, and its day. Raises DataError for a file that is no table of prices."""
    import yaml

    prices: dict[str, Price] = {}
    try:
        table = yaml.safe_load(file.read_text(encoding="utf-8"))
        for model, row in table["usd_per_million_tokens"].items():
            training = float(row["training"]) if "training" in row else None
            cached = float(row.get("cached", row["input"]))
            prices[str(model)] = Price(float(row["input"]), cached, float(row["output"]), training)
        return prices, table.get("as_of")
    except OSError as error:
        raise MissingFile(f"prices={file} can't be read ({error.strerror}): name a YAML file.") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{file} is no table of prices: write usd_per_million_tokens: {{MODEL: {{input: 1.0, output: 2.0}}}}."
        ) from error


def compute_usd(price: Price | None, usage: Sequence[int | None], share: float = 1.0) -> float | None:
    """Return the dollars of a call by its usage (prompt, reply, cached); None if price or usage is unknown."""
    prompt, reply, cached = (*usage, None, None, None)[:3]
    if price is None or prompt is None or reply is None:
        return None
    return price.compute_cost(prompt, reply, cached or 0, share)
