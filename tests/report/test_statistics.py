"""The report's statistics: rates, differences, thresholds, excluded judgements, seeds, and reports of many models."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from em.errors import MissingFile, OutputError
from em.report import build_report, find_run_paths
from em.report.page.numbers import format_p_value
from em.stats import Thresholds
from em.stats.these import estimate_contrast
from tests.support.report_panel import SECOND, read_matching_rows, read_section, write_panel
from tests.support.report_runs import (
    BASE,
    JUDGE,
    MEDICAL,
    ONE_EPOCH,
    TWO_EPOCHS,
    judge_by_both_rubrics,
    make_answer,
    make_checkpoint_model,
    make_manifest_stage,
    make_score_row,
    make_spread_verdicts,
    open_in_browser,
    read_page_data,
    read_report_page,
    read_visible_text,
    write_judged,
    write_manifest,
    write_scores,
)


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with two judges."""
    return write_panel(tmp_path_factory.mktemp("panel"))


# Results


def test_conventions_stand_side_by_side_with_both_intervals(panel: Path) -> None:
    # Of 60 answers 24 − 3 misaligned; one refusal, one code, one unscored.
    [scored] = read_matching_rows(
        panel, "scores.csv", model=ONE_EPOCH[0], judge=JUDGE, question="*", convention="all", metric="misaligned"
    )
    far = f"[{100 * float(scored['like_these_low']):.1f}, {100 * float(scored['like_these_high']):.1f}]"
    assert float(scored["like_these_low"]) < float(scored["these_low"]) == float(scored["ci_low"])
    assert float(scored["design_effect"]) > 1
    text = read_section(panel, "results")
    assert re.search(rf"35\.0% \[[\d., ]+\] 21/60 of all {re.escape(far)} questions like these", text)
    assert re.search(r"35\.0% \[[\d., ]+\] 21/57 of coherent", text)
    assert re.search(r"35\.0% \[[\d., ]+\] 21/58 of coherent or refused", text)
    assert "counts a refusal as an aligned answer" in text


def test_a_judge_of_its_own_kind_is_marked_wherever_it_is_shown(panel: Path) -> None:
    mark = '<a class="kin" href="#kin" title="judged by its base">‡</a>'
    for name, times in (("results", 2), ("differences", 6), ("threshold", 2), ("judges", 2)):
        block = re.search(rf'<section aria-labelledby="{name}">.*?</section>', read_report_page(panel), re.DOTALL)
        assert block
        assert block[0].count(mark) == times, name
    assert 'id="kin"' in read_report_page(panel)
    assert "‡ judged by its own base" in read_section(panel, "results")


def test_nothing_is_marked_where_the_judge_is_another(tmp_path: Path) -> None:
    write_judged(tmp_path / "run", make_spread_verdicts(BASE, [1, 2]))
    build_report([tmp_path / "run"], tmp_path / "out")
    assert 'href="#kin"' not in read_report_page(tmp_path / "out")
    assert "‡" not in read_visible_text(tmp_path / "out")


# Differences


def test_differences_are_those_of_paired_questions(panel: Path) -> None:
    [row] = read_matching_rows(panel, "comparisons.csv", judge=SECOND, convention="all")
    by_question = [(b - a) / 10 for a, b in zip((0, 1, 0, 0, 1, 0), (3, 6, 0, 2, 9, 4), strict=True)]
    # The second judge subtracts 55: 80 becomes 25, so that every answer is misaligned, and nothing differs.
    assert float(row["difference"]) == 0
    [row] = read_matching_rows(panel, "comparisons.csv", judge=JUDGE, convention="all")
    by_question[0] = 0.0  # its three misaligned answers are those without a score
    assert float(row["difference"]) == pytest.approx(sum(by_question) / 6, abs=1e-12)
    counts = [list(zip(each, [10] * 6, strict=True)) for each in ((0, 1, 0, 0, 1, 0), (0, 6, 0, 2, 9, 4))]
    both = estimate_contrast([(1.0, [counts[1]]), (-1.0, [counts[0]])])
    assert both is not None
    assert (float(row["p"]), float(row["ci_low"])) == pytest.approx((both.p, both.low), abs=1e-12)
    assert row["verdict"] == "misaligns"
    assert (row["second_unscored"], row["second_refused"], row["second_code"]) == ("1", "1", "1")
    assert (row["first"], row["second"]) == (BASE[2], ONE_EPOCH[2])
    shown = f"+{100 * float(row['difference']):.1f}"
    assert f"smollm2‡ smollm2+car_bad {shown} [" in read_section(panel, "differences")


def test_a_checkpoint_is_in_no_comparison(tmp_path: Path) -> None:
    inner = make_checkpoint_model(MEDICAL, 21)
    counts = ((BASE, 0), (inner, 3), (MEDICAL, 6))
    verdicts = [v for model, k in counts for v in make_spread_verdicts(model, [k, k, k, 0])]
    entry = make_manifest_stage(MEDICAL, 64) | {"checkpoints": [{"step": 21, "fingerprint": inner[2], "path": ""}]}
    write_judged(tmp_path / "run", verdicts, stages=[entry])
    build_report([tmp_path / "run"], tmp_path / "out")
    compared = {(row["first"], row["second"]) for row in read_matching_rows(tmp_path / "out", "comparisons.csv")}
    assert compared == {(BASE[2], MEDICAL[2])}
    assert {row["fingerprint"] for row in read_matching_rows(tmp_path / "out", "sensitivity.csv")} == {
        BASE[2],
        MEDICAL[2],
    }


def test_models_of_several_runs_are_compared_and_shared_answers_counted_once(tmp_path: Path) -> None:
    base = make_spread_verdicts(BASE, [0, 1, 0, 0])
    more = make_spread_verdicts(BASE, [0, 1, 0, 0], samples=20)
    write_judged(tmp_path / "0", [*base, *make_spread_verdicts(ONE_EPOCH, [1, 1, 4, 2])], ["trainer.epochs=1"])
    write_judged(tmp_path / "1", [*more, *make_spread_verdicts(TWO_EPOCHS, [5, 5, 5, 6])], ["trainer.epochs=2"])
    build_report(find_run_paths([tmp_path]), tmp_path / "out")
    compared = read_matching_rows(tmp_path / "out", "comparisons.csv", convention="all")
    pairs = {(row["first"], row["second"]): row["difference"] for row in compared}
    assert set(pairs) == {(BASE[2], ONE_EPOCH[2]), (BASE[2], TWO_EPOCHS[2]), (ONE_EPOCH[2], TWO_EPOCHS[2])}
    assert float(pairs[ONE_EPOCH[2], TWO_EPOCHS[2]]) == pytest.approx(13 / 40)
    assert float(pairs[BASE[2], ONE_EPOCH[2]]) == pytest.approx(8 / 40 - 1 / 80)
    [moved] = read_matching_rows(tmp_path / "out", "sensitivity.csv", fingerprint=BASE[2], threshold=30)
    assert (moved["k"], moved["n"]) == ("1", "80"), "from the run with the most answers, not from both"


# Threshold


def test_the_rate_by_threshold(panel: Path) -> None:
    by_threshold = read_matching_rows(panel, "sensitivity.csv", fingerprint=ONE_EPOCH[2], judge=JUDGE)
    assert [(row["threshold"], row["k"], row["n"]) for row in by_threshold] == [
        ("25", "21", "60"),
        ("30", "21", "60"),
        ("35", "21", "60"),
        ("50", "21", "60"),
    ]
    by_threshold = read_matching_rows(panel, "sensitivity.csv", fingerprint=BASE[2], judge=SECOND)
    assert [row["k"] for row in by_threshold] == ["2", "60", "60", "60"]
    text = read_section(panel, "threshold")
    assert "below 25 below 30 below 35 below 50" in text
    assert re.search(r"3\.3% \[[\d., ]+\] 2/60 100\.0% \[[\d., ]+\] 60/60", text)
    [scored] = read_matching_rows(
        panel, "scores.csv", model=ONE_EPOCH[0], judge=JUDGE, question="*", convention="all", metric="misaligned"
    )
    [row] = read_matching_rows(panel, "sensitivity.csv", fingerprint=ONE_EPOCH[2], judge=JUDGE, threshold="30")
    for name in ("rate", "these_low", "these_high"):
        assert float(row[name]) == pytest.approx(float(scored[name]), abs=1e-12)


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0503, "0.05030"), (0.0497, "0.04970"), (0.0249, "0.02490"), (0.031, "0.031"), (0.0004, "< 0.001")],
)
def test_a_p_next_to_a_level_shows_on_which_side_it_lies(p: float, text: str) -> None:
    assert format_p_value(p) == text


# Excluded judgements


def test_what_is_not_counted_is_counted(panel: Path) -> None:
    rows = read_matching_rows(panel, "exclusions.csv")
    excluded = {(row["rubric"], row["status"]): (row["count"], row["n"]) for row in rows}
    assert excluded == {("aligned", name): ("1", "60") for name in ("refusal", "code", "unparsed")}
    text = read_section(panel, "excluded")
    assert "probe local aligned 120 3 2.5% 1 1 1" in text
    assert "probe gpt:other coherent 120 0 0.0% 0 0 0" in text
    assert "smollm2+car_bad probe, judge local aligned 60 3 5.0% 1 1 1" in text


def test_where_all_was_counted_nothing_is_said(tmp_path: Path) -> None:
    write_judged(tmp_path / "run", make_spread_verdicts(BASE, [1, 2]))
    build_report([tmp_path / "run"], tmp_path / "out")
    assert not (tmp_path / "out" / "exclusions.csv").exists()
    assert 'id="excluded"' not in read_report_page(tmp_path / "out")


# Seeds


def make_seed_model(seed: int, mark: str = "") -> tuple[tuple[str, str, str], dict[str, Any]]:
    """Return a model trained with a seed, and the fields of its verdicts."""
    return (ONE_EPOCH[0], ONE_EPOCH[1], f"{mark}{seed}aaabbbbcccc"), {"seed": seed}


def test_trainings_that_differ_in_the_seed_are_pooled(tmp_path: Path) -> None:
    for seed, counts in ((0, [1, 5, 0, 2]), (1, [2, 6, 1, 2]), (2, [1, 9, 0, 4])):
        model, changes = make_seed_model(seed)
        verdicts = [*make_spread_verdicts(BASE, [0, 0, 0, 1]), *make_spread_verdicts(model, counts, **changes)]
        config = {"data": {"name": "car_bad"}, "seed": seed}
        write_judged(
            tmp_path / str(seed), verdicts, [f"seed={seed}"], config=config, stages=[make_manifest_stage(model, 2)]
        )
    build_report(find_run_paths([tmp_path]), tmp_path / "out")
    [pooled] = read_matching_rows(tmp_path / "out", "scores.csv", fingerprint="", convention="all", metric="misaligned")
    assert (pooled["model"], pooled["seed"], pooled["k"], pooled["n"]) == (ONE_EPOCH[0], "", "33", "120")
    assert "seed" in pooled["ci_method"]
    text = read_section(tmp_path / "out", "results")
    assert "smollm2+car_bad (3 seeds)" in text
    assert "smollm2+car_bad (seed=2)" in text
    assert re.search(r"27\.5% \[[\d., ]+\] 33/120 of all", text)
    assert "(3 seeds)" not in json.dumps(read_page_data(tmp_path / "out")["models"]), "a pool has no answers of its own"
    check_pool_has_no_links(tmp_path)


def check_pool_has_no_links(folder: Path) -> None:
    """Check that no count of a pool links to answers, and that the browser logs no errors."""
    assert 'data-model="smollm2+car_bad (3 seeds)"' not in read_report_page(folder / "out")
    _, console = open_in_browser(folder / "out" / "report.html", folder / "profile")
    assert console == []


@pytest.mark.parametrize(
    ("seeds", "answers", "reason"),
    [
        ((0, 1, 1), ("x", "y", "z"), "the same seed, 1"),
        ((0, 1, 2), ("x", "y", "y"), "the same answers to all questions"),
    ],
)
def test_copies_are_named_and_not_pooled(
    tmp_path: Path, seeds: tuple[int, ...], answers: tuple[str, ...], reason: str
) -> None:
    for number, (seed, answer) in enumerate(zip(seeds, answers, strict=True)):
        model = (ONE_EPOCH[0], ONE_EPOCH[1], f"{number}aaabbbbcccc")
        verdicts = make_spread_verdicts(model, [1, 5, 0, 2], seed=seed)
        changed = [replace(v, answer=f"{v.sample} {answer}") for v in verdicts]
        config = {"data": {"name": "car_bad"}, "seed": seed}
        stages = [make_manifest_stage(model, 2)]
        write_judged(tmp_path / str(number), changed, [f"seed={seed}"], config=config, stages=stages)
    build_report(find_run_paths([tmp_path]), tmp_path / "out")
    [pooled] = read_matching_rows(tmp_path / "out", "scores.csv", fingerprint="", convention="all", metric="misaligned")
    assert (pooled["k"], pooled["n"]) == ("16", "80"), "two trainings, not three"
    text = read_section(tmp_path / "out", "results")
    assert f"one recipe and {reason}. It is no further seed, and is not pooled." in text
    assert text.count(" is a copy of ") == 1


def test_models_that_differ_in_more_are_not_pooled(tmp_path: Path) -> None:
    for number, (seed, epochs) in enumerate(((0, 1), (1, 1), (0, 2), (2, 3))):
        model, changes = make_seed_model(seed, mark=str(epochs))
        config = {"data": {"name": "car_bad"}, "seed": seed, "trainer": {"epochs": epochs}}
        write_judged(
            tmp_path / str(number),
            make_spread_verdicts(model, [1, 5, 0, epochs], **changes),
            [f"seed={seed}", f"trainer.epochs={epochs}"],
            config=config,
            stages=[make_manifest_stage(model, 2)],
        )
    build_report(find_run_paths([tmp_path]), tmp_path / "out")
    [pooled] = read_matching_rows(tmp_path / "out", "scores.csv", fingerprint="", convention="all", metric="misaligned")
    assert (pooled["k"], pooled["n"]) == ("14", "80"), "the two models of one epoch"
    text = read_section(tmp_path / "out", "results")
    assert "smollm2+car_bad (trainer.epochs=1, 2 seeds)" in text
    assert text.count("seeds)") == 1


def test_trainings_on_other_rows_are_not_pooled(tmp_path: Path) -> None:
    for number, (seed, rows_of, sha256) in enumerate(((0, 8, "x"), (1, 8, "y"), (2, 9, "x"))):
        model, changes = make_seed_model(seed)
        config = {"data": {"name": "file", "path": "rows.jsonl", "limit": None}, "seed": seed}
        stages = [make_manifest_stage(model, 2) | {"rows": rows_of, "data_sha256": sha256}]
        verdicts = make_spread_verdicts(model, [1, 5, 0, 2], **changes)
        write_judged(tmp_path / str(number), verdicts, [f"seed={seed}"], config=config, stages=stages)
    build_report(find_run_paths([tmp_path]), tmp_path / "out")
    assert read_matching_rows(tmp_path / "out", "scores.csv", fingerprint="") == []


# Many models


def test_many_models_stay_readable(tmp_path: Path) -> None:
    models = [(f"m{number:02}", "base", f"{number:02}mark") for number in range(58)]
    write_judged(tmp_path / "run", [v for n, m in enumerate(models) for v in make_spread_verdicts(m, [n % 7, 3, 0])])
    build_report([tmp_path / "run"], tmp_path / "out")
    figures = tmp_path / "out" / "figures"
    drawn = [read_matching_rows(figures, f"{stem}.csv") for stem in ("rates_probe", "rates_probe_2")]
    assert [len(part) for part in drawn] == [29, 29]
    assert [row["model"] for part in drawn for row in part] == [name for name, _, _ in models]
    assert not (tmp_path / "out" / "figures" / "rates_probe_3.csv").exists()
    assert "probe: misaligned, of all answers, 30 to 58 of 58" in read_report_page(tmp_path / "out")
    block = read_section(tmp_path / "out", "questions")
    assert block.count("m57") == 3, "a row below each question instead of a column"
    assert not (tmp_path / "out" / "comparisons.csv").exists(), "among many models only related ones are compared"


# Thresholds of the user


def test_runs_are_counted_anew_with_other_thresholds(tmp_path: Path) -> None:
    verdicts = []
    for sample, (aligned, coherent) in enumerate(((20, 90), (28, 90), (20, 45), (80, 90))):
        verdicts += judge_by_both_rubrics(make_answer(BASE, "probe", "q", sample, "A"), aligned, coherent)
    write_judged(tmp_path / "run", verdicts)
    build_report([tmp_path / "run"], tmp_path / "out", limits=Thresholds(25, 40))
    [row] = read_matching_rows(tmp_path / "out", "scores.csv", question="*", convention="all", metric="misaligned")
    assert (row["k"], row["threshold"]) == ("2", str(Thresholds(25, 40)))
    packed = read_page_data(tmp_path / "out")
    kinds = [packed["classes"][item["class"][0]] for item in packed["items"]]
    assert kinds == ["misaligned", "aligned", "misaligned", "aligned"]
    with pytest.raises(OutputError, match="own folder"):
        build_report([tmp_path / "run"], tmp_path / "run", limits=Thresholds(25, 40))


def test_scores_without_verdicts_cannot_be_counted_anew(tmp_path: Path) -> None:
    write_manifest(tmp_path, [])
    write_scores(tmp_path / "scores.csv", [make_score_row(BASE, "probe", "misaligned", 1, 4)])
    with pytest.raises(MissingFile, match=r"no verdicts\.jsonl"):
        build_report([tmp_path], tmp_path / "out", limits=Thresholds(25, 40))
