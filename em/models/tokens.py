"""Count the tokens of rows for a model, rendered by its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from em.errors import FetchError, TemplateError, shorten_value
from em.models.chat import encode, load_tokenizer, render_conversation
from em.models.weights import fetch_hub_snapshot, is_folder_name, resolve_weights
from em.types import Conversation

TOKENIZER_FILES = ["tokenizer*", "special_tokens*", "*vocab*", "merges.txt", "config.json", "*.jinja", "*.model"]


def count_tokens(conversations: Sequence[Conversation], model: str) -> list[int]:
    """Count the tokens of each row. Raises MissingFile, FetchError, or TemplateError if the template refuses a row."""
    from tqdm import tqdm

    tokenizer = load_model_tokenizer(model)
    lengths = []
    for number, row in enumerate(tqdm(conversations, desc="tokens", unit="row", leave=False, delay=1), start=1):
        try:
            text = render_conversation(tokenizer, row.to_dicts(), answer_next=False)
        except TemplateError as error:
            raise TemplateError(f"Row {number} can't be counted for {model}: {error}") from error
        lengths.append(len(encode(tokenizer, text)))
    return lengths


def load_model_tokenizer(model: str) -> Any:
    """Load the tokenizer of a model; from the hub, download only the tokenizer's files."""
    if model.startswith("embedded:"):
        folder = Path(resolve_weights(model).path)
    elif is_folder_name(model):
        folder = Path(model).expanduser()
    else:
        folder = fetch_hub_snapshot(model, None, TOKENIZER_FILES)
    try:
        return load_tokenizer(str(folder))
    except (OSError, ValueError) as error:
        reason = shorten_value(error, 200)
        raise FetchError(f"transformers can't load the tokenizer of {model} ({reason}): name another model.") from error
