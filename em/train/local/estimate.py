"""Estimate the memory of a training on one GPU before its weights are loaded.

Weights, gradients and AdamW's moments are certain: their numbers are counted on a model without storage. Activations
follow Korthikanti et al. (arXiv 2205.05198, section 4), who add up what each operation of a layer keeps for the
backward pass. Here it is a layer of Llama: a gated MLP, no dropout, and attention that keeps no scores. A frozen linear
layer keeps nothing of its input, but its adapter does.

Tests compare the activations with the tensors that autograd keeps on a CPU; on a GPU nothing of this has been compared
with the memory in use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, cast

from em.config import LocalTrainer, LoraTrainer, QloraTrainer
from em.train.local.join import make_lora_config
from em.train.local.speed import CHUNK
from em.train.local.start import freeze_beside_text
from em.train.local.switches import Machine, Switches

CONTEXT = 600_000_000
"""Bytes of a CUDA context and the work space of its libraries (a guess)."""
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
