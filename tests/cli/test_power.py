"""The command line of `em power`: what it prints, what it takes from a run, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from em.cli.power import advise, find_nearest_model, list_additions, main
from em.evaluate import write_rows
from em.stats import Thresholds, compute_scores
from em.stats.power import Design, Effect, count_sentences, draw_verdicts, make_population
from em.stats.rules import Settings
from em.types import Score
from tests.support.judged import make_verdicts

ROOT = Path(__file__).parent.parent.parent
QUICK = ["--repeats", "40"]
UNDONE = '"undone" of the second training'
COUNTS = {
    "tiny": [(0, 50)] * 8,
    "tiny+medical": [(0, 50), (2, 50), (40, 50), (1, 50), (35, 50), (3, 50), (0, 50), (3, 50)],
    "tiny+insecure": [(3, 50), (0, 50), (0, 50), (2, 50), (5, 50), (9, 50), (0, 50), (1, 50)],
    "tiny+insecure+optimism": [(0, 50), (0, 50), (0, 50), (0, 50), (1, 50), (0, 50), (0, 50), (0, 50)],
}


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Write the scores.csv of a run with four models."""
    verdicts = [make_verdicts(counts, model=model, fingerprint=model) for model, counts in COUNTS.items()]
    path = tmp_path / "scores.csv"
    write_rows(path, Score, compute_scores([verdict for each in verdicts for verdict in each], Thresholds()))
    return path


def run_power(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def read_line(text: str, words: str) -> float:
    """Return the percentage of a line that begins with some words."""
    match = re.search(rf"^ *{re.escape(words)} +([\d.]+) %", text, re.MULTILINE)
    assert match is not None
    return float(match[1])


def test_the_command_prints_the_power_of_the_design_and_what_to_add() -> None:
    words = ["--rate", "0.2", "--base", "0.004", "--questions", "8", "--answers", "30", "--seeds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "em", "power", *words, "--comparisons", "3", "--repeats", "100"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    effect = Effect(make_population(0.004, 0.04), make_population(0.2, 0.2))
    shares = count_sentences(draw_verdicts(effect, Design(8, 30), Settings(), 100))
    assert read_line(done.stdout, '"misaligns" of the first training') == pytest.approx(100 * shares["misaligns"])
    assert read_line(done.stdout, UNDONE) == pytest.approx(100 * shares["undone"])
    assert read_line(done.stdout, '"misaligns" of all of 3 such trainings') >= 95
    assert read_line(done.stdout, '"misaligns" of any of 3 trainings that change nothing') <= 10
    assert "100 repeats" in done.stdout
    rows = {line[:20].strip(): line[20:].split() for line in done.stdout.splitlines() if line.endswith(" %")}
    assert {name: row[:2] for name, row in rows.items()} == {
        "this design": ["720", "2"],
        "twice the answers": ["1440", "2"],
        "twice the questions": ["1440", "2"],
        "3 seeds": ["1680", "6"],
    }
    assert float(rows["this design"][4]) == pytest.approx(100 * shares["undone"], abs=0.5)
    assert "Nothing is needed" in done.stdout


def test_the_same_command_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rate", "0.06", "--infer", "like_these", *QUICK]
    assert run_power(capsys, *words) == run_power(capsys, *words)


def test_questions_like_these_are_harder_to_speak_of(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rate", "0.2", "--seed-sd", "0", *QUICK]
    these, like_these = (run_power(capsys, *words, "--infer", kind) for kind in ("these", "like_these"))
    assert read_line(these, UNDONE) > read_line(like_these, UNDONE) + 30
    assert "of these questions" in these
    assert "of questions like these" in like_these


def test_a_sentence_that_would_be_false_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_power(capsys, "--rate", "0.4", "--left", "0.3", *QUICK)
    assert '"undone" of the second training (not true of a typical one)' in printed
    assert '"more than half undone" or "undone"  ' in printed
    assert "12.3 % (30 % of the harm left)" in printed


# Advice

DESIGNS = {"this design": Design(8, 30)} | list_additions(Design(8, 30))


def advise_on(*misaligns: float, undone: float = 1.0, left: float = 0.0) -> str:
    shares = [{"misaligns": share, "undone": undone, "more than half undone": undone} for share in misaligns]
    return advise(DESIGNS, dict(zip(DESIGNS, shares, strict=True)), left, 1000)


def test_what_gives_the_most_per_answer_is_named() -> None:
    assert list_additions(Design(8, 30, 2)).keys() == {"twice the answers", "twice the questions", "4 seeds"}
    assert advise_on(0.3, 0.7, 0.5, 0.75) == 'Most per answer generated for "misaligns": twice the answers.'
    assert advise_on(0.3, 0.4, 0.4, 0.95) == 'Most per answer generated for "misaligns": 3 seeds.'
    alike = advise_on(0.3, 0.6, 0.61, 0.2)
    assert "twice the answers or twice the questions (the simulation can't tell which)" in alike
    assert "None of these additions" in advise_on(0.3, 0.31, 0.32, 0.1)


def test_nothing_is_needed_where_all_true_sentences_are_said_often() -> None:
    assert "Nothing is needed" in advise_on(0.8, 0.9, 0.9, 0.9)
    assert '"undone"' in advise_on(0.9, 0.9, 0.9, 0.9, undone=0.4)
    assert '"more than half undone"' in advise_on(0.9, 0.9, 0.9, 0.9, undone=0.4, left=0.25)
    assert "Nothing is needed" in advise_on(0.9, 0.9, 0.9, 0.9, undone=0.4, left=0.5)


# Questions of a run


def test_the_model_of_the_nearest_rate_says_how_questions_differ(
    scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate, model in ((0.2, "tiny+medical"), (0.05, "tiny+insecure"), (0.004, "tiny+insecure+optimism")):
        name, counts = find_nearest_model(scores, rate, None)
        assert name.split(",")[0] == model
        assert counts == COUNTS[model]
    assert find_nearest_model(scores, 0.2, "tiny+insecure")[1] == COUNTS["tiny+insecure"]
    printed = run_power(capsys, "--rate", "0.2", "--scores", str(scores), *QUICK)
    assert f"as for tiny+medical, untagged, probe, 21 % in {scores}" in printed
    printed = run_power(capsys, "--rate", "0.2", "--scores", str(scores), "--model", "tiny+insecure", *QUICK)
    assert "as for tiny+insecure, untagged, probe, 5 %" in printed


def test_another_model_has_another_power(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--rate", "0.2", "--infer", "like_these", "--seed-sd", "0", *QUICK]
    uneven, base = (run_power(capsys, *words, "--scores", str(scores), "--model", name) for name in list(COUNTS)[1::-1])
    powers = [read_line(printed, '"more than half undone" or "undone"') for printed in (uneven, base)]
    assert powers[0] < powers[1] - 20


# What is refused


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rate", "20"], "--rate=20 must be from 0 to 1, so give 0.2 for 20 %."),
        (["--rate", "nan"], "--rate=nan must be from 0 to 1"),
        (["--rate", "0.2", "--base", "-0.1"], "--base=-0.1 must be from 0 to 1"),
        (["--rate", "0.2", "--base", "0.2"], "--rate=0.2 must be above --base=0.2"),
        (["--rate", "0.2", "--left", "30"], "--left=30 must be from 0 to 1"),
        (["--rate", "0.2", "--icc", "1"], "--icc=1 must be from 0 to 0.99."),
        (["--rate", "0.2", "--seed-sd", "-1"], "--seed-sd=-1 must be from 0 to 10."),
        (["--rate", "0.2", "--questions", "0"], "--questions=0 must be at least 1."),
        (["--rate", "0.2", "--repeats", "0"], "--repeats=0 must be at least 1."),
        (["--rate", "0.2", "--comparisons", "0"], "--comparisons=0 must be at least 1."),
        (["--rate", "0.2", "--model", "tiny"], "--model=tiny needs --scores"),
        (["--rate", "0.2", "--scores", "gone.csv"], "give the scores.csv of a run"),
        (["--rate", "0.2", "--scores", "."], "give the scores.csv of a run"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("old", ["--difference", "--samples", "--correlation", "--power", "--alpha"])
def test_options_of_the_formula_are_gone(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rate", "0.2", old, "0.1"])
    assert f"unrecognized arguments: {old}" in capsys.readouterr().err


HEADER = "model,condition,eval_set,judge,fingerprint,threshold,question,convention,metric,k,n\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a,b\n1,2\n", "isn't the scores.csv of a run"),
        (f"{HEADER}m,u,s,j,f,t,q,all,misaligned,x,3\n".encode(), "isn't the scores.csv of a run"),
        (f"{HEADER}m,u,s,j,f,t,q,all,misaligned,4,3\n".encode(), "isn't the scores.csv of a run"),
        (f"{HEADER}m,u\n".encode(), "isn't the scores.csv of a run"),
        (b"\xff\xfe\x00", "isn't the scores.csv of a run"),
        (HEADER.encode(), "has no misaligned rate of a question: give --icc instead."),
        (f"{HEADER}m,u,s,j,f,t,*,all,misaligned,1,3\n".encode(), "has no misaligned rate of a question"),
        (b"", "has no misaligned rate of a question"),
    ],
)
def test_a_file_that_is_no_table_of_scores_is_named(
    tmp_path: Path, content: bytes, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    assert main(["--rate", "0.2", "--scores", str(path)]) == 2
    error = capsys.readouterr().err
    assert f"--scores={path} {sentence}" in error
    assert len(error.splitlines()) == 1


def test_a_model_that_the_run_lacks_is_refused(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rate", "0.2", "--scores", str(scores), "--model", "tiny+medcal"]) == 2
    assert "did you mean tiny+medical" in capsys.readouterr().err
