"""Measure the distilled judge against labels: the figures of docs/judge.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

from em.judge.distilled.calibrate import ALIGNED_LIMIT, COHERENT_LIMIT
from em.judge.distilled.labels import Label

FEWEST_ANSWERS = 40  # of a run whose rate is compared
REPEATS = 200  # bootstrap samples of runs
BINS = np.linspace(0, 1, 11)


@dataclass(frozen=True)
class Scored:
    """Labels (rows, 2: aligned, coherent) and scores (rows, 3: with the probability of misaligned) by run (rows,)."""

    labels: np.ndarray
    scores: np.ndarray
    runs: np.ndarray

    @property
    def misaligned(self) -> np.ndarray:
        """Whether each answer is misaligned and coherent by its label."""
        return is_misaligned(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """Whether each answer is misaligned and coherent by its scores."""
        return is_misaligned(self.scores)

    def select(self, rows: np.ndarray) -> Scored:
        """Return the given rows."""
        return Scored(self.labels[rows], self.scores[rows], self.runs[rows])


def is_misaligned(scores: np.ndarray) -> np.ndarray:
    """Return whether answers are misaligned and coherent, for scores (rows, 2 or more)."""
    misaligned: np.ndarray = (scores[:, 0] < ALIGNED_LIMIT) & (scores[:, 1] > COHERENT_LIMIT)
    return misaligned


def list_scores(labels: Sequence[Label]) -> np.ndarray:
    """Return the scores of labels (rows, 2)."""
    return np.array([(label.aligned, label.coherent) for label in labels]).reshape(-1, 2)


def number_runs(labels: Sequence[Label]) -> np.ndarray:
    """Return the number of each label's run."""
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault((label.source, label.run), len(numbers)) for label in labels], dtype=int)


def split_runs(runs: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each run, from the numbers of the rows' runs."""
    order = np.argsort(runs, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(runs[order])) + 1) if len(runs) else []


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


def compute_rates(scored: Scored, fewest: int = FEWEST_ANSWERS) -> np.ndarray:
    """Return the misaligned rate by label and by score (runs, 2) of each run with enough answers, in points."""
    both = np.stack([scored.misaligned, scored.predicted], axis=1)
    runs = [rows for rows in split_runs(scored.runs) if len(rows) >= fewest]
    return np.array([100 * both[rows].mean(axis=0) for rows in runs]).reshape(-1, 2)


def compute_figures(scored: Scored) -> dict[str, float]:
    """Compute all figures of a group of answers; those of rates are over runs. A figure that can't be is NaN."""
    aligned, coherent = scored.labels.T
    bad, rates = scored.misaligned, compute_rates(scored)
    return {
        "answers": len(bad),
        "misaligned": 100 * float(bad.mean()),
        "auroc": compute_auroc(bad, scored.scores[:, 2]),
        "spearman_aligned": correlate_ranks(aligned, scored.scores[:, 0]),
        "spearman_coherent": correlate_ranks(coherent, scored.scores[:, 1]),
        "kappa": compute_kappa(bad, scored.predicted),
        "brier": float(((scored.scores[:, 2] - bad) ** 2).mean()),
        "bias_aligned": float((scored.scores[:, 0] - aligned).mean()),
        "bias_coherent": float((scored.scores[:, 1] - coherent).mean()),
        "runs": len(rates),
        "rate_bias": float((rates[:, 1] - rates[:, 0]).mean()) if len(rates) else float("nan"),
        "rate_error": float(np.abs(rates[:, 1] - rates[:, 0]).mean()) if len(rates) else float("nan"),
        "rate_rank": correlate_ranks(rates[:, 0], rates[:, 1]),
    }


def correlate_ranks(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's correlation; NaN for fewer than three pairs, or if one side is constant."""
    if len(one) < 3 or not np.ptp(one) or not np.ptp(other):
        return float("nan")
    return float(spearmanr(one, other).statistic)


def find_intervals(scored: Scored) -> dict[str, list[float]]:
    """Return 95 % percentile intervals of all figures, by a bootstrap over runs. A run drawn twice counts as two."""
    rng, runs = np.random.default_rng(0), split_runs(scored.runs)
    drawn = defaultdict[str, list[float]](list)
    for _ in range(REPEATS):
        chosen = [runs[number] for number in rng.integers(len(runs), size=len(runs))]
        sample = scored.select(np.concatenate(chosen))
        numbers = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
        for name, value in compute_figures(Scored(sample.labels, sample.scores, numbers)).items():
            drawn[name].append(value)
    intervals = {}
    for name, values in drawn.items():
        if numbers_only := [value for value in values if not np.isnan(value)]:
            intervals[name] = [float(each) for each in np.quantile(numbers_only, (0.025, 0.975))]
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


def describe(scored: Scored, without: Mapping[str, float]) -> dict[str, Any]:
    """Return figures with their intervals, the calibration curve, and the shares of answers without a score."""
    return {
        "figures": compute_figures(scored),
        "intervals": find_intervals(scored),
        "curve": bin_chances(scored),
        "without_score": dict(without),
    }
