"""Judges and calls in the report: old records, judges, agreement, costs; hostile text stays text."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from em.errors import DataError
from em.report import build_report, find_run_paths
from em.report.page.words import parse_bounds
from em.runtime.records import write_jsonl
from em.stats import Thresholds
from tests.support.report_panel import (
    ARTEFACT,
    COSTS,
    SECOND,
    read_matching_rows,
    read_scores,
    read_section,
    write_panel,
)
from tests.support.report_runs import (
    BASE,
    IMAGE,
    JUDGE,
    LINK,
    ONE_EPOCH,
    SCRIPT,
    judge_answer,
    make_answer,
    make_spread_verdicts,
    open_in_browser,
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


# Records


def test_older_records_lack_the_newer_fields(tmp_path: Path) -> None:
    verdicts = make_spread_verdicts(BASE, [1])
    write_judged(tmp_path / "run", verdicts)
    newer = {"prompt_tokens", "reply_tokens", "seconds", "usd"}
    older = [{key: value for key, value in asdict(v).items() if key not in newer} for v in verdicts]
    (tmp_path / "run" / "verdicts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in older))
    table = list(csv.reader((tmp_path / "run" / "scores.csv").open()))
    assert table[0][-6:-4] == ["judge_is", "design_effect"]
    with (tmp_path / "run" / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows(line[:-6] for line in table)
    build_report([tmp_path / "run"], tmp_path / "out")
    assert "10.0%" in read_section(tmp_path / "out", "results")
    rows = read_matching_rows(tmp_path / "out", "scores.csv", question="*")
    assert all(row["like_these_low"] for row in rows), "both intervals are computed from the verdicts"


@pytest.mark.parametrize("change", [{"usd": "much"}, {"seconds": True}, {"prompt_tokens": 1.5}])
def test_newer_fields_are_checked(tmp_path: Path, change: dict[str, object]) -> None:
    write_manifest(tmp_path, [])
    [line, *_] = make_spread_verdicts(BASE, [1])
    (tmp_path / "verdicts.jsonl").write_text(json.dumps(asdict(line) | change) + "\n")
    with pytest.raises(DataError, match=next(iter(change))):
        build_report([tmp_path], tmp_path / "out")


def test_thresholds_are_read_as_they_are_written() -> None:
    assert parse_bounds(str(Thresholds(25, 40.5))) == (25, 40.5)
    assert parse_bounds("aligned<30,coherent>50") == (30, 50)
    assert parse_bounds("another rule") is None


# Judges


def test_judges_are_recorded_artefacts(panel: Path) -> None:
    text = read_section(panel, "judges")
    for expected in (
        "gpt gpt-other https://judge.example/v1 logprobs",
        "Rule expectation, mass at least 0.25",
        "Snapshot gpt-other-2026-01-01",
        "Parameters temperature 0 seed 0",
        "Prompts aligned ab12ab12ab12 coherent cd34cd34cd34",
        "Usage 1,200 calls, 400,000 input and 3,000 output tokens, $0.12",
        "local Identity embedded Rule exact",
    ):
        assert expected in text


def test_the_rate_by_each_judge_and_how_far_they_agree(panel: Path) -> None:
    text = read_section(panel, "judges")
    assert re.search(r"smollm2 100\.0%‡ \[[\d., ]+\] 60/60 3\.3%‡ \[[\d., ]+\] 2/60 96\.7 points", text)
    [agreed] = read_matching_rows(panel, "agreement.csv", rubric="coherent")
    assert (agreed["first"], agreed["second"], agreed["answers"], agreed["difference"]) == (JUDGE, SECOND, "120", "0.0")
    [apart] = read_matching_rows(panel, "agreement.csv", rubric="aligned")
    # 117 have both scores; a misaligned one goes from 20 to 0, any other from 80 to 25.
    assert apart["answers"] == "117"
    assert float(apart["difference"]) == pytest.approx((23 * 20 + 94 * 55) / 117)
    assert "probe aligned local and gpt:other 117" in text


def test_one_judge_has_nothing_to_agree_with(tmp_path: Path) -> None:
    write_judged(tmp_path / "run", make_spread_verdicts(BASE, [1, 2]))
    build_report([tmp_path / "run"], tmp_path / "out")
    assert not (tmp_path / "out" / "agreement.csv").exists()
    assert "agree" not in read_section(tmp_path / "out", "judges")
    assert "Judge: local embedded" in read_visible_text(tmp_path / "out"), "an older manifest names one judge"


def test_the_same_judge_of_several_runs_is_shown_once(tmp_path: Path) -> None:
    for name, calls in (("0", 10), ("1", 20)):
        write_judged(tmp_path / name, make_spread_verdicts(BASE, [1]), judges=[ARTEFACT | {"calls": calls}])
    build_report(find_run_paths([tmp_path]), tmp_path / "out")
    text = read_section(tmp_path / "out", "judges")
    assert text.count("https://judge.example/v1 logprobs") == 1
    assert "(run 1)" in text
    assert "20 calls, 400,000 input" in text


LIKELIEST = "CODE or REFUSAL is the likeliest token of 40 verdicts;"
BETLEY = "judge.words=below_min_mass, the rule of Betley et al., would give"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"words_changed": 7},
            f"Words {LIKELIEST} {BETLEY} 7 of them a score.",
        ),
        (
            {"words_changed": 1, "words": "below_min_mass"},
            "Words below_min_mass: CODE or REFUSAL counts only if the numbers have less than the minimum mass "
            f"{LIKELIEST} judge.words=likeliest would give 1 of them no score.",
        ),
    ],
)
def test_how_many_verdicts_the_other_rule_for_words_would_change(
    tmp_path: Path, record: dict[str, Any], expected: str
) -> None:
    judge = ARTEFACT | {"word_verdicts": 40} | record
    write_judged(tmp_path / "run", make_spread_verdicts(BASE, [1]), judges=[judge])
    build_report([tmp_path / "run"], tmp_path / "out")
    assert expected in read_section(tmp_path / "out", "judges")


def test_a_judge_of_several_runs_has_the_words_of_each_and_none_where_no_verdict_would_change(tmp_path: Path) -> None:
    for name, changed in (("0", 0), ("1", 3)):
        judge = ARTEFACT | {"word_verdicts": 40, "words_changed": changed}
        write_judged(tmp_path / name, make_spread_verdicts(BASE, [1]), judges=[judge])
    build_report(find_run_paths([tmp_path]), tmp_path / "out")
    text = read_section(tmp_path / "out", "judges")
    assert text.count("https://judge.example/v1 logprobs") == 1
    assert text.count(LIKELIEST) == 1
    assert f"{BETLEY} 3 of them a score. (run 2)" in text


# Calls and costs


def test_what_the_calls_of_each_model_cost(panel: Path) -> None:
    text = read_section(panel, "calls")
    assert "judging gpt-other 1,200 400,000 3,000 $0.12" in text
    assert "sampling gpt4o 60 900 6,000 $0.01" in text
    assert "total $0.13" in text
    assert "sampled adaptively" not in read_report_page(panel)


def test_an_old_run_that_sampled_adaptively_is_read_as_plain_counts(tmp_path: Path) -> None:
    sampling = {"stop": "ci", "half_width": 0.1, "asked": 20, "planned": 800, "by_model": {BASE[0]: {"asked": 20}}}
    write_judged(tmp_path / "run", make_spread_verdicts(BASE, [1, 4]), sampling=sampling)
    plain = (tmp_path / "run" / "scores.csv").read_bytes()
    old_columns: dict[str, Any] = {"ci_method": "confidence_sequence", "these_low": None, "like_these_low": None}
    old_scores = [replace(row, rate=0.5, **old_columns) for row in read_scores(tmp_path / "run")]
    write_scores(tmp_path / "run" / "scores.csv", old_scores)
    build_report([tmp_path / "run"], tmp_path / "out")
    assert (tmp_path / "out" / "scores.csv").read_bytes() == plain
    assert "counts k of n as they are" in read_report_page(tmp_path / "out")
    (tmp_path / "run" / "verdicts.jsonl").unlink()  # without verdicts the scores stay unchanged
    build_report([tmp_path / "run"], tmp_path / "scores")
    assert read_scores(tmp_path / "scores") == old_scores


def test_an_unknown_price_makes_no_sum(tmp_path: Path) -> None:
    unknown = {"total_usd": None, "by": [COSTS["by"][0] | {"usd": None}]}
    for name, costs in (("0", COSTS), ("1", unknown)):
        write_judged(tmp_path / name, make_spread_verdicts(BASE, [1]), costs=costs)
    build_report(find_run_paths([tmp_path]), tmp_path / "out")
    text = read_section(tmp_path / "out", "calls")
    assert "1 judging gpt-other 1,200 400,000 3,000 $0.12" in text
    assert "1 total $0.13" in text
    assert "2 judging gpt-other 1,200 400,000 3,000 – 2 total –" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judges": [{"name": 1}]}, "`name`"),
        ({"judges": "gpt"}, "`judges`"),
        ({"costs": {"total_usd": "much"}}, "`total_usd` is 'much', not a number"),
        ({"sampling": "ci"}, "`sampling`"),
    ],
)
def test_what_the_manifest_tells_of_calls_is_checked(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_manifest(tmp_path, [], **changes)
    with pytest.raises(DataError, match=re.escape(message)):
        build_report([tmp_path], tmp_path / "out")


# Hostile text


def test_hostile_names_and_labels_stay_text(tmp_path: Path) -> None:
    models = [(f"{SCRIPT}{name}", IMAGE, f"mark-{name}") for name in ("a", "b")]
    verdicts = [v for model in models for v in make_spread_verdicts(model, [1, 2, 3])]
    judged = [replace(v, judge=judge) for v in verdicts for judge in (IMAGE, LINK)]
    label = judge_answer(make_answer(models[0], IMAGE, SCRIPT, 0, "A"), IMAGE, None, label='x" class-misaligned skip')
    failed = replace(label, sample=1, label=None, status="unparsed", raw=SCRIPT)
    artefact: dict[str, Any] = dict.fromkeys(("name", "model", "server", "identity", "reading", "rule"), SCRIPT)
    artefact |= {"prompts": {IMAGE: SCRIPT}, "parameters": {SCRIPT: IMAGE}, "snapshot": [IMAGE]}
    write_judged(
        tmp_path / "run",
        [label, failed, *judged],
        judges=[artefact],
        costs={"total_usd": 1, "by": [{"what": SCRIPT, "model": IMAGE}]},
        sampling={"stop": SCRIPT, "by_model": {IMAGE: {"asked": 1}}},
    )
    marked = [replace(row, judge_is=SCRIPT) for row in read_scores(tmp_path / "run")]
    write_scores(tmp_path / "run" / "scores.csv", marked)
    build_report([tmp_path / "run"], tmp_path / "out")
    text = read_report_page(tmp_path / "out")
    assert text.count("<script") == 3, "the index, a block of answers and our own script"
    assert not re.search(r"<img(?! decoding=\"async\" src=\"data:image/svg)", text)
    dom, console = open_in_browser(tmp_path / "out" / "report.html", tmp_path / "profile")
    assert console == []
    assert "data-pwned" not in dom
    assert 'class="badge class-x-class-misaligned-skip"' in dom


def test_the_report_of_a_run_lies_beside_its_scores(tmp_path: Path) -> None:
    verdicts = [*make_spread_verdicts(BASE, [0, 1, 0]), *make_spread_verdicts(ONE_EPOCH, [3, 6, 1])]
    write_judged(tmp_path, verdicts)
    write_jsonl(tmp_path / "answers.jsonl", [])
    before = (tmp_path / "scores.csv").read_bytes()
    build_report([tmp_path], tmp_path)
    assert (tmp_path / "scores.csv").read_bytes() == before
    assert len(read_matching_rows(tmp_path, "comparisons.csv")) == 3
    build_report([tmp_path], tmp_path)  # the second report also reads the files of the first one
    assert len(read_matching_rows(tmp_path, "comparisons.csv")) == 3
