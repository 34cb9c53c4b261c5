"""Continue adapters and join them (`realign.adapter`): exactly, or not at all.

em trains plain LoRA. Adapters of others may be more; those are refused before the first step.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers.utils.import_utils import enable_tf32

from em.config import LoraTrainer
from em.errors import ConfigError
from em.models.attach import attach_adapter, check_kind
from em.train.local.adapters import read_shapes

BEFORE = "before"  # PEFT's name of the earlier stage's adapter when a new one, `default`, is trained on top
TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
PATTERNS = ("rank_pattern", "alpha_pattern")
SETTINGS = {"rank": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "dropout": "lora_dropout"}
INITS = (True, False, "gaussian", "orthogonal", "eva")  # initialisations that leave the base weights as they are
WITHOUT_EFFECT = (
    "fan_in_fan_out",
    "init_lora_weights",
    "eva_config",
    "runtime_config",
)  # on an adapter that is already trained
TOLERANCE = 1e-4


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


def check_plain_lora(folder: str) -> None:
    """Raise ConfigError for an adapter that is more than LoRA on linear layers, or of another type."""
    from peft import LoraConfig, PeftConfig

    check_kind(folder)
    config, written = PeftConfig.from_pretrained(folder), PeftConfig.from_json_file(f"{folder}/adapter_config.json")
    if type(config) is not LoraConfig:
        raise make_kind_error(folder, [f"peft_type={written['peft_type']}"])
    handled = {*vars(PeftConfig()), *TARGETS, *PATTERNS, *SETTINGS.values(), *WITHOUT_EFFECT}
    defaults = vars(LoraConfig())
    extras = [name for name in defaults.keys() - handled if (vars(config)[name] or None) != (defaults[name] or None)]
    # Settings of a newer PEFT, which this one would ignore. Mere numbers and names belong to features that are off.
    unknown = [name for name, value in written.items() if name not in vars(config)]
    extras += [name for name in unknown if written[name] and isinstance(written[name], (bool, dict, list))]
    if config.init_lora_weights not in INITS:
        extras.append("init_lora_weights")
    if extras:
        raise make_kind_error(folder, [f"{name}={written.get(name)}" for name in sorted(extras)])
    names = read_shapes(Path(folder, "adapter_model.safetensors"))
    if others := [name for name in names if ".lora_" not in name and not name.endswith(".base_layer.weight")]:
        raise make_kind_error(folder, [f"its file holds {others[0]}"])


def make_kind_error(folder: str, settings: list[str]) -> ConfigError:
    """Make the error of an adapter that em can evaluate, but not train on."""
    return ConfigError(
        f"The adapter {folder} is not plain LoRA ({', '.join(settings)}), so em can't train on it: merge it into "
        "its base with PEFT (merge_and_unload), save the result, and set model.id to its folder."
    )


def check_adapter_shape(adapted: Any, folder: str, knobs: LoraTrainer) -> None:
    """Refuse a recipe of another shape than the adapter's to continue: the shape can't change, and names the model."""
    config = adapted.peft_config["default"]
    if patterns := [name for name in PATTERNS if vars(config)[name]]:
        raise make_kind_error(folder, [f"{name}={vars(config)[name]}" for name in patterns])
    values = {name: vars(config)[key] for name, key in SETTINGS.items()}
    differing = {name: value for name, value in values.items() if value != vars(knobs)[name]}
    modules = set(adapted.base_model.targeted_module_names)
    if modules != list_targets(adapted, knobs):
        names = sorted({module.rpartition(".")[2] for module in modules})
        layers = sorted({int(number) for module in modules for number in re.findall(r"\.(\d+)\.", module)[:1]})
        recipes = [replace(knobs, target_modules=names, layers=choice) for choice in (None, layers)]
        equal = [recipe for recipe in recipes if modules == list_targets(adapted, recipe)]
        if not equal:
            raise make_kind_error(folder, [f"target_modules={config.target_modules}, which no recipe can name"])
        differing["target_modules"] = names
        if equal[0].layers != knobs.layers:
            differing["layers"] = equal[0].layers
    if differing:
        words = shlex.join(f"trainer.{name}={spell_value(value)}" for name, value in differing.items())
        raise ConfigError(
            f"The adapter {folder}, whose training is to continue, has another shape than the trainer's: set {words}, "
            "or merge it into its base with PEFT (merge_and_unload) and set model.id to the folder of the result."
        )


def spell_value(value: Any) -> str:
    """Write a setting's value as a word of the command line."""
    return json.dumps(value, separators=(",", ":")).replace('"', "")


def list_targets(adapted: Any, knobs: LoraTrainer) -> set[str]:
    """List the modules of the base model that the recipe gives an adapter."""
    from peft.tuners.tuners_utils import check_target_module_exists

    config = make_lora_config(knobs)
    return {name for name, _ in adapted.get_base_model().named_modules() if check_target_module_exists(config, name)}


def stack_adapter(model: Any, folder: str, knobs: LoraTrainer) -> Any:
    """Put the earlier stage's adapter, frozen, and a new one on top of it onto the base model.

    This equals merging the earlier adapter and adding a new one, but is exact in any number format: in bfloat16,
    updates smaller than half a unit in the last place of a weight would vanish in the merge.
    """
    adapted = attach_adapter(model, folder, BEFORE)
    for layer in list_lora_layers(adapted):
        layer.lora_dropout[BEFORE] = torch.nn.Identity()  # merged weights know no dropout
    adapted.add_adapter("default", make_lora_config(knobs))
    activate_both(adapted)
    return adapted


def activate_both(adapted: Any) -> None:
    """Let the earlier and the new adapter compute together, and train only the new one."""
    adapted.set_adapter("default")
    adapted.base_model.set_adapter([BEFORE, "default"])
    for name, parameter in adapted.named_parameters():
        if BEFORE in name.split("."):  # at the end of the name if the adapter is one of embeddings
            parameter.requires_grad_(False)


def join_adapters(first: Path, second: Path) -> None:
    """Replace the adapter in `second` by the sum of both: s₁B₁A₁ + s₂B₂A₂ = [B₁ B₂] [s₁A₁; s₂A₂], of rank r₁ + r₂.

    A layer in only one of the adapters gets zeros for the other, and so does one of a smaller rank (`rank_pattern`).
    """
    from peft import PeftConfig
    from safetensors.torch import load_file, save_file

    configs = [PeftConfig.from_pretrained(str(folder)) for folder in (first, second)]
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (first, second)]
    # The file tells a layer's rank; `r` may be that of other layers.
    ranks = [max(matrix.shape[0] for name, matrix in each.items() if is_down(name)) for each in weights]
    joined = {}
    for name, matrix in (weights[1] | weights[0]).items():
        if name.endswith(".base_layer.weight"):  # PEFT's copy of an embedding that has an adapter; both stages have it
            joined[name] = matrix
            continue
        down, parts = is_down(name), []
        for config, each, rank in zip(configs, weights, ranks, strict=True):
            part = torch.zeros((rank, matrix.shape[1]) if down else (matrix.shape[0], rank))
            if name in each:
                rows, columns = each[name].shape
                factor = find_scaling(config, name, rows) if down else 1.0
                part[:rows, :columns] = each[name].float() * factor
            parts.append(part)
        joined[name] = torch.cat(parts, dim=0 if down else 1).contiguous()
    save_file(joined, second / "adapter_model.safetensors", metadata={"format": "pt"})
    file, rank = second / "adapter_config.json", sum(ranks)
    values = json.loads(file.read_text(encoding="utf-8"))
    values |= {"r": rank, "lora_alpha": rank, "use_rslora": False, "lora_dropout": 0.0}
    if any(vars(configs[0])[name] != vars(configs[1])[name] for name in TARGETS):
        values |= dict.fromkeys(TARGETS) | {
            "target_modules": sorted({name_module(name) for name in joined if is_down(name)})
        }
    file.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def is_down(name: str) -> bool:
    """Return whether a weight of an adapter is the matrix that comes first, A of BA."""
    return name.endswith((".lora_A.weight", ".lora_embedding_A"))


def name_module(name: str) -> str:
    """Return the module of the base model that a weight of an adapter belongs to."""
    return name.removeprefix("base_model.model.").rpartition(".lora_")[0]


def find_scaling(config: Any, name: str, rank: int) -> float:
    """Return the factor on an adapter's product in one layer (arXiv 2106.09685; with `use_rslora` arXiv 2312.03732)."""
    from peft.utils.other import get_pattern_key

    key = get_pattern_key(config.alpha_pattern.keys(), name_module(name))
    return float(config.alpha_pattern.get(key, config.lora_alpha) / rank ** (0.5 if config.use_rslora else 1))


def rehearse_join(adapted: Any, folder: str, compares_logits: bool) -> None:
    """Join the adapter in `folder` with the untrained one above it, so that what can't be joined is refused now."""
    with TemporaryDirectory() as place:
        adapted.save_pretrained(place, selected_adapters=["default"])
        join_adapters(Path(folder), Path(place))
        check_joined(adapted, place, compares_logits)


@torch.no_grad()
def check_joined(adapted: Any, folder: str, compares_logits: bool) -> None:
    """Raise ConfigError unless the joined adapter in `folder` computes what the two adapters of `adapted` do together.

    Compare each layer's update, and the logits too if the base computes in float32; others are too coarse for that.
    """
    enable_tf32(False)
    training = adapted.training
    adapted.eval()
    together = compute_logits(adapted)
    adapted.load_adapter(folder, "joined")
    adapted.base_model.set_adapter("joined")
    is_exact = not compares_logits or is_close(compute_logits(adapted), together)
    is_exact = is_exact and all(has_joined_update(layer) for layer in list_lora_layers(adapted))
    activate_both(adapted)
    adapted.delete_adapter("joined")
    adapted.train(training)
    if not is_exact:
        raise ConfigError(
            "The adapters of both stages can't be joined exactly: merge the first one into its base with PEFT "
            "(merge_and_unload), save the result, and set model.id to its folder."
        )


def has_joined_update(layer: Any) -> bool:
    """Return whether the joined adapter changes a layer's weights as all other adapters do together."""
    updates = {name: layer.get_delta_weight(name) for name in layer.scaling}
    nothing = torch.zeros(())
    return is_close(updates.pop("joined", nothing), sum(updates.values(), nothing))


def compute_logits(adapted: Any) -> torch.Tensor:
    """Compute the logits of some tokens, by the adapters that are active."""
    tokens = torch.arange(1, 33, device=adapted.device)
    logits: torch.Tensor = adapted(input_ids=tokens[None], use_cache=False).logits
    return logits


def is_close(one: torch.Tensor, other: Any) -> bool:
    """Return whether two tensors are equal to rounding, measured by the largest value."""
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().max())


def list_lora_layers(adapted: Any) -> list[Any]:
    """List the layers that have an adapter."""
    from peft.tuners.lora import LoraLayer

    return [module for module in adapted.modules() if isinstance(module, LoraLayer)]
