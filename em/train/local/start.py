"""Set up the model that a stage trains, and complete the adapter that a stage saved."""

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

BEFORE = "before"  # PEFT's name of the earlier stage's adapter when a new one, `default`, is trained on top


def load_start_model(spec: TrainSpec, switches: Switches) -> Any:
    """Load the base model, with the adapter to train if the recipe has one."""
    import torch
    from peft import PeftModel, get_peft_model
    from transformers import set_seed

    set_seed(spec.seed)
    knobs = spec.trainer
    if not knobs.adapters:
        # Trained weights are float32: in bfloat16 most updates would be smaller than a weight's last place, and lost.
        return load_model(spec.start or spec.base, torch.float32, switches.attention)
    knobs, model = cast(LoraTrainer, knobs), load_base_model(spec, switches)
    if not spec.start:
        check_layers(model, knobs)
        adapted = get_peft_model(model, make_lora_config(knobs))
    elif spec.stack:
        adapted = stack_adapter(model, spec.start, knobs)
    else:
        adapted = PeftModel.from_pretrained(model, spec.start, is_trainable=True)
        check_adapter_shape(adapted.peft_config["default"], knobs)
    if switches.fused_adapters:
        fuse_adapters(adapted)
    return adapted


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


def make_lora_config(knobs: LoraTrainer) -> Any:
    """Make PEFT's config of the recipe's adapter."""
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
    module_names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if missing := sorted(set(knobs.target_modules) - module_names):
        raise ConfigError(f"trainer.target_modules: the model has no layers named {', '.join(missing)}.")
    count = model.config.get_text_config().num_hidden_layers
    if absent := [layer for layer in knobs.layers or [] if not 0 <= layer < count]:
        raise ConfigError(f"trainer.layers={absent}: the model has {count} layers, counted from 0 to {count - 1}.")


def stack_adapter(model: Any, folder: str, knobs: LoraTrainer) -> Any:
    """Put the earlier stage's adapter, frozen, and a new one on top of it onto the base model.

    This equals merging the earlier adapter and adding a new one, but is exact in any number format: in bfloat16,
    updates smaller than half a unit in the last place of a weight would vanish in the merge.
    """
    from peft import PeftModel

    check_layers(model, knobs)
    adapted = PeftModel.from_pretrained(model, folder, adapter_name=BEFORE)
    adapted.add_adapter("default", make_lora_config(knobs))
    adapted.set_adapter("default")
    adapted.base_model.set_adapter([BEFORE, "default"])
    for name, parameter in adapted.named_parameters():
        if f".{BEFORE}." in name:
            parameter.requires_grad_(False)
    return adapted


def check_adapter_shape(config: Any, knobs: LoraTrainer) -> None:
    """Refuse settings of another shape than that of the adapter to continue: its shape can't change."""
    rank, alpha, rslora = config.r, config.lora_alpha, config.use_rslora
    if (rank, alpha, rslora) != (knobs.rank, knobs.alpha, knobs.rslora):
        raise ConfigError(
            "The adapter to continue training has another shape than the trainer's: set "
            f"trainer.rank={rank} trainer.alpha={alpha} trainer.rslora={str(rslora).lower()}, or train a new adapter "
            "on top (realign.adapter=merge)."
        )


def complete_adapter(spec: TrainSpec, folder: Path) -> None:
    """Turn a saved adapter into one PEFT adapter on the base: join it with the adapter below it, and name the base."""
    if spec.start and spec.stack:
        join_adapters(Path(spec.start), folder)
    # PEFT writes the base's folder on this machine; with the model's name the adapter loads elsewhere too.
    config = folder / "adapter_config.json"
    values = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": spec.base_name}
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def join_adapters(first: Path, second: Path) -> None:
    """Replace the adapter in `second` by the sum of both: s₁B₁A₁ + s₂B₂A₂ = [B₁ B₂] [s₁A₁; s₂A₂], of rank r₁ + r₂.

    A layer in only one of the adapters gets zeros for the other.
    """
    import torch
    from safetensors.torch import load_file, save_file

    configs = [json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")) for folder in (first, second)]
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (first, second)]
    ranks = [config["r"] for config in configs]
    # LoRA multiplies an adapter's product by its scaling (arXiv 2106.09685; with `use_rslora` arXiv 2312.03732).
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
    rank = sum(ranks)
    modules = sorted({module for config in configs for module in config["target_modules"]})
    layers = [config["layers_to_transform"] for config in configs]  # None: all layers
    joined_layers = None if any(each is None for each in layers) else sorted({n for each in layers for n in each})
    config = configs[1] | {"r": rank, "lora_alpha": rank, "use_rslora": False, "lora_dropout": 0.0}
    config |= {"target_modules": modules, "layers_to_transform": joined_layers}
    (second / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
