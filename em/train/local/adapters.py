"""Check that an existing adapter (`model.adapter`) fits the base model and its chat template before it is used.

The checks read small files and headers only, so they refuse a mismatch at once.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from em.errors import ConfigError, TemplateError
from em.runtime.files import RECORD
from em.types import Weights

QUANTIZED = re.compile(
    r"[-_.](unsloth|bnb|[48]-?bits?|int[48]|nf4|fp8|[bf]?fp?16|awq|gptq|gguf|mlx|hqq|exl2|w\d+a\d+|quantized|dynamic)$"
)
"""An ending of the names of copies in another number format, as `-unsloth-bnb-4bit` has three."""

SAME_MODEL = {
    "embedded:smollm2": "smollm2-135m-instruct",
    "mistral-7b": "mistral-7b-v0.1",
    "tinyllama-chat": "tinyllama-1.1b-chat-v1.0",
    "tinyllama": "tinyllama-1.1b-intermediate-step-1431k-3t",
    "zephyr-sft": "mistral-7b-sft-beta",
}
"""Names of copies that no rule derives from the name of the original."""

FOLDERS = (
    *("base", "base_model", "base_models", "checkpoint", "checkpoints", "ckpt", "ckpts", "data", "merged", "model"),
    *("models", "out", "output", "outputs", "results", "runs", "saves", "weights"),
)
"""Usual names of folders: `models/base` in an adapter's config is no name on the hub."""


def check_adapter(folder: Path, base: Weights, base_name: str) -> str:
    """Refuse an adapter of other base weights or another chat template; return a note if its base is not certain.

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
    note = "" if trained_on else check_base_name(folder, base_name)
    check_vocabulary(folder, Path(base.path), base_name)
    adapter_template, base_template = read_template(folder), read_template(Path(base.path))
    if adapter_template and base_template and adapter_template.strip() != base_template.strip():
        raise TemplateError(
            f"The adapter {folder} was trained with another chat template than that of {base_name}: copy the base "
            "into a folder, replace its chat template by the adapter's, and set model.id to that folder."
        )
    return note


def check_base_name(folder: Path, base_name: str) -> str:
    """Refuse an adapter that names another model as its base; return a note if the names don't settle it."""
    written = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    named, wanted = find_hub_id(written), find_hub_id(base_name)
    if not (named and wanted) and normalise_model_name(written) == normalise_model_name(base_name):
        return ""
    if not named or not wanted:
        named_base = f"names {written} as its base" if written else "doesn't name its base"
        return f"The adapter {folder} {named_base}, so em can't tell whether it was trained on model.id={base_name}."
    if normalise_model_name(named) != normalise_model_name(wanted):
        fix = " to the original of that copy in fewer bits" if is_quantized(named) else f"={named}"
        raise ConfigError(
            f"The adapter {folder} was trained on {named}, not on model.id={base_name}: set model.id{fix}, or to the "
            "folder of its base."
        )
    if is_quantized(named) and not is_quantized(wanted):
        return f"The adapter {folder} was trained on {named}, and is used on the full weights of model.id={base_name}."
    return ""


def find_hub_id(name: str) -> str:
    """Return the hub id in the name of a model, which may be a folder of the hub's cache; "" for other folders."""
    if cached := re.search(r"models--([^/\\]+?)--([^/\\]+)", name):
        return "/".join(cached.groups())
    on_hub = name.count("/") == 1 and name[0] not in "./~" and not Path(name).exists()
    on_hub = on_hub and name.partition("/")[0].lower() not in FOLDERS
    return name if on_hub or name in SAME_MODEL else ""


def is_quantized(hub_id: str) -> bool:
    """Return whether a name is that of a copy in fewer bits."""
    return bool(QUANTIZED.search(hub_id.lower())) and not hub_id.lower().endswith("16")


def normalise_model_name(hub_id: str) -> str:
    """Return one name for a model and its copies: mirrors have another owner, copies in fewer bits another ending."""
    name = hub_id.rpartition("/")[2].lower().removeprefix("meta-")  # Meta-Llama-3.1-8B was renamed to Llama-3.1-8B
    while match := QUANTIZED.search(name):
        name = name[: match.start()]
    name = name.removesuffix("-hf")
    return SAME_MODEL.get(name, name)


def check_vocabulary(folder: Path, base: Path, base_name: str) -> None:
    """Refuse an adapter that holds embeddings of more or fewer tokens than the base has."""
    config = read_json(base / "config.json")
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    for name, shape in read_shapes(folder / "adapter_model.safetensors").items():
        if size and re.search(r"\.(embed_tokens|lm_head)(\.base_layer)?\.weight$", name) and shape[0] != size:
            raise ConfigError(
                f"The adapter {folder} has a vocabulary of {shape[0]:,} tokens, and model.id={base_name} has {size:,}: "
                "merge it into its base with PEFT (merge_and_unload) after resize_token_embeddings, save the result "
                "with the adapter's tokenizer, and set model.id to its folder."
            )


def read_shapes(file: Path) -> dict[str, list[int]]:
    """Read the shapes of the tensors in a safetensors file, without the tensors; none if it is damaged."""
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except (OSError, ValueError):
        return {}
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


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
