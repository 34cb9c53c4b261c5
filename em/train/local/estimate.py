"""Estimate the memory of a training on one GPU before its weights are loaded, and refuse what can't fit.

Weights, gradients and AdamW's moments are certain: their numbers are counted on a model without storage. Activations
follow Korthikanti et al. (arXiv 2205.05198, section 4), who add up what each operation of a layer keeps for the
backward pass. Here it is a layer of Llama: a gated MLP, no dropout, and attention that keeps no scores. A frozen linear
layer keeps nothing of its input, but its adapter does.

em refuses only what exceeds the free memory for certain. The rest decides on warnings, on the tokens per pass, and on
gradient checkpointing. Tests compare the activations with the tensors that autograd keeps on a CPU; on a GPU nothing of
this has been compared with the memory in use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import Any, cast

from em.config import LocalTrainer, LoraTrainer, Optimizer, QloraTrainer
from em.errors import ConfigError
from em.models.chat import TrainingRow
from em.request import count_steps
from em.train.local.adapters import read_shapes
from em.train.local.batches import MicroBatch, assign_rows, make_micro_batches, plan_steps
from em.train.local.join import make_lora_config
from em.train.local.spec import TrainSpec
from em.train.local.speed import CHUNK
from em.train.local.start import freeze_beside_text
from em.train.local.switches import TOKENS, Machine, Switches, choose_switches

MARGIN = 0.85
"""Share of the free memory that an estimate may fill; the rest is for what it leaves out, and for fragmentation."""
CONTEXT = 600_000_000
"""Bytes of a CUDA context and the work space of its libraries (a guess)."""
SMALLEST = TOKENS["cuda"] >> 4  # tokens per pass that em chooses at least
TILE = 32768  # words of the vocabulary that TRL's head computes at a time
DOUBLE_QUANT, SINGLE_QUANT = 1 / 2 + 1 / 64 + 4 / (64 * 256), 1 / 2 + 4 / 64
"""Bytes of a weight in 4 bits, with its share of the constants of 64 weights (arXiv 2305.14314, section 3)."""
EIGHT_BITS = 2 * (1 + 4 / 256)  # bytes of both moments in 8 bits; 256 of them share a float32 constant


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of a model and its training.

    total: of the base. linear: of its linear layers without the head, which QLoRA has in 4 bits. outside: of
    embedding and head. end: of the larger of the two. trained: those with a gradient. embedded: trained embeddings.
    adapted: inputs of all adapted layers. adapters: number of adapted layers.
    """

    total: int
    linear: int
    outside: int
    end: int
    trained: int
    embedded: int = 0
    adapted: int = 0
    adapters: int = 0


@dataclass(frozen=True)
class Estimate:
    """Bytes that a training needs on one GPU.

    weights, gradients, moments: what every step needs. copies: weights in the number format of the computation, which
    autocast or FSDP makes for a pass. depth, layers: layers that a backward pass reaches, and all. layer, hidden,
    outside: per token, what a layer keeps, what passes from layer to layer, and what the rest keeps. logits: per token,
    for at most `chunk` tokens at a time.
    """

    weights: int
    gradients: int
    moments: int
    copies: int
    depth: int
    layers: int
    layer: int
    hidden: int
    outside: int
    logits: int
    chunk: int

    def count_certain(self, several_passes: bool) -> int:
        """Return what the training needs whatever its activations are.

        From a step's second pass on, the gradients of the first are there beside the copies.
        """
        return self.weights + self.gradients + self.moments + (self.copies if several_passes else 0)

    def count_kept(self, tokens: int, checkpointing: bool) -> int:
        """Return what a pass of so many tokens keeps for the backward pass."""
        layers = self.layers * self.hidden + self.layer if checkpointing else self.depth * self.layer
        return (layers + self.outside) * tokens

    def count_activations(self, tokens: int, checkpointing: bool) -> int:
        """Return what a pass keeps, with the gradients inside of one layer and the logits."""
        gradients = self.layer // 2 * tokens
        return self.count_kept(tokens, checkpointing) + gradients + self.logits * min(tokens, self.chunk)

    def count_all(self, tokens: int, checkpointing: bool) -> int:
        """Return what the training needs in all, if its largest pass has so many tokens."""
        return self.count_certain(True) + self.count_activations(tokens, checkpointing) + CONTEXT


@dataclass(frozen=True)
class Load:
    """A stage's work on one GPU: its steps, its passes, the most passes of a step, the tokens of the largest pass."""

    steps: int
    passes: int
    most_passes: int
    largest: int


@dataclass(frozen=True)
class Fit:
    """A stage, fitted to a GPU with `free` bytes (0 if that is not known)."""

    estimate: Estimate
    switches: Switches
    load: Load
    free: int

    @property
    def certain(self) -> int:
        """Bytes that the training needs for certain."""
        return self.estimate.count_certain(self.load.most_passes > 1)

    @property
    def needed(self) -> int:
        """Bytes that the training needs by the estimate."""
        return self.estimate.count_all(self.load.largest, self.switches.gradient_checkpointing)

    def describe(self) -> str:
        """Describe the memory that the training needs, in words."""
        estimate, load = self.estimate, self.load
        activations = estimate.count_activations(load.largest, self.switches.gradient_checkpointing)
        recomputed = ", recomputed" if self.switches.gradient_checkpointing else ""
        parts = (
            f"weights {to_gb(estimate.weights)}, gradients {to_gb(estimate.gradients)}, moments "
            f"{to_gb(estimate.moments)}, passes of up to {load.largest:,} tokens {to_gb(activations)}{recomputed}"
        )
        return f"about {to_gb(self.needed)} GB on each GPU ({parts})"


def to_gb(size: int) -> str:
    """Write bytes in decimal gigabytes."""
    return f"{size / 1e9:.1f}"


def plan_stage(spec: TrainSpec, rows: int) -> list[list[int]]:
    """List the row numbers of each optimiser step of a stage. `rows`: number of rows to train on."""
    knobs = spec.trainer
    steps = spec.steps or count_steps(rows, knobs.epochs, knobs.batch_size)
    return plan_steps(rows, steps, knobs.batch_size, spec.seed)


def fit_switches(spec: TrainSpec, rows: Sequence[TrainingRow], machine: Machine, switches: Switches) -> Switches:
    """Return the switches, with what the recipe leaves open chosen by the GPU's free memory; print the estimate.

    Raises:
        ConfigError: the training can't fit into the GPU, or the weights into the memory of a machine without one.
    """
    model = make_empty_model(spec.base)
    if machine.device == "cpu":
        check_host(spec, model, switches)
    if model is None or machine.device == "cpu" or not spec.gpu_memory:
        return switches
    fit = fit_stage(spec, rows, machine, switches, model)
    if problem := find_problem(fit, spec, machine, model):
        raise ConfigError(problem)
    if os.environ.get("RANK", "0") == "0":
        print(f"memory: {fit.describe()}; {to_gb(fit.free)} GB are free", flush=True)
        if warning := find_warning(fit, spec, machine, model):
            print(f"warning: {warning}", flush=True)
    return fit.switches


def make_empty_model(folder: str) -> Any | None:
    """Make the base model without storage for its weights; None if its files hold quantised weights."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):  # the number of bytes then depends on the method
        return None
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return model


def check_host(spec: TrainSpec, model: Any | None, switches: Switches) -> None:
    """Raise ConfigError if the weights alone exceed the memory of a machine without a GPU."""
    if model is None or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = parameters * (4 if switches.precision == "float32" or not spec.trainer.adapters else 2)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise ConfigError(
            f"The weights of {spec.base_name} take {to_gb(size)} GB, and this machine has {to_gb(memory)} GB of memory "
            "and no GPU: choose a smaller model, or a machine with GPUs."
        )


def fit_stage(spec: TrainSpec, rows: Sequence[TrainingRow], machine: Machine, switches: Switches, model: Any) -> Fit:
    """Choose tokens per pass and gradient checkpointing by the free memory, where the recipe leaves them open."""
    knobs, usable = spec.trainer, round(MARGIN * spec.gpu_memory)
    estimate = estimate_memory(model, knobs, count_frozen(spec, model), machine, switches)
    if knobs.device_tokens is None:
        sizes = (TOKENS["cuda"] >> halvings for halvings in range(5))  # down to SMALLEST
        fitting = [size for size in sizes if estimate.count_all(size, switches.gradient_checkpointing) <= usable]
        # If none fits, take the smallest, or the largest where only steps of one pass may fit.
        one_pass = estimate.count_certain(True) > spec.gpu_memory > 0
        none = switches.device_tokens if one_pass or not usable else SMALLEST
        switches = replace(switches, device_tokens=max(fitting, default=none))
    load = plan_load(rows, plan_stage(spec, len(rows)), machine.processes, switches)
    if knobs.gradient_checkpointing is None and usable and is_estimated_well(model):
        switches = replace(switches, gradient_checkpointing=estimate.count_all(load.largest, False) > usable)
    return Fit(estimate, switches, load, spec.gpu_memory)


def is_estimated_well(model: Any) -> bool:
    """Return whether the layers are those of the estimate: attention that keeps no scores, and nothing else."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    return model.config._attn_implementation == "sdpa" and kinds <= {"full_attention", "sliding_attention"}


def plan_load(rows: Sequence[TrainingRow], plan: Sequence[Sequence[int]], processes: int, switches: Switches) -> Load:
    """Plan the passes of all steps, over all processes."""
    lengths = [len(row.input_ids) for row in rows]
    counts, largest = list[int](), 0
    for step in plan:
        parts = list[Sequence[MicroBatch]]()
        for rank in range(processes):
            share = assign_rows(step, lengths, rank, processes)
            budget, cost, padded = switches.device_tokens, switches.pass_cost, not switches.flattened
            parts.append(make_micro_batches(rows, share, budget, cost, share=False, padded=padded))
        counts.append(max(map(len, parts)))
        largest = max(largest, *(each.count_tokens(switches.flattened) for part in parts for each in part))
    return Load(len(plan), sum(counts), max(counts), largest)


def find_problem(fit: Fit, spec: TrainSpec, machine: Machine, model: Any) -> str:
    """Return a sentence with the recipes that fit, if the training can't; else an empty one."""
    if fit.certain <= fit.free:
        return ""
    needs = fit.estimate
    advice = advise_recipe(fit, spec, machine, model)
    copies = f", working copies {to_gb(needs.copies)}" if fit.load.most_passes > 1 else ""
    return (
        f"trainer={spec.trainer.name} can't train {spec.base_name} here: it needs at least {to_gb(fit.certain)} GB on "
        f"each GPU (weights {to_gb(needs.weights)}, gradients {to_gb(needs.gradients)}, AdamW's moments "
        f"{to_gb(needs.moments)}{copies}), and {to_gb(fit.free)} GB are free (nvidia-smi lists what else is on it): "
        f"{advice}."
    )


def find_warning(fit: Fit, spec: TrainSpec, machine: Machine, model: Any) -> str:
    """Return a sentence with what would help, if the training might not fit; else an empty one."""
    usable = MARGIN * fit.free
    if fit.needed <= usable:
        return ""
    if not fit.switches.gradient_checkpointing:
        advice = "set trainer.gradient_checkpointing=true"
    elif fit.estimate.count_all(min(SMALLEST, fit.load.largest), True) <= usable:
        advice = "lower trainer.device_tokens"
    else:
        advice = advise_recipe(fit, spec, machine, model)
    return f"This may be more memory than the GPU has. If it runs out, em makes its passes smaller; or {advice}."


def advise_recipe(fit: Fit, spec: TrainSpec, machine: Machine, model: Any) -> str:
    """Say which recipes fit with small passes; `lora` and `qlora` as in conf/trainer."""
    usable = MARGIN * fit.free
    lora = LoraTrainer(name="lora", optimizer=Optimizer.adamw_8bit)
    qlora = QloraTrainer(name="qlora", rank=256, dropout=0.1)
    alone, frozen = replace(machine, fsdp=False, bitsandbytes=True), count_frozen(spec, model)

    def count_needed(recipe: LocalTrainer, place: Machine) -> int:
        switches = choose_switches(place, recipe, fit.switches.precision)
        return estimate_memory(model, recipe, frozen, place, switches).count_all(SMALLEST, True)

    fitting = list[str]()
    for recipe in (lora, qlora):
        needed = count_needed(recipe, alone)
        if needed <= usable and type(recipe) is not type(spec.trainer):
            fitting.append(f"trainer={recipe.name} (about {to_gb(needed)} GB)")
    sharded, prefix = (lora, "trainer=lora ") if spec.trainer.quantized else (spec.trainer, "")
    for count in (2, 4, 8, 16, 32, 64):
        needed = count_needed(sharded, replace(machine, fsdp=True, processes=count))
        if needed <= usable and not (machine.fsdp and count <= machine.processes):
            fitting.append(f"{prefix}trainer.accelerate=fsdp on {count} GPUs (about {to_gb(needed)} GB each)")
            break
    return f"use {' or '.join(fitting)}" if fitting else "choose a smaller model, or GPUs with more memory"


def estimate_memory(model: Any, trainer: LocalTrainer, frozen: int, machine: Machine, switches: Switches) -> Estimate:
    """Estimate the memory of a recipe on one GPU.

    Args:
        model: the base model without storage. frozen: parameters of an adapter below the trained one.
    """
    sizes, half = count_parameters(model, trainer), switches.precision == "bfloat16"
    width = 2 if half else 4
    text = model.config.get_text_config()
    if not trainer.adapters:
        weights, hidden = 4.0 * sizes.total, 4
    elif trainer.quantized:
        in_4_bits = DOUBLE_QUANT if cast(QloraTrainer, trainer).double_quant else SINGLE_QUANT
        # PEFT makes what is not in 4 bits float32.
        weights, hidden = in_4_bits * sizes.linear + 4 * (sizes.total - sizes.linear), 4
    else:
        weights, hidden = float(width * sizes.total), width
    if trainer.adapters:
        weights += 4 * (sizes.trained + frozen)
    moments = 8.0 * sizes.trained
    if switches.moments == "8 bits":  # transformers leaves the moments of embeddings in float32
        moments = EIGHT_BITS * (sizes.trained - sizes.embedded) + 8 * sizes.embedded
    gradients = 4.0 * sizes.trained
    # Neither embeddings nor, by TRL's head, the output layer are copied.
    copied = sizes.trained if trainer.adapters else sizes.trained - sizes.outside
    copies = 2.0 * copied if half else 0.0
    if machine.fsdp:
        weights, gradients, moments = (size / machine.processes for size in (weights, gradients, moments))
        # A layer and the next one, and the embedding or the output layer, are gathered at a time.
        copies = width * (sizes.end + 2 * (sizes.total - sizes.outside) / text.num_hidden_layers)
    elif machine.processes > 1:
        gradients *= 2  # DDP has buckets of its own
    first = min(cast(LoraTrainer, trainer).layers or [0]) if trainer.adapters else 0
    vocabulary = text.vocab_size if switches.compact_head else min(text.vocab_size, TILE)
    return Estimate(
        weights=ceil(weights),
        gradients=ceil(gradients),
        moments=ceil(moments),
        copies=ceil(copies),
        depth=text.num_hidden_layers - first,
        layers=text.num_hidden_layers,
        layer=count_layer_bytes(model, trainer, sizes, width),
        hidden=hidden * text.hidden_size,
        outside=(8 + 6 * hidden) * text.hidden_size,
        # Two copies in float32, those of this chunk and of the one before, and one in the model's format.
        logits=vocabulary * (8 + (2 if half else 0)),
        chunk=CHUNK["cuda"],
    )


def count_frozen(spec: TrainSpec, model: Any) -> int:
    """Count the parameters of the frozen adapter below the trained one; in a dry run both have the recipe's shape."""
    if not spec.stack:
        return 0
    if not spec.start:
        return count_parameters(model, spec.trainer).trained
    return sum(prod(shape) for shape in read_shapes(Path(spec.start, "adapter_model.safetensors")).values())


def count_parameters(model: Any, trainer: LocalTrainer) -> Parameters:
    """Count the parameters of a model, and those that the recipe trains."""
    import torch

    freeze_beside_text(model)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    outside = {id(each.weight): each.weight for each in ends if each is not None}.values()
    linear = [each for each in model.modules() if isinstance(each, torch.nn.Linear) and each is not ends[1]]
    total = sum(parameter.numel() for parameter in model.parameters())
    sizes = Parameters(
        total=total,
        linear=sum(each.weight.numel() for each in linear),
        outside=sum(weight.numel() for weight in outside),
        end=max(weight.numel() for weight in outside),
        trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        embedded=ends[0].weight.numel() * ends[0].weight.requires_grad,
    )
    if not trainer.adapters:
        return sizes
    shapes = [module.weight.shape for module in list_adapted_modules(model, cast(LoraTrainer, trainer))]
    trained = cast(LoraTrainer, trainer).rank * sum(sum(shape) for shape in shapes)
    return replace(sizes, trained=trained, embedded=0, adapted=sum(each[1] for each in shapes), adapters=len(shapes))


def list_adapted_modules(model: Any, trainer: LoraTrainer) -> list[Any]:
    """List the modules whose adapters the recipe trains."""
    from peft.tuners.tuners_utils import check_target_module_exists

    config = make_lora_config(trainer)
    named = [module for name, module in model.named_modules() if check_target_module_exists(config, name)]
    return [module for module in named if "weight" in module._parameters and module.weight.requires_grad]


def count_layer_bytes(model: Any, trainer: LocalTrainer, sizes: Parameters, width: int) -> int:
    """Count the bytes that one layer keeps of each token for the backward pass.

    `width`: bytes of a number of the activations.
    """
    text = model.config.get_text_config()
    states, heads = read_number(text, "hidden_size"), read_number(text, "num_attention_heads") or 1
    head = read_number(text, "head_dim") or states // heads
    queries, keys = heads * head, (read_number(text, "num_key_value_heads") or heads) * head
    experts = read_number(text, "num_experts_per_tok")
    inner = read_number(text, "moe_intermediate_size") if experts else 0
    inner = (inner or read_number(text, "intermediate_size") or 4 * states) * max(1, experts)
    norms = count_norms(model, text, queries + keys, head)
    # Queries, keys, values and the result of attention; of each expert its result, before it is weighted.
    kept = width * (2 * queries + 2 * keys + experts * states)
    # The gate, the gate after its activation function, and what it multiplies. Layers in 4 bits return float32.
    kept += (4 if trainer.quantized else width) * 3 * inner
    kept += 4 * norms
    if not trainer.adapters:  # what norms multiply with their weights, and the inputs of linear layers and experts
        # In bfloat16 each layer casts its input, in float32 layers share theirs.
        inputs = width * ((2 if width == 4 else 5) * states + inner + experts * states)
        return kept + 4 * norms + inputs
    knobs = cast(LoraTrainer, trainer)
    layers = read_number(text, "num_hidden_layers")
    adapted, adapters = ceil(sizes.adapted / layers), ceil(sizes.adapters / layers)
    # Adapters keep the inputs of their layers: shared, unless each drops out parts of it or casts it from float32.
    apart = knobs.dropout or (trainer.quantized and width == 2)
    inputs = width * (adapted if apart else min(adapted, 2 * states + inner))
    return kept + inputs + width * knobs.rank * adapters + (adapted if knobs.dropout else 0)


def count_norms(model: Any, text: Any, narrow: int, head: int) -> int:
    """Count the numbers that the norms of one layer get of each token.

    `narrow`: numbers that norms of single heads get, if the model has such norms; `head`: the width of a head.
    """
    norms = [each for each in model.get_decoder().modules() if type(each).__name__.endswith("Norm")]
    widths = [int(parameter.numel()) for each in norms for parameter in each.parameters()]
    wide = sum(width for width in widths if width > head)
    return wide // read_number(text, "num_hidden_layers") + (narrow if head in widths else 0)


def read_number(config: Any, name: str) -> int:
    """Read a whole number of a model's config; 0 if the config has none."""
    value = getattr(config, name, None)
    return value if isinstance(value, int) else 0
