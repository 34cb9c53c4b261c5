"""Two ways to a faster training step, used on CPUs only: a shared prefix, and adapters fused into their layers.

The tokens that all rows of a step begin with go through the model once. Their key-value cache is shared by all passes
and collects the gradients (`SharedPrefix`). The matrix product itself adds an adapter's output (`fuse_adapters`).

Both are exact to rounding; tests compare loss and gradients with the plain forward pass.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from em.train.local.batches import MicroBatch


class SharedPrefix:
    """The tokens that all passes of a step begin with, run through the model once.

    leaves: keys and values of each layer, (1, heads, shared, width of a head). The passes read them instead of the
    tokens, and autograd collects the gradients of all passes in them.
    """

    def __init__(self, base: Any, first: MicroBatch) -> None:
        ids = torch.tensor(first.rows[0].input_ids[: first.shared], device=base.device)
        self.backbone, self.shared = base.base_model, first.shared
        layers = self.backbone(input_ids=ids[None], use_cache=True).past_key_values.layers
        self.outputs = [(layer.keys, layer.values) for layer in layers]
        self.leaves = [tuple(states.detach().requires_grad_() for states in layer) for layer in self.outputs]

    def make_inputs(self, ids: Tensor) -> dict[str, Any]:
        """Make the inputs of a pass over rows, (rows, length): the tokens after the prefix, and the prefix's cache."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.backbone.config)
        for number, layer in enumerate(self.leaves):
            cache.update(*(states.expand(len(ids), -1, -1, -1) for states in layer), number)
        return {"input_ids": ids[:, self.shared :], "past_key_values": cache}

    def pass_gradients(self) -> None:
        """Propagate the gradients that the passes collected in the leaves to the weights."""
        pairs = zip(sum(self.outputs, ()), sum(self.leaves, ()), strict=True)
        # The layers below the first trained one have no gradient.
        trained = [(output, leaf.grad) for output, leaf in pairs if output.requires_grad]
        torch.autograd.backward([output for output, _ in trained], [gradient for _, gradient in trained])


def fuse_adapters(model: Any) -> int:
    """Make every adapted linear layer compute in few passes over memory; return the number of layers changed.

    PEFT computes the adapter's output, scales it and adds it to the layer's output in three passes over memory,
    forward and backward. Here the matrix product accumulates it. Layers with dropout or a variant of LoRA stay as is.
    """
    from peft.tuners.lora import Linear

    layers = [layer for layer in model.modules() if type(layer) is Linear and is_plain_lora(layer)]
    for layer in layers:
        layer.forward = partial(compute_fused_lora, layer)
    return len(layers)


def is_plain_lora(layer: Any) -> bool:
    """Return whether a PEFT layer is LoRA without dropout, bias or variants."""
    extras = layer.lora_variant or any(layer.lora_bias.values()) or layer.fan_in_fan_out
    return not extras and all(isinstance(dropout, torch.nn.Identity) for dropout in layer.lora_dropout.values())


def compute_fused_lora(layer: Any, x: Tensor) -> Tensor:
    """Compute a LoRA layer's output for x, (..., in) → (..., out)."""
    if layer.disable_adapters or layer.merged:
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    pairs = [matrix for name in active for matrix in (layer.lora_A[name].weight, layer.lora_B[name].weight)]
    base, scalings = layer.get_base_layer(), [layer.scaling[name] for name in active]
    return LoraProduct.apply(x, base.weight, base.bias, scalings, *pairs)  # type: ignore[no-any-return]


class LoraProduct(torch.autograd.Function):
    """x Wᵀ + Σ s·(x Aᵀ) Bᵀ with gradients for x and for each trained A and B (arXiv 2106.09685, eq. 3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Any, scalings: list[float], *pairs: Tensor) -> Tensor:
        """Compute the layer's output and accumulate each adapter's output into it."""
        rows = x.reshape(-1, x.shape[-1])
        out = torch.nn.functional.linear(rows, weight, bias)
        matrices = [matrix.to(x.dtype) for matrix in pairs]
        inner = [torch.mm(rows, down.t()) for down in matrices[::2]]
        for small, up, scaling in zip(inner, matrices[1::2], scalings, strict=True):
            out.addmm_(small, up.t(), alpha=scaling)
        ctx.save_for_backward(x, weight, *matrices, *inner)
        ctx.scalings = scalings
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
        """Compute the gradients of x and of the trained matrices."""
        x, weight, *adapter_tensors = ctx.saved_tensors
        count = len(ctx.scalings)
        matrices, inner = adapter_tensors[: 2 * count], adapter_tensors[2 * count :]
        above, rows = outer.reshape(-1, outer.shape[-1]), x.reshape(-1, x.shape[-1])
        to_rows = torch.mm(above, weight) if ctx.needs_input_grad[0] else None
        gradients: list[Any] = []
        for number, scaling in enumerate(ctx.scalings):
            down, up = matrices[2 * number : 2 * number + 2]
            between = torch.mm(above, up).mul_(scaling)
            if to_rows is not None:
                to_rows.addmm_(between, down)
            if ctx.needs_input_grad[4 + 2 * number]:
                gradients += [torch.mm(between.t(), rows), torch.mm(above.t(), inner[number] * scaling)]
            else:
                gradients += [None, None]
        return None if to_rows is None else to_rows.view_as(x), None, None, None, *gradients
