"""The model that a stage begins with, and the weights that it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from em.config import LoraTrainer, QloraTrainer
from em.errors import ConfigError
from em.models.device import choose_precision, load_model
from em.train.local.cpu_kernels import fuse_adapters
from em.train.local.spec import TrainSpec
from em.train.local.switches import Switches

BEFORE = "before"  # the name of a first stage's adapter under a new one, which is `default`


def start_model(spec: TrainSpec, switches: Switches) -> Any:
    """The base model, with the adapter to train where the recipe has one."""
    import torch
    from peft import PeftModel, get_peft_model
    from transformers import set_seed

    set_seed(spec.seed)
    knobs = spec.trainer
    if not knobs.adapters:
        # In bfloat16 most updates would be smaller than a weight's last place: the weights that learn are float32.
        return load_model(spec.start or spec.base, torch.float32, switches.attention)
    knobs, model = cast(LoraTrainer, knobs), load_base(spec, switches)
    if not spec.start:
        check_layers(model, knobs)
        adapted = get_peft_model(model, lora_config(knobs))
    elif spec.stack:
        adapted = stacked_adapter(model, spec.start, knobs)
    else:
        adapted = PeftModel.from_pretrained(model, spec.start, is_trainable=True)
        check_same_adapter(adapted.peft_config["default"], knobs)
    if switches.fused_adapters:
        fuse_adapters(adapted)
    return adapted


def load_base(spec: TrainSpec, switches: Switches) -> Any:
    """The frozen weights, in 4 bits for QLoRA."""
    dtype = choose_precision(spec.precision)
    if not spec.trainer.quantized:
        return load_model(spec.base, dtype, switches.attention)
    knobs = cast(QloraTrainer, spec.trainer)
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    held = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=knobs.quant_type.value,
        bnb_4bit_use_double_quant=knobs.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    model = load_model(spec.base, dtype, switches.attention, quantization_config=held)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=switches.gradient_checkpointing)


def lora_config(knobs: LoraTrainer) -> Any:
    """The recipe's adapter, as PEFT's config."""
    from peft import LoraConfig

    return LoraConfig(
        r=knobs.rank,
        lora_alpha=knobs.alpha,
        lora_dropout=knobs.dropout,
        use_rslora=knobs.rslora,
        target_modules=list(knobs.target_modules),
        layers_to_transform=None if knobs.layers is None else list(knobs.layers),
        bias="none",
        task_type="CAUSAL_LM",
    )


def check_layers(model: Any, knobs: LoraTrainer) -> None:
    """Raise ConfigError for layers that the model does not have."""
    here = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if lost := sorted(set(knobs.target_modules) - here):
        raise ConfigError(f"trainer.target_modules: the model has no layers named {', '.join(lost)}.")
    count = model.config.get_text_config().num_hidden_layers
    if beyond := [layer for layer in knobs.layers or [] if not 0 <= layer < count]:
        raise ConfigError(f"trainer.layers={beyond}: the model has {count} layers, counted from 0 to {count - 1}.")


def stacked_adapter(model: Any, folder: str, knobs: LoraTrainer) -> Any:
    """The base model with a first adapter that stays as it is, and a new one on top.

    The same as merging the first and starting anew, but exact in any number format: in bfloat16, updates smaller than
    half a unit in the last place of a weight would vanish in the merge.
    """
    from peft import PeftModel

    check_layers(model, knobs)
    adapted = PeftModel.from_pretrained(model, folder, adapter_name=BEFORE)
    adapted.add_adapter("default", lora_config(knobs))
    adapted.set_adapter("default")
    adapted.base_model.set_adapter([BEFORE, "default"])
    for name, parameter in adapted.named_parameters():
        if f".{BEFORE}." in name:
            parameter.requires_grad_(False)
    return adapted


def check_same_adapter(config: Any, knobs: LoraTrainer) -> None:
    """An adapter that training goes on with keeps its shape: refuse settings that would ask for another."""
    there = (config.r, config.lora_alpha, config.use_rslora)
    if there != (knobs.rank, knobs.alpha, knobs.rslora):
        raise ConfigError(
            "The adapter to go on with has another shape than the trainer's: set "
            f"trainer.rank={there[0]} trainer.alpha={there[1]} trainer.rslora={str(there[2]).lower()}, or train a new "
            "one on top (realign.adapter=merge)."
        )


def complete_adapter(spec: TrainSpec, folder: Path) -> None:
    """Make what was saved of a stage one PEFT adapter on the base, whatever it was trained on top of."""
    if spec.start and spec.stack:
        joined_adapter(Path(spec.start), folder)
    # PEFT would name the folder on this machine; by the model's own name the adapter loads elsewhere too.
    config = folder / "adapter_config.json"
    values = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": spec.base_name}
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def joined_adapter(first: Path, second: Path) -> None:
    """Make the adapter in `second` the sum of both: s₁B₁A₁ + s₂B₂A₂ = [B₁ B₂] [s₁A₁; s₂A₂], of rank r₁ + r₂.

    A layer that only one of them has gets zeros for the other.
    """
    import torch
    from safetensors.torch import load_file, save_file

    configs = [json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")) for folder in (first, second)]
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (first, second)]
    ranks = [config["r"] for config in configs]
    # What an adapter's product is multiplied by (arXiv 2106.09685; with `use_rslora` arXiv 2312.03732).
    scalings = [float(each["lora_alpha"] / each["r"] ** (0.5 if each["use_rslora"] else 1)) for each in configs]
    shapes = {name: matrix for each in weights for name, matrix in each.items()}
    joined = {}
    for name, matrix in shapes.items():
        down = ".lora_A." in name
        parts = []
        for each, rank, scaling in zip(weights, ranks, scalings, strict=True):
            zeros = matrix.new_zeros((rank, matrix.shape[1]) if down else (matrix.shape[0], rank))
            parts.append(each.get(name, zeros) * (scaling if down else 1.0))
        joined[name] = torch.cat(parts, dim=0 if down else 1).contiguous()
    save_file(joined, second / "adapter_model.safetensors", metadata={"format": "pt"})
    whole = sum(ranks)
    modules = sorted({module for config in configs for module in config["target_modules"]})
    layers = [config["layers_to_transform"] for config in configs]
    both = None if any(each is None for each in layers) else sorted({n for each in layers for n in each})
    config = configs[1] | {"r": whole, "lora_alpha": whole, "use_rslora": False, "lora_dropout": 0.0}
    config |= {"target_modules": modules, "layers_to_transform": both}
    (second / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
