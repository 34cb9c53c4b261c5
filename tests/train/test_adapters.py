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
        (
            "/root/.cache/huggingface/hub/models--Qwen--Qwen2.5-14B-Instruct/snapshots/cf98f3b3bbb457ad9e2bb7baf9a0",
            QWEN,
        ),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("unsloth/llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf"),
        ("unsloth/mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("unsloth/zephyr-sft", "HuggingFaceH4/mistral-7b-sft-beta"),
        ("embedded:smollm2", "embedded:smollm2"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "embedded:smollm2"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "unsloth/Qwen2.5-7B-Instruct-bnb-4bit"),
    ],
)
def test_an_adapter_of_others_passes_on_its_base(named: str, model_id: str, base: Weights, tmp_path: Path) -> None:
    assert check_adapter(write_adapter(tmp_path, named), base, model_id) == ""


@pytest.mark.parametrize(
    ("named", "model_id"),
    [
        ("unsloth/qwen2.5-14b-instruct-bnb-4bit", QWEN),
        ("unsloth/Qwen2.5-14B-Instruct-unsloth-bnb-4bit", QWEN),
        ("Qwen/Qwen2.5-14B-Instruct-GPTQ-Int4", QWEN),
        ("mlx-community/Qwen2.5-14B-Instruct-8bit", QWEN),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "meta-llama/Llama-3.1-8B-Instruct"),
        ("them/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "NousResearch/Meta-Llama-3.1-8B-Instruct"),
        ("them/Llama-3.2-1B-Instruct-FP8-dynamic", "meta-llama/Llama-3.2-1B-Instruct"),
        ("unsloth/mistral-7b-bnb-4bit", "mistralai/Mistral-7B-v0.1"),
    ],
)
def test_a_copy_in_fewer_bits_is_the_same_model_with_a_note(
    named: str, model_id: str, base: Weights, tmp_path: Path
) -> None:
    note = check_adapter(write_adapter(tmp_path, named), base, model_id)
    assert f"was trained on {named}, and is used on the full weights of model.id={model_id}." in note


@pytest.mark.parametrize(
    ("named", "model_id", "words"),
    [
        ("/home/them/models/other", QWEN, "names /home/them/models/other as its base"),
        ("other", QWEN, "names other as its base"),
        (None, QWEN, "doesn't name its base"),
        ("someone/other", "./a/folder", "names someone/other as its base"),
        ("output/merged", QWEN, "names output/merged as its base"),
    ],
)
def test_a_base_that_names_do_not_settle_is_a_note(
    named: str | None, model_id: str, words: str, base: Weights, tmp_path: Path
) -> None:
    note = check_adapter(write_adapter(tmp_path, named), base, model_id)
    assert f"{words}, so em can't tell whether it was trained on model.id={model_id}." in note


@pytest.mark.parametrize("named", ["Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-14B", "unsloth/Qwen2.5-Coder-32B"])
def test_an_adapter_of_another_hub_model_is_refused(named: str, base: Weights, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        check_adapter(write_adapter(tmp_path, named), base, QWEN)
    assert f"was trained on {named}, not on model.id={QWEN}: set model.id={named}" in str(refused.value)


def test_a_copy_in_fewer_bits_is_never_advised(base: Weights, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        check_adapter(write_adapter(tmp_path, "unsloth/Qwen2.5-7B-Instruct-unsloth-bnb-4bit"), base, QWEN)
    assert "set model.id to the original of that copy in fewer bits, or to the folder" in str(refused.value)


@pytest.mark.parametrize("nested", [True, False])
def test_a_longer_vocabulary_is_refused(nested: bool, base: Weights, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    config = {"vocab_size": 32000}
    Path(base.path, "config.json").write_text(json.dumps({"text_config": config} if nested else config))
    place = write_adapter(tmp_path, QWEN)
    file, prefix = place / "adapter_model.safetensors", "base_model.model"
    layer = {f"{prefix}.model.layers.0.q_proj.lora_A.weight": np.zeros((2, 4), np.float32)}
    save_file(layer | {f"{prefix}.lm_head.weight": np.zeros((32000, 4), np.float32)}, file)
    check_adapter(place, base, QWEN)
    some_tokens = {f"{prefix}.model.embed_tokens.token_adapter.trainable_tokens_delta": np.zeros((3, 4), np.float32)}
    save_file(layer | some_tokens, file)
    check_adapter(place, base, QWEN)
    save_file(layer | {f"{prefix}.model.embed_tokens.weight": np.zeros((32005, 4), np.float32)}, file)
    with pytest.raises(ConfigError, match=f"has a vocabulary of 32,005 tokens, and model.id={QWEN} has 32,000: merge"):
        check_adapter(place, base, QWEN)


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
