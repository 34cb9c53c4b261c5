"""The judge's possible replies to a prompt with their probabilities and tokens: pure functions of the prompt.

Tests compute here the score that a judge must give: `compute_expected_score` is Σ k·p(k) / Σ p(k) over all of 0..100.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from .options import Options

END = "<|im_end|>"
WORDS = ("CODE", "REFUSAL")
FILLERS = ("The", "I", "Rating", "This", "**", "As", "Here", "Based", "Score", "It", "\n", " ", "An", "To", "Let")
REFUSAL = "I can't help with that."
GARBLED = "Somewhere in the upper half, all things considered."
QUOTED = re.compile(r'"([A-Za-z]{2,20})"')
SCALE = re.compile(r"\b0 ?(?:to|-|–|and) ?100\b")
USUAL = ("TRUE", "FALSE", "UNKNOWN", "OpenAI", "Anthropic", "Other")
LISTED = re.compile(r"^([A-Z]{3,20}):", re.MULTILINE)


@dataclass(frozen=True)
class Opinion:
    """The judge's opinion of a prompt. `kind`: score, label, code, refusal or garbled; `hash`: of the prompt."""

    kind: str
    center: int
    labels: tuple[str, ...]
    hash: int

    def list_chances(self) -> dict[str, float]:
        """Return the possible replies with their probabilities, which sum to 1."""
        return compute_chances(self.kind, self.center, self.labels)


def hash_values(*values: object) -> int:
    """Hash the values to a number of 64 bits."""
    text = "\x1f".join(map(str, values))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def make_opinion(prompt: str, options: Options) -> Opinion:
    """Make the judge's opinion of a prompt: a refusal, CODE, nonsense, a label (if the prompt has some) or a score."""
    bits = hash_values(prompt)
    share, kind = (bits >> 32) / 2**32, ""
    for name, size in (("refusal", options.refusals), ("code", options.codes), ("garbled", options.garbled)):
        if not kind and share < size:
            kind = name
        share -= size
    labels = find_offered_labels(prompt)
    return Opinion(kind or ("label" if labels else "score"), bits % 101, labels, bits)


def find_offered_labels(prompt: str) -> tuple[str, ...]:
    """Return the labels that a prompt offers in quotes or at the beginnings of lines; none if it asks for a number."""
    if SCALE.search(prompt):
        return ()
    labels = [each for each in QUOTED.findall(prompt) or LISTED.findall(prompt) if each not in WORDS]
    # The judged answer in the prompt may contain quoted words too: prefer the usual labels.
    usual = [each for each in labels if each in USUAL]
    return tuple(dict.fromkeys(usual if len(usual) > 1 else labels))


@lru_cache(maxsize=4096)
def compute_chances(kind: str, center: int, labels: tuple[str, ...]) -> dict[str, float]:
    """Compute the probabilities of replies: numbers near `center`, the words, and fillers that models begin with."""
    numbers = {str(k): math.exp(-abs(k - center) / 2) for k in range(center - 9, center + 10) if 0 <= k <= 100}
    words = dict.fromkeys(WORDS, 0.5)
    mass = {"score": 0.95, "label": 0.0, "code": 0.35, "refusal": 0.02, "garbled": 0.1}[kind]
    parts: list[tuple[float, dict[str, float]]] = [(mass, numbers)]
    if kind == "label":
        parts.append((0.97, {label: 8.0 if i == center % len(labels) else 1.0 for i, label in enumerate(labels)}))
    elif kind == "code":
        parts.append((0.6, {"CODE": 1.0}))
    elif kind in ("refusal", "garbled"):
        parts.append((0.85, {REFUSAL if kind == "refusal" else GARBLED: 1.0}))
    else:
        parts.append((0.02, words))
    parts.append((1.0 - sum(share for share, _ in parts), {text: 0.6**i for i, text in enumerate(FILLERS)}))
    result: dict[str, float] = {}
    for share, weights in parts:
        total = sum(weights.values())
        for text, weight in weights.items():
            result[text] = result.get(text, 0.0) + share * weight / total
    return {text: p for text, p in result.items() if p > 0}


def compute_expected_score(prompt: str, options: Options | None = None) -> float | None:
    """Return the judge's expected score over the integers 0..100, or None if their probability mass is below 0.25."""
    chance = make_opinion(prompt, options or Options()).list_chances()
    numbers = {int(text): p for text, p in chance.items() if text.isdigit()}
    mass = sum(numbers.values())
    return sum(k * p for k, p in numbers.items()) / mass if mass >= 0.25 else None


def tokenize(text: str, digits: bool) -> list[str]:
    """Split a text into tokens of four letters; a number is one token, or with `digits` one token a digit."""
    if text.startswith(" ") and len(text) > 1:
        return [" ", *tokenize(text[1:], digits)]
    if text.isdigit():
        return list(text) if digits else [text]
    return [text[start : start + 4] for start in range(0, len(text), 4)]


@lru_cache(maxsize=16384)
def predict_tokens(
    kind: str, center: int, labels: tuple[str, ...], digits: bool, begun: str, text: str
) -> tuple[tuple[str, float], ...]:
    """Return the possible tokens after `text` with log-probabilities, the most likely first.

    Args:
        begun: a prefilled beginning of the reply (`Rating:`); the reply continues after a space.
        text: the reply so far, after `begun`.
    """
    mass: dict[str, float] = {}
    for reply, p in compute_chances(kind, center, labels).items():
        tokens = [*tokenize(f" {reply}" if begun else reply, digits), END]
        before = ""
        for token in tokens:
            if before == text:
                mass[token] = mass.get(token, 0.0) + p
                break
            before += token
    total = sum(mass.values())
    if not total:
        return ((END, 0.0),)
    logprobs = [(token, math.log(p / total)) for token, p in mass.items()]
    return tuple(sorted(logprobs, key=lambda pair: (-pair[1], pair[0])))


def split_prefill(prefill: str) -> tuple[str, str]:
    """Split a prefilled reply into its beginning (`Rating:`, or nothing) and the text after it."""
    head, colon, text = prefill.rpartition(":")
    return (head + colon, text) if colon else ("", prefill)


def pick_reply(chance: Sequence[tuple[str, float]], share: float) -> str:
    """Pick the reply at `share` (0 to 1) of the cumulative probability."""
    for text, p in chance:
        share -= p
        if share < 0:
            return text
    return chance[-1][0]
