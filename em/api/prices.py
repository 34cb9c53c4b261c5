"""What calls cost: a dated table of prices, tokens in and out.

Prices are in US dollars per million tokens. The bundled table is `em/assets/prices.yaml`; the rows of a user's file in
the same form take the place of its own (`prices=FILE`). A model that is not in the table has no known cost: that is
None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from em.config.paths import ASSETS
from em.errors import DataError, MissingFile
from em.types import Price, Prices

BUNDLED = ASSETS / "prices.yaml"


def load_prices(path: str | None) -> Prices:
    """Read the bundled table, with the rows of a user's file in place of its own.

    Raises:
        DataError, MissingFile: with the place of the fault.
    """
    bundled = read_table(BUNDLED)
    prices, source = parse_prices(BUNDLED, bundled), f"em's table of {bundled['as_of']}"
    if path:
        file = Path(path).expanduser()
        table = read_table(file)
        prices |= parse_prices(file, table)
        day = f" of {table['as_of']}" if table.get("as_of") else ""
        source = f"{file.name}{day}, else {source}"
    return Prices(prices, source)


def parse_prices(file: Path, table: Mapping[str, Any]) -> dict[str, Price]:
    """Return the rows of a table by the model's name. Raises DataError for one that holds no prices."""
    try:
        return {
            str(model): Price(
                float(row["input"]),
                float(row.get("cached", row["input"])),
                float(row["output"]),
                float(row["training"]) if "training" in row else None,
            )
            for model, row in table["usd_per_million_tokens"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise no_table(file) from error


def read_table(file: Path) -> dict[str, Any]:
    """A table as it stands in its file."""
    import yaml

    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFile(f"prices={file} can't be read ({error.strerror}): name a YAML file.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise no_table(file) from error
    if not isinstance(document, dict):
        raise no_table(file)
    return document


def no_table(file: Path) -> DataError:
    """The refusal of a file that holds no prices."""
    return DataError(
        f"{file} is no table of prices: write usd_per_million_tokens: {{MODEL: {{input: 1.0, output: 2.0}}}}."
    )


def usd_of(price: Price | None, usage: Sequence[int | None], share: float = 1.0) -> float | None:
    """The cost of a remembered call with usage (prompt, reply, cached); None where price or usage is unknown."""
    prompt, reply, cached = (*usage, None, None, None)[:3]
    if price is None or prompt is None or reply is None:
        return None
    return price.cost(prompt, reply, cached or 0, share)
