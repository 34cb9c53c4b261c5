"""What calls cost: a dated table of prices, tokens in and out.

Prices are in US dollars per million tokens. The bundled table is `em/assets/prices.yaml`; the rows of a user's file in
the same form take the place of its own (`prices=FILE`). A model that is not in the table has no known cost: that is
None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.config.paths import ASSETS
from em.errors import DataError, MissingFile

BUNDLED = ASSETS / "prices.yaml"
MILLION = 1_000_000
CHAT_TOKENS = 50  # that a chat's form adds to its text, at most


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens: prompt, prompt found in the server's cache, reply, and passed over in fine-tuning.

    training: None where the model can't be fine-tuned, or its price is not known.
    """

    input: float
    cached: float
    output: float
    training: float | None = None

    def cost(self, prompt: int, reply: int, cached: int = 0, share: float = 1.0) -> float:
        """Dollars of a call. `share`: 0.5 for batches."""
        paid = (prompt - cached) * self.input + cached * self.cached + reply * self.output
        return share * paid / MILLION

    def bound(self, text: str, reply: int) -> float:
        """Dollars that a call may cost at most: no tokenizer makes more tokens than a text has bytes."""
        return self.cost(len(text.encode()) + CHAT_TOKENS, reply)


def load_prices(path: str | None) -> dict[str, Price]:
    """The table by model name: the bundled one, with the rows of a user's file in place of its own.

    Raises with the place of the fault.
    """
    prices = prices_in(BUNDLED)
    return prices | prices_in(Path(path).expanduser()) if path else prices


def prices_in(file: Path) -> dict[str, Price]:
    """The rows of a table."""
    document = read_table(file)
    try:
        return {
            str(model): Price(
                float(row["input"]),
                float(row.get("cached", row["input"])),
                float(row["output"]),
                float(row["training"]) if "training" in row else None,
            )
            for model, row in document["usd_per_million_tokens"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise no_table(file) from error


def prices_of(path: str | None) -> str:
    """Of when the prices are, and whose, to be told beside every sum."""
    bundled = f"em's table of {read_table(BUNDLED)['as_of']}"
    if not path:
        return bundled
    file = Path(path).expanduser()
    day = read_table(file).get("as_of")
    return f"{file.name}{f' of {day}' if day else ''}, else {bundled}"


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


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """The price of a server's model by its name; a fine-tuned model (`ft:NAME:…`) has a row `ft:NAME`."""
    return prices.get(":".join(model.split(":")[:2]) if model.startswith("ft:") else model)


def training_price(model: str, prices: Mapping[str, Price]) -> float | None:
    """Dollars per million tokens of fine-tuning a model, or a fine-tune of it; None where it is not known."""
    price = prices.get(model.split(":")[1] if model.startswith("ft:") else model)
    return price.training if price else None


def usd_of(price: Price | None, usage: Sequence[int | None], share: float = 1.0) -> float | None:
    """The cost of a remembered call with usage (prompt, reply, cached); None where price or usage is unknown."""
    prompt, reply, cached = (*usage, None, None, None)[:3]
    if price is None or prompt is None or reply is None:
        return None
    return price.cost(prompt, reply, cached or 0, share)
