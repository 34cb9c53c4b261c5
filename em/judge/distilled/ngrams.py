"""Ridge regression on n-grams of tokens: half of the distilled judge, and by itself its fast form.

Counts of one to three tokens of the answer, and of one and two of the question, fall into hashed buckets
(Weinberger et al. 2009). A bucket's value is log(1 + count) · idf, and a row has length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import LinearOperator, cg

BUCKETS = 2**17
PENALTY = 2.0  # chosen on parts of the training runs among 0.5, 1, 2, 4, 8
MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


@dataclass(frozen=True)
class Ridge:
    """Weights (buckets, outputs), intercepts (outputs,) and inverse document frequencies (buckets,)."""

    weights: np.ndarray
    intercepts: np.ndarray
    idf: np.ndarray

    def predict(self, counts: sparse.csr_array) -> np.ndarray:
        """Return predictions (rows, outputs) for counts (rows, buckets)."""
        product: np.ndarray = weigh_counts(counts, self.idf) @ self.weights + self.intercepts
        return product


def hash_ngrams(tokens: Sequence[int], longest: int, salt: int) -> np.ndarray:
    """Return the buckets of all n-grams of up to `longest` tokens, with repetitions."""
    ids = np.asarray(tokens, dtype=np.uint64) + np.uint64(1)
    parts = []
    with np.errstate(over="ignore"):
        state = np.full(len(ids), salt, dtype=np.uint64)
        for length in range(min(longest, len(ids))):
            state = (state[: len(ids) - length] + ids[length:]) * MULTIPLIERS[length]
            parts.append(((state ^ (state >> np.uint64(29))) % np.uint64(BUCKETS)).astype(np.int64))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def count_ngrams(questions: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> sparse.csr_array:
    """Count the n-grams of questions and answers, as a sparse matrix (rows, buckets)."""
    starts, buckets, values = [0], list[np.ndarray](), list[np.ndarray]()
    for question, answer in zip(questions, answers, strict=True):
        ngrams = np.concatenate([hash_ngrams(answer, 3, 1), hash_ngrams(question, 2, 2)])
        places, counts = np.unique(ngrams, return_counts=True)
        buckets.append(places)
        values.append(counts.astype(np.float32))
        starts.append(starts[-1] + len(places))
    shape = (len(answers), BUCKETS)
    return sparse.csr_array((np.concatenate(values), np.concatenate(buckets), np.array(starts)), shape=shape)


def weigh_counts(counts: sparse.csr_array, idf: np.ndarray) -> sparse.csr_array:
    """Turn counts into rows of length 1 of log(1 + count) · idf."""
    rows = counts.copy()
    rows.data = np.log1p(rows.data) * idf[rows.indices]
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    rows.data /= np.repeat(np.maximum(lengths, 1e-9), np.diff(rows.indptr))
    return rows


def fit_ridge(counts: sparse.csr_array, targets: np.ndarray, penalty: float = PENALTY) -> Ridge:
    """Fit weights of targets (rows, outputs) by conjugate gradients on the normal equations."""
    seen = np.bincount(counts.indices, minlength=BUCKETS)
    idf = (np.log((1 + counts.shape[0]) / (1 + seen)) + 1).astype(np.float32)
    idf[seen < 3] = 0  # n-grams of one or two answers say nothing about others
    rows = weigh_counts(counts, idf)
    means = targets.mean(axis=0)

    def multiply(vector: np.ndarray) -> np.ndarray:
        product: np.ndarray = rows.T @ (rows @ vector) + penalty * vector
        return product

    operator = LinearOperator((BUCKETS, BUCKETS), matvec=multiply, dtype=np.float64)
    products = (rows.T @ (targets - means)).T
    weights = [cg(operator, product, rtol=1e-4, maxiter=200)[0] for product in products]
    return Ridge(np.stack(weights, axis=1).astype(np.float32), means.astype(np.float32), idf)
