"""Power compared with statsmodels and with simulated tests; the command line of `em power`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.power import TTestPower

from em.cli.power import estimate_icc, main
from em.evaluate import write_scores
from em.stats import Thresholds, compute_scores, estimate_intraclass, find_questions_needed, find_samples_needed
from em.stats.power import Design, compute_power, find_difference_needed, standard_error
from tests.support.judged import make_verdicts

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("questions", [2, 3, 8, 20, 48])
@pytest.mark.parametrize(("rate", "other"), [(0.2, 0.3), (0.3, 0.2), (0.05, 0.2), (0.5, 0.5), (0.0, 0.1)])
@pytest.mark.parametrize("icc", [0.0, 0.11, 0.4])
def test_power_is_that_of_the_paired_t_test(questions: int, rate: float, other: float, icc: float) -> None:
    design = Design(rate, other, icc)
    effect = abs(other - rate) / (standard_error(design, questions, 5) * np.sqrt(questions))
    expected = TTestPower().power(effect, questions, 0.05)
    assert compute_power(design, questions, 5) == pytest.approx(expected, abs=1e-8)


def test_power_goes_on_where_the_difference_is_many_errors_wide() -> None:
    powers = [compute_power(Design(0.1, 0.4, 0.02), questions, 10_000) for questions in (2, 3, 4, 8, 100, 10_000)]
    assert powers == sorted(powers)
    assert powers[0] < 0.8
    assert powers[-1] == pytest.approx(1, abs=1e-12)


def test_the_standard_error_is_that_of_drawn_questions_and_answers() -> None:
    random, icc, rates = np.random.default_rng(0), 0.15, (0.1, 0.3)
    scale = (1 - icc) / icc
    drawn = [random.binomial(20, random.beta(r * scale, (1 - r) * scale, (20_000, 8))) / 20 for r in rates]
    differences = (drawn[1] - drawn[0]).mean(axis=1)
    assert standard_error(Design(*rates, icc), 8, 20) == pytest.approx(differences.std(), rel=0.02)


def test_the_test_finds_the_difference_as_often_as_promised() -> None:
    random, icc, rates, questions, samples = np.random.default_rng(1), 0.11, (0.2, 0.35), 20, 30
    scale = (1 - icc) / icc
    shape = (4_000, questions)
    drawn = [random.binomial(samples, random.beta(r * scale, (1 - r) * scale, shape)) / samples for r in rates]
    detected = np.mean(ttest_rel(drawn[1], drawn[0], axis=1).pvalue <= 0.05)
    assert compute_power(Design(*rates, icc), questions, samples) == pytest.approx(detected, abs=0.03)


def test_the_numbers_needed_are_the_smallest_that_are_enough() -> None:
    design = Design(0.2, 0.4)
    samples = find_samples_needed(design, 20)
    assert samples is not None
    assert compute_power(design, 20, samples) >= 0.8 > compute_power(design, 20, samples - 1)
    questions = find_questions_needed(design, 30)
    assert questions is not None
    assert compute_power(design, questions, 30) >= 0.8 > compute_power(design, questions - 1, 30)
    rise = find_difference_needed(design, 20, 30)
    assert rise is not None
    assert compute_power(Design(0.2, 0.2 + rise), 20, 30) >= 0.8 > compute_power(Design(0.2, 0.199 + rise), 20, 30)


def test_no_number_of_samples_makes_up_for_few_questions() -> None:
    assert compute_power(Design(0.2, 0.3), 8, 10**9) < 0.8
    assert find_samples_needed(Design(0.2, 0.3), 8) is None
    assert find_samples_needed(Design(0.2, 0.3), 1) is None
    assert find_samples_needed(Design(0.2, 0.3, icc=0.0), 8) is not None


def test_no_difference_is_never_found() -> None:
    assert find_questions_needed(Design(0.2, 0.2), 30) is None
    assert compute_power(Design(0.0, 0.0), 8, 30) == 0.05
    assert find_difference_needed(Design(0.999, 1.0), 8, 30) is None


def test_correlated_questions_make_a_difference_easier_to_see() -> None:
    alone, shared = (compute_power(Design(0.2, 0.3, correlation=r), 8, 50) for r in (0.0, 0.9))
    assert shared > 2 * alone


# The intraclass correlation


def test_the_intraclass_correlation_is_that_of_the_analysis_of_variance() -> None:
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    counts = [(3, 50), (10, 40), (30, 50), (0, 50), (1, 10), (20, 50)]
    rows = [{"one": int(i < k), "question": q} for q, (k, n) in enumerate(counts) for i in range(n)]
    squares = anova_lm(ols("one ~ C(question)", pd.DataFrame(rows)).fit())["mean_sq"]
    sizes = np.array([n for _, n in counts])
    usual = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / 5
    between, within = squares["C(question)"], squares["Residual"]
    expected = (between - within) / (between + (usual - 1) * within)
    assert estimate_intraclass(counts) == pytest.approx(expected, abs=1e-12)


def test_the_intraclass_correlation_is_found_again() -> None:
    random, icc = np.random.default_rng(3), 0.11
    rates = random.beta(0.2 * (1 - icc) / icc, 0.8 * (1 - icc) / icc, 4000)
    assert estimate_intraclass([(int(k), 50) for k in random.binomial(50, rates)]) == pytest.approx(icc, abs=0.01)
    assert estimate_intraclass([(10, 50)] * 20) == 0.0


@pytest.mark.parametrize("counts", [[], [(3, 50)], [(0, 50), (0, 50)], [(1, 1), (0, 1)]])
def test_there_is_no_intraclass_correlation_where_nothing_tells(counts: list[tuple[int, int]]) -> None:
    assert estimate_intraclass(counts) is None


# The command line

COUNTS = [(0, 50), (2, 50), (40, 50), (1, 50), (35, 50), (3, 50), (0, 50), (3, 50)]


def test_the_command_prints_a_table() -> None:
    words = ["--rate", "0.2", "--difference", "0.2", "--questions", "20", "--samples", "30"]
    done = subprocess.run(
        [sys.executable, "-m", "em", "power", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = {line.split("|")[0].strip(): line for line in done.stdout.splitlines() if line.count("|") == 2}
    assert set(lines) == {"questions", "8", "20", "48"}
    assert int(lines["20"].split("|")[2]) == find_samples_needed(Design(0.2, 0.4), 20)
    assert f"{compute_power(Design(0.2, 0.4), 20, 30):.0%}" in lines["20"]
    assert "no number is enough" in lines["8"]
    assert f"{find_questions_needed(Design(0.2, 0.4), 30)} questions with 30 answers each detect it" in done.stdout


def test_how_questions_differ_is_taken_from_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.csv"
    write_scores(path, compute_scores(make_verdicts(COUNTS), Thresholds()))
    assert estimate_icc(path) == estimate_intraclass(COUNTS)
    assert main(["--rate", "0.2", "--difference", "0.1", "--scores", str(path)]) == 0
    assert f"intraclass correlation {estimate_intraclass(COUNTS):.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rate", "20", "--difference", "0.1"], "give 0.2 for 20 %"),
        (["--rate", "0.95", "--difference", "0.1"], "both rates must be fractions"),
        (["--rate", "0.2", "--difference", "0"], "smallest difference that matters"),
        (["--rate", "0.2", "--difference", "0.1", "--questions", "1"], "at least 2"),
        (["--rate", "0.2", "--difference", "0.1", "--icc", "1.5"], "--icc=1.5 must be from 0 to 1"),
        (["--rate", "0.2", "--difference", "0.1", "--power", "80"], "--power=80 must be between 0 and 1"),
        (["--rate", "0.2", "--difference", "0.1", "--scores", "gone.csv"], "give the scores.csv of a run"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "metric,convention,question,k,n\nmisaligned,all,q1,x,3\n"])
def test_a_file_that_is_no_table_of_scores_is_named(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    assert main(["--rate", "0.2", "--difference", "0.1", "--scores", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_run_without_a_misaligned_answer_cannot_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.csv"
    write_scores(path, compute_scores(make_verdicts([(0, 50)] * 8), Thresholds()))
    assert main(["--rate", "0.2", "--difference", "0.1", "--scores", str(path)]) == 2
    assert "give --icc" in capsys.readouterr().err
