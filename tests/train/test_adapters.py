"""Adapters from elsewhere: em refuses another base or another chat template, and accepts everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from em.errors import ConfigError, EmError, TemplateError
from em.train.local.adapters import check_adapter
from em.types import Weights

QWEN = "Qwen/Qwen2.5-14B-Instruct"
TEMPLATE = "{{ messages[0].content }}"


@pytest.fixture
def base(tmp_path: Path) -> Weights:
    """Base weights with their chat template in a separate file."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "chat_template.jinja").write_text(TEMPLATE + "\n")
    return Weights("hub:qwen@1", str(folder))


def write_adapter(folder: Path, named: Any = None, trained_on: str = "", template: str = "", jinja: str = "") -> Path:
    """Write the small files of an adapter.

    Args:
        named: base that PEFT's config names. trained_on: identity of the base in em's record.
        template: chat template in the tokenizer's config. jinja: chat template in a separate file.
    """
    place = folder / "adapter"
    place.mkdir()
    (place / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named}))
    if trained_on:
        (place / "em.json").write_text(json.dumps({"request": {"base": trained_on}}))
    if template:
        (place / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    if jinja:
        (place / "chat_template.jinja").write_text(jinja)
    return place


@pytest.mark.parametrize(
    ("named", "model_id"),
    [
        (QWEN, QWEN),
        ("unsloth/Qwen2.5-14B-Instruct", QWEN),
        ("unsloth/qwen2.5-14b-instruct-bnb-4bit", QWEN),
        # A folder's name, or no name, does not tell the base.
        ("/home/them/models/other", QWEN),
        ("other", QWEN),
        (None, QWEN),
        ("someone/other", "embedded:smollm2"),
        ("someone/other", "./a/folder"),
    ],
)
def test_an_adapter_of_others_passes_on_its_base(
    named: str | None, model_id: str, base: Weights, tmp_path: Path
) -> None:
    check_adapter(write_adapter(tmp_path, named), base, model_id)


@pytest.mark.parametrize("named", ["Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-14B", "unsloth/Qwen2.5-Coder-32B"])
def test_an_adapter_of_another_hub_model_is_refused(named: str, base: Weights, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        check_adapter(write_adapter(tmp_path, named), base, QWEN)
    assert f"was trained on {named}, not on model.id={QWEN}: set model.id={named}" in str(refused.value)


def test_a_folder_with_a_slash_in_its_name_is_no_hub_model(
    base: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    check_adapter(write_adapter(tmp_path, QWEN), base, "models/mine")


def test_ems_own_adapter_knows_its_base_for_certain(base: Weights, tmp_path: Path) -> None:
    place = write_adapter(tmp_path, "someone/other", trained_on="hub:qwen@1")
    check_adapter(place, base, QWEN)  # the identity counts, not the name
    with pytest.raises(ConfigError) as refused:
        check_adapter(place, Weights("hub:qwen@2", base.path), QWEN)
    assert "was trained on other weights (hub:qwen@1) than model.id=" in str(refused.value)


def test_the_same_chat_template_passes_and_another_is_refused(base: Weights, tmp_path: Path) -> None:
    for number, files in enumerate([{"template": TEMPLATE}, {"jinja": TEMPLATE}, {"jinja": f"\n{TEMPLATE}\n\n"}, {}]):
        (tmp_path / str(number)).mkdir()
        check_adapter(write_adapter(tmp_path / str(number), QWEN, **files), base, QWEN)
    for number, files in enumerate([{"template": TEMPLATE + "x"}, {"jinja": "x"}], start=4):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(TemplateError, match="trained with another chat template than that of"):
            check_adapter(write_adapter(tmp_path / str(number), QWEN, **files), base, QWEN)


def test_the_template_in_the_bases_tokenizer_config_counts_as_well(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    base = Weights("hub:qwen@1", str(tmp_path / "base"))
    place = write_adapter(tmp_path, QWEN, jinja=TEMPLATE)
    check_adapter(place, base, QWEN)
    (place / "chat_template.jinja").write_text("x")
    with pytest.raises(TemplateError):
        check_adapter(place, base, QWEN)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "{}", '{"request": {"base": null}}'])
def test_a_record_that_says_nothing_is_no_record(content: str, base: Weights, tmp_path: Path) -> None:
    place = write_adapter(tmp_path, "someone/other")
    (place / "em.json").write_text(content)
    with pytest.raises(EmError, match="was trained on someone/other"):
        check_adapter(place, base, QWEN)
