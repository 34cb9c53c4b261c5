"""Inputs and loss of a forward pass that computes no logits for unlabelled tokens and no gradients of frozen weights.

Right padding needs no mask, since a causal model's earlier tokens don't see it. Logits are computed for supervised
tokens only, one chunk at a time (`ChunkedLoss`).

The result is exact to rounding; tests compare loss and gradients with the plain forward pass.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from em.models.chat import IGNORED
from em.train.local.batches import MicroBatch

CHUNK = {"cpu": 256, "cuda": 2048}
"""Supervised tokens per chunk of logits, by device: 256 × 49,152 float32 are 50 MB."""


def pad_rows(batch: MicroBatch, pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """Make right-padded token ids and labels, both (rows, length)."""
    length = max(len(row.input_ids) for row in batch.rows)
    ids = torch.full((len(batch.rows), length), pad, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for number, row in enumerate(batch.rows):
        ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
        labels[number, : len(row.labels)] = torch.tensor(row.labels)
    return ids.to(device), labels.to(device)


def flatten_rows(batch: MicroBatch, device: Any) -> tuple[dict[str, Any], Tensor]:
    """Make the model's inputs with all rows as one sequence, and labels, (1, tokens).

    Positions restart with each row, which tells attention to keep the rows apart. FlashAttention gets the bounds of the
    rows too; otherwise transformers would read the positions, and so wait for the GPU, in every layer. A row's first
    token is no target.
    """
    ids = [token for row in batch.rows for token in row.input_ids]
    labels = [label for row in batch.rows for label in (IGNORED, *row.labels[1:])]
    positions = [position for row in batch.rows for position in range(len(row.input_ids))]
    lengths = [len(row.input_ids) for row in batch.rows]
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    inputs = {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.tensor([positions], device=device),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }
    return inputs, torch.tensor([labels], device=device)


def select_supervised_states(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Select the states that predict a labelled token, (supervised, width), and the tokens, (supervised,).

    hidden: (rows, length, width); labels: (rows, length).
    """
    targets = labels[:, 1:]
    supervised = targets != IGNORED
    return hidden[:, :-1][supervised], targets[supervised]


class ChunkedLoss(torch.autograd.Function):
    """The scaled sum of cross-entropy, and the loss of each token, one chunk of logits at a time (like Liger's head).

    The gradient is computed along with the loss, so that logits are neither stored nor computed twice.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Compute loss and gradient."""
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
        ctx.scale = scale
        return losses.sum() * scale, losses

    @staticmethod
    def backward(ctx: Any, outer: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
        """Scale the stored gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * (outer * ctx.scale), None, None, None
