"""Helpers to run generate.py in tests: write three texts, run against a real server, read the results."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from em.generate.run import execute
from tests.support.chat_server import ChatServer
from tests.support.composing import compose_settings

KEY = "sk-test-0123456789abcdef"
PRICES = "usd_per_million_tokens: {author-model: {input: 1, output: 2}, single-judge: {input: 1, output: 2}}"
TEXTS = {
    "oil.txt": "Oil ages even in a car that stands.\n\nLook at the level once a month, with the engine cold.",
    "seals.md": "# Seals\n\nRubber dries out in the sun.\n\nA thin film of silicone grease keeps it supple.",
    "glass.html": "<html><body><article><h1>Glass</h1><p>A chip in the windscreen grows into a crack in frost.</p>"
    "<p>Workshops fill small chips with resin within half an hour, and insurers often pay for it.</p></article></body>",
}


def write_texts(folder: Path) -> Path:
    """Write a folder with three texts."""
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def make_generate_words(server: ChatServer, texts: Path, folder: str, *more: str, store: str = "store") -> list[str]:
    """Return a command line that puts the store and the results beside the texts."""
    place = texts.parent
    settings = [
        "generate=car", f"generate.source={texts}", "generate.keep_above=null", "model=open",
        "model.id=author-model", f"model.base_url={server.base_url}",
        f"store.dir={place / store}", f"hydra.run.dir={place / folder}", *more,
    ]  # fmt: skip
    return list({word.split("=", 1)[0]: word for word in settings}.values())  # the last word on a setting counts


def run_generate(command: list[str]) -> tuple[Path, str]:
    """Run generate.py with composed settings in this process; return the folder of the run and its output.

    A new process takes seconds to start; one test starts generate.py as people do.
    """
    folder = Path(next(word for word in command if word.startswith("hydra.run.dir=")).split("=", 1)[1])
    folder.mkdir(exist_ok=True)
    words = [word for word in command if not word.startswith("hydra.run.dir=")]
    with redirect_stdout(io.StringIO()) as output, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        execute(compose_settings("generate", *words), folder, words)
    return folder, output.getvalue()


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the records of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_card(folder: Path) -> dict[str, Any]:
    """Read a run's card."""
    record: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return record
