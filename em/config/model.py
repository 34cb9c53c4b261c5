"""Group `model`: what is trained or asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from em.config.base import MISSING


class Precision(Enum):
    """Number format of weights and activations. `auto`: bfloat16 on a GPU that has it, float32 elsewhere."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass
class ModelConfig:
    """The model to start from."""

    remote = False  # whether a server runs it
    name: str = MISSING
    """Short name, used in tables."""
    id: str = MISSING
    """`embedded:smollm2`, a hub id such as `meta-llama/Llama-3.1-8B-Instruct`, a folder, or a server's model name."""

    def list_weights(self) -> list[tuple[str, str]]:
        """List names of weights, or folders with them, each behind the setting that names it."""
        return []

    def name_precision(self) -> str:
        """Name the number format; empty where a server chooses it."""
        return ""


@dataclass
class HfModel(ModelConfig):
    """Open weights, run in processes of our own (transformers)."""

    revision: str | None = None
    """Commit, tag or branch on the hub; empty means the newest."""
    adapter: str | None = None
    """A PEFT adapter to start from or to evaluate: a folder or a hub id."""
    precision: Precision = Precision.auto
    """Number format: auto (bfloat16 on a GPU that has it, else float32), float32 or bfloat16."""
    default_system: bool = True
    """Keep the system prompt that some chat templates begin with by themselves; false leaves it out everywhere."""

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
    """Address of the server; empty means OPENAI_BASE_URL, or OpenAI's own."""
    key_env: str = "OPENAI_API_KEY"
    """The variable of the environment that holds the server's key; `<name>_FILE` names a file that does."""
    retired: str = ""
    """Day from which OpenAI's own server has it, and every fine-tune of it, no more (YYYY-MM-DD)."""
