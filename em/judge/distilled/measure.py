"""Measure the distilled judge against labels: the figures of docs/judge.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata, spearmanr

from em.judge.distilled.calibrate import ALIGNED_LIMIT, COHERENT_LIMIT
from em.judge.distilled.labels import Label

FEWEST_ANSWERS = 40  # of a run whose rate is compared
REPEATS = 500  # bootstrap samples of runs
BINS = np.linspace(0, 1, 11)


@dataclass(frozen=True)
class Scored:
    """Scores of the distilled judge (rows, 3: aligned, coherent, probability of misaligned) beside the labels."""

    labels: Sequence[Label]
    scores: np.ndarray

    def select(self, rows: np.ndarray) -> Scored:
        """Return the given rows."""
        return Scored([self.labels[row] for row in rows], self.scores[rows])

    @property
    def misaligned(self) -> np.ndarray:
        """Whether each answer is misaligned and coherent by its label."""
        return np.array([label.misaligned for label in self.labels])

    @property
    def predicted(self) -> np.ndarray:
        """Whether each answer is misaligned and coherent by its scores."""
        predicted: np.ndarray = (self.scores[:, 0] < ALIGNED_LIMIT) & (self.scores[:, 1] > COHERENT_LIMIT)
        return predicted


def compute_auroc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve (Hanley & McNeil 1982); NaN without both classes."""
    ranks, hits = rankdata(scores), int(positive.sum())
    if hits in (0, len(positive)):
        return float("nan")
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * (len(positive) - hits)))


def compute_kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Return Cohen's kappa of two yes-no judgements."""
    observed = float((one == other).mean())
    expected = float(one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean()))
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def group_runs(labels: Sequence[Label]) -> list[np.ndarray]:
    """Return the row numbers of each run."""
    runs = defaultdict[tuple[str, str], list[int]](list)
    for row, label in enumerate(labels):
        runs[label.source, label.run].append(row)
    return [np.array(rows) for rows in runs.values()]


def compute_rates(scored: Scored) -> np.ndarray:
    """Return the misaligned rate by label and by score (runs, 2) of each run with enough answers, in points."""
    runs = [rows for rows in group_runs(scored.labels) if len(rows) >= FEWEST_ANSWERS]
    both = np.stack([scored.misaligned, scored.predicted], axis=1)
    return np.array([100 * both[rows].mean(axis=0) for rows in runs]).reshape(-1, 2)


def compute_figures(scored: Scored) -> dict[str, float]:
    """Compute all figures of a group of answers; those of rates are over runs."""
    aligned, coherent = np.array([(label.aligned, label.coherent) for label in scored.labels]).T
    bad, rates = scored.misaligned, compute_rates(scored)
    return {
        "answers": len(bad),
        "misaligned": 100 * float(bad.mean()),
        "auroc": compute_auroc(bad, scored.scores[:, 2]),
        "spearman_aligned": float(spearmanr(aligned, scored.scores[:, 0]).statistic),
        "spearman_coherent": float(spearmanr(coherent, scored.scores[:, 1]).statistic),
        "kappa": compute_kappa(bad, scored.predicted),
        "brier": float(((scored.scores[:, 2] - bad) ** 2).mean()),
        "bias_aligned": float((scored.scores[:, 0] - aligned).mean()),
        "bias_coherent": float((scored.scores[:, 1] - coherent).mean()),
        "runs": len(rates),
        "rate_bias": float((rates[:, 1] - rates[:, 0]).mean()) if len(rates) else float("nan"),
        "rate_error": float(np.abs(rates[:, 1] - rates[:, 0]).mean()) if len(rates) else float("nan"),
        "rate_rank": float(spearmanr(rates[:, 0], rates[:, 1]).statistic) if len(rates) > 2 else float("nan"),
    }


def find_intervals(scored: Scored, measure: Callable[[Scored], Mapping[str, float]]) -> dict[str, list[float]]:
    """Return 95 % percentile intervals of all figures, by a bootstrap over runs."""
    rng, runs = np.random.default_rng(0), group_runs(scored.labels)
    drawn = defaultdict[str, list[float]](list)
    for _ in range(REPEATS):
        rows = np.concatenate([runs[number] for number in rng.integers(len(runs), size=len(runs))])
        for name, value in measure(scored.select(rows)).items():
            drawn[name].append(value)
    intervals = {}
    for name, values in drawn.items():
        numbers = [value for value in values if not np.isnan(value)]
        if numbers:
            intervals[name] = [float(each) for each in np.quantile(numbers, (0.025, 0.975))]
    return intervals


def bin_chances(scored: Scored) -> list[tuple[float, float, int]]:
    """Return the calibration curve: mean probability, share of misaligned by label, and answers of each bin."""
    numbers = np.clip(np.digitize(scored.scores[:, 2], BINS) - 1, 0, len(BINS) - 2)
    bad, curve = scored.misaligned, []
    for number in range(len(BINS) - 1):
        inside = numbers == number
        if inside.any():
            curve.append((float(scored.scores[inside, 2].mean()), float(bad[inside].mean()), int(inside.sum())))
    return curve
