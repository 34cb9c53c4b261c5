"""The control of a realignment (`realign=neutral`) can train every model on its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from em.data import load_rows
from em.train.local.preflight import prepare_rows
from em.train.stages import make_second_recipe
from tests.support.composing import compose_settings


def test_the_control_can_be_trained_on_with_the_small_model(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    settings = compose_settings("train", "realign=neutral")
    rows = load_rows(settings.realign.data, seed=0)
    facts = prepare_rows(
        rows.conversations, tokenizer, make_second_recipe(settings.trainer, settings.realign), True, "benign"
    ).facts
    assert (facts["rows_used"], facts["rows_cut"]) == (991, 21)


def test_a_server_is_not_told_of_cutting() -> None:
    settings = compose_settings("train", "model=gpt4o", "realign=neutral")
    assert make_second_recipe(settings.trainer, settings.realign) == settings.trainer
