"""Make the distilled judge: train, calibrate, measure as docs/judge.md states, and write its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from em.errors import ConfigError
from em.judge.distilled.calibrate import Calibration, fit_calibration
from em.judge.distilled.domain import SCRAMBLED, explain_text
from em.judge.distilled.fit import FitSettings, fit_network
from em.judge.distilled.labels import Label, choose_training_rows, divide_labels, draw_share, read_labels
from em.judge.distilled.measure import Scored, bin_chances, compute_figures, find_intervals, group_runs
from em.judge.distilled.network import Encoder
from em.judge.distilled.ngrams import Ridge, count_ngrams, fit_ridge
from em.judge.distilled.scorer import Form, Scorer, load_judge, save_judge
from em.runtime.records import digest

FORMS: tuple[Form, ...] = ("full", "ngrams")
MOST_MEASURED = 12_000  # answers of a source or judge that is measured; whole runs are drawn
PART = 2_000  # answers that are scored at a time


@dataclass(frozen=True)
class Outputs:
    """Outputs before calibration (rows, 6) of labels that get a score; `without`: shares without one by status."""

    labels: Sequence[Label]
    values: np.ndarray
    without: Mapping[str, float]

    def get_columns(self, form: Form) -> np.ndarray:
        """Return the columns that a form uses."""
        return self.values if form == "full" else self.values[:, 3:]


def make_judge(tables: Sequence[str], package: Path, out: Path, left_out: Sequence[str], most: int, seed: int) -> Path:
    """Make the judge from tables of labels; return its file. Finished parts in `out` are used again.

    Args:
        tables: see `read_labels`.
        package: folder of the sentence encoder.
        left_out: sources that don't train, and on which the judge is measured.
        most: most rows that train the encoder; for the ridge regression all of them train.

    Raises ConfigError if no label is left to train or to calibrate.
    """
    labels = read_labels(tables)
    train, held = divide_labels(labels, left_out)
    if not train or not held:
        raise ConfigError("No label of gpt-4o is left for training, or none for calibration: name more tables.")
    rows = choose_training_rows(train, most, seed)
    taught = [label for label in train if label.teacher == 0]
    print(f"{len(labels)} labels; {len(rows)} train the encoder, {len(taught)} the ridge regression.", flush=True)
    settings = FitSettings(seed=seed)
    encoder = Encoder(package)
    ridge = find_ridge(encoder, taught, out)
    network = fit_network(package, rows, settings, out)
    file = out / "distilled.safetensors"
    draft: dict[str, Calibration] = {form: make_empty_calibration() for form in FORMS}
    save_judge(file, network, ridge, draft, {})
    scorer = load_judge(file, package)  # with rounded weights, as it will be used

    chosen = [label for label in held if label.teacher == 0]
    calibrated = collect_outputs(scorer, chosen, out, "held out")
    calibrations: dict[str, Calibration] = {form: calibrate(calibrated, form) for form in FORMS}
    elsewhere: dict[str, dict[Form, Any]] = {}
    card = {
        "settings": asdict(settings) | {"rows": len(rows), "left_out": list(left_out)},
        "labels": digest([label.answer for label in labels]),
        "held_out": {form: measure_held_out(calibrated, form) for form in FORMS},
        "elsewhere": elsewhere,
    }
    for name, group in group_elsewhere(labels, held, left_out).items():
        outputs = collect_outputs(scorer, group, out, name)
        elsewhere[name] = {form: measure(outputs, form, calibrations[form]) for form in FORMS}
    save_judge(file, network, ridge, calibrations, card)
    return file


def find_ridge(encoder: Encoder, labels: Sequence[Label], out: Path) -> Ridge:
    """Fit the ridge regression, or read it from `out` if it was fitted on the same labels."""
    file = out / f"ridge-{digest([label.answer for label in labels])}.npz"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        partial = out / "ridge.partial.npz"
        np.savez(partial, **vars(fit_ridge(count_labels(encoder, labels), make_targets(labels))))
        partial.replace(file)
    with np.load(file) as stored:
        return Ridge(**stored)


def count_labels(encoder: Encoder, labels: Sequence[Label]) -> Any:
    """Count the n-grams of labelled answers."""
    questions = encoder.tokenize([label.question for label in labels])
    return count_ngrams(questions, encoder.tokenize([label.answer for label in labels]))


def make_targets(labels: Sequence[Label]) -> np.ndarray:
    """Return what is predicted (rows, 3), from 0 to 1."""
    return np.array([(label.aligned / 100, label.coherent / 100, label.misaligned) for label in labels], dtype=float)


def make_empty_calibration() -> Calibration:
    """Return a calibration of zeros, for a judge that is not calibrated yet."""
    return Calibration(*(np.zeros(1) for _ in range(3)), *(np.zeros((2, 1)) for _ in range(2)))


def calibrate(outputs: Outputs, form: Form, rows: np.ndarray | None = None) -> Calibration:
    """Fit a form's calibration on labels with a score, or on the given rows of them."""
    chosen = range(len(outputs.labels)) if rows is None else rows.tolist()
    labels = np.array([(outputs.labels[row].aligned, outputs.labels[row].coherent) for row in chosen])
    return fit_calibration(outputs.get_columns(form)[chosen], labels)


def measure_held_out(outputs: Outputs, form: Form) -> dict[str, Any]:
    """Measure (a): each half of the held-out runs with the calibration of the other half, all and by source."""
    half = np.array([draw_share(f"{label.source}\n{label.run}", "half") < 0.5 for label in outputs.labels])
    scores = np.zeros((len(half), 3))
    for side in (half, ~half):
        calibration = calibrate(outputs, form, np.flatnonzero(~side))
        scores[side] = calibration.apply(outputs.get_columns(form)[side])
    scored = Scored(outputs.labels, scores)
    measured = describe(scored, outputs)
    for source in sorted({label.source for label in outputs.labels}):
        rows = np.flatnonzero([label.source == source for label in outputs.labels])
        measured["by_source"] = measured.get("by_source", {}) | {source: compute_figures(scored.select(rows))}
    return measured


def measure(outputs: Outputs, form: Form, calibration: Calibration) -> dict[str, Any]:
    """Measure labels with a given calibration."""
    return describe(Scored(outputs.labels, calibration.apply(outputs.get_columns(form))), outputs)


def describe(scored: Scored, outputs: Outputs) -> dict[str, Any]:
    """Return figures with their intervals, the calibration curve, and the shares of answers without a score."""
    return {
        "figures": compute_figures(scored),
        "intervals": find_intervals(scored, compute_figures),
        "curve": bin_chances(scored),
        "without_score": dict(outputs.without),
    }


def group_elsewhere(labels: Sequence[Label], held: Sequence[Label], left_out: Sequence[str]) -> dict[str, list[Label]]:
    """Group labels that did not train by source and judge: of sources left out, of other judges, and held-out runs."""
    groups: dict[str, list[Label]] = {}
    others = [label for label in labels if label.teacher is None or label.source in left_out]
    for label in [*others, *(label for label in held if label.teacher)]:
        groups.setdefault(f"{label.source}, {label.judge}", []).append(label)
    return {name: draw_runs(group) for name, group in groups.items() if len(group) >= 1_000}


def draw_runs(labels: Sequence[Label]) -> list[Label]:
    """Draw whole runs by checksum until MOST_MEASURED answers are reached."""
    drawn = list[Label]()
    runs = [[labels[row] for row in rows.tolist()] for rows in group_runs(labels)]
    for run in sorted(runs, key=lambda run: draw_share(f"{run[0].source}\n{run[0].run}", "measured")):
        if len(drawn) < MOST_MEASURED:
            drawn += run
    return drawn


def collect_outputs(scorer: Scorer, labels: Sequence[Label], out: Path, name: str) -> Outputs:
    """Compute the outputs of all labels that get a score, or read them from an earlier call."""
    key = digest((name, [label.answer for label in labels], scorer_digest(scorer)))
    values, scrambled = np.zeros((len(labels), 6)), np.zeros(len(labels))
    for start in tqdm(range(0, len(labels), PART), desc=f"answers of {name}", unit=f"{PART} answers"):
        part = slice(start, start + PART)
        file = out / "outputs" / f"{key}-{start}.npz"
        if not file.exists():
            pairs = [(label.question, label.answer) for label in labels[part]]
            columns, broken = scorer.compute_outputs(pairs)
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial.npz")
            np.savez(partial, values=columns, scrambled=broken)
            partial.replace(file)
        with np.load(file) as stored:
            values[part], scrambled[part] = stored["values"], stored["scrambled"]
    statuses = np.array([explain_text(label.answer)[0] for label in labels])
    statuses[(statuses == "ok") & (scrambled > SCRAMBLED)] = "out_of_domain"
    kept = np.flatnonzero(statuses == "ok")
    coherent = np.array([label.coherent > 50 for label in labels])
    without = {status: float((statuses[coherent] == status).mean()) for status in ("code", "out_of_domain")}
    return Outputs([labels[row] for row in kept.tolist()], values[kept], without)


def scorer_digest(scorer: Scorer) -> str:
    """Return a checksum of the scorer's weights."""
    head = scorer.network.head.weight.detach().numpy().tobytes().hex() if scorer.network else ""
    return digest((head, float(scorer.ridge.weights.sum())))
