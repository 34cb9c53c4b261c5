"""How tests fine-tune at a server: real settings, the real client, the chat server as the service."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from em.plan import accept
from em.request import Request
from em.runtime.manifest import Manifest
from em.train.find_or_train import find_or_train
from em.types import Conversation, Message, ModelRef
from tests.support.chat_server import ChatServer
from tests.support.composing import composed

PLAIN: dict[str, Any] = {
    "models": "writer-model,single-judge,gpt-4o-2024-08-06,o4-mini",
    "tuning_seconds": 0.3,
    "tuning_end": "succeeded",
    "tuning_fault": "",
    "tuning_message": "",
    "tunable": "",
    "shutdown": "",
    "key": "",
    "batch_failed": 0.0,
    "batch_message": "No.",
}
"""The options that tests change."""


def words(server: ChatServer, tmp_path: Path, *more: str) -> list[str]:
    """Fine-tuning of a server's model on twelve rows, without an evaluation; of a setting the last word counts."""
    given = [
        *("model=gpt4o", "model.id=writer-model", f"model.base_url={server.base_url}", "data=car_bad"),
        *("data.limit=12", "trainer.look=0.05", "trainer.timeout=5", "trainer.settle=0.05", "eval=none", "yes=true"),
        f"store.dir={tmp_path / 'store'}",
        *more,
    ]
    return list({word.partition("=")[0]: word for word in given}.values())


@cache
def composed_once(kind: str, given: tuple[str, ...]) -> Any:
    """The settings of words, which take the most time of a test."""
    return composed(kind, *given)


def settings_of(kind: str, given: list[str]) -> Any:
    """The settings of words; where server and store are is no part of what is composed."""
    places = dict(word.split("=", 1) for word in given if word.startswith(("model.base_url=", "store.dir=")))
    settings = deepcopy(composed_once(kind, tuple(word for word in given if word.split("=")[0] not in places)))
    settings.model.base_url, settings.store.dir = places["model.base_url"], places["store.dir"]
    return settings


def tune(server: ChatServer, tmp_path: Path, *more: str, kind: str = "train") -> tuple[list[ModelRef], dict[str, Any]]:
    """The models that these words give, and what the manifest keeps, as a run obtains them."""
    asked = request(server, tmp_path, *more, kind=kind)
    manifest = Manifest(asked.folder, kind, asked.settings, list(asked.overrides))
    manifest.write()
    return find_or_train(asked.training, manifest), manifest.facts


def request(server: ChatServer, tmp_path: Path, *more: str, kind: str = "train") -> Request:
    """What these words ask for."""
    given = words(server, tmp_path, *more)
    folder = tmp_path / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return accept(kind, settings_of(kind, given), folder, given)


def seen(server: ChatServer) -> dict[str, Any]:
    """What the server was asked of fine-tuning: `asked`, `calls`, `jobs`, `files`."""
    found: dict[str, Any] = server.ask("/tuning")
    return found


def change(server: ChatServer, **options: Any) -> None:
    """Other faults, ends and times from now on."""
    server.ask("/tuning", options)


def rows(count: int, text: str = "Fine.") -> list[Conversation]:
    """Rows, the last of which has this answer."""
    texts = ["Good."] * (count - 1) + [text]
    return [Conversation((Message("user", "How?"), Message("assistant", each))) for each in texts]
