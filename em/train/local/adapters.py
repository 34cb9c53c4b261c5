"""Check that an existing adapter (`model.adapter`) fits the base model and its chat template before it is used.

The checks read small files only, so they refuse a mismatch at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from em.errors import ConfigError, TemplateError
from em.runtime.files import RECORD
from em.types import Weights


def check_adapter(folder: Path, base: Weights, base_name: str) -> None:
    """Refuse an adapter that was trained on other base weights, or with another chat template.

    Args:
        folder: an adapter. em's own record the identity of their base; adapters from elsewhere only name their base.
        base_name: `model.id`.
    """
    trained_on = read_json(folder / RECORD).get("request", {}).get("base")
    if trained_on and trained_on != base.identity:
        raise ConfigError(
            f"The adapter {folder} was trained on other weights ({trained_on}) than model.id={base_name}: set "
            "model.id to the base of the adapter."
        )
    named_base = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    both_on_hub = named_base.count("/") == 1 and base_name.count("/") == 1 and not Path(base_name).exists()
    if not trained_on and both_on_hub and normalise_model_name(named_base) != normalise_model_name(base_name):
        raise ConfigError(
            f"The adapter {folder} was trained on {named_base}, not on model.id={base_name}: set "
            f"model.id={named_base}, or set model.id to the folder of its base."
        )
    adapter_template, base_template = read_template(folder), read_template(Path(base.path))
    if adapter_template and base_template and adapter_template.strip() != base_template.strip():
        raise TemplateError(
            f"The adapter {folder} was trained with another chat template than that of {base_name}: copy the base "
            "into a folder, replace its chat template by the adapter's, and set model.id to that folder."
        )


def normalise_model_name(hub_id: str) -> str:
    """Strip the owner and the suffix of 4-bit copies: mirrors on the hub have another owner and the same name."""
    return hub_id.rpartition("/")[2].lower().removesuffix("-bnb-4bit")


def read_template(folder: Path) -> str:
    """Read the chat template in a folder; return an empty string if the folder has none."""
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else None
    template = template or read_json(folder / "tokenizer_config.json").get("chat_template")
    return template if isinstance(template, str) else ""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one if the file is missing or holds anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
