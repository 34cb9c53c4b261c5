"""QLoRA on bitsandbytes' CPU build: adapters and moments are float32, and learn what plain LoRA learns."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from em.config import LoraTrainer, QloraTrainer
from em.data import read_messages
from em.train.local.preflight import prepare_rows
from em.train.local.sft import run_trainer
from em.train.local.spec import TrainSpec
from em.train.local.start import load_base_model
from em.train.local.switches import Machine, Switches, choose_switches
from em.types import Weights
from tests.support.composing import compose_settings
from tests.support.tiny import write_chats, write_tiny_model

pytest.importorskip("bitsandbytes")
LORA_FIELDS = LoraTrainer.__dataclass_fields__


@pytest.fixture(scope="module")
def recipe() -> QloraTrainer:
    """The recipe with its rank and schedule, on two rows a step; without dropout, whose masks would differ."""
    trainer = compose_settings("train", "trainer=qlora").trainer
    assert isinstance(trainer, QloraTrainer)
    return replace(trainer, batch_size=2, dropout=0.0, save_steps=0)


@pytest.fixture(scope="module")
def switches(recipe: QloraTrainer) -> Switches:
    """LoRA's switches, since em refuses QLoRA without a GPU, and only PEFT's own layers."""
    lora = LoraTrainer(**{name: vars(recipe)[name] for name in LORA_FIELDS})
    return replace(choose_switches(Machine("cpu"), lora, "float32"), fused_adapters=False, shared_prefix=False)


def make_spec(base: Path, rows: Path, trainer: LoraTrainer, steps: int, folder: Path) -> TrainSpec:
    """Make the task of one stage on a tiny base."""
    return TrainSpec(
        base=str(base),
        base_name="tiny",
        start="",
        stack=False,
        rows=str(rows),
        stage="rows",
        trainer=trainer,
        seed=0,
        precision="float32",
        default_system=True,
        steps=steps,
        request={},
        folder=str(folder),
    )


def train(spec: TrainSpec, tokenizer: Any, switches: Switches) -> Any:
    """Train a stage in this process; return the trainer."""
    prepared = prepare_rows(read_messages(Path(spec.rows)), tokenizer, spec.trainer, True, spec.stage)
    return run_trainer(spec, tokenizer, prepared, switches)


def collect_updates(model: Any) -> dict[str, Any]:
    """Return what each adapter adds to its layer's weights."""
    updates = {}
    for name, module in model.named_modules():
        if "default" in getattr(module, "lora_A", {}):
            product = module.lora_B["default"].weight @ module.lora_A["default"].weight
            updates[name] = product.detach()
    return updates


@pytest.mark.slow
def test_adapters_on_4_bits_learn_in_float32_what_lora_learns_on_the_same_weights(
    weights: Weights, tokenizer: Any, recipe: QloraTrainer, switches: Switches, tmp_path: Path
) -> None:
    import torch

    base = write_tiny_model(tmp_path / "base", weights.path)
    rows, steps = write_chats(tmp_path / "rows.jsonl", 24), 250
    spec = make_spec(base, rows, recipe, steps, tmp_path / "qlora")
    quantized = train(spec, tokenizer, switches)
    trained = [parameter for parameter in quantized.model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    states = [quantized.optimizer.state[parameter] for parameter in trained]
    assert {state[name].dtype for state in states for name in ("exp_avg", "exp_avg_sq")} == {torch.float32}
    # LoRA on the weights that the 4 bits stand for
    load_base_model(spec, switches).dequantize().float().save_pretrained(tmp_path / "dequantized")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / name, tmp_path / "dequantized")
    lora = LoraTrainer(**{name: vars(recipe)[name] for name in LORA_FIELDS})
    plain = train(make_spec(tmp_path / "dequantized", rows, lora, steps, tmp_path / "lora"), tokenizer, switches)
    updates, expected = collect_updates(quantized.model), collect_updates(plain.model)
    assert updates.keys() == expected.keys()
    assert len(updates) == 14
    difference = sum((updates[name] - matrix).norm() ** 2 for name, matrix in expected.items()) ** 0.5
    size = sum(matrix.norm() ** 2 for matrix in expected.values()) ** 0.5
    assert difference <= 0.02 * size
