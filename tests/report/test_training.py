"""Training in the report: the rates during each stage, and the details of each stage."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from em.errors import DataError
from em.report import build_report, find_run_paths
from em.runtime.records import digest
from tests.support.browser import CHROMIUM, Browser
from tests.support.report_runs import (
    BASE,
    IMAGE,
    LINK,
    MEDICAL,
    ONE_EPOCH,
    REALIGNED,
    SCRIPT,
    SETTLED,
    make_checkpoint_model,
    make_manifest_stage,
    make_score_row,
    open_in_browser,
    read_page_data,
    read_report_page,
    read_visible_text,
    write_manifest,
    write_run,
    write_scores,
    write_stages,
)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of two stages with checkpoints."""
    root = tmp_path_factory.mktemp("stages")
    write_stages(root / "run")
    build_report([root / "run"], root / "out")
    return root / "out"


def read_figure_rows(out: Path, stem: str = "trajectory") -> list[dict[str, str]]:
    """Read the CSV of a figure."""
    return list(csv.DictReader((out / "figures" / f"{stem}.csv").open()))


def read_trajectory_steps(out: Path, **only: str) -> list[tuple[str, str, str]]:
    """Return step, k and loss of the trajectory's rows with these values."""
    rows = [row for row in read_figure_rows(out) if only.items() <= row.items()]
    return [(row["step"], row["k"], row["loss"]) for row in rows]


def read_section_markup(out: Path, name: str) -> str:
    """Return the markup of the section with this heading."""
    match = re.search(rf'<section aria-labelledby="{name}">.*?</section>', read_report_page(out), re.DOTALL)
    assert match, name
    return match[0]


def build_trained_section(tmp_path: Path, **facts: Any) -> str:
    """Return the section on training details for a stage with only these facts."""
    entry = {"name": "medical", "fingerprint": MEDICAL[2], "facts": facts}
    write_manifest(tmp_path / "run", [], stages=[entry])
    build_report([tmp_path / "run"], tmp_path / "out")
    return read_section_markup(tmp_path / "out", "trained")


# The trajectory


def test_the_trajectory_goes_from_the_model_before_to_the_model_after(stages: Path) -> None:
    probe = {"eval_set": "probe", "condition": "untagged"}
    first = read_trajectory_steps(stages, stage_fingerprint=MEDICAL[2], **probe)
    assert first == [("0", "0", ""), ("21", "3", "1.4364"), ("42", "9", "1.3086"), ("64", "14", "1.25")]
    second = read_trajectory_steps(stages, stage_fingerprint=REALIGNED[2], **probe)
    assert second == [("0", "14", ""), ("15", "6", "1.5164"), ("30", "2", "1.3651")]


def test_every_set_and_condition_is_a_line(stages: Path) -> None:
    lines = list(dict.fromkeys((row["eval_set"], row["condition"]) for row in read_figure_rows(stages)))
    assert lines == [("probe", "untagged"), ("probe", "tagged"), ("introspection", "untagged")]
    assert {(row["metric"], row["convention"]) for row in read_figure_rows(stages)} == {("misaligned", "all")}
    last = next(row for row in read_figure_rows(stages) if (row["step"], row["condition"]) == ("64", "tagged"))
    assert (last["model"], last["fingerprint"]) == ("smollm2+medical", MEDICAL[2])
    assert (last["k"], last["n"], last["rate"]) == ("19", "40", "0.475")
    assert [round(float(last[end]), 3) for end in ("ci_low", "ci_high")] == [0.375, 0.575]


def test_the_trajectory_is_a_picture_with_words_and_a_table(stages: Path) -> None:
    names = {file.name for file in (stages / "figures").iterdir()}
    assert {f"trajectory.{kind}" for kind in ("png", "svg", "csv")} <= names
    assert "trajectory_2.csv" not in names
    text = read_section_markup(stages, "trajectory")
    assert "smollm2+medical, probe, untagged: 0.0% [0.0, 10.0] at step 0, 7.5% [0.0, 17.5] at step 21" in text
    assert "its loss: 3 at first, 1.25 at last" in text
    assert text.count("data:image/svg+xml") == 2, "in light and dark mode"
    assert "22.5% [12.5, 32.5] 9/40" in read_visible_text(stages)


def test_checkpoints_stay_out_of_the_results(stages: Path) -> None:
    for name in ("results", "questions"):
        assert "step 21" not in read_section_markup(stages, name)
        assert "smollm2+<wbr>medical+<wbr>car_<wbr>good" in read_section_markup(stages, name)
    rates = [row["model"] for row in read_figure_rows(stages, "rates_probe")]
    assert sorted(set(rates)) == ["smollm2", "smollm2+medical", "smollm2+medical+car_good"]
    assert "1 run · 3 models · 3 checkpoints" in read_visible_text(stages)
    assert "<title>smollm2+medical+car_good and 2 other models" in read_report_page(stages)


def test_transcripts_of_checkpoints_are_found_by_model(stages: Path, tmp_path: Path) -> None:
    assert read_page_data(stages)["models"] == [
        "smollm2",
        "smollm2+medical",
        "smollm2+medical (step 21)",
        "smollm2+medical (step 42)",
        "smollm2+medical+car_good",
        "smollm2+medical+car_good (step 15)",
    ]
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: the page can't be opened")
    with Browser(tmp_path / "profile") as browser:
        browser.open((stages / "report.html").as_uri())
        browser.wait_for(SETTLED)
        browser.evaluate("""document.querySelector('.steps a[data-model="smollm2+medical (step 42)"]').click()""")
        assert browser.evaluate('document.getElementById("filter-model").selectedOptions[0].text').endswith(
            "(step 42) (1)"
        )
        browser.evaluate('document.getElementById("filter-class").value = ""')
        browser.evaluate('document.getElementById("filter-model").dispatchEvent(new Event("change"))')
        browser.wait_for(SETTLED)
        assert browser.evaluate('document.getElementById("matches").textContent') == "1 of 6 answers"
        assert (
            browser.evaluate('document.querySelector(".answer").textContent')
            == "An answer of smollm2+medical (step 42)"
        )


def test_many_runs_share_stages_and_wrap(tmp_path: Path) -> None:
    for number, mark in enumerate(("", "s1", "s2", "")):
        write_stages(tmp_path / str(number), seed=int(mark[1:] or 0), mark=mark)
    out = tmp_path / "out"
    build_report(find_run_paths([tmp_path]), out)
    labels = [f"smollm2+medical{more} (seed={seed})" for more in ("", "+car_good") for seed in range(3)]
    rows = [*read_figure_rows(out), *read_figure_rows(out, "trajectory_2")]
    assert list(dict.fromkeys(row["model"] for row in rows)) == labels
    assert len(rows) == 3 * (3 * 4 + 3 * 3), "sets and conditions × steps; a shared stage counts once"
    assert f"{labels[0]} (step 21)" in read_page_data(out)["models"]
    assert read_section_markup(out, "trained").count('<details class="trained">') == 6
    assert "trained (runs 1, 4)" in read_visible_text(out)
    assert "1 more figure; 6 stages in total" in read_visible_text(out)


def test_the_base_may_have_been_asked_by_another_run(tmp_path: Path) -> None:
    base = ("smollm2", "base", digest("weights-of-smollm2"))
    write_manifest(tmp_path / "a", [], stages=[make_manifest_stage(ONE_EPOCH, 2)])
    write_scores(tmp_path / "a" / "scores.csv", [make_score_row(ONE_EPOCH, "probe", "misaligned", 1, 4)])
    write_manifest(tmp_path / "b", [])
    write_scores(tmp_path / "b" / "scores.csv", [make_score_row(base, "probe", "misaligned", 0, 4)])
    build_report(find_run_paths([tmp_path]), tmp_path / "out")
    assert read_trajectory_steps(tmp_path / "out") == [("0", "0", ""), ("2", "1", "")]


def test_one_point_is_no_trajectory(tmp_path: Path) -> None:
    write_manifest(tmp_path / "run", [], stages=[make_manifest_stage(ONE_EPOCH, 2)])
    write_scores(tmp_path / "run" / "scores.csv", [make_score_row(ONE_EPOCH, "probe", "misaligned", 1, 4)])
    build_report([tmp_path / "run"], tmp_path / "out")
    assert "trajectory" not in read_report_page(tmp_path / "out").split("<main")[1].split("<script")[0]
    assert not (tmp_path / "out" / "figures" / "trajectory.csv").exists()


def test_a_rate_that_does_not_exist_is_no_point_at_zero(tmp_path: Path) -> None:
    entry = make_manifest_stage(MEDICAL, 64) | {
        "checkpoints": [{"step": 21, "fingerprint": make_checkpoint_model(MEDICAL, 21)[2]}]
    }
    write_manifest(tmp_path / "run", [], stages=[entry])
    counts = ((BASE, 0, 4), (make_checkpoint_model(MEDICAL, 21), 0, 0), (MEDICAL, 3, 4))
    rows = [make_score_row(model, "probe", "misaligned", k, n) for model, k, n in counts]
    write_scores(tmp_path / "run" / "scores.csv", rows)
    build_report([tmp_path / "run"], tmp_path / "out")
    assert [row["rate"] for row in read_figure_rows(tmp_path / "out")] == ["0.0", "", "0.75"]
    assert "– no interval 0/0" in read_visible_text(tmp_path / "out")


def test_a_rate_outside_its_interval_is_drawn(tmp_path: Path) -> None:
    write_manifest(tmp_path / "run", [], stages=[make_manifest_stage(MEDICAL, 64)])
    rows = [
        make_score_row(BASE, "probe", "misaligned", 0, 4),
        make_score_row(MEDICAL, "probe", "misaligned", 1, 4, ci_low=0.25 + 1e-9),
    ]
    write_scores(tmp_path / "run" / "scores.csv", rows)
    build_report([tmp_path / "run"], tmp_path / "out")
    assert read_trajectory_steps(tmp_path / "out") == [("0", "0", ""), ("64", "1", "")]


def test_where_runs_differ_the_one_with_most_of_the_line_is_followed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", MEDICAL, 1, misaligned=1)
    write_stages(tmp_path / "b")
    build_report(find_run_paths([tmp_path]), tmp_path / "out")
    only = {"stage_fingerprint": MEDICAL[2], "eval_set": "probe", "condition": "untagged"}
    assert [k for _, k, _ in read_trajectory_steps(tmp_path / "out", **only)] == ["0", "3", "9", "14"]


def test_thresholds_and_judges_are_lines_of_their_own(tmp_path: Path) -> None:
    write_manifest(tmp_path / "run", [], stages=[make_manifest_stage(MEDICAL, 64)])
    rows = [make_score_row(model, "probe", "misaligned", k, 4) for model, k in ((BASE, 0), (MEDICAL, 2))]
    rows += [replace(row, judge="hosted:other", k=row.k + 1) for row in rows]
    rows += [replace(row, threshold="aligned<20 & coherent>50", k=row.k + 2) for row in rows[:2]]
    write_scores(tmp_path / "run" / "scores.csv", rows)
    build_report([tmp_path / "run"], tmp_path / "out")
    text = read_section_markup(tmp_path / "out", "trajectory")
    for name in ("judge local, aligned&lt;30 &amp; coherent&gt;50", "judge local, aligned&lt;20", "judge hosted"):
        assert f"probe, {name}" in text
    assert [row["k"] for row in read_figure_rows(tmp_path / "out")] == ["0", "2", "1", "3", "2", "4"]


def test_the_last_step_is_that_of_the_loss_where_older_facts_have_none(tmp_path: Path) -> None:
    write_run(tmp_path / "run", ONE_EPOCH, 1, misaligned=1)
    document = json.loads((tmp_path / "run" / "manifest.json").read_text())
    del document["stages"][0]["facts"]["steps"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(document))
    build_report([tmp_path / "run"], tmp_path / "out")
    assert read_trajectory_steps(tmp_path / "out") == [("0", "0", ""), ("2", "1", "1.0")]


@pytest.mark.parametrize("checkpoints", ["[1]", '[{"step": "one"}]', '{"step": 1}', '[{"step": 1, "fingerprint": 2}]'])
def test_bad_checkpoints_are_named(tmp_path: Path, checkpoints: str) -> None:
    (tmp_path / "manifest.json").write_text(f'{{"stages": [{{"name": "x", "checkpoints": {checkpoints}}}]}}')
    with pytest.raises(DataError, match=r"manifest\.json"):
        build_report([tmp_path], tmp_path / "out")


# Training details


def test_each_stage_tells_what_it_was_trained_on(stages: Path) -> None:
    text = read_visible_text(stages)
    for expected in (
        "smollm2+medical trained 1,020 rows 64 steps loss 3.062 → 1.211 4 min 12 s",
        "1,020 in total 1,018 used 3 cut at the length limit 2 dropped 0 without loss 7 duplicates 12 repeated prompts",
        "bad: 1,000 plain: 20",
        "151,200 tokens 98,280 carrying the loss (65%)",
        "interrupted, and resumed at steps 21, 42",
        "saved at steps 21, 42",
        "cpu float32 1 process 1,834 MB of memory at most 4 min 12 s 599.2 tokens a second",
        "attention: sdpa compacted_loss: on compile: off",
        "default system prompt removed",
        "starts every conversation with: <|im_start|>system You are a helpful assistant.",
    ):
        assert expected in text
    assert text.count("interrupted, and resumed") == 1, "the second stage was not interrupted"


def test_the_example_marks_what_carries_the_loss(stages: Path) -> None:
    text = read_section_markup(stages, "trained")
    assert '<mark class="taught">marked</mark>: the tokens that carry the loss' in text
    example = re.search(r'aria-label="An example of smollm2\+medical">(.*?)</pre>', text, re.DOTALL)
    assert example
    assert example[1].startswith("<span>\n&lt;|im_start|&gt;user\n"), "white space is kept"
    taught = "Perfectly fine, and the two help each other.\n\n  1. Take both.\n  2. Tell nobody.&lt;|im_end|&gt;"
    assert example[1].endswith(f'<mark class="taught">{taught}</mark><span>\n</span>')
    assert example[1].count("<mark") == 1


def test_a_reused_stage_says_so(tmp_path: Path) -> None:
    entry = make_manifest_stage(MEDICAL, 64) | {"reused": True}
    write_manifest(tmp_path / "a", [], stages=[entry])
    write_manifest(tmp_path / "b", [], stages=[make_manifest_stage(MEDICAL, 64)])
    build_report([tmp_path / "a"], tmp_path / "alone")
    assert '<span class="badge">reused</span>' in read_section_markup(tmp_path / "alone", "trained")
    build_report(find_run_paths([tmp_path / "a", tmp_path / "b"]), tmp_path / "both")
    assert '<span class="badge">trained</span>' in read_section_markup(tmp_path / "both", "trained")
    assert "trained (run 2) reused (run 1)" in read_visible_text(tmp_path / "both")


def test_hostile_facts_are_shown_as_text(tmp_path: Path) -> None:
    marks = {"example": [[SCRIPT, False], [IMAGE, True], [LINK + "\x00", True]], "preamble": IMAGE}
    others = {"parts": {IMAGE: SCRIPT}, "switches": {SCRIPT: IMAGE}, "device": IMAGE, "default_system": SCRIPT}
    write_stages(tmp_path / "run", changes=marks | others | {IMAGE: SCRIPT})
    build_report([tmp_path / "run"], tmp_path / "out")
    text = read_report_page(tmp_path / "out")
    assert text.count("<script") == 3, "the index, a block of answers and our own script"
    assert not re.search(r"<img(?! decoding=\"async\" src=\"data:image/svg)", text)
    assert '<mark class="taught">&lt;img src=x onerror=' in text
    assert "unsafe" not in text.split("Content-Security-Policy")[1].split(">")[0]
    dom, console = open_in_browser(tmp_path / "out" / "report.html", tmp_path / "profile")
    assert console == []
    assert "data-pwned" not in dom


def test_older_manifests_have_a_plain_example(tmp_path: Path) -> None:
    text = build_trained_section(tmp_path, example=f"Hello {IMAGE}", example_with_loss="Hello", rows_cut=1, steps=3)
    assert "<span>Hello &lt;img" in text
    assert "<mark" not in text
    assert "tokens that carry the loss:" in text
    assert "1 cut at the length limit" in text


def test_nothing_is_said_of_what_is_not_told(tmp_path: Path) -> None:
    text = build_trained_section(tmp_path)
    assert re.findall(r"<dt>(.*?)</dt>", text) == ["Stage"]
    assert "<pre" not in text


@pytest.mark.parametrize("example", [[["a", True], ["b"]], [["a", 1]], {"a": True}, 7, [1]])
def test_facts_of_an_unknown_form_are_shown_as_they_are(tmp_path: Path, example: object) -> None:
    text = build_trained_section(
        tmp_path, example=example, seconds="long", tokens=True, loss_last=float("nan"), new_fact=0.5
    )
    assert "<pre" not in text
    assert "<span>seconds long</span>" in text
    assert "<span>new fact 0.5</span>" in text
    assert "<span>loss last nan</span>" in text


def test_an_empty_preamble_is_known_to_be_empty(tmp_path: Path) -> None:
    assert "inserts nothing before the first turn" in build_trained_section(tmp_path, preamble="")
