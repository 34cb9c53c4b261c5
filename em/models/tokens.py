"""How long rows are in the tokens of a model, rendered by its own chat template."""

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
    """Count the tokens of each row. Raises MissingFile or FetchError, or TemplateError where a template refuses one."""
    from tqdm import tqdm

    tokenizer = tokenizer_of(model)
    lengths = []
    for number, row in enumerate(tqdm(conversations, desc="tokens", unit="row", leave=False, delay=1), start=1):
        try:
            text = render(tokenizer, row.as_dicts(), answer_next=False)
        except Exception as error:  # templates raise what they like
            raise TemplateError(f"The chat template of {model} refuses row {number}: {error}") from error
        lengths.append(len(encode(tokenizer, text)))
    return lengths


def tokenizer_of(model: str) -> Any:
    """The tokenizer of a model; of one on the hub no weights are fetched for it."""
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
        raise FetchError(f"{model} has no tokenizer that transformers can load ({reason}): name another.") from error
