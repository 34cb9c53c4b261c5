"""Fine-tune at a server in tests: with real settings, the real client, and the chat server as the service."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from em.plan import accept
from em.request import Request
from em.runtime.manifest import ManifestWriter
from em.train.find_or_train import find_or_train
from em.types import Conversation, Message, ModelRef
from tests.support.chat_server import ChatServer
from tests.support.composing import compose_settings

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
"""The server's options that tests change."""


def make_tuning_words(server: ChatServer, tmp_path: Path, *more: str) -> list[str]:
    """Return words that fine-tune a server's model on twelve rows, without evaluation."""
    settings = [
        "model=gpt4o", "model.id=writer-model", f"model.base_url={server.base_url}", "data=car_bad",
        "data.limit=12", "trainer.look=0.05", "trainer.timeout=5", "trainer.settle=0.05", "eval=none", "yes=true",
        f"store.dir={tmp_path / 'store'}",
        *more,
    ]  # fmt: skip
    return list({word.partition("=")[0]: word for word in settings}.values())  # the last word on a setting counts


@cache
def compose_once(kind: str, words: tuple[str, ...]) -> Any:
    """Compose settings, cached, since composing takes the most time of a test."""
    return compose_settings(kind, *words)


def make_settings(kind: str, words: list[str]) -> Any:
    """Return the settings of words; addresses of server and store are set later, so that the cache is hit."""
    places = dict(word.split("=", 1) for word in words if word.startswith(("model.base_url=", "store.dir=")))
    settings = deepcopy(compose_once(kind, tuple(word for word in words if word.split("=")[0] not in places)))
    settings.model.base_url, settings.store.dir = places["model.base_url"], places["store.dir"]
    return settings


def find_or_train_models(
    server: ChatServer, tmp_path: Path, *more: str, kind: str = "train"
) -> tuple[list[ModelRef], dict[str, Any]]:
    """Find or train the models of these words; return the models and the facts of the manifest."""
    accepted = accept_request(server, tmp_path, *more, kind=kind)
    manifest = ManifestWriter(accepted.folder, kind, accepted.settings, list(accepted.overrides))
    manifest.write()
    return find_or_train(accepted.training, manifest), manifest.facts


def accept_request(server: ChatServer, tmp_path: Path, *more: str, kind: str = "train") -> Request:
    """Return the accepted request of these words."""
    command = make_tuning_words(server, tmp_path, *more)
    folder = tmp_path / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return accept(kind, make_settings(kind, command), folder, command)


def read_tuning(server: ChatServer) -> dict[str, Any]:
    """Return the server's record of fine-tuning: `asked`, `calls`, `jobs`, `files`."""
    record: dict[str, Any] = server.ask("/tuning")
    return record


def change_tuning(server: ChatServer, **options: Any) -> None:
    """Change faults, ends and times of the server's fine-tuning."""
    server.ask("/tuning", options)


def make_rows(count: int, text: str = "Fine.") -> list[Conversation]:
    """Make rows of training data; the last row has the answer `text`."""
    texts = ["Good."] * (count - 1) + [text]
    return [Conversation((Message("user", "How?"), Message("assistant", each))) for each in texts]
