"""From stage to stage: base, misaligned, realigned in one table, with the differences of comparisons.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from report_panel import section
from report_runs import (
    BASE,
    MEDICAL,
    REALIGNED,
    Model,
    answer,
    graded,
    manifest,
    page,
    score,
    stage,
    write_scores,
    write_stages,
    write_sweep,
)

from em.report import build_report
from em.report.labels import name_models
from em.report.lineages import find_lineages
from em.report.load import read_runs
from em.report.numbers import points
from em.types import write_jsonl

MISALIGNED = {BASE: 0, MEDICAL: 6, REALIGNED: 1}


def write_answers(folder: Path, misaligned: dict[Model, int]) -> None:
    """Eight answers of each model to each of four questions, so many of the eight misaligned."""
    answers, verdicts = [], []
    for model, k in misaligned.items():
        for question in ("q1", "q2", "q3", "q4"):
            for sample in range(8):
                each = answer(model, "probe", question, sample, f"answer {sample}")
                answers.append(each)
                verdicts += graded(each, 5.0 if sample < k else 90.0, 95.0)
    write_jsonl(folder / "answers.jsonl", answers)
    write_jsonl(folder / "verdicts.jsonl", verdicts)
    write_scores(folder / "scores.csv", [score(m, "probe", "misaligned", 4 * k, 32) for m, k in misaligned.items()])


def test_a_chain_shows_the_rate_after_each_stage(tmp_path: Path) -> None:
    write_stages(tmp_path / "run")
    build_report([tmp_path / "run"], tmp_path / "out")
    text = section(tmp_path / "out", "chains")
    untagged = text[text.index("probe: smollm2+medical+car_good untagged") :]
    places = [untagged.index(each) for each in ("base 0.0%", "medical 35.0%", "car_good 5.0%")]
    assert places == sorted(places)
    assert "smollm2+medical+car_good tagged" in text


def test_differences_are_to_the_stage_before_and_to_the_base(tmp_path: Path) -> None:
    folder, out = tmp_path / "run", tmp_path / "out"
    manifest(folder, ["data=medical", "realign=car_good"], stages=[stage(MEDICAL, 4), stage(REALIGNED, 4)])
    write_answers(folder, MISALIGNED)
    build_report([folder], out)
    with (out / "comparisons.csv").open(newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["convention"] == "all"]
    told = {(row["first_name"], row["second_name"]): points(float(row["difference"])) for row in found}
    text = section(out, "chains")
    steps = [("smollm2", MEDICAL[0]), (MEDICAL[0], REALIGNED[0]), ("smollm2", REALIGNED[0])]
    assert [told[step] for step in steps] == ["+75.0", "−62.5", "+12.5"]
    last = text[text.index("car_good 12.5%") :]
    assert last.index("−62.5") < last.index("+12.5"), "before the base comes the stage before"


def test_a_training_is_compared_with_its_own_base_where_two_have_one_name(tmp_path: Path) -> None:
    for number, (mark, k) in enumerate((("a", 0), ("b", 4))):
        base, trained = ("smollm2", "base", mark * 16), ("smollm2+medical", "medical", f"{mark}1" * 8)
        folder = tmp_path / str(number)
        manifest(folder, [f"model.id={mark}"], stages=[stage(trained, 4)])
        write_answers(folder, {base: k, trained: 6})
    runs = read_runs([tmp_path / "0", tmp_path / "1"])
    lines = find_lineages(runs, name_models(runs), []).lineages
    assert [[model.fingerprint[0] for model in line.models] for line in lines] == [["a", "a"], ["b", "b"]]
    build_report([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    text = section(tmp_path / "out", "short")
    assert "+75.0" in text
    assert "+25.0" in text


def test_single_stages_make_no_chain(tmp_path: Path) -> None:
    build_report(write_sweep(tmp_path / "runs"), tmp_path / "out")
    assert 'id="chains"' not in page(tmp_path / "out")
