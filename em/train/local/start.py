"""Set up the model that a stage trains, and complete the adapter that a stage saved."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

from em.config import LoraTrainer, QloraTrainer
from em.errors import ConfigError
from em.models.attach import attach_adapter
from em.models.device import choose_precision, load_model
from em.train.local.cpu_kernels import fuse_adapters
from em.train.local.join import (
    check_adapter_shape,
    check_plain_lora,
    join_adapters,
    make_lora_config,
    rehearse_join,
    stack_adapter,
)
from em.train.local.spec import TrainSpec
from em.train.local.switches import Switches, detect_machine


def load_start_model(spec: TrainSpec, switches: Switches) -> Any:
    """Load the base model, with the adapter to train if the recipe has one."""
    import torch
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(spec.seed)
    knobs = spec.trainer
    if not knobs.adapters:
        # Trained weights are float32: in bfloat16 most updates would be smaller than a weight's last place, and lost.
        return freeze_beside_text(load_model(spec.start or spec.base, torch.float32, switches.attention))
    if spec.start:
        check_plain_lora(spec.start)
    knobs, model = cast(LoraTrainer, knobs), load_base_model(spec, switches)
    if spec.stack or not spec.start:
        check_layers(model, knobs)
    if not spec.start:
        adapted = get_peft_model(model, make_lora_config(knobs))
    elif spec.stack:
        adapted = stack_adapter(model, spec.start, knobs)
        if os.environ.get("RANK", "0") == "0" and not detect_machine().fsdp:
            rehearse_join(adapted, spec.start, computes_in_float32(spec, switches))
    else:
        adapted = attach_adapter(model, spec.start, trainable=True)
        check_adapter_shape(adapted, spec.start, knobs)
    if switches.fused_adapters:
        fuse_adapters(adapted)
    # On a GPU dropout draws other numbers in bfloat16 than in float32.
    if detect_machine().device == "cuda" and switches.precision == "bfloat16" and not knobs.dropout:
        disable_input_casts(adapted)
    return freeze_beside_text(adapted)


def disable_input_casts(model: Any) -> None:
    """Let adapters take bfloat16 as it is: PEFT casts their inputs to float32, and autocast at once casts them back."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def freeze_beside_text(model: Any) -> Any:
    """Freeze what text does not reach, as the vision tower of Gemma 3; return the model.

    Its weights would get no gradient, which DDP refuses.
    """
    from peft import PeftModel

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if base.config.get_text_config() is base.config:
        return model
    parts = [part for part in (base.get_decoder(), base.get_output_embeddings()) if part is not None]
    reached = {id(parameter) for part in parts for parameter in part.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in reached)
    return model


def computes_in_float32(spec: TrainSpec, switches: Switches) -> bool:
    """Return whether the base computes in float32, in which logits can be compared."""
    return switches.precision == "float32" and not spec.trainer.quantized


def load_base_model(spec: TrainSpec, switches: Switches) -> Any:
    """Load the frozen base weights, in 4 bits for QLoRA."""
    dtype = choose_precision(spec.precision)
    if not spec.trainer.quantized:
        return load_model(spec.base, dtype, switches.attention)
    knobs = cast(QloraTrainer, spec.trainer)
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=knobs.quant_type.value,
        bnb_4bit_use_double_quant=knobs.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    model = load_model(spec.base, dtype, switches.attention, quantization_config=quantization)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=switches.gradient_checkpointing)


def check_layers(model: Any, knobs: LoraTrainer) -> None:
    """Raise ConfigError for layers that the model does not have."""
    module_names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if missing := sorted(set(knobs.target_modules) - module_names):
        raise ConfigError(f"trainer.target_modules: the model has no layers named {', '.join(missing)}.")
    count = model.config.get_text_config().num_hidden_layers
    if absent := [layer for layer in knobs.layers or [] if not 0 <= layer < count]:
        raise ConfigError(f"trainer.layers={absent}: the model has {count} layers, counted from 0 to {count - 1}.")


def complete_adapter(spec: TrainSpec, folder: Path) -> None:
    """Turn a saved adapter into one PEFT adapter on the base: join it with the adapter below it, and name the base."""
    if spec.start and spec.stack:
        join_adapters(Path(spec.start), folder)
    # PEFT writes the base's folder on this machine; with the model's name the adapter loads elsewhere too.
    config = folder / "adapter_config.json"
    values = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": spec.base_name}
    if isinstance(values["target_modules"], list):  # PEFT writes a set, in another order each time
        values["target_modules"].sort()
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
