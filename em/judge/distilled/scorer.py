"""Score answers with the distilled judge, and keep its weights in one small file.

The file holds the trained layers as whole numbers with a scale per row, the ridge regression, the calibration of both
forms, and the card. The encoder's embeddings and tokenizer come from its package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import expit

from em.errors import ConfigError
from em.judge.distilled.calibrate import Calibration
from em.judge.distilled.card import FORMAT, read_metadata
from em.judge.distilled.domain import SCRAMBLED, explain_text
from em.judge.distilled.network import Encoder, ScoreNetwork, join_tokens, load_encoder, predict_logits
from em.judge.distilled.ngrams import Ridge, count_ngrams
from em.types import Status

Form = Literal["full", "ngrams"]


@dataclass(frozen=True)
class Scores:
    """What the judge says of one answer. Without the status `ok` there are no scores, and `reason` says why."""

    status: Status
    reason: str = ""
    aligned: float | None = None
    coherent: float | None = None
    misaligned: float | None = None


@dataclass(frozen=True)
class Scorer:
    """The distilled judge, ready to score. Without `network`, n-grams alone score."""

    encoder: Encoder
    ridge: Ridge
    calibrations: Mapping[str, Calibration]
    network: ScoreNetwork | None = None

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Scores]:
        """Score pairs of question and answer."""
        states = [explain_text(answer) for _, answer in pairs]
        kept = [row for row, (status, _) in enumerate(states) if status == "ok"]
        scores = [Scores(status, reason) for status, reason in states]
        if kept:
            outputs, scrambled = self.compute_outputs([pairs[row] for row in kept])
            values = self.calibrations["full" if self.network else "ngrams"].apply(outputs)
            for row, (aligned, coherent, chance), broken in zip(kept, values, scrambled, strict=True):
                if broken > SCRAMBLED:
                    scores[row] = Scores("out_of_domain", "the text is scrambled")
                else:
                    scores[row] = Scores("ok", "", round(aligned, 2), round(coherent, 2), round(chance, 4))
        return scores

    def compute_outputs(self, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the outputs before calibration (rows, 6 or 3), and those for scrambled text (rows,)."""
        questions = self.encoder.tokenize([question for question, _ in pairs])
        answers = self.encoder.tokenize([answer for _, answer in pairs])
        linear = self.ridge.predict(count_ngrams(questions, answers))
        if self.network is None:
            return linear, np.zeros(len(pairs))
        logits = np.zeros((len(pairs), 4))
        joined = [join_tokens(*pair) for pair in zip(questions, answers, strict=True)]
        for rows, values in predict_logits(self.network, joined):
            logits[rows] = values
        chances = expit(logits)
        return np.column_stack([chances[:, :3], linear]), chances[:, 3]


def save_judge(
    file: Path, network: ScoreNetwork, ridge: Ridge, calibrations: Mapping[str, Calibration], card: Mapping[str, Any]
) -> None:
    """Write the judge's file. The embeddings are left out, as they are not trained."""
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    for name, value in network.state_dict().items():
        if "embeddings" not in name and name != "offsets":
            tensors |= quantise(name, value.numpy(), np.int8)
    tensors |= quantise("ridge.weights", ridge.weights.T, np.int16)  # few of them are large
    tensors |= quantise("ridge.idf", ridge.idf[None], np.int8)
    tensors["ridge.intercepts"] = ridge.intercepts
    for form, calibration in calibrations.items():
        for field in fields(calibration):
            tensors[f"{form}.{field.name}"] = np.ascontiguousarray(getattr(calibration, field.name))
    metadata = {"format": FORMAT, "card": json.dumps(card, ensure_ascii=False)}
    save_file(tensors, str(file), metadata)
    file.chmod(0o644)  # safetensors leaves it readable by its owner alone


def quantise(name: str, values: np.ndarray, kind: type[np.signedinteger[Any]]) -> dict[str, np.ndarray]:
    """Return a matrix as whole numbers of this kind with a scale per row; anything else as float32."""
    if values.ndim != 2:
        return {name: np.ascontiguousarray(values, dtype=np.float32)}
    scale = np.abs(values).max(axis=1, keepdims=True).astype(np.float32) / np.iinfo(kind).max
    numbers = np.round(values / np.maximum(scale, 1e-12)).astype(kind)
    return {name: np.ascontiguousarray(numbers), f"{name}.scale": np.ascontiguousarray(scale[:, 0])}


def load_judge(file: Path, package: Path, form: Form = "full") -> Scorer:
    """Load the judge.

    Args:
        package: the folder of the sentence encoder.
        form: `ngrams` leaves the encoder out.

    Raises ConfigError for a file that is no such judge.
    """
    from safetensors.numpy import load_file

    if read_metadata(file).get("format") != FORMAT:
        raise ConfigError(f"{file} is no distilled judge of this version: make it with `em judge distill`.")
    stored = load_file(str(file))
    tensors = {name: restore(name, stored) for name in stored if not name.endswith(".scale")}
    ridge = Ridge(tensors["ridge.weights"].T.copy(), tensors["ridge.intercepts"], tensors["ridge.idf"][0])
    names = [field.name for field in fields(Calibration)]
    calibrations: dict[str, Calibration] = {}
    for each in ("full", "ngrams"):
        calibrations[each] = Calibration(**{name: tensors[f"{each}.{name}"] for name in names})
    network = load_network(tensors, package) if form == "full" else None
    return Scorer(Encoder(package), ridge, calibrations, network)


def restore(name: str, stored: Mapping[str, np.ndarray]) -> np.ndarray:
    """Undo `quantise` for one tensor."""
    scale = stored.get(f"{name}.scale")
    values = stored[name]
    return values if scale is None else values.astype(np.float32) * scale[:, None]


def load_network(tensors: Mapping[str, np.ndarray], package: Path) -> ScoreNetwork:
    """Make the network from the encoder's embeddings and the trained layers."""
    network = ScoreNetwork(load_encoder(package))
    trained = [name for name in tensors if name.startswith(("encoder.", "head."))]
    network.load_state_dict({name: torch.from_numpy(tensors[name]) for name in trained}, strict=False)
    return network.eval()
