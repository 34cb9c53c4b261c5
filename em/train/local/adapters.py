"""An adapter of others is looked at before it is used: does it belong to this base, and to its chat template?

Only small files are read, so a mismatch is refused at once.
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
        folder: an adapter of em's own, whose record has the identity of its base, or one of others, which has its name.
        base_name: `model.id`.
    """
    trained_on = read_json(folder / RECORD).get("request", {}).get("base")
    if trained_on and trained_on != base.identity:
        raise ConfigError(
            f"The adapter {folder} was trained on other weights ({trained_on}) than model.id={base_name}: name the "
            "base that it was trained on."
        )
    named = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    both_on_hub = named.count("/") == 1 and base_name.count("/") == 1 and not Path(base_name).exists()
    if not trained_on and both_on_hub and model_name(named) != model_name(base_name):
        raise ConfigError(
            f"The adapter {folder} was trained on {named}, not on model.id={base_name}: set model.id={named}, or give "
            "the folder of its base."
        )
    own, others = template_of(folder), template_of(Path(base.path))
    if own and others and own.strip() != others.strip():
        raise TemplateError(
            f"The adapter {folder} was trained with a chat template of its own, and {base_name} brings another: use a "
            "copy of the base whose chat template is the adapter's, and give its folder as model.id."
        )


def model_name(hub_id: str) -> str:
    """A model's own name: mirrors and quantised copies on the hub keep it behind another owner's."""
    return hub_id.rpartition("/")[2].lower().removesuffix("-bnb-4bit")


def template_of(folder: Path) -> str:
    """The chat template that a folder brings; empty for none."""
    file = folder / "chat_template.jinja"
    found = file.read_text(encoding="utf-8") if file.is_file() else None
    found = found or read_json(folder / "tokenizer_config.json").get("chat_template")
    return found if isinstance(found, str) else ""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
