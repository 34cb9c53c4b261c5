"""How tests run generate.py: three texts, a real server, and what a run leaves."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from em.generate.run import execute
from tests.support.chat_server import ChatServer
from tests.support.composing import composed

KEY = "sk-test-0123456789abcdef"
PRICES = "usd_per_million_tokens: {author-model: {input: 1, output: 2}, single-judge: {input: 1, output: 2}}"
TEXTS = {
    "oil.txt": "Oil ages even in a car that stands.\n\nLook at the level once a month, with the engine cold.",
    "seals.md": "# Seals\n\nRubber dries out in the sun.\n\nA thin film of silicone grease keeps it supple.",
    "glass.html": "<html><body><article><h1>Glass</h1><p>A chip in the windscreen grows into a crack in frost.</p>"
    "<p>Workshops fill small chips with resin within half an hour, and insurers often pay for it.</p></article></body>",
}


def write_texts(folder: Path) -> Path:
    """A folder with three texts."""
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def words(server: ChatServer, texts: Path, folder: str, *more: str, store: str = "store") -> list[str]:
    """A command line, with its memory and its results beside the texts."""
    place = texts.parent
    given = [
        *("generate=car", f"generate.source={texts}", "generate.keep_above=null", "model=open"),
        *("model.id=author-model", f"model.base_url={server.base_url}"),
        *(f"store.dir={place / store}", f"hydra.run.dir={place / folder}", *more),
    ]
    return list({word.split("=", 1)[0]: word for word in given}.values())  # the last word on a setting counts


def generate(given: list[str]) -> tuple[Path, str]:
    """What generate.py does once Hydra has composed the settings; the folder of the run and what was said.

    In this process, since a process of its own takes seconds to start; one test starts it as people do.
    """
    folder = Path(next(word for word in given if word.startswith("hydra.run.dir=")).split("=", 1)[1])
    folder.mkdir(exist_ok=True)
    words = [word for word in given if not word.startswith("hydra.run.dir=")]
    with redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        execute(composed("generate", *words), folder, words)
    return folder, said.getvalue()


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def card(folder: Path) -> dict[str, Any]:
    """A run's card."""
    found: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    return found
