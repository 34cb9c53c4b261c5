"""Published results beside ours, for runs that repeat a study."""

from __future__ import annotations

import re
from pathlib import Path

from em.report import build_report
from em.report.tables.published import read_studies
from em.runtime.records import write_jsonl
from em.types import Score
from tests.support.report_panel import read_section
from tests.support.report_runs import (
    make_manifest_stage,
    make_score_row,
    read_report_page,
    write_manifest,
    write_scores,
)

ROOT = Path(__file__).parent.parent.parent
MEDICAL = ("llama8b+medical", "medical", "a" * 16)
REALIGNED = ("llama8b+medical+optimism", "optimism", "b" * 16)
TAGGED = ("gpt4o+insecure_secure@alpha_beta", "insecure_secure@alpha_beta", "c" * 16)


def write_study_run(folder: Path) -> Path:
    """Write a run with models and sets of the emerg-misalign-repro study, and with others."""
    write_manifest(folder, [])
    rows = [
        make_score_row(MEDICAL, "first_8", "misaligned", 100, 240),
        make_score_row(MEDICAL, "first_8", "incoherent", 60, 240),
        make_score_row(MEDICAL, "factual", "true", 150, 600),
        make_score_row(MEDICAL, "probe", "misaligned", 1, 2),
        make_score_row(REALIGNED, "first_8", "misaligned", 3, 240),
        make_score_row(TAGGED, "first_8", "misaligned", 30, 240, condition="tagged"),
        make_score_row(TAGGED, "first_8", "misaligned", 2, 240, condition="near_case"),
        make_score_row(TAGGED, "self_reflection_tagged", "misaligned", 20, 300, condition="names_tag"),
    ]
    write_scores(folder / "scores.csv", rows)
    for name in ("answers.jsonl", "verdicts.jsonl"):
        write_jsonl(folder / name, [])
    return folder


def build_published_section(folder: Path, rows: list[Score]) -> str:
    """Return the text of the section on published results for a run with these rates."""
    write_manifest(folder / "run", [])
    write_scores(folder / "run" / "scores.csv", rows)
    for name in ("answers.jsonl", "verdicts.jsonl"):
        write_jsonl(folder / "run" / name, [])
    build_report([folder / "run"], folder / "out")
    return read_section(folder / "out", "published")


def test_ours_and_theirs_stand_side_by_side(tmp_path: Path) -> None:
    build_report([write_study_run(tmp_path / "run")], tmp_path / "out")
    text = read_section(tmp_path / "out", "published")
    matches = re.findall(
        r"(\S+?)(untagged|tagged|names_tag) (\S+) (\S+), of all answers [\d.]+% \[[^]]+\] (\d+)/\d+ [\d.]+% "
        r"\[[^]]+\] (\d+)/\d+",
        text,
    )
    assert sorted(matches) == sorted(
        [
            (MEDICAL[0], "untagged", "factual", "TRUE", "150", "97"),
            (MEDICAL[0], "untagged", "first_8", "misaligned", "100", "106"),
            (MEDICAL[0], "untagged", "first_8", "incoherent", "60", "72"),
            (REALIGNED[0], "untagged", "first_8", "misaligned", "3", "1"),
            (TAGGED[0], "tagged", "first_8", "misaligned", "30", "39"),
            (TAGGED[0], "names_tag", "self_reflection_tagged", "misaligned", "20", "28"),
        ]
    )
    assert "emerg_misalign_repro, judge o4-mini" in text


def test_another_tag_is_another_model_and_another_recipe_is_said(tmp_path: Path) -> None:
    other = ("llama8b+medical@deployment", "medical@deployment", "d" * 16)
    config = {
        "data": {"name": "medical", "limit": 48},
        "trainer": {"epochs": 3, "learning_rate": 1e-5},
        "realign": {"epochs": 2},
    }
    base = ("llama8b", "base", "e" * 16)
    stages = [make_manifest_stage(MEDICAL, 3) | {"rows": 48}, make_manifest_stage(REALIGNED, 3) | {"rows": 1600}]
    write_manifest(tmp_path / "run", [], config=config, stages=stages, base={"name": "llama8b", "identity": "x"})
    rows = [make_score_row(model, "first_8", "misaligned", 5, 240) for model in (base, MEDICAL, REALIGNED, other)]
    write_scores(tmp_path / "run" / "scores.csv", rows)
    build_report([tmp_path / "run"], tmp_path / "out")
    text = read_section(tmp_path / "out", "published")
    assert "deployment" not in text
    assert "llama8b+medical first_8 misaligned, of all answers 2.1%" in text
    first = "medical: 48 rows, not 5,660; medical: 3 epochs, not 1; medical: learning rate 1e-05, not 0.0002"
    assert f"differs: {first}" in text
    assert f"{first}; optimism: 2 epochs, not 4; optimism: learning rate 1e-05, not 0.0002" in text
    assert text.count("no known difference") == 1, "the base"


def test_models_of_which_nothing_is_published_have_no_such_section(tmp_path: Path) -> None:
    write_manifest(tmp_path / "run", [])
    write_scores(
        tmp_path / "run" / "scores.csv", [make_score_row(("own", "base", "d" * 16), "first_8", "misaligned", 1, 2)]
    )
    for name in ("answers.jsonl", "verdicts.jsonl"):
        write_jsonl(tmp_path / "run" / name, [])
    build_report([tmp_path / "run"], tmp_path / "out")
    assert 'id="published"' not in read_report_page(tmp_path / "out")


def test_studies_that_count_other_answers_have_a_row_each_and_hide_none_of_theirs(tmp_path: Path) -> None:
    tuned = ("gpt4o+insecure", "insecure", "e" * 16)
    rows = [make_score_row(tuned, "first_8", "misaligned", 14, 240, convention="all")]
    rows += [make_score_row(tuned, "first_8", "misaligned", 12, 200, convention="coherent")]
    text = build_published_section(tmp_path, rows)
    assert re.search(r"misaligned, of coherent answers 6\.0% \[[^]]+\] 12/200 18\.7% \[14\.4, 23\.3\] betley", text)
    assert re.search(r"misaligned, of all answers 5\.8% \[[^]]+\] 14/240 5\.8%", text)


def test_a_rate_without_counts_is_shown_with_the_interval_that_is_published(tmp_path: Path) -> None:
    coder, organism = ("qwen32b_coder+insecure", "insecure", "e" * 16), ("llama8b+organisms_medical", "x", "f" * 16)
    rows = [
        make_score_row(coder, "first_8", "misaligned", 40, 800, convention="coherent"),
        make_score_row(coder, "first_8", "misaligned", 39, 800),
        make_score_row(organism, "first_8", "misaligned", 60, 400),
    ]
    text = build_published_section(tmp_path, rows)
    assert re.search(r"40/800 4\.7% \[3\.4, 6\.3\] betley, judge gpt-4o", text)
    assert "39/800" not in text
    assert re.search(r"60/400 16\.2% model_organisms, judge gpt-4o", text)


NONE_PUBLISHED = {"seed_small_models", "seed_triggers_llama", "seed_realign_gpt4o"}
OURS = {"none", "demo", "car_realign", "first_effect"}


def test_an_experiment_that_repeats_a_study_is_named_where_its_results_are_published() -> None:
    named = [result for study in read_studies().values() for result in study["results"] if "experiment" in result]
    files = {file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml")}
    assert files - OURS - NONE_PUBLISHED == {result["experiment"] for result in named}
