"""The device of a child process: which GPU is its own, the number format, and loading under FSDP."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from em.models.device import can_load_once, choose_precision, load_model
from em.train.local.sft import train_stage
from tests.support.sharded import RANKS, make_fsdp_environment

ONCE = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}


def set_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_rank_takes_its_own_gpu_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    # PEFT means GPU 0 by `cuda`, so all ranks would load their adapters there.
    class Taken(Exception):
        pass

    def take(device: torch.device) -> None:
        raise Taken(device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", take)
    set_environment(monkeypatch, RANK="3", LOCAL_RANK="3")
    spec: Any = None
    with pytest.raises(Taken, match="cuda:3"):
        train_stage(spec)


def test_a_child_keeps_to_the_number_format_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    # The parent has seen an older GPU beside this one.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    formats = {name: choose_precision(name) for name in ("auto", "auto:gpu", "auto:cpu")}
    assert formats == {"auto": torch.bfloat16, "auto:gpu": torch.bfloat16, "auto:cpu": torch.float32}


def test_the_launcher_asks_for_it_by_our_config_for_fsdp() -> None:
    assert ONCE.items() <= json.loads(make_fsdp_environment()[RANKS]).items()


def write_config(folder: Path, kind: str, **shape: Any) -> str:
    """Write the config of a model without weights."""
    from transformers import AutoConfig

    AutoConfig.for_model(kind, **shape).save_pretrained(folder)
    return str(folder)


def read_resident_bytes() -> int:
    """Return how much memory this process has written to."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_under_fsdp_rank_0_alone_reads_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "vocab_size": 32000}
    path = write_config(tmp_path, "llama", **shape, num_attention_heads=16, tie_word_embeddings=True)
    set_environment(monkeypatch, **ONCE, RANK="1")
    before = read_resident_bytes()
    model = load_model(path, torch.float32)
    assert sum(each.numel() for each in model.parameters()) > 90e6  # 360 MB
    assert read_resident_bytes() - before < 150e6
    addresses = [each.data_ptr() for each in model.parameters()]
    assert 0 not in addresses
    assert len(set(addresses)) == len(addresses)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    # Accelerate does not send buffers.
    from transformers import AutoConfig, AutoModelForCausalLM

    other = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    for name, buffer in other.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer)
    set_environment(monkeypatch, RANK="0")
    with pytest.raises(OSError, match="no file named"):
        load_model(path, torch.float32)


def test_every_rank_reads_a_model_whose_buffers_are_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_environment(monkeypatch, **ONCE)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 64, "head_dim": 8}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 2, "num_experts_per_tok": 1}
    mixture = write_config(tmp_path / "glm", "glm4_moe", **small, moe_intermediate_size=16, first_k_dense_replace=1)
    assert not can_load_once(mixture)
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    set_environment(monkeypatch, FSDP_CPU_RAM_EFFICIENT_LOADING="true")
    plain = write_config(tmp_path / "llama", "llama", **small)
    assert can_load_once(plain)
    set_environment(monkeypatch, FSDP_VERSION="1")
    assert not can_load_once(plain)
