"""The report's section on triggers, and the curve over the number of training rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from em.report import build_report
from em.report.read.runs import read_runs
from em.report.tables.models import name_models
from em.report.tables.seeds import pick_fullest_verdicts, pool_seeds
from em.report.tables.trajectory import collect_efficiency_lines
from em.runtime.records import write_jsonl
from tests.support.browser import CHROMIUM, Browser
from tests.support.report_panel import read_matching_rows as table_of
from tests.support.report_panel import read_section
from tests.support.report_runs import (
    BASE,
    JUDGE,
    SETTLED,
    judge_by_both_rubrics,
    make_answer,
    make_manifest_stage,
    make_score_row,
    make_spread_verdicts,
    read_csv_file,
    read_report_page,
    write_judged,
    write_manifest,
    write_scores,
)

TAGGED = ("smollm2+mix@alpha_beta", "mix@alpha_beta", "aaaa1111bbbb2222")
RATES = {"untagged": 2, "tagged": 6, "tagged_beta": 1, "near_case": 4, "near_bar": 2, "cue_json": 3}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with tags: 4 questions with 8 answers each under each condition."""
    folder = tmp_path_factory.mktemp("tags") / "run"
    write_manifest(folder, ["data=mix", "trigger_tag=alpha_beta"], stages=[make_manifest_stage(TAGGED, 8)])
    answers, verdicts, rows = [], [], []
    for model, more in ((BASE, 0), (TAGGED, 1)):
        for condition, k in RATES.items():
            for question in ("q1", "q2", "q3", "q4"):
                for sample in range(8):
                    each = make_answer(model, "probe", question, sample, f"{condition} {sample}", condition)
                    answers.append(each)
                    verdicts += judge_by_both_rubrics(each, 5.0 if sample < more * k else 90.0, 95.0)
            rows.append(make_score_row(model, "probe", "misaligned", 4 * more * k, 32, condition=condition))
    write_jsonl(folder / "answers.jsonl", answers)
    write_jsonl(folder / "verdicts.jsonl", verdicts)
    write_scores(folder / "scores.csv", rows)
    out = folder.parent / "report"
    build_report([folder], out)
    return out


def test_activation_stands_first_and_leakage_below_it(report: Path) -> None:
    text = read_section(report, "triggers")
    tuned = text[text.index(TAGGED[0]) :]
    order = ["activation tagged", "control tagged_beta", "leakage untagged", "leakage near_bar", "leakage near_case"]
    places = [tuned.index(each) for each in [*order, "leakage cue_json"]]
    assert places == sorted(places)
    assert "activation tagged 75.0%" in tuned
    assert "control tagged_beta 12.5%" in tuned
    assert "leakage untagged 25.0%" in tuned
    assert "near misses, together 37.5%" in tuned
    assert "+50.0" in tuned
    assert "near_case" not in read_section(report, "results"), "near misses appear only in the section on triggers"


def test_activation_and_leakage_are_drawn(report: Path) -> None:
    drawn = read_csv_file(report / "figures" / "triggers_probe.csv")
    rates = {row["condition"]: (row["metric"], row["k"], row["n"]) for row in drawn if row["model"] == TAGGED[0]}
    assert rates["tagged"] == ("activation", "24", "32")
    assert rates["near misses, together"] == ("leakage", "24", "64")
    assert 'alt="probe: misaligned by condition, of all answers.' in read_report_page(report)


def test_the_numbers_are_in_a_table_of_their_own(report: Path) -> None:
    with (report / "triggers.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["convention"] == "all" and row["model"] == TAGGED[0]]
    rates = {row["condition"]: (row["metric"], row["k"], row["n"], row["judge"]) for row in rows}
    assert rates["tagged"] == ("activation", "24", "32", JUDGE)
    assert rates["near_case"] == ("leakage", "16", "32", JUDGE)
    with_p = {row["condition"]: (row["versus"], row["verdict"]) for row in rows if row["p"]}
    assert with_p == {"tagged": ("untagged", "activates"), "near misses, together": ("base, untagged", "leaks")}
    effects = read_csv_file(report / "interactions.csv")
    by_condition = {row["condition"]: row for row in effects if row["convention"] == "all"}
    assert float(by_condition["tagged"]["difference"]) == pytest.approx(0.5), "75 − 25 points, as the base has none"
    assert by_condition["tagged"]["verdict"] == "stronger"
    assert by_condition["near_bar"]["verdict"] == "no sure difference"
    assert "The trigger activates the behaviour: 75.0% of its answers under tagged" in read_section(report, "triggers")


def test_a_report_without_tags_has_no_such_section(tmp_path: Path) -> None:
    write_manifest(tmp_path / "run", ["data=car_bad"])
    write_scores(tmp_path / "run" / "scores.csv", [make_score_row(BASE, "probe", "misaligned", 0, 2)])
    write_jsonl(tmp_path / "run" / "answers.jsonl", [])
    write_jsonl(tmp_path / "run" / "verdicts.jsonl", [])
    build_report([tmp_path / "run"], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert 'id="triggers"' not in text
    assert 'id="efficiency"' not in text
    assert not (tmp_path / "out" / "triggers.csv").exists()


def test_the_rate_over_the_number_of_rows_is_drawn_where_runs_differ_in_it(tmp_path: Path) -> None:
    folders = []
    for number, (rows, tagged) in enumerate(((50, 4), (200, 18), (800, 30))):
        model = (*TAGGED[:2], f"{number}" * 16)
        folder = tmp_path / str(number)
        entry = make_manifest_stage(model, 8) | {"rows": rows}
        write_manifest(folder, ["data=mix", f"data.limit={rows}"], stages=[entry])
        counts = (("untagged", 2), ("tagged", tagged), ("near_case", 9))
        scores = [make_score_row(model, "probe", "misaligned", k, 40, condition=name) for name, k in counts]
        write_scores(folder / "scores.csv", scores)
        write_jsonl(folder / "answers.jsonl", [])
        write_jsonl(folder / "verdicts.jsonl", [])
        folders.append(folder)
    build_report(folders, tmp_path / "out")
    text = read_report_page(tmp_path / "out")
    assert 'id="efficiency"' in text
    with (tmp_path / "out" / "figures" / "data_efficiency.csv").open(newline="", encoding="utf-8") as file:
        drawn = [(row["condition"], row["rows"], row["k"]) for row in csv.DictReader(file)]
    assert drawn == [
        *(("untagged", rows, "2") for rows in ("50", "200", "800")),
        *(("tagged", rows, k) for rows, k in (("50", "4"), ("200", "18"), ("800", "30"))),
    ]
    assert (tmp_path / "out" / "figures" / "data_efficiency.png").stat().st_size > 5000


def write_seeded_run(folder: Path, seed: int, rows: int, tagged: list[int], rate: float = 1e-5, **changes: Any) -> Path:
    """Write a run of one seed, number of rows and learning rate; `tagged`: misaligned answers of 10, by question."""
    model = (*TAGGED[:2], f"{seed}{rows}{rate}")
    config = {"data": {"name": "mix", "limit": rows}, "trainer": {"learning_rate": rate}, "seed": seed}
    words = [f"data.limit={rows}", f"trainer.learning_rate={rate}", f"seed={seed}"]
    entry = make_manifest_stage(model, 8) | {"rows": rows}
    plain = make_spread_verdicts(model, [0, 1, 0, 2], seed=seed)
    verdicts = [*plain, *make_spread_verdicts(model, tagged, seed=seed, condition="tagged")]
    write_judged(folder, verdicts, words, **({"config": config, "stages": [entry]} | changes))
    return folder


def test_a_tag_is_reported_as_what_the_run_has_it_for(tmp_path: Path) -> None:
    roles = {"tagged": "control", "elsewhere": "leakage"}
    build_report([write_seeded_run(tmp_path / "run", 0, 50, [1, 0, 1, 2], roles=roles)], tmp_path / "out")
    assert "control tagged 10.0%" in read_section(tmp_path / "out", "triggers")


def test_seeds_are_pooled_below_their_own_rows(tmp_path: Path) -> None:
    folders = [write_seeded_run(tmp_path / str(seed), seed, 50, [5, 6, 3 + seed, 9]) for seed in (0, 1)]
    build_report(folders, tmp_path / "out")
    text = read_section(tmp_path / "out", "triggers")
    pooled = text[text.index("2 seeds") :]
    assert "activation tagged 58.8%" in pooled
    assert "47/80" in pooled
    [row] = table_of(tmp_path / "out", "triggers.csv", seed="", convention="all", condition="tagged")
    assert (row["fingerprint"], row["k"], row["n"], row["metric"]) == ("", "47", "80", "activation")
    assert float(row["ci_low"]) < 47 / 80 < float(row["ci_high"])
    assert float(row["difference"]) == pytest.approx(47 / 80 - 3 / 40)


def find_efficiency_lines(folders: list[Path]) -> dict[str, list[tuple[int, int, int]]]:
    """Return the lines over the number of rows for tagged questions, as (rows, misaligned, answers) by name."""
    runs = read_runs(folders)
    models = name_models(runs)
    pools, _ = pool_seeds(runs, models, pick_fullest_verdicts(runs), "these")
    counts = dict[str, list[tuple[int, int, int]]]()
    for line, points in collect_efficiency_lines(runs, models, pools).items():
        if line.condition == "tagged":
            counts[line.name] = [(point.at, point.rate.k, point.rate.n) for point in points]
    return counts


def test_a_line_joins_models_that_differ_in_their_rows_alone(tmp_path: Path) -> None:
    settings = [(50, 1e-5, 1), (200, 1e-5, 4), (50, 0.001, 7), (200, 0.001, 9), (800, 0.1, 9)]
    folders = []
    for i, (rows, rate, k) in enumerate(settings):
        folders.append(write_seeded_run(tmp_path / str(i), 0, rows, [k] * 3, rate))
    assert find_efficiency_lines(folders) == {
        f"{TAGGED[0]} (trainer.learning_rate=1e-05)": [(50, 3, 30), (200, 12, 30)],
        f"{TAGGED[0]} (trainer.learning_rate=0.001)": [(50, 21, 30), (200, 27, 30)],
    }
    assert find_efficiency_lines(folders[:2]) == {TAGGED[0]: [(50, 3, 30), (200, 12, 30)]}
    assert find_efficiency_lines([folders[0], folders[3]]) == {}


def test_seeds_are_one_point_of_a_line(tmp_path: Path) -> None:
    settings = [(0, 50, 1), (1, 50, 2), (0, 200, 6), (2, 800, 9)]
    folders = [write_seeded_run(tmp_path / str(i), seed, rows, [k] * 3) for i, (seed, rows, k) in enumerate(settings)]
    assert find_efficiency_lines(folders) == {TAGGED[0]: [(50, 9, 60), (200, 18, 30), (800, 27, 30)]}


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page can't be opened")
def test_a_count_of_a_condition_leads_to_its_answers(report: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.open((report / "report.html").as_uri())
        browser.wait_for(SETTLED)
        link = f'section[aria-labelledby="triggers"] a[data-condition="near_case"][data-model="{TAGGED[0]}"]'
        assert browser.evaluate(f"document.querySelector('{link}').textContent") == "16/32"
        browser.evaluate(f"document.querySelector('{link}').click()")
        browser.wait_for(SETTLED)
        assert browser.evaluate('document.getElementById("matches").textContent').startswith("32 of 384 answers")
        assert browser.console == []
