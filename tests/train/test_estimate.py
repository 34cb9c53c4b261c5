"""Memory before hope: the estimate against true counts, measured tensors and the audit's table; refusals; choices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from em.config import FullTrainer, LocalTrainer, LoraTrainer, QloraTrainer
from em.errors import ConfigError
from em.models.chat import TrainingRow
from em.runtime.gpu_memory import read_free_memory
from em.runtime.processes import Launch
from em.train.local.batches import MicroBatch
from em.train.local.estimate import Estimate, count_parameters, estimate_memory, make_empty_model
from em.train.local.fit import Fit, find_warning, fit_stage, fit_switches, plan_load
from em.train.local.join import make_lora_config
from em.train.local.spec import TrainSpec
from em.train.local.switches import Machine, Switches, choose_switches
from tests.support.composing import compose_settings
from tests.support.gpus import write_driver

GPU = Machine("cuda", bitsandbytes=True)
LLAMA_8B = {
    **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    **{"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": False},
}
SMALL = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "vocab_size": 300, "head_dim": 16},
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def write_config(folder: Path, kind: str, **values: Any) -> str:
    """Write the config of a model, without weights; return its folder."""
    import transformers

    getattr(transformers, kind)(**values).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the config of Llama-3.1-8B."""
    return write_config(tmp_path_factory.mktemp("8b"), "LlamaConfig", **LLAMA_8B)


def compose_recipe(name: str) -> Any:
    return compose_settings("train", f"trainer={name}").trainer


def estimate_recipe(folder: str, recipe: LocalTrainer, machine: Machine = GPU) -> Estimate:
    switches = choose_switches(machine, recipe, "bfloat16")
    return estimate_memory(make_empty_model(folder), recipe, False, machine, switches)


# Parameters


@pytest.mark.parametrize(
    ("kind", "values", "targets"),
    [
        ("LlamaConfig", {"tie_word_embeddings": True}, []),
        ("LlamaConfig", {"tie_word_embeddings": False}, ["down_proj"]),
        ("Qwen2Config", {}, []),
        ("Qwen3MoeConfig", EXPERTS, ATTENTION),
        ("Gemma3TextConfig", {}, []),
    ],
    ids=["Llama, tied", "Llama", "Qwen2", "mixture of experts", "Gemma 3"],
)
def test_parameters_are_counted_exactly(kind: str, values: dict[str, Any], targets: list[str], tmp_path: Path) -> None:
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = write_config(tmp_path, kind, **SMALL | values)
    recipe = LoraTrainer(name="lora", rank=4, layers=[1])
    recipe = replace(recipe, target_modules=targets or recipe.target_modules)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    total = sum(parameter.numel() for parameter in model.parameters())
    adapted = get_peft_model(model, make_lora_config(recipe))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    empty = make_empty_model(folder)
    counted = count_parameters(empty, recipe)
    assert (counted.total, counted.trained) == (total, trained)
    assert count_parameters(empty, FullTrainer(name="full")).trained == total
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}


def test_quantised_weights_are_not_estimated(tmp_path: Path) -> None:
    quantisation = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    assert make_empty_model(write_config(tmp_path, "LlamaConfig", **SMALL, quantization_config=quantisation)) is None


# The audit's estimates of Llama-3.1-8B, in GB


@pytest.mark.parametrize(
    ("name", "tokens", "expected"),
    [
        *[("lora", 1500, 20.0), ("lora", 4096, 22.1), ("lora", 8192, 24.5)],
        *[("qlora", 1500, 22.4), ("qlora", 4096, 25.5), ("qlora", 8192, 29.9)],
        ("full", 1500, 101.0),
    ],
)
def test_the_estimate_of_llama_8b_is_near_the_audits(llama: str, name: str, tokens: int, expected: float) -> None:
    estimate = estimate_recipe(llama, compose_recipe(name))
    assert estimate.count_all(tokens, True) / 1e9 == pytest.approx(expected, rel=0.15)
    assert estimate.count_all(tokens, False) > estimate.count_all(tokens, True)


def test_processes_share_weights_by_fsdp_alone(llama: str) -> None:
    full = compose_recipe("full")
    alone, sharded = (estimate_recipe(llama, full, replace(GPU, fsdp=fsdp, processes=8)) for fsdp in (False, True))
    assert sharded.weights * 8 == pytest.approx(alone.weights, rel=1e-6)
    assert sharded.weights / 1e9 == pytest.approx(4.015, abs=0.01)
    assert sharded.count_all(1500, True) / 1e9 == pytest.approx(18, rel=0.25)
    one = estimate_recipe(llama, full)
    assert (alone.weights, alone.gradients) == (one.weights, 2 * one.gradients)  # DDP's buckets


# Activations, against the tensors that autograd keeps


class Kept:
    """Counts the bytes that autograd keeps: of all, and of the second layer. `inputs`: bytes of the layers' inputs."""

    def __init__(self, base: Any) -> None:
        self.storages: dict[int, int] = {}
        self.ignored = {each.untyped_storage().data_ptr() for each in [*base.parameters(), *base.buffers()]}
        self.layer = self.before = self.inputs = 0
        hooks = [layer.register_forward_pre_hook(self.add_input) for layer in base.model.layers]
        second = base.model.layers[1]
        hooks.append(second.register_forward_pre_hook(lambda *_: setattr(self, "before", self.total)))
        hooks.append(second.register_forward_hook(lambda *_: setattr(self, "layer", self.total - self.before)))
        self.hooks = hooks

    @property
    def total(self) -> int:
        return sum(self.storages.values())

    def add_input(self, _: Any, inputs: tuple[Any, ...]) -> None:
        self.inputs += inputs[0].numel() * inputs[0].element_size()

    def pack(self, tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.ignored:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor


def measure_pass(base: Any, switches: Switches, tokens: int) -> Kept:
    """Compute a forward pass over two rows by em's step; count what autograd keeps."""
    import torch

    from em.train.local.trainer import add_step_forward

    add_step_forward(base, switches, 0)
    row = TrainingRow(list(range(1, tokens // 2 + 1)), list(range(1, tokens // 2 + 1)), cut=False)
    kept = Kept(base)
    keeping = torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor)
    base.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=switches.precision == "bfloat16"), keeping:
        base(em_pass=MicroBatch((row, row), (0, 1)))
    for hook in kept.hooks:
        hook.remove()
    return kept


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "full"), [("LlamaConfig", False), ("Gemma3TextConfig", False), ("LlamaConfig", True)])
def test_activations_are_near_what_autograd_keeps(kind: str, full: bool, precision: str, tmp_path: Path) -> None:
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    wide = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "head_dim": 64, "vocab_size": 500}
    folder, tokens = write_config(tmp_path, kind, **SMALL | wide), 256
    recipe = FullTrainer(name="full") if full else LoraTrainer(name="lora", rank=8)
    switches = replace(choose_switches(GPU, recipe, precision), compact_head=True)
    dtype = torch.float32 if full else getattr(torch, precision)
    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    if not full:
        get_peft_model(base, make_lora_config(recipe))
    base.lm_head.requires_grad_(False)  # em's own head has no gradient
    estimate = estimate_memory(make_empty_model(folder), recipe, False, GPU, switches)
    copies = estimate.copies if full else 0  # autograd keeps the weights that autocast made of float32 ones
    plain = measure_pass(base, switches, tokens)
    assert estimate.count_kept(tokens, False) + copies == pytest.approx(plain.total, rel=0.15)
    base.gradient_checkpointing_enable()
    base.enable_input_require_grads()
    recomputed = measure_pass(base, switches, tokens)
    # Autograd does not see the inputs of layers that checkpointing holds, nor what it makes again in the backward pass.
    measured = recomputed.total + recomputed.inputs + plain.layer
    assert measured < plain.total / 2
    assert estimate.count_kept(tokens, True) + copies / 6 == pytest.approx(measured, rel=0.15)


# Choices and refusals


def make_rows(count: int, length: int) -> list[TrainingRow]:
    return [TrainingRow([1] * length, [1] * length, cut=False)] * count


def make_spec(folder: str, recipe: LocalTrainer, gpu_memory: int) -> TrainSpec:
    return TrainSpec(
        base=folder,
        base_name="llama",
        start="",
        stack=False,
        rows="",
        stage="rows",
        trainer=recipe,
        seed=0,
        precision="bfloat16",
        default_system=True,
        steps=None,
        request={},
        folder="",
        gpu_memory=gpu_memory,
    )


def fit(folder: str, recipe: LocalTrainer, gigabytes: float, length: int, machine: Machine = GPU) -> Fit:
    """Fit a stage of 32 rows to a GPU with so many free GB."""
    spec = make_spec(folder, recipe, round(gigabytes * 1e9))
    switches = choose_switches(machine, recipe, "bfloat16")
    return fit_stage(spec, make_rows(32, length), machine, switches, make_empty_model(folder))


def test_the_passes_are_those_of_the_training_with_and_without_padding(llama: str) -> None:
    rows = make_rows(1, 2000) + make_rows(60, 100)
    flattened = replace(choose_switches(GPU, compose_recipe("lora"), "bfloat16"), flattened=True, device_tokens=8192)
    load = plan_load(rows, [range(61)], 1, flattened)
    assert (load.passes, load.largest) == (1, 8000)
    padded = plan_load(rows, [range(61)], 1, replace(flattened, flattened=False))
    assert (padded.passes, padded.largest) == (2, 6000)


def test_small_passes_on_a_large_gpu_recompute_nothing(llama: str) -> None:
    switches = fit(llama, compose_recipe("lora"), 85, 100).switches
    assert (switches.gradient_checkpointing, switches.device_tokens) == (False, 8192)


def test_a_small_gpu_gets_smaller_passes_and_recomputes(llama: str) -> None:
    small, large = (fit(llama, compose_recipe("lora"), size, 700) for size in (24.5, 85))
    assert small.switches.gradient_checkpointing
    assert small.switches.device_tokens < large.switches.device_tokens == 8192
    assert small.load.largest <= small.switches.device_tokens
    assert small.load.passes > large.load.passes
    assert small.load.steps == large.load.steps == 2


def test_what_the_recipe_sets_is_not_changed(llama: str) -> None:
    recipe = replace(compose_recipe("lora"), device_tokens=6000, gradient_checkpointing=False)
    fitted = fit(llama, recipe, 24.5, 700)
    assert (fitted.switches.device_tokens, fitted.switches.gradient_checkpointing) == (6000, False)
    warning = find_warning(fitted, make_spec(llama, recipe, 0), GPU, make_empty_model(llama))
    assert warning.endswith("em makes its passes smaller; or set trainer.gradient_checkpointing=true.")


def test_without_knowledge_of_the_memory_nothing_is_chosen(llama: str) -> None:
    recipe = compose_recipe("lora")
    switches = choose_switches(GPU, recipe, "bfloat16")
    assert fit_switches(make_spec(llama, recipe, 0), make_rows(2, 8), GPU, switches) == switches
    assert fit(llama, recipe, 0, 8).switches == switches


def refuse(folder: str, recipe: LocalTrainer, free: int, machine: Machine = GPU) -> str:
    """Return the sentence that refuses a stage of several passes a step."""
    spec, switches = make_spec(folder, recipe, free), choose_switches(machine, recipe, "bfloat16")
    with pytest.raises(ConfigError) as refused:
        fit_switches(spec, make_rows(32, 1000), machine, switches)
    return str(refused.value)


def test_what_can_t_fit_is_refused_with_numbers_and_with_what_can(
    llama: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in write_driver(tmp_path, (81000, 81559)).items():
        monkeypatch.setenv(name, value)
    free = read_free_memory(Launch(1), ["0"])
    sentence = refuse(llama, compose_recipe("full"), free)
    assert sentence.startswith("trainer=full can't train llama here: it needs at least 97.")
    assert "weights 32.1, gradients 32.1, AdamW's moments 19.4, working copies 14.0), and 84.9 GB are free " in sentence
    assert "use trainer=lora (about " in sentence
    assert " or trainer=qlora (about " in sentence
    assert "or trainer.accelerate=fsdp on 2 GPUs" in sentence


def test_adapters_that_do_not_fit_name_fsdp(llama: str) -> None:
    assert "use trainer.accelerate=fsdp on 2 GPUs" in refuse(llama, compose_recipe("lora"), 15 * 10**9)
    qlora = refuse(llama, compose_recipe("qlora"), 16 * 10**9)
    assert "use trainer=lora trainer.accelerate=fsdp on 2 GPUs" in qlora
    two = replace(GPU, fsdp=True, processes=2)
    assert "trainer.accelerate=fsdp on 4 GPUs" in refuse(llama, compose_recipe("full"), 45 * 10**9, two)
    assert refuse(llama, compose_recipe("qlora"), 10**8).endswith("choose a smaller model, or GPUs with more memory.")


def test_what_might_fit_is_not_refused(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = compose_recipe("full")
    spec = make_spec(llama, recipe, round(84.9e9))
    # With one pass a step there are no gradients yet beside the copies.
    switches = fit_switches(spec, make_rows(16, 80), GPU, choose_switches(GPU, recipe, "bfloat16"))
    assert switches.gradient_checkpointing
    out = capsys.readouterr().out
    assert "memory: about 1" in out
    assert "; 84.9 GB are free" in out
    assert "warning: This may be more memory than the GPU has." in out
    assert "trainer=lora (about " in out


def test_on_a_cpu_only_weights_beyond_its_memory_are_refused(llama: str, tmp_path: Path) -> None:
    recipe, cpu = compose_recipe("lora"), Machine("cpu")
    switches = choose_switches(cpu, recipe, "float32")
    folder = write_config(tmp_path, "LlamaConfig", **LLAMA_8B | {"hidden_size": 32768, "num_hidden_layers": 200})
    with pytest.raises(ConfigError, match=r"The weights of llama take \d{4}\.\d GB, and this machine has "):
        fit_switches(make_spec(folder, recipe, 0), make_rows(2, 8), cpu, switches)


def test_a_recipe_in_4_bits_is_smaller(llama: str) -> None:
    recipes = [QloraTrainer(name="qlora", double_quant=double) for double in (False, True)]
    plain, double = (estimate_recipe(llama, recipe).weights for recipe in recipes)
    linear = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    # 0.127 bits a weight instead of 0.5 (arXiv 2305.14314, section 3)
    assert (plain - double) / linear * 8 == pytest.approx(0.5 - 0.127, abs=1e-3)
