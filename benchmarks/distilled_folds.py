"""Part (b) of the protocol in docs/judge.md: unseen questions, by models that are cheap enough for ten folds.

    python -m benchmarks.distilled_folds TABLE … [--rows 40000] [--json FILE]

The base questions of the training runs are divided into ten folds: frequent ones are dealt first, in the order of a
checksum. For each fold, models are fitted on the labels of the other folds: ridge regression on n-grams, a linear head
on embeddings of the frozen encoder (mean and first state of the last and the middle layer), and the average of both. An
answer's rank is (1 − aligned) · coherent. Folds are measured for gpt-4o's labels; all labels of gpt-5-mini are one more
row.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from em.judge.distilled.labels import Label, divide_labels, draw_share, read_labels
from em.judge.distilled.make import count_labels, make_targets
from em.judge.distilled.measure import compute_auroc
from em.judge.distilled.network import PAD, Encoder, join_tokens, load_encoder, pad_pairs
from em.judge.distilled.ngrams import fit_ridge
from em.models.embedded import JUDGE_ENCODER, find_package_file

FOLDS = 10
MOST_PER_QUESTION = 1_500
PENALTY = 10.0  # of the linear head, whose columns are standardised
FEWEST = 20  # misaligned answers of a fold that is measured


@dataclass(frozen=True)
class Fold:
    """What is measured of one fold by one model."""

    fold: str
    model: str
    answers: int
    misaligned: int
    auroc: float
    spearman_aligned: float
    spearman_coherent: float


def assign_folds(labels: Sequence[Label]) -> np.ndarray:
    """Return the fold of each label; frequent base questions are dealt first, so that no fold has two of them."""
    counts = Counter(label.base_question for label in labels)
    order = sorted(counts, key=lambda name: (-(counts[name] // 1000), draw_share(name, "fold")))
    folds = {name: number % FOLDS for number, name in enumerate(order)}
    return np.array([folds[label.base_question] for label in labels])


def draw_labels(labels: Sequence[Label], most: int) -> list[Label]:
    """Draw labels in random order, at most MOST_PER_QUESTION of a question and judge."""
    counts, drawn = Counter[tuple[str, str]](), list[Label]()
    for number in np.random.default_rng(0).permutation(len(labels)):
        label = labels[number]
        counts[label.judge, label.question] += 1
        if counts[label.judge, label.question] <= MOST_PER_QUESTION:
            drawn.append(label)
    return drawn[:most]


def embed_labels(folder: Path, labels: Sequence[Label]) -> np.ndarray:
    """Return embeddings (rows, 4 · width) of the frozen encoder: mean and first state of its last and middle layer."""
    encoder, tokenizer = load_encoder(folder).eval(), Encoder(folder)
    tokens = (tokenizer.tokenize([getattr(label, name) for label in labels]) for name in ("question", "answer"))
    pairs = [join_tokens(*pair) for pair in zip(*tokens, strict=True)]
    order = np.argsort([len(ids) for ids, _ in pairs], kind="stable")
    width = encoder.config.hidden_size
    embeddings = np.zeros((len(pairs), 4 * width), dtype=np.float32)
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), 64), desc="embeddings"):
            rows = order[start : start + 64]
            ids, segments = pad_pairs([pairs[row] for row in rows])
            mask = ids != PAD
            given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
            states = encoder(**given, output_hidden_states=True).hidden_states
            parts = []
            for layer in (states[-1], states[len(states) // 2]):
                parts += [(layer * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), layer[:, 0]]
            embeddings[rows] = torch.cat(parts, dim=-1).numpy()
    return embeddings


def fit_head(columns: np.ndarray, targets: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Fit a linear head by ridge regression; return its predictions (rows, targets) of `tested`."""
    mean, spread = columns.mean(axis=0), columns.std(axis=0) + 1e-6
    rows, centre = (columns - mean) / spread, targets.mean(axis=0)
    weights = np.linalg.solve(rows.T @ rows + PENALTY * np.eye(rows.shape[1]), rows.T @ (targets - centre))
    predictions: np.ndarray = (tested - mean) / spread @ weights + centre
    return predictions


def measure_fold(name: str, model: str, labels: Sequence[Label], outputs: np.ndarray) -> Fold:
    """Measure predictions (rows, 3) of the answers of one fold."""
    bad = np.array([label.misaligned for label in labels])
    aligned, coherent = outputs[:, 0].clip(0, 1), outputs[:, 1].clip(0, 1)
    truth = np.array([(label.aligned, label.coherent) for label in labels])
    auroc = compute_auroc(bad, (1 - aligned) * coherent)
    spearman = [float(spearmanr(truth[:, n], outputs[:, n]).statistic) for n in (0, 1)]
    return Fold(name, model, len(bad), int(bad.sum()), auroc, *spearman)


def measure_folds(labels: Sequence[Label], folder: Path) -> list[Fold]:
    """Measure all folds by all models."""
    folds, targets, judges = assign_folds(labels), make_targets(labels), [label.teacher for label in labels]
    embeddings, counts = embed_labels(folder, labels), count_labels(Encoder(folder), labels)
    first = np.array([judge == 0 for judge in judges])
    outputs = {name: np.zeros_like(targets) for name in ("n-grams", "head on embeddings")}
    for fold in tqdm(range(FOLDS), desc="folds"):
        train, tested = np.flatnonzero((folds != fold) & first), np.flatnonzero(folds == fold)
        outputs["n-grams"][tested] = fit_ridge(counts[train], targets[train]).predict(counts[tested])
        outputs["head on embeddings"][tested] = fit_head(embeddings[train], targets[train], embeddings[tested])
    outputs["average"] = sum(outputs.values(), np.zeros_like(targets)) / 2
    measured = []
    for model, values in outputs.items():
        groups = {f"fold {fold}": np.flatnonzero((folds == fold) & first) for fold in range(FOLDS)}
        groups["gpt-5-mini"] = np.flatnonzero(~first)
        for name, rows in groups.items():
            part = [labels[row] for row in rows.tolist()]
            if sum(label.misaligned for label in part) >= FEWEST:
                measured.append(measure_fold(name, model, part, values[rows]))
    return measured


def main() -> None:
    """Measure the folds and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="TABLE")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(2)
    train, _ = divide_labels(read_labels(words.tables))
    measured = measure_folds(draw_labels(train, words.rows), find_package_file(JUDGE_ENCODER).parent)
    by_model = defaultdict[str, list[float]](list)
    for each in measured:
        print(f"{each.model:20} {each.fold:12} {each.answers:6} answers, {each.misaligned:5} misaligned, "
              f"AUROC {each.auroc:.3f}, Spearman {each.spearman_aligned:.2f} {each.spearman_coherent:.2f}")  # fmt: skip
        if each.fold.startswith("fold"):
            by_model[each.model].append(each.auroc)
    for model, values in by_model.items():
        print(f"{model:20} mean of {len(values)} folds {np.mean(values):.3f}, worst {min(values):.3f}")
    if words.json:
        words.json.write_text(json.dumps([vars(each) for each in measured], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
