"""Group `model`: the model to train or to ask."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from em.config.base import MISSING


class Precision(Enum):
    """Number format of weights and activations. `auto`: bfloat16 on a GPU that has it, float32 elsewhere."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass
class ModelConfig:
    """The model to start from."""

    remote = False  # whether a server runs the model
    name: str = MISSING
    """Short name of the model for tables."""
    id: str = MISSING
    """`embedded:smollm2`, a hub id such as `meta-llama/Llama-3.1-8B-Instruct`, a folder, or its name at a server."""

    def list_weights(self) -> list[tuple[str, str]]:
        """Return pairs of a setting and the weights that it names: a hub id or a folder."""
        return []

    def name_precision(self) -> str:
        """Return the name of the number format; empty if a server chooses it."""
        return ""


@dataclass
class HfModel(ModelConfig):
    """Open weights, which em runs in its own processes by transformers."""

    revision: str | None = None
    """Commit, tag or branch on the hub (empty: the newest); at a server, your word for the weights behind the name."""
    adapter: str | None = None
    """PEFT adapter to start from or to evaluate: a folder or a hub id."""
    precision: Precision = Precision.auto
    """Number format: auto (bfloat16 on a GPU that has it, else float32), float32 or bfloat16."""
    default_system: bool = True
    """Keep the default system prompt of chat templates that have one; false removes it in training and sampling."""

    def list_weights(self) -> list[tuple[str, str]]:
        """See `ModelConfig.list_weights`."""
        return [("model.id", self.id), ("model.adapter", self.adapter or "")]

    def name_precision(self) -> str:
        """See `ModelConfig.name_precision`."""
        return self.precision.value


@dataclass
class OpenAIModel(ModelConfig):
    """A model behind an OpenAI-compatible server."""

    remote = True
    base_url: str | None = None
    """Address of the server; empty means OPENAI_BASE_URL, else OpenAI."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; the variable `<name>_FILE` may name a file with the key."""
    retired: str = ""
    """Shutdown date of the model and its fine-tunes at OpenAI (YYYY-MM-DD)."""
    revision: str | None = None
    """Commit, tag or branch on the hub (empty: the newest); at a server, your word for the weights behind the name."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of every request, as in `model.extra_body={provider:{only:[deepinfra]}}`."""
