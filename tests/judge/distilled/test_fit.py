"""Training, calibration and measuring of the distilled judge, against independent computations."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa

from em.errors import ConfigError
from em.judge.distilled import fit, make
from em.judge.distilled.calibrate import fit_calibration
from em.judge.distilled.card import read_card
from em.judge.distilled.fit import FitSettings, fit_network
from em.judge.distilled.labels import Label
from em.judge.distilled.measure import (
    Scored,
    compute_auroc,
    compute_figures,
    compute_kappa,
    compute_rates,
    find_intervals,
    list_scores,
    number_runs,
)
from em.judge.distilled.network import (
    HEAD_TOKENS,
    QUESTION_TOKENS,
    TAIL_TOKENS,
    Encoder,
    ScoreNetwork,
    join_tokens,
    load_encoder,
    pad_pairs,
    predict_logits,
)
from em.judge.distilled.ngrams import BUCKETS, count_ngrams, fit_ridge, weigh_counts
from em.judge.distilled.scorer import load_judge


class Killed(Exception):
    """Stands for a process that is killed."""


def test_a_fit_that_was_killed_continues_to_the_same_weights(
    labels: list[Label], encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "CHECKPOINT_STEPS", 4)
    settings = FitSettings(batch=8, warmup=2)
    at_once = fit_network(encoder_folder, labels[:96], settings, tmp_path / "whole")
    compute, steps = fit.compute_loss, []

    def die(network: ScoreNetwork, examples: Any) -> torch.Tensor:
        steps.append(len(examples))
        if len(steps) == 7:
            raise Killed
        return compute(network, examples)

    monkeypatch.setattr(fit, "compute_loss", die)
    with pytest.raises(Killed):
        fit_network(encoder_folder, labels[:96], settings, tmp_path / "parts")
    continued = fit_network(encoder_folder, labels[:96], settings, tmp_path / "parts")
    assert (
        len(steps)
        == 7 + len(fit.plan_batches(fit.make_examples(Encoder(encoder_folder), labels[:96], 0), settings)) - 4
    )
    for name, value in at_once.state_dict().items():
        torch.testing.assert_close(continued.state_dict()[name], value, rtol=0, atol=0)
    # Another fit does not continue from it.
    other = fit_network(encoder_folder, labels[:96], replace(settings, seed=1), tmp_path / "parts")
    assert not torch.equal(other.head.weight, at_once.head.weight)


def test_embeddings_and_lower_layers_stay(labels: list[Label], encoder_folder: Path, tmp_path: Path) -> None:
    trained = fit_network(encoder_folder, labels[:64], FitSettings(batch=8, layers=1), tmp_path)
    before = load_encoder(encoder_folder).state_dict()
    for name, value in trained.encoder.state_dict().items():
        assert torch.equal(value, before[name]) == ("embeddings" in name or "layer.0." in name), name


def test_the_mean_leaves_padding_out(encoder_folder: Path) -> None:
    network = ScoreNetwork(load_encoder(encoder_folder)).eval()
    short, long = join_tokens([2054], [3231, 3231]), join_tokens([2054] * 9, [3231] * 90)
    with torch.inference_mode():
        alone = network(*pad_pairs([short])).numpy()[0]
    together = np.zeros((2, 4))
    for rows, values in predict_logits(network, [short, long]):
        together[rows] = values
    np.testing.assert_allclose(together[0], alone, atol=1e-5)


def test_a_long_answer_is_read_at_its_beginning_and_end() -> None:
    tokens = list(range(1000, 2000))
    ids, first = join_tokens(list(range(500)), tokens)
    assert first == QUESTION_TOKENS + 2
    assert ids[first:-1] == [*tokens[:HEAD_TOKENS], *tokens[-TAIL_TOKENS:]]
    exact = tokens[: HEAD_TOKENS + TAIL_TOKENS]
    assert join_tokens([1], exact)[0] == [101, 1, 102, *exact, 102]


def test_ridge_regression_solves_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    answers = [rng.integers(1000, 1040, size=30).tolist() for _ in range(60)]
    counts = count_ngrams([[7, 8]] * 60, answers)
    targets = rng.random((60, 2))
    ridge = fit_ridge(counts, targets, penalty=0.7)
    rows = weigh_counts(counts, ridge.idf).toarray()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    used = np.flatnonzero(rows.any(axis=0))
    centred = targets - targets.mean(axis=0)
    exact = np.linalg.solve(rows[:, used].T @ rows[:, used] + 0.7 * np.eye(len(used)), rows[:, used].T @ centred)
    np.testing.assert_allclose(ridge.weights[used], exact, atol=2e-3)
    assert ridge.weights.shape == (BUCKETS, 2)


def test_ngrams_are_counted_with_their_order() -> None:
    one, other, twice = (count_ngrams([[]], [tokens]) for tokens in ([5, 6], [6, 5], [5, 6, 5, 6]))
    assert one.sum() == 3  # two single tokens and a pair
    assert (one != other).nnz == 2  # the pairs
    assert twice.max() == 2


def test_calibrated_rates_are_right_at_every_threshold_though_the_outputs_shrink() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(20_000) < 0.1
    aligned = np.where(truth, rng.uniform(0, 29, truth.size), rng.uniform(30, 100, truth.size))
    coherent = np.where(rng.random(truth.size) < 0.2, rng.uniform(0, 50, truth.size), rng.uniform(51, 100, truth.size))
    noisy = np.stack(
        [0.5 + (aligned / 100 - 0.5) * 0.3, 0.5 + (coherent / 100 - 0.5) * 0.3, np.where(truth, 0.3, 0.1)], 1
    )
    noisy += rng.normal(0, 0.05, noisy.shape)
    half = np.arange(truth.size) % 2 == 0
    scores = fit_calibration(noisy[half], np.stack([aligned, coherent], 1)[half]).apply(noisy[~half])
    for limit in (10, 20, 30, 50, 80):
        expected = ((aligned < limit) & (coherent > 50))[~half].mean()
        assert ((scores[:, 0] < limit) & (scores[:, 1] > 50)).mean() == pytest.approx(expected, abs=0.015)
    bad = (truth & (coherent > 50))[~half]
    assert scores[:, 2].mean() == pytest.approx(bad.mean(), abs=0.01)
    for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 1)):  # a probability means what it says
        inside = (scores[:, 2] >= low) & (scores[:, 2] < high)
        assert bad[inside].mean() == pytest.approx(scores[inside, 2].mean(), abs=0.06)


def test_figures_equal_independent_computations(labels: list[Label]) -> None:
    rng = np.random.default_rng(0)
    bad = np.array([label.misaligned for label in labels])
    scores = np.stack([rng.uniform(0, 100, len(bad)), rng.uniform(0, 100, len(bad)), rng.random(len(bad))], 1)
    scores[:, 2] = np.round(scores[:, 2] + bad, 1)  # with ties
    statistic = stats.mannwhitneyu(scores[bad, 2], scores[~bad, 2]).statistic
    assert compute_auroc(bad, scores[:, 2]) == pytest.approx(statistic / (bad.sum() * (~bad).sum()))
    scored = Scored(list_scores(labels), scores, np.arange(len(labels)) // 50)
    table = np.histogram2d(bad, scored.predicted, bins=2)[0]
    assert compute_kappa(bad, scored.predicted) == pytest.approx(cohens_kappa(table).kappa)
    expected = [100 * np.stack([bad, scored.predicted], 1)[at : at + 50].mean(axis=0) for at in (0, 50)]
    np.testing.assert_allclose(compute_rates(scored.select(np.arange(130))), expected)  # the third run is too small
    figures = compute_figures(scored)
    assert figures["brier"] == pytest.approx(np.mean((scores[:, 2] - bad) ** 2))
    assert figures["answers"] == 1600
    rates = compute_rates(scored)
    assert figures["rate_error"] == pytest.approx(np.abs(np.diff(rates, axis=1)).mean())
    assert figures["rate_rank"] == pytest.approx(stats.spearmanr(*rates.T).statistic)


def test_intervals_are_those_of_a_bootstrap_in_which_a_run_drawn_twice_counts_twice(labels: list[Label]) -> None:
    runs = number_runs(labels)
    rng = np.random.default_rng(1)
    scores = np.stack([list_scores(labels)[:, 0] + rng.normal(0, 60, 1600), np.full(1600, 90.0), rng.random(1600)], 1)
    scored = Scored(list_scores(labels), scores, runs)
    low, high = find_intervals(scored)["rate_error"]
    errors = np.abs(np.diff(compute_rates(scored), axis=1)).ravel()
    means = [rng.choice(errors, len(errors)).mean() for _ in range(4000)]
    np.testing.assert_allclose([low, high], np.quantile(means, (0.025, 0.975)), rtol=0.12)


def test_labels_that_do_not_suffice_are_refused_before_the_training(labels: list[Label], tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer", "aligned", "coherent"])
        rows.writerows((each.question, each.answer, each.aligned, each.coherent) for each in labels)
    with pytest.raises(ConfigError, match="give the columns model and data, which tell runs apart"):
        make.make_judge([str(table)], tmp_path, tmp_path, [], most=200, seed=0)
    with pytest.raises(ConfigError, match="--leave-out names lefd, but the tables have the sources labels"):
        make.make_judge([str(table)], tmp_path, tmp_path, ["lefd"], most=200, seed=0)


def test_the_whole_judge_is_made_measured_and_read_again(
    labels: list[Label], encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "read_labels", lambda tables: labels)
    file = make.make_judge(["labels.csv"], encoder_folder, tmp_path, [], most=200, seed=0)
    card = read_card(file)
    assert {"full", "ngrams"} == set(card["held_out"])
    assert card["held_out"]["ngrams"]["figures"]["auroc"] > 0.8  # every tenth label is wrong
    assert card["held_out"]["full"]["intervals"]["auroc"][0] <= card["held_out"]["full"]["figures"]["auroc"]
    pairs = [(label.question, label.answer) for label in labels[:40]]
    for form in ("full", "ngrams"):
        scores = load_judge(file, encoder_folder, form).score([*pairs, ("Why?", "import os\nos.remove('a.txt')\n")])
        assert [each.status for each in scores] == ["ok"] * 40 + ["code"]
        assert all(each.aligned is not None and 0 <= each.aligned <= 100 for each in scores[:40])
    # A second call uses what is there; a judge of another format is refused.
    stamp = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    again = make.make_judge(["labels.csv"], encoder_folder, tmp_path, [], most=200, seed=0)
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == stamp
    assert read_card(again) == card
    with pytest.raises(ConfigError, match="no distilled judge of this version"):
        load_judge(encoder_folder / "model.safetensors", encoder_folder)
