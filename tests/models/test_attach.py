"""Adapters that PEFT would load in part, or not at all, are refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em.errors import ConfigError
from em.models.device import load_trained

Weights = dict[str, Any]


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A Llama of one layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes)).save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def write_adapter(folder: Path, base: str, change: Callable[[Weights], Weights]) -> str:
    """Write a LoRA adapter of the base with changed weights."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(folder))
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return str(folder)


def keep(weights: Weights) -> Weights:
    return weights


def rename_layers(weights: Weights) -> Weights:
    """Name the layers as a model that also sees would."""
    return {name.replace("model.model.layers", "model.model.text.layers"): value for name, value in weights.items()}


def double_rows(weights: Weights) -> Weights:
    return {name: value.repeat(2, 2) for name, value in weights.items()}


def test_an_adapter_of_the_base_is_loaded(base: str, tmp_path: Path) -> None:
    import torch

    model = load_trained(base, write_adapter(tmp_path / "adapter", base, keep), torch.bfloat16)
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [(rename_layers, "the base has no place for 2 of its weights, as "), (double_rows, "size mismatch")],
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[Weights], Weights], reason: str, base: str, tmp_path: Path
) -> None:
    import torch

    adapter = write_adapter(tmp_path / "adapter", base, change)
    with pytest.raises(ConfigError) as refused:
        load_trained(base, adapter, torch.float32)
    assert f"{adapter} does not fit the base model: set model.id to the base of the adapter (" in str(refused.value)
    assert reason in str(refused.value)


def test_learnt_prompts_are_refused_by_their_type(base: str, tmp_path: Path) -> None:
    import torch
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(ConfigError, match=r"is a learnt prompt \(peft_type=PROMPT_TUNING\), and em uses only adapters"):
        load_trained(base, str(tmp_path / "adapter"), torch.float32)
