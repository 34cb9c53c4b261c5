"""A served name is no identity: other weights behind the same words are asked anew, with one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from em.api.identities import settle_identities
from em.config import ApiJudge, OpenAIModel
from em.config.check import check_hosted_model
from em.errors import ConfigError
from em.judge.probe import identify_judge
from em.models.hosted import make_hosted_weights, parse_hosted_name
from em.runtime.memory import Calls
from em.types import ModelRef, Weights
from tests.support.chat_server import ChatServer
from tests.support.composing import compose_settings
from tests.support.runs import run_script

PLAIN = "openai:127.0.0.1|writer-model"
WORDS = ["model=open", "model.id=writer-model", "eval.sets=[probe]", "eval.samples=1", "judge=open"]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[ChatServer]]:
    """Two servers, at two ports."""
    with ChatServer() as one, ChatServer() as other:
        yield [one, other]


def identify(calls: Calls, base_url: str, **changes: Any) -> tuple[str, list[str]]:
    """Return the identity of the model at an address, and the sentences on it."""
    model = OpenAIModel(**{"name": "open", "id": "writer-model", "base_url": base_url} | changes)
    [settled], notes = settle_identities([model], calls)
    return make_hosted_weights(settled).identity, notes


def test_two_adapters_behind_one_name_on_two_servers_are_two_results(servers: list[ChatServer], tmp_path: Path) -> None:
    store, answers = f"store.dir={tmp_path / 'store'}", []
    for number, server in enumerate([*servers, servers[0]]):
        if number < 2:
            server.reset(root=f"/loras/{number}", parent="Qwen/Qwen2.5-7B-Instruct")
        address = [f"model.base_url={server.base_url}", f"judge.base_url={server.base_url}", "judge.model=single-judge"]
        folder = tmp_path / f"run{number}"
        done = run_script("evaluate.py", *WORDS, *address, store, f"hydra.run.dir={folder}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        answers.append({json.loads(line)["fingerprint"] for line in lines})
        notes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["notes"]
        changed = [note for note in notes if note.startswith("writer-model at 127.0.0.1") and "another model" in note]
        assert len(changed) == (number == 1), notes
        assert all(note in done.stdout for note in changed)
    assert answers[0] != answers[1]
    assert answers[0] == answers[2]
    asked = [server.read_stats()["other"]["chat writer-model"] for server in servers]
    assert asked[0] == asked[1] > 0, "each adapter is asked once, and the third run asks nothing"


@pytest.mark.parametrize(
    ("entry", "identity"),
    [
        ({}, PLAIN),
        ({"root": "writer-model"}, PLAIN),
        ({"root": "/loras/a"}, "openai:127.0.0.1 /loras/a|writer-model"),
        ({"root": "/loras/a", "parent": "Qwen"}, "openai:127.0.0.1 /loras/a of Qwen|writer-model"),
        ({"root": "a|b"}, "openai:127.0.0.1 a%7Cb|writer-model"),
    ],
)
def test_what_the_list_of_models_tells_is_part_of_the_identity(
    servers: list[ChatServer], calls: Calls, entry: dict[str, str], identity: str
) -> None:
    servers[0].reset(**{"root": "", "parent": ""} | entry)
    assert identify(calls, servers[0].base_url) == (identity, [])
    assert parse_hosted_name(ModelRef("", "", "", Weights(identity)))[1] == "writer-model"


def test_the_port_counts_only_where_no_root_is_told(servers: list[ChatServer], calls: Calls) -> None:
    for server in servers:
        server.reset(root="", parent="")
    first, second = servers
    assert identify(calls, first.base_url) == (PLAIN, []), "calls of older versions are found"
    identity, [note] = identify(calls, second.base_url)
    port = second.address.rpartition(":")[2]
    assert identity == f"openai:127.0.0.1:{port}|writer-model"
    assert "revision=TEXT" in note
    assert identify(calls, second.base_url) == (identity, []), "it is said once"
    for server in servers:
        server.reset(root="/merged/b", parent="")
    assert {identify(calls, server.base_url)[0] for server in servers} == {"openai:127.0.0.1 /merged/b|writer-model"}


def test_a_revision_replaces_server_and_list(servers: list[ChatServer], calls: Calls) -> None:
    servers[0].reset(root="/loras/a", parent="")
    for server in servers:
        assert identify(calls, server.base_url, revision="7e10") == ("openai:7e10|writer-model", [])
    judge = ApiJudge(name="open", model="single-judge", base_url=servers[0].base_url, revision="v2")
    assert identify_judge(judge) == "single-judge at v2"


def test_another_model_at_the_same_address_is_told_and_what_is_known_stays_while_the_server_is_gone(
    servers: list[ChatServer], calls: Calls, closed_port: str
) -> None:
    servers[0].reset(root="/loras/a", parent="")
    identify(calls, servers[0].base_url)
    servers[0].reset(root="/loras/b", parent="")
    identity, notes = identify(calls, servers[0].base_url)
    assert len(notes) == 1
    assert "/loras/b" in notes[0]
    model = OpenAIModel(name="open", id="writer-model", base_url=servers[0].base_url)
    [offline], _ = settle_identities([model], calls, ask=False)
    assert make_hosted_weights(offline).identity == identity
    assert identify(calls, f"{closed_port}/v1", id="never-seen")[0] == "openai:127.0.0.1|never-seen"


def test_further_fields_are_part_of_the_identity(calls: Calls) -> None:
    pinned = OpenAIModel(name="open", id="m", base_url="https://router.example/v1", extra_body={"provider": "x"})
    assert make_hosted_weights(pinned).identity == 'openai:router.example {"provider":"x"}|m'
    assert make_hosted_weights(OpenAIModel(name="gpt4o", id="gpt-4o")).identity == "openai:|gpt-4o"


@pytest.mark.parametrize(
    "word", ["model.extra_body={provider:{only:[deepinfra]}}", "model.extra_body.provider.only=[deepinfra]"]
)
def test_further_fields_are_typed_as_a_whole_or_one_by_one(word: str) -> None:
    settings = compose_settings("evaluate", "model=open", word)
    assert settings.model.extra_body == {"provider": {"only": ["deepinfra"]}}


@pytest.mark.parametrize("field", ["model", "messages", "seed", "temperature", "stream"])
def test_fields_that_em_sets_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"model.extra_body.{field} can't be set"):
        check_hosted_model(OpenAIModel(name="open", id="m", extra_body={field: 1}))
