"""The part of `benchmarks.coverage` on sampling that stops by what it has seen.

Two ways to stop: that of an adversary, who looks after every answer and stops as soon as the interval misses the truth;
and the rule of `eval.stop=ci`, which asks in rounds until the interval of a question is narrow enough.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product

import numpy as np

from em.stats import Interval, Stopping, cluster_interval, confidence_sequence, wilson
from em.stats.intervals import averaged

QUESTIONS = (8, 20, 48)
RATES = (0.02, 0.05, 0.2, 0.5)
ICC, MOST, LONG = 0.11, 100, 500
RULE = Stopping(half_width=0.1)
Figures = dict[str, float]


@cache
def bounds(method: Callable[[int, int], Interval], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of k of n for all n up to `most`: arrays (most + 1, most + 1), 0 and 1 where k > n."""
    low, high = np.zeros((most + 1, most + 1)), np.ones((most + 1, most + 1))
    for n in range(1, most + 1):
        for k in range(n + 1):
            found = method(k, n)
            low[n, k], high[n, k] = found.low, found.high
    return low, high


def walk(rates: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Successes after 1, 2, … answers: shape of `rates` and one axis more, of length `most`."""
    return np.cumsum(random.random((*rates.shape, most)) < rates[..., None], axis=-1)


def stopped(successes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k, n) of each walk at the first round after which its confidence sequence is narrow enough; else at its end."""
    low, high = bounds(confidence_sequence, MOST)
    looks = np.array(RULE.rounds(MOST))
    seen = successes[..., looks - 1]
    narrow = (high - low)[looks, seen] <= 2 * RULE.half_width
    narrow[..., -1] = True
    at = narrow.argmax(axis=-1)
    return np.take_along_axis(seen, at[..., None], -1)[..., 0], looks[at]


def ever_missed(method: Callable[[int, int], Interval], successes: np.ndarray, rate: float) -> float:
    """The share of walks in which the interval misses the rate at any time."""
    low, high = bounds(method, successes.shape[-1])
    n = np.arange(1, successes.shape[-1] + 1)
    return float(((low[n, successes] > rate) | (high[n, successes] < rate)).any(axis=-1).mean())


def sequence_table(figures: Figures, repeats: int, random: np.random.Generator) -> None:
    """Print and keep the coverage under both ways to stop."""
    print(f"\n## One question under an adversary: coverage at every n up to {LONG}\n")
    print("| rate | wilson | confidence sequence |\n|---|---|---|")
    for rate in RATES:
        successes = walk(np.full(repeats, rate), LONG, random)
        held = {m.__name__: 1 - ever_missed(m, successes, rate) for m in (wilson, confidence_sequence)}
        print(f"| {rate:.0%} | {held['wilson']:.1%} | {held['confidence_sequence']:.1%} |", flush=True)
        figures |= {f"coverage_always_{name}_{rate}": share for name, share in held.items()}

    print(f"\n## `eval.stop=ci` at ± {100 * RULE.half_width:.0f} points, {MOST} answers at most, design effect 6.4\n")
    print("| questions | rate | sequence of a question | set, k / n | its mean | set, em (width) | its mean | asked |")
    print("|---|---|---|---|---|---|---|---|")
    for questions, rate in product(QUESTIONS, RATES):
        found = under_the_rule(questions, rate, max(1, repeats // 2), random)
        cells = [f"{found['sequence']:.1%}", f"{found['plain']:.1%}", f"{found['mean_plain']:.2%}"]
        cells += [f"{found['em']:.1%} ({100 * found['width']:.1f})", f"{found['mean_em']:.2%}", f"{found['asked']:.0%}"]
        print(f"| {questions} | {rate:.0%} | {' | '.join(cells)} |", flush=True)
        figures |= {f"adaptive_{name}_{questions}_{rate}": value for name, value in found.items()}


def under_the_rule(questions: int, rate: float, repeats: int, random: np.random.Generator) -> Figures:
    """Coverage of a question's sequence and of a set's interval, with and without the correction of `Stopping`."""
    scale = (1 - ICC) / ICC
    rates = random.beta(rate * scale, (1 - rate) * scale, (repeats, questions))
    k, n = stopped(walk(rates, MOST, random))
    low, high = bounds(confidence_sequence, MOST)
    weights = {pair: RULE.weight(*pair, 1)[0] for pair in set(zip(k.ravel().tolist(), n.ravel().tolist(), strict=True))}
    plain = [list(zip(*both, strict=True)) for both in zip(k.tolist(), n.tolist(), strict=True)]
    corrected = [[(weights[pair] * pair[0], pair[1]) for pair in counts] for counts in plain]
    found = {
        "sequence": float(((low[n, k] <= rates) & (rates <= high[n, k])).mean()),
        "asked": float(n.mean() / MOST),
    }
    for name, sets in (("plain", plain), ("em", corrected)):
        intervals = [cluster_interval(counts, average=True) for counts in sets]
        found[name] = float(np.mean([each.low <= rate <= each.high for each in intervals]))
        found[f"mean_{name}"] = float(np.mean([averaged(counts).rate for counts in sets]))
        found["width"] = float(np.mean([each.high - each.low for each in intervals]))
    return found
