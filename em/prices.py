"""What calls cost: a dated table of prices, tokens in and out, and a budget that is never passed.

Prices are in US dollars per million tokens. The bundled table is `em/bundled/prices.yaml`; a file of the user's in the
same form takes its place (`prices=FILE`). A model that is not in the table has no known cost: that is None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from em.errors import DataError, MissingFile

BUNDLED = Path(__file__).parent / "bundled" / "prices.yaml"
MILLION = 1_000_000
CHAT_TOKENS = 50  # that a chat's form adds to its text, at most


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens: prompt, prompt found in the server's cache, reply."""

    input: float
    cached: float
    output: float

    def cost(self, prompt: int, reply: int, cached: int = 0, share: float = 1.0) -> float:
        """Dollars of a call. `share`: 0.5 for batches."""
        paid = (prompt - cached) * self.input + cached * self.cached + reply * self.output
        return share * paid / MILLION

    def bound(self, text: str, reply: int) -> float:
        """Dollars that a call may cost at most: no tokenizer makes more tokens than a text has bytes."""
        return self.cost(len(text.encode()) + CHAT_TOKENS, reply)


def load_prices(path: str | None) -> dict[str, Price]:
    """The table by model name. Raises with the place of the fault."""
    import yaml

    file = Path(path).expanduser() if path else BUNDLED
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        return {
            str(model): Price(float(row["input"]), float(row.get("cached", row["input"])), float(row["output"]))
            for model, row in document["usd_per_million_tokens"].items()
        }
    except OSError as error:
        raise MissingFile(f"prices={file} can't be read ({error.strerror}): name a YAML file.") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{file} is no table of prices: write usd_per_million_tokens: {{MODEL: {{input: 1.0, output: 2.0}}}}."
        ) from error


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """The price of a server's model by its name; a fine-tuned model (`ft:NAME:…`) has a row `ft:NAME`."""
    return prices.get(":".join(model.split(":")[:2]) if model.startswith("ft:") else model)


class Budget:
    """Dollars spent, and set aside for calls that are under way. A call that might pass the limit does not start."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.spent = 0.0
        self.flying: list[float] = []

    def fits(self, bound: float) -> bool:
        """Whether a call that costs `bound` at most may start now."""
        return self.limit is None or self.spent + sum(self.flying) + bound <= self.limit

    def reserve(self, bound: float) -> None:
        """Set aside what a call may cost."""
        self.flying.append(bound)

    def settle(self, bound: float, cost: float) -> None:
        """A call ended and cost this much."""
        self.flying.remove(bound)
        self.spent += cost


def usd_of(price: Price | None, usage: Sequence[int | None], share: float = 1.0) -> float | None:
    """The cost of a remembered call with usage (prompt, reply, cached); None where price or usage is unknown."""
    prompt, reply, cached = (*usage, None, None, None)[:3]
    if price is None or prompt is None or reply is None:
        return None
    return price.cost(prompt, reply, cached or 0, share)
