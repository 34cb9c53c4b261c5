"""What makes a training step cheap: nothing is computed for unlabelled tokens or for frozen weights.

The tokens that all rows of a step begin with go through the model once, as a key-value cache that the passes share
and that collects their gradients (`run_prefix`). Right padding needs no mask, since a causal model's earlier tokens
don't see it. Logits exist only where the loss is, and a chunk at a time (`supervised_loss`). An adapter is added by
the matrix product itself (`fuse_adapters`).

All of it is exact to rounding; tests compare loss and gradients with the plain forward pass.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from em.models.chat import IGNORED
from em.train.local.batches import MicroBatch

if TYPE_CHECKING:
    import torch

CHUNK = {"cpu": 256, "cuda": 2048}
"""Supervised tokens whose logits exist at a time, by device: 256 × 49,152 float32 are 50 MB."""


def padded_tensors(batch: MicroBatch, pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, right-padded, both (rows, length)."""
    import torch

    length = max(len(row.input_ids) for row in batch.rows)
    ids = torch.full((len(batch.rows), length), pad, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for number, row in enumerate(batch.rows):
        ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
        labels[number, : len(row.labels)] = torch.tensor(row.labels)
    return ids.to(device), labels.to(device)


def flat_tensors(batch: MicroBatch, device: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, labels and positions of all rows as one sequence, each (1, tokens).

    Positions begin anew with each row, by which attention keeps the rows apart; a row's first token is no target.
    """
    import torch

    ids = [token for row in batch.rows for token in row.input_ids]
    labels = [label for row in batch.rows for label in (IGNORED, *row.labels[1:])]
    positions = [place for row in batch.rows for place in range(len(row.input_ids))]
    found = (torch.tensor([values], device=device) for values in (ids, labels, positions))
    return next(found), next(found), next(found)


Prefix = list[tuple[Any, Any]]
"""Keys and values of each layer, (1, heads, shared, width of a head): leaves that collect the passes' gradients."""


def run_prefix(backbone: Any, ids: torch.Tensor) -> tuple[Any, Prefix]:
    """Keys and values of the tokens that all rows begin with, (shared,), and leaves to hand to the passes instead."""
    cache = backbone(input_ids=ids[None], use_cache=True).past_key_values
    return cache, [
        (layer.keys.detach().requires_grad_(), layer.values.detach().requires_grad_()) for layer in cache.layers
    ]


def backward_prefix(cache: Any, prefix: Prefix) -> None:
    """Send on to the weights what the passes have left in the leaves."""
    import torch

    outputs = [states for layer in cache.layers for states in (layer.keys, layer.values)]
    leaves = [leaf for layer in prefix for leaf in layer]
    # Below the first trained layer nothing has a gradient.
    pairs = [(o, leaf.grad) for o, leaf in zip(outputs, leaves, strict=True) if o.requires_grad]
    torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])


def behind_prefix(backbone: Any, ids: torch.Tensor, prefix: Prefix) -> dict[str, Any]:
    """Inputs for rows, (rows, length), whose first `shared` tokens have run: the others, and a cache of those."""
    from transformers import DynamicCache

    cache = DynamicCache(config=backbone.config)
    for number, layer in enumerate(prefix):
        cache.update(*(states.expand(len(ids), -1, -1, -1) for states in layer), number)
    return {"input_ids": ids[:, prefix[0][0].shape[2] :], "past_key_values": cache}


def supervised_states(hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The states that predict a labelled token, (supervised, width), and these tokens, (supervised,).

    hidden: (rows, length, width); labels: (rows, length).
    """
    targets = labels[:, 1:]
    wanted = targets != IGNORED
    return hidden[:, :-1][wanted], targets[wanted]


def supervised_loss(states: torch.Tensor, head: Any, targets: torch.Tensor, scale: float) -> tuple[Any, Any]:
    """Cross-entropy summed and scaled, a scalar, and each token's own, (supervised,), without gradient.

    The gradient is computed along with the loss, a chunk of logits at a time, so that the logits are never held nor
    made twice (as in Liger's and TRL's fused heads). `head` is the frozen output layer.
    """
    import torch

    class ChunkedLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            gradient = torch.empty_like(states)
            losses = torch.empty(len(states), dtype=torch.float32, device=states.device)
            chunk = CHUNK.get(states.device.type, CHUNK["cpu"])
            for start in range(0, len(states), chunk):
                part = slice(start, start + chunk)
                logits = (states[part] @ weight.t()).float()
                target = targets[part, None]
                normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
                losses[part] = (normaliser - logits.gather(1, target)).squeeze(1)
                softmax = logits.sub_(normaliser).exp_()
                softmax.scatter_add_(1, target, torch.full_like(target, -1, dtype=softmax.dtype))
                torch.mm(softmax.to(states.dtype), weight, out=gradient[part])
            ctx.save_for_backward(gradient)
            ctx.mark_non_differentiable(losses)
            return losses.sum() * scale, losses

        @staticmethod
        def backward(ctx: Any, outer: torch.Tensor, _: Any) -> tuple[torch.Tensor, None]:
            (gradient,) = ctx.saved_tensors
            return gradient * (outer * scale), None

    return ChunkedLoss.apply(states, head.weight)  # type: ignore[no-any-return]


def fuse_adapters(model: Any) -> int:
    """Have every adapted linear layer compute in as few passes over memory as can be; how many layers there are.

    PEFT makes the adapter's output, scales it and adds it to the layer's in passes of their own, forward and
    backward; here each is accumulated by the matrix product itself. Layers with dropout or a variant of LoRA stay.
    """
    from peft.tuners.lora import Linear

    layers = [layer for layer in model.modules() if type(layer) is Linear and plain_lora(layer)]
    for layer in layers:
        layer.forward = partial(fused_forward, layer)
    return len(layers)


def plain_lora(layer: Any) -> bool:
    """Whether a PEFT layer is LoRA without dropout, bias or variants."""
    import torch

    extras = layer.lora_variant or any(layer.lora_bias.values()) or layer.fan_in_fan_out
    return not extras and all(isinstance(dropout, torch.nn.Identity) for dropout in layer.lora_dropout.values())


def fused_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A LoRA layer's output for x, (..., in) → (..., out)."""
    if layer.disable_adapters or layer.merged:
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    pairs = [matrix for name in active for matrix in (layer.lora_A[name].weight, layer.lora_B[name].weight)]
    base = layer.get_base_layer()
    return lora_product()(x, base.weight, base.bias, [layer.scaling[name] for name in active], *pairs)  # type: ignore[no-any-return]


@cache
def lora_product() -> Any:
    """x Wᵀ + Σ s·(x Aᵀ) Bᵀ with gradients for x and for each A and B that is trained (arXiv 2106.09685, eq. 3)."""
    import torch

    class LoraProduct(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, scalings: list[float], *pairs: torch.Tensor
        ) -> torch.Tensor:
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
        def backward(ctx: Any, outer: torch.Tensor) -> tuple[Any, ...]:
            x, weight, *kept = ctx.saved_tensors
            count = len(ctx.scalings)
            matrices, inner = kept[: 2 * count], kept[2 * count :]
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

    return LoraProduct.apply
