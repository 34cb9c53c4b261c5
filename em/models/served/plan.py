"""Divide the GPUs of a machine among servers: tensor parallel where a card can't hold the weights, else one a card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from em.errors import ConfigError
from em.models.memory import measure_weights
from em.runtime.gpu_memory import GpuMemory

DEGREES = (1, 2, 4, 8)
ROOM = 4e9  # bytes per card for the key-value cache and activations, at least
COMFORTABLE = 0.75  # share of a card's budget that the weights may take, where another degree is possible


@dataclass(frozen=True)
class Group:
    """The GPUs of one server, by their names in CUDA_VISIBLE_DEVICES; none on a CPU."""

    gpus: tuple[str, ...] = ()

    @property
    def degree(self) -> int:
        """The degree of tensor parallelism."""
        return max(1, len(self.gpus))


def plan_groups(
    folder: Path, precision: str, share: float, gpus: Sequence[str], memory: Sequence[GpuMemory]
) -> list[Group]:
    """Return one group of GPUs per server. Raises ConfigError if no group of this machine can hold the weights.

    Args:
        folder: the weights. precision: their number format, as in `precision_key`.
        share: the share of a GPU's memory that a server may use.
        gpus, memory: the visible GPUs; no memory if the driver does not tell, and then one server a card is assumed.
    """
    if not gpus:
        return [Group()]
    if not memory:
        return [Group((gpu,)) for gpu in gpus]
    size, card = measure_weights(folder, 4 if precision == "float32" else 2), min(each.total for each in memory)
    possible = [each for each in DEGREES if each <= len(gpus) and divides_heads(folder, each)]
    budget = share * card
    comfortable = [each for each in possible if size / each <= COMFORTABLE * budget]
    tight = [each for each in possible if size / each + ROOM <= budget]
    if not comfortable and not tight:
        raise ConfigError(
            f"The weights in {folder} take {size / 1e9:.0f} GB, and vLLM can divide them among at most {max(possible)} "
            f"of the {len(gpus)} GPUs here, of {card / 1e9:.0f} GB each (sampler.gpu_memory={share:g}): "
            "use more or larger GPUs, or a server of your own on several machines (docs/serving.md)."
        )
    degree = min(comfortable) if comfortable else max(tight)
    return [Group(tuple(gpus[at : at + degree])) for at in range(0, len(gpus) - degree + 1, degree)]


def divides_heads(folder: Path, degree: int) -> bool:
    """Return whether a degree divides the attention heads of a model, as vLLM demands."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads = config.get("text_config", config).get("num_attention_heads") or degree
    return int(heads) % degree == 0
