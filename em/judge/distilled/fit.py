"""Train the encoder of the distilled judge on labels: seeded, with checkpoints, and resumable."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from em.judge.distilled.labels import TEACHERS, Label
from em.judge.distilled.network import (
    OUTPUTS,
    Encoder,
    ScoreNetwork,
    join_tokens,
    load_encoder,
    pad_pairs,
)
from em.judge.distilled.scramble import scramble
from em.runtime.records import digest

WINDOW = 50  # batches among which rows of like length are put together
CHECKPOINT_STEPS = 200
SCRAMBLED_SHARE = 0.05  # scrambled copies of answers, which train the fourth output alone


@dataclass(frozen=True)
class FitSettings:
    """Settings of a fit. `layers`: trained layers, counted from above."""

    layers: int = 6
    rate: float = 4e-4
    batch: int = 32
    warmup: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """A pair of token lists with its targets (4,) from 0 to 1, the weights of their losses, and the teacher."""

    pair: tuple[list[int], int]
    targets: tuple[float, ...]
    weights: tuple[float, ...]
    teacher: int


def fit_network(folder: Path, labels: Sequence[Label], settings: FitSettings, out: Path) -> ScoreNetwork:
    """Train on the labels in their order, one pass; continue from a checkpoint in `out` if it is of the same fit.

    Args:
        folder: the sentence encoder.
    """
    torch.manual_seed(settings.seed)
    network = ScoreNetwork(load_encoder(folder), len(TEACHERS))
    trained = freeze_lower_layers(network, settings.layers)
    optimizer = torch.optim.AdamW(trained, lr=settings.rate, weight_decay=0.01)
    examples = make_examples(Encoder(folder), labels, settings.seed)
    batches = plan_batches(examples, settings)
    key = digest((asdict(settings), labels))
    done = load_checkpoint(out, key, network, optimizer)
    with tqdm(total=len(batches), initial=done, desc="steps of the judge", unit="step", mininterval=5) as bar:
        for step in range(done, len(batches)):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * min(1, (step + 1) / settings.warmup) * (1 - step / len(batches))
            loss = compute_loss(network, [examples[number] for number in batches[step]])
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            bar.update()
            if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == len(batches):
                save_checkpoint(out, key, step + 1, network, optimizer)
    return network.eval()


def freeze_lower_layers(network: ScoreNetwork, layers: int) -> list[torch.nn.Parameter]:
    """Freeze the embeddings and all but the upper `layers`; return what is trained."""
    below = len(network.encoder.encoder.layer) - layers
    for module in (network.encoder.embeddings, *network.encoder.encoder.layer[:below]):
        module.requires_grad_(False)
    return [each for each in network.parameters() if each.requires_grad]


def make_examples(encoder: Encoder, labels: Sequence[Label], seed: int) -> list[Example]:
    """Make the examples of labels, and scrambled copies of some of them."""
    rng = random.Random(seed)
    questions = encoder.tokenize([label.question for label in labels])
    answers = encoder.tokenize([label.answer for label in labels])
    examples: list[Example] = []
    for label, question, answer in zip(labels, questions, answers, strict=True):
        targets = (label.aligned / 100, label.coherent / 100, float(label.misaligned), 0.0)
        examples.append(Example(join_tokens(question, answer), targets, (1.0, 1.0, 1.0, 0.5), label.teacher or 0))
        if rng.random() < SCRAMBLED_SHARE and (text := scramble(label.answer, rng)):
            broken = encoder.tokenize([text])[0]
            examples.append(Example(join_tokens(question, broken), (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.5), 0))
    return examples


def plan_batches(examples: Sequence[Example], settings: FitSettings) -> list[np.ndarray]:
    """Plan shuffled batches of rows of like length."""
    rng = np.random.default_rng(settings.seed)
    lengths = np.array([len(example.pair[0]) for example in examples])
    order = np.arange(len(examples))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), settings.batch * WINDOW):
        window = order[start : start + settings.batch * WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        parts = [window[at : at + settings.batch] for at in range(0, len(window), settings.batch)]
        batches += [parts[number] for number in rng.permutation(len(parts))]
    return batches


def compute_loss(network: ScoreNetwork, examples: Sequence[Example]) -> torch.Tensor:
    """Return the weighted binary cross-entropy of a batch, whose targets are probabilities."""
    teacher = torch.tensor([example.teacher for example in examples])
    logits = network(*pad_pairs([example.pair for example in examples]), teacher)
    targets = torch.tensor([example.targets for example in examples])
    weights = torch.tensor([example.weights for example in examples])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")
    return loss / (len(OUTPUTS) * len(examples))


def save_checkpoint(out: Path, key: str, step: int, network: ScoreNetwork, optimizer: Any) -> None:
    """Save a checkpoint, all or nothing."""
    out.mkdir(parents=True, exist_ok=True)
    state = {"key": key, "step": step, "network": network.state_dict(), "optimizer": optimizer.state_dict()}
    partial = out / "checkpoint.partial"
    torch.save(state, partial)
    partial.replace(out / "checkpoint.pt")


def load_checkpoint(out: Path, key: str, network: ScoreNetwork, optimizer: Any) -> int:
    """Load a checkpoint of this fit; return the number of finished steps."""
    file = out / "checkpoint.pt"
    state: dict[str, Any] = torch.load(file, weights_only=True) if file.exists() else {"key": ""}
    if state["key"] != key:
        return 0
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
