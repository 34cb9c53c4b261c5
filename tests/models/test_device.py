"""The device of a child process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from em.models.device import choose_precision
from em.train.local.sft import train_stage


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
