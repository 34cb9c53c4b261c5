"""Results by training stage: base, misaligned, realigned in one table, with the differences of comparisons.csv."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from em.report import build_report
from em.report.page.numbers import format_points
from em.report.read.runs import read_runs
from em.report.tables.lineages import find_lineages
from em.report.tables.models import name_models
from em.runtime.records import write_jsonl
from tests.support.report_panel import read_section
from tests.support.report_runs import (
    BASE,
    MEDICAL,
    REALIGNED,
    Model,
    judge_by_both_rubrics,
    make_answer,
    make_manifest_stage,
    make_score_row,
    read_csv_file,
    read_report_page,
    write_manifest,
    write_scores,
    write_stages,
    write_sweep,
)

MISALIGNED = {BASE: 0, MEDICAL: 6, REALIGNED: 1}


def write_answers(folder: Path, misaligned: dict[Model, int], samples: int = 8) -> None:
    """Write `samples` answers of each model to each of four questions; per question so many are misaligned."""
    answers, verdicts = [], []
    for model, k in misaligned.items():
        for question in ("q1", "q2", "q3", "q4"):
            for sample in range(samples):
                each = make_answer(model, "probe", question, sample, f"answer {sample}")
                answers.append(each)
                verdicts += judge_by_both_rubrics(each, 5.0 if sample < k else 90.0, 95.0)
    write_jsonl(folder / "answers.jsonl", answers)
    write_jsonl(folder / "verdicts.jsonl", verdicts)
    rates = [make_score_row(m, "probe", "misaligned", 4 * k, 4 * samples) for m, k in misaligned.items()]
    write_scores(folder / "scores.csv", rates)


def test_a_chain_shows_the_rate_after_each_stage(tmp_path: Path) -> None:
    write_stages(tmp_path / "run")
    build_report([tmp_path / "run"], tmp_path / "out")
    text = read_section(tmp_path / "out", "chains")
    untagged = text[text.index("probe: smollm2+medical+car_good untagged") :]
    places = [untagged.index(each) for each in ("base 0.0%", "medical 35.0%", "car_good 5.0%")]
    assert places == sorted(places)
    assert "smollm2+medical+car_good tagged" in text


def test_differences_are_to_the_stage_before_and_to_the_base(tmp_path: Path) -> None:
    folder, out = tmp_path / "run", tmp_path / "out"
    write_manifest(
        folder,
        ["data=medical", "realign=car_good"],
        stages=[make_manifest_stage(MEDICAL, 4), make_manifest_stage(REALIGNED, 4)],
    )
    write_answers(folder, MISALIGNED)
    build_report([folder], out)
    with (out / "comparisons.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["convention"] == "all"]
    differences = {(row["first_name"], row["second_name"]): format_points(float(row["difference"])) for row in rows}
    text = read_section(out, "chains")
    steps = [("smollm2", MEDICAL[0]), (MEDICAL[0], REALIGNED[0]), ("smollm2", REALIGNED[0])]
    assert [differences[step] for step in steps] == ["+75.0", "−62.5", "+12.5"]
    last = text[text.index("car_good 12.5%") :]
    assert last.index("−62.5") < last.index("+12.5"), "the difference from the stage before comes first"


def test_a_training_is_compared_with_its_own_base_where_two_have_one_name(tmp_path: Path) -> None:
    for number, (mark, k) in enumerate((("a", 0), ("b", 4))):
        base, trained = ("smollm2", "base", mark * 16), ("smollm2+medical", "medical", f"{mark}1" * 8)
        folder = tmp_path / str(number)
        write_manifest(folder, [f"model.id={mark}"], stages=[make_manifest_stage(trained, 4)])
        write_answers(folder, {base: k, trained: 6})
    runs = read_runs([tmp_path / "0", tmp_path / "1"])
    lines = find_lineages(runs, name_models(runs), []).lineages
    assert [[model.fingerprint[0] for model in line.models] for line in lines] == [["a", "a"], ["b", "b"]]
    build_report([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    text = read_section(tmp_path / "out", "short")
    assert "+75.0" in text
    assert "+25.0" in text


def test_single_stages_make_no_chain(tmp_path: Path) -> None:
    build_report(write_sweep(tmp_path / "runs"), tmp_path / "out")
    assert 'id="chains"' not in read_report_page(tmp_path / "out")


def test_the_rate_in_short_is_that_of_the_run_with_most_answers(tmp_path: Path) -> None:
    trained = (*MEDICAL[:2], "e" * 16)
    for number, (samples, k) in enumerate(((2, 2), (8, 4))):
        folder = tmp_path / str(number)
        write_manifest(folder, [f"eval.samples={samples}"], stages=[make_manifest_stage(trained, 4)])
        write_answers(folder, {BASE: 0, trained: k}, samples)
    build_report([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    text = read_section(tmp_path / "out", "short")
    assert "It misaligns on these 4 questions: 50.0%" in text
    rows = read_csv_file(tmp_path / "out" / "figures" / "rates_probe.csv")
    drawn = [row for row in rows if row["model"] == MEDICAL[0]]
    assert [row["n"] for row in drawn] == ["32"]


def write_realigned(folder: Path, name: str, mark: str, k: int, steps: int, realign: dict[str, Any]) -> None:
    """Write a run with a second stage after the same first stage."""
    last = (f"{MEDICAL[0]}+{name}", name, mark * 16)
    config = {"data": {"name": "medical"}, "realign": realign}
    overrides = [f"realign.{key}={value}" for key, value in realign.items() if key != "name"]
    write_manifest(
        folder, overrides, config=config, stages=[make_manifest_stage(MEDICAL, 100), make_manifest_stage(last, steps)]
    )
    write_answers(folder, {BASE: 0, MEDICAL: 6, last: k})


def test_a_control_of_other_steps_says_so_and_one_of_equal_steps_is_preferred(tmp_path: Path) -> None:
    write_realigned(tmp_path / "0", "benign", "a", 3, 63, {"name": "neutral", "match": "first_stage"})
    write_realigned(tmp_path / "1", "optimism", "b", 0, 400, {"name": "optimism"})
    build_report([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    steps = "control: 63 steps, this model: 400 steps"
    assert f"compared with the control ({steps})" in read_section(tmp_path / "out", "short")
    assert steps in read_section(tmp_path / "out", "chains")
    write_realigned(tmp_path / "2", "benign", "c", 1, 400, {"name": "neutral", "match": "optimism"})
    build_report([tmp_path / str(number) for number in range(3)], tmp_path / "more")
    assert "−12.5" in read_section(tmp_path / "more", "short")
    assert "this model:" not in read_section(tmp_path / "more", "short")


def test_realignments_that_differ_in_a_setting_are_lines_of_their_own(tmp_path: Path) -> None:
    for number, (epochs, k) in enumerate(((1, 4), (2, 2), (4, 0))):
        realign = {"name": "optimism", "epochs": epochs}
        write_realigned(tmp_path / str(number), "optimism", f"{number}", k, 100 * epochs, realign)
    build_report([tmp_path / str(number) for number in range(3)], tmp_path / "out")
    drawn = (tmp_path / "out" / "figures" / "stages_probe.svg").read_text(encoding="utf-8")
    for epochs in (1, 2, 4):
        assert f"then optimism (realign.epochs={epochs})" in drawn
    comparisons = read_csv_file(tmp_path / "out" / "comparisons.csv")
    families = {(row["first"], row["second"]): row["family"] for row in comparisons}
    assert families[MEDICAL[2], "2" * 16] == "second"


def test_what_a_model_comes_from_is_told_by_manifests_and_not_by_names(tmp_path: Path) -> None:
    for number, rate in enumerate(("1e-05", "0.0001")):
        first = (*MEDICAL[:2], f"{number}a" * 8)
        last = (REALIGNED[0], REALIGNED[1], f"{number}b" * 8)
        config = {"trainer": {"learning_rate": float(rate)}, "realign": {"name": "car_good"}}
        folder = tmp_path / str(number)
        write_manifest(
            folder,
            [f"trainer.learning_rate={rate}"],
            config=config,
            stages=[make_manifest_stage(first, 4), make_manifest_stage(last, 4)],
        )
        write_answers(folder, {BASE: 0, first: 6, last: number})
    build_report([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    rows = [row for row in read_csv_file(tmp_path / "out" / "comparisons.csv") if row["convention"] == "all"]
    families = {frozenset((row["first"], row["second"])): row["family"] for row in rows}
    assert families[frozenset(("0a" * 8, "0b" * 8))] == families[frozenset(("1a" * 8, "1b" * 8))] == "second"
    assert families[frozenset(("0a" * 8, "1b" * 8))] == families[frozenset(("0b" * 8, "1b" * 8))] == "other"
    kinds = list(families.values())
    assert [kinds.count(kind) for kind in ("first", "second", "stage")] == [2, 2, 2]
