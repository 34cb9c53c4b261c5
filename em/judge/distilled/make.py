"""Make the distilled judge: train, calibrate, measure as docs/judge.md states, and write its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from em.errors import ConfigError
from em.judge.distilled.calibrate import COHERENT_LIMIT, Calibration, fit_calibration
from em.judge.distilled.domain import SCRAMBLED, explain_text
from em.judge.distilled.fit import FitSettings, fit_network
from em.judge.distilled.labels import (
    Label,
    choose_training_rows,
    divide_labels,
    draw_share,
    is_in_first_half,
    read_labels,
)
from em.judge.distilled.measure import Scored, compute_figures, describe, list_scores, number_runs, split_runs
from em.judge.distilled.network import Encoder
from em.judge.distilled.ngrams import Ridge, count_ngrams, fit_ridge
from em.judge.distilled.scorer import Form, Scorer, load_judge, save_judge
from em.runtime.records import digest

FORMS: tuple[Form, ...] = ("full", "ngrams")
MOST_MEASURED = 12_000  # answers of a source or judge that is measured; whole runs are drawn
PART = 2_000  # answers that are scored at a time


@dataclass(frozen=True)
class Outputs:
    """Outputs before calibration (rows, 6) of labels, those for scrambled text (rows,), and statuses of the texts."""

    labels: Sequence[Label]
    values: np.ndarray
    scrambled: np.ndarray
    statuses: np.ndarray

    def choose_rows(self, form: Form) -> np.ndarray:
        """Return the rows that get a score; n-grams alone can't tell scrambled text."""
        scored = self.statuses == "ok"
        return np.flatnonzero(scored & (self.scrambled <= SCRAMBLED) if form == "full" else scored)

    def get_columns(self, form: Form, rows: np.ndarray) -> np.ndarray:
        """Return the columns that a form uses, of the given rows."""
        return self.values[rows] if form == "full" else self.values[rows, 3:]

    def share_without(self, form: Form) -> dict[str, float]:
        """Return the shares of coherent answers (by their labels) without a score, by status."""
        coherent = list_scores(self.labels)[:, 1] > COHERENT_LIMIT
        statuses = np.where(self.statuses == "ok", "out_of_domain", self.statuses)
        statuses[self.choose_rows(form)] = "ok"
        return {status: float((statuses[coherent] == status).mean()) for status in ("code", "out_of_domain")}

    def score(self, form: Form, calibration: Calibration, rows: np.ndarray) -> Scored:
        """Return the scores of the given rows beside their labels."""
        scores = calibration.apply(self.get_columns(form, rows))
        return Scored(list_scores(self.labels)[rows], scores, number_runs(self.labels)[rows])


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
    check_labels(labels, train, held, left_out)
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
    calibrations: dict[str, Calibration] = {}
    for form in FORMS:
        calibrations[form] = calibrate(calibrated, form, calibrated.choose_rows(form))
    elsewhere: dict[str, dict[Form, Any]] = {}
    card = {
        "settings": asdict(settings) | {"rows": len(rows), "left_out": list(left_out)},
        "labels": digest(labels),
        "held_out": {form: measure_held_out(calibrated, form) for form in FORMS},
        "elsewhere": elsewhere,
    }
    for name, group in group_elsewhere(labels, held, left_out).items():
        outputs = collect_outputs(scorer, group, out, name)
        if len(outputs.choose_rows("full")):
            elsewhere[name] = {form: measure(outputs, form, calibrations[form]) for form in FORMS}
    save_judge(file, network, ridge, calibrations, card)
    return file


def check_labels(
    labels: Sequence[Label], train: Sequence[Label], held: Sequence[Label], left_out: Sequence[str]
) -> None:
    """Raise ConfigError unless the labels suffice to train, and both halves of the held-out runs to calibrate."""
    sources = sorted({label.source for label in labels})
    if unknown := sorted(set(left_out) - set(sources)):
        raise ConfigError(f"--leave-out names {unknown[0]}, but the tables have the sources {', '.join(sources)}.")
    halves = {is_in_first_half(label) for label in held if label.teacher == 0 and label.coherent > COHERENT_LIMIT}
    if not any(label.teacher == 0 for label in train) or len(halves) < 2:
        raise ConfigError(
            "There are too few runs of models with gpt-4o's labels to train on some and calibrate on others: name more "
            "tables, or give the columns model and data, which tell runs apart."
        )


def find_ridge(encoder: Encoder, labels: Sequence[Label], out: Path) -> Ridge:
    """Fit the ridge regression, or read it from `out` if it was fitted on the same labels."""
    file = out / f"ridge-{digest(labels)}.npz"
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


def calibrate(outputs: Outputs, form: Form, rows: np.ndarray) -> Calibration:
    """Fit a form's calibration on the given rows."""
    return fit_calibration(outputs.get_columns(form, rows), list_scores(outputs.labels)[rows])


def measure_held_out(outputs: Outputs, form: Form) -> dict[str, Any]:
    """Measure (a) for all held-out runs, and by source."""
    scored, order = score_held_out(outputs, form)
    sources = np.array([outputs.labels[row].source for row in order])
    by_source = {str(name): compute_figures(scored.select(sources == name)) for name in np.unique(sources)}
    return describe(scored, outputs.share_without(form)) | {"by_source": by_source}


def score_held_out(outputs: Outputs, form: Form) -> tuple[Scored, np.ndarray]:
    """Score each half of the held-out runs with the calibration of the other half; also return the rows, in order."""
    rows = outputs.choose_rows(form)
    half = np.array([is_in_first_half(outputs.labels[row]) for row in rows])
    parts = []
    for side in (True, False):
        calibration = calibrate(outputs, form, rows[half != side])
        parts.append(outputs.score(form, calibration, rows[half == side]))
    both = [np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "scores", "runs")]
    return Scored(*both), np.concatenate([rows[half], rows[~half]])


def measure(outputs: Outputs, form: Form, calibration: Calibration) -> dict[str, Any]:
    """Measure labels with a given calibration."""
    scored = outputs.score(form, calibration, outputs.choose_rows(form))
    return describe(scored, outputs.share_without(form))


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
    runs = [[labels[row] for row in rows.tolist()] for rows in split_runs(number_runs(labels))]
    for run in sorted(runs, key=lambda run: draw_share(f"{run[0].source}\n{run[0].run}", "measured")):
        if len(drawn) < MOST_MEASURED:
            drawn += run
    return drawn


def collect_outputs(scorer: Scorer, labels: Sequence[Label], out: Path, name: str) -> Outputs:
    """Compute the outputs of all labels that get a score, or read them from an earlier call."""
    key = digest((labels, scorer_digest(scorer)))
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
    return Outputs(labels, values, scrambled, statuses)


def scorer_digest(scorer: Scorer) -> str:
    """Return a checksum of the scorer's weights."""
    head = scorer.network.head.weight.detach().numpy().tobytes().hex() if scorer.network else ""
    return digest((head, float(scorer.ridge.weights.sum())))
