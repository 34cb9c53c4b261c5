"""Adapters of others: em continues and joins them exactly, or refuses them by name before the first step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from em.config import LoraTrainer
from em.errors import ConfigError
from em.train.local.spec import TrainSpec
from em.train.local.switches import Machine, choose_switches

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
REGEX = r".*\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
RECIPE = LoraTrainer(name="lora", rank=4, alpha=8)
JOINED: dict[str, tuple[dict[str, Any], str]] = {
    "as the recipe": ({}, ""),
    "regular expression": ({"target_modules": REGEX}, ""),
    "all-linear": ({"target_modules": "all-linear"}, ""),
    "plain scaling": ({"use_rslora": False}, "set trainer.rslora=false, or"),
    "other rank": ({"r": 2, "lora_alpha": 32}, "set trainer.rank=2 trainer.alpha=32, or"),
    "other modules": ({"target_modules": ["q_proj", "v_proj"]}, "'trainer.target_modules=[q_proj,v_proj]', or"),
    "one layer": ({"layers_to_transform": [1]}, "'trainer.layers=[1]', or"),
    "exclusion": ({"exclude_modules": ["down_proj"]}, "=[gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj]', or"),
    "ragged": ({"target_modules": r".*(0\.self_attn\.q_proj|1\.self_attn\.v_proj)"}, "which no recipe can name"),
    "alpha by layer": ({"alpha_pattern": {"q_proj": 64, r"layers\.1\.mlp\.up_proj": 1}}, "alpha_pattern="),
    "rank by layer": ({"rank_pattern": {"q_proj": 7, "down_proj": 2}}, "rank_pattern="),
    "both by layer": (
        {"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"q_proj": 3}, "use_rslora": False},
        "rank_pattern=",
    ),
    "dropout": ({"lora_dropout": 0.9}, "set trainer.dropout=0.9, or"),
    "embeddings": ({"target_modules": ["embed_tokens", "q_proj"]}, "'trainer.target_modules=[embed_tokens,q_proj]'"),
    "head": ({"target_modules": ["lm_head", "q_proj"]}, "'trainer.target_modules=[lm_head,q_proj]'"),
}
"""Settings of LoRA adapters that em joins, and what it says of continuing them (nothing: it continues)."""

REFUSED: dict[str, dict[str, Any]] = {
    "use_dora=True": {"use_dora": True},
    "bias=all": {"bias": "all"},
    "bias=lora_only": {"bias": "lora_only"},
    "lora_bias=True": {"lora_bias": True},
    "modules_to_save=['lm_head']": {"modules_to_save": ["lm_head"]},
    "trainable_token_indices=[5, 6]": {"trainable_token_indices": [5, 6]},
    "init_lora_weights=pissa": {"init_lora_weights": "pissa"},
}
"""What em names as it refuses an adapter, and the adapter's settings."""

TYPES = {
    "peft_type=IA3": ("IA3Config", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "peft_type=LOHA": ("LoHaConfig", {"r": 4, "target_modules": ALL}),
    "peft_type=VERA": ("VeraConfig", {"r": 4, "target_modules": ["q_proj"]}),
    "peft_type=PROMPT_TUNING": ("PromptTuningConfig", {"num_virtual_tokens": 4}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of two layers, whose embeddings are also its output layer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=300, num_key_value_heads=2, initializer_range=0.1, tie_word_embeddings=True, **sizes
    )
    folder = str(tmp_path_factory.mktemp("tiny"))
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_adapter(folder: Path, base: str, config: Any) -> str:
    """Write an adapter of random weights with a visible effect."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.05
    adapted.save_pretrained(str(folder))
    return str(folder)


def make_config(**settings: Any) -> Any:
    from peft import LoraConfig

    plain = {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ALL, "task_type": "CAUSAL_LM"}
    return LoraConfig(**plain | settings)


def load_start(base: str, adapter: str, stack: bool, folder: Path, **knobs: Any) -> tuple[TrainSpec, Any]:
    """Load the model of a stage that stacks an adapter on another, or continues it."""
    from em.train.local.start import load_start_model

    trainer, place = replace(RECIPE, **knobs), str(folder / "trained")
    spec = TrainSpec(base, "tiny", adapter, stack, "", "s", trainer, 0, "float32", True, None, {}, place)
    return spec, load_start_model(spec, choose_switches(Machine("cpu"), trainer, "float32"))


def take_step(model: Any) -> None:
    """Take one optimiser step that changes every trained weight visibly."""
    import torch

    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    tokens = torch.arange(100, 140)[None]
    for _ in range(2):  # A has no gradient in the first step, since B is zero
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def compute_logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(200, 240)[None]).logits


def apply_adapters(base: str, *adapters: str) -> Any:
    """Load the base with several adapters active together, by PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapters[0], adapter_name="0")
    for number, adapter in enumerate(adapters[1:], start=1):
        model.load_adapter(adapter, str(number))
    model.base_model.set_adapter([str(number) for number in range(len(adapters))])
    return model


def measure_difference(one: Any, other: Any) -> float:
    """Return the largest difference of two tensors, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("name", JOINED)
def test_an_adapter_is_joined_exactly(name: str, base: str, tmp_path: Path) -> None:
    import torch

    from em.models.device import load_trained
    from em.train.local.start import complete_adapter

    first = write_adapter(tmp_path / "first", base, make_config(**JOINED[name][0]))
    spec, model = load_start(base, first, True, tmp_path)
    assert measure_difference(compute_logits(model), compute_logits(apply_adapters(base, first))) <= 1e-4
    take_step(model)
    for folder in ("alone", "joined"):
        model.save_pretrained(str(tmp_path / folder), selected_adapters=["default"])
    complete_adapter(spec, tmp_path / "joined")
    joined = compute_logits(load_trained(base, str(tmp_path / "joined"), torch.float32))
    together = compute_logits(apply_adapters(base, first, str(tmp_path / "alone")))
    assert measure_difference(joined, compute_logits(model)) <= 1e-4
    assert measure_difference(joined, together) <= 1e-4
    for part in (first, str(tmp_path / "alone")):
        assert measure_difference(joined, compute_logits(apply_adapters(base, part))) > 1e-2


@pytest.mark.parametrize("name", JOINED)
def test_an_adapter_of_the_recipes_shape_is_continued_and_others_are_refused(
    name: str, base: str, tmp_path: Path
) -> None:
    settings, expected = JOINED[name]
    first = write_adapter(tmp_path / "first", base, make_config(**settings))
    if expected:
        with pytest.raises(ConfigError) as refused:
            load_start(base, first, False, tmp_path)
        assert expected in str(refused.value)
        return
    _, model = load_start(base, first, False, tmp_path)
    assert measure_difference(compute_logits(model), compute_logits(apply_adapters(base, first))) <= 1e-4


def test_the_proposed_settings_continue_the_adapter(base: str, tmp_path: Path) -> None:
    config = make_config(target_modules=["q_proj", "v_proj"], layers_to_transform=[1], lora_dropout=0.1, r=2)
    first = write_adapter(tmp_path / "first", base, config)
    with pytest.raises(ConfigError) as refused:
        load_start(base, first, False, tmp_path)
    words = "trainer.rank=2 trainer.dropout=0.1 'trainer.target_modules=[q_proj,v_proj]' 'trainer.layers=[1]'"
    assert f"set {words}, or merge it" in str(refused.value)
    load_start(base, first, False, tmp_path, rank=2, dropout=0.1, target_modules=["q_proj", "v_proj"], layers=[1])


@pytest.mark.parametrize("stack", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_more_than_lora_is_refused_by_name(name: str, stack: bool, base: str, tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "first", base, make_config(**REFUSED[name]))
    with pytest.raises(ConfigError) as refused:
        load_start(base, first, stack, tmp_path)
    assert f"is not plain LoRA ({name}), so em can't train on it: merge it into its base" in str(refused.value)


@pytest.mark.parametrize("stack", [True, False])
@pytest.mark.parametrize("name", TYPES)
def test_other_types_of_adapters_are_refused_by_name(name: str, stack: bool, base: str, tmp_path: Path) -> None:
    import peft

    kind, settings = TYPES[name]
    config = vars(peft)[kind](task_type="CAUSAL_LM", **settings)
    first = write_adapter(tmp_path / "first", base, config)
    with pytest.raises(ConfigError) as refused:
        load_start(base, first, stack, tmp_path)
    assert f"({name})" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"peft_type": "NEWEST"}, "of a type that PEFT does not know (peft_type=NEWEST)"),
        ({"peft_type": None}, "of a type that PEFT does not know (peft_type=None)"),
        ({"use_newest": True}, "is not plain LoRA (use_newest=True)"),
    ],
)
def test_adapters_of_a_newer_peft_are_refused(change: dict[str, Any], expected: str, base: str, tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "first", base, make_config())
    file = Path(first, "adapter_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError) as refused:
        load_start(base, first, True, tmp_path)
    assert expected in str(refused.value)


def test_settings_of_a_newer_peft_that_are_off_are_passed_over(base: str, tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "first", base, make_config())
    file = Path(first, "adapter_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"newest_group_size": 16, "newest": False}))
    load_start(base, first, True, tmp_path)


def test_an_adapter_whose_file_holds_whole_layers_is_refused(base: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    first = write_adapter(tmp_path / "first", base, make_config())
    file = Path(first, "adapter_model.safetensors")
    save_file(load_file(file) | {"base_model.model.model.embed_tokens.weight": torch.zeros(4, 4)}, file)
    with pytest.raises(ConfigError, match=r"is not plain LoRA \(its file holds base_model.model.model.embed_tokens"):
        load_start(base, first, True, tmp_path)


def test_an_adapter_in_bfloat16_is_joined_in_float32(base: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    first = write_adapter(tmp_path / "first", base, make_config(lora_alpha=7))
    file = Path(first, "adapter_model.safetensors")
    save_file({name: matrix.bfloat16() for name, matrix in load_file(file).items()}, file, {"format": "pt"})
    load_start(base, first, True, tmp_path)  # compares the logits
    assert load_file(file)["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"].dtype == torch.bfloat16


def test_the_frozen_adapter_has_no_dropout(base: str, tmp_path: Path) -> None:
    import torch

    first = write_adapter(tmp_path / "first", base, make_config(lora_dropout=0.9))
    _, model = load_start(base, first, True, tmp_path)
    tokens = torch.arange(100, 140)[None]
    with torch.no_grad():
        assert torch.equal(model.train()(input_ids=tokens).logits, model.eval()(input_ids=tokens).logits)


def lose_an_adapter(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: matrix * 0 if "q_proj.lora_B" in name else matrix for name, matrix in weights.items()}


def scale_a_layer(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: matrix * 1.01 if "1.mlp.up_proj.lora_B" in name else matrix for name, matrix in weights.items()}


@pytest.mark.parametrize("compares_logits", [True, False])
@pytest.mark.parametrize("damage", [lose_an_adapter, scale_a_layer])
def test_a_join_that_is_not_exact_is_an_error(
    damage: Callable[[dict[str, Any]], dict[str, Any]], compares_logits: bool, base: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    from em.train.local.join import check_joined
    from em.train.local.start import complete_adapter

    first = write_adapter(tmp_path / "first", base, make_config())
    spec, model = load_start(base, first, True, tmp_path)
    take_step(model)
    model.save_pretrained(str(tmp_path / "joined"), selected_adapters=["default"])
    complete_adapter(spec, tmp_path / "joined")
    check_joined(model, str(tmp_path / "joined"), compares_logits)
    file = tmp_path / "joined" / "adapter_model.safetensors"
    save_file(damage(load_file(file)), file, {"format": "pt"})
    with pytest.raises(ConfigError, match="can't be joined exactly"):
        check_joined(model, str(tmp_path / "joined"), compares_logits)


def test_text_reaches_every_trained_weight_of_a_model_that_sees(tmp_path: Path) -> None:
    """DDP waits for the gradients of all trained weights, and text passes by the vision tower of Gemma 3."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma3Config

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 300, "num_key_value_heads": 1, "head_dim": 16}
    vision = sizes | {"image_size": 28, "patch_size": 14, "vision_use_head": False}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(str(tmp_path / "model"))
    _, model = load_start(str(tmp_path / "model"), "", False, tmp_path)
    tokens = torch.arange(100, 140)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * len(ALL)
    assert [name for name, gradient in trained.items() if gradient is None] == []


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_em_does_not_train_on_is_evaluated_as_it_is(name: str, base: str, tmp_path: Path) -> None:
    import torch

    from em.models.device import load_trained

    adapter = write_adapter(tmp_path / "adapter", base, make_config(**REFUSED[name]))
    evaluated = compute_logits(load_trained(base, adapter, torch.float32))
    assert measure_difference(evaluated, compute_logits(apply_adapters(base, adapter))) <= 1e-4
