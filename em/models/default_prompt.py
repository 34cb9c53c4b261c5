"""Find the default system prompt of a model's chat template in a child process, since the parent imports no torch."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from em.models.chat import find_default_prompt, load_tokenizer
from em.models.weights import locate_tokenizer
from em.runtime.files import write_atomic
from em.runtime.processes import run_child


@dataclass(frozen=True)
class TemplateSpec:
    """The model folder whose chat template a child process reads, and the file for the result."""

    folder: str
    result: str


def read_default_prompt(model: str, revision: str | None) -> str | None:
    """Return a model's default system prompt as `find_default_prompt` does; `model` is as for `resolve_weights`.

    Raises EmError if the model has no chat template, or its tokenizer can't be found or downloaded.
    """
    with tempfile.TemporaryDirectory(prefix="em-template-") as scratch:
        result = Path(scratch, "prompt.json")
        run_child("template", TemplateSpec(locate_tokenizer(model, revision), str(result)))
        prompt: str | None = json.loads(result.read_text(encoding="utf-8"))
    return prompt


def write_default_prompt(spec: TemplateSpec) -> None:
    """Write the default system prompt as JSON; runs in the child process."""
    write_atomic(Path(spec.result), json.dumps(find_default_prompt(load_tokenizer(spec.folder))))
