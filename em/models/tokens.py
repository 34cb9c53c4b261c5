"""Count the tokens of rows for a model, rendered by its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from em.errors import FetchError, TemplateError, shown
from em.models.chat import encode, load_tokenizer, render
from em.models.weights import hub_snapshot, looks_like_folder, resolve_weights
from em.types import Conversation

TOKENIZER_FILES = ["tokenizer*", "special_tokens*", "*vocab*", "merges.txt", "config.json", "*.jinja", "*.model"]


def token_lengths(conversations: Sequence[Conversation], model: str) -> list[int]:
    """Count the tokens of each row. Raises MissingFile, FetchError, or TemplateError if the template refuses a row."""
    from tqdm import tqdm

    tokenizer = tokenizer_of(model)
    lengths = []
    for number, row in enumerate(tqdm(conversations, desc="tokens", unit="row", leave=False, delay=1), start=1):
        try:
            text = render(tokenizer, row.as_dicts(), answer_next=False)
        except Exception as error:  # a template may raise any exception
            raise TemplateError(f"The chat template of {model} refuses row {number}: {error}") from error
        lengths.append(len(encode(tokenizer, text)))
    return lengths


def tokenizer_of(model: str) -> Any:
    """Load the tokenizer of a model; from the hub, download only the tokenizer's files."""
    if model.startswith("embedded:"):
        folder = Path(resolve_weights(model).path)
    elif looks_like_folder(model):
        folder = Path(model).expanduser()
    else:
        folder = hub_snapshot(model, None, TOKENIZER_FILES)
    try:
        return load_tokenizer(str(folder))
    except (OSError, ValueError) as error:
        reason = shown(error, 200)
        raise FetchError(f"transformers can't load the tokenizer of {model} ({reason}): name another model.") from error
