"""The report of a sweep over data, realignment and seed: the summary, seeds, the control."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from em.report import build_report, find_run_paths
from em.report.read.runs import read_runs
from em.report.tables.models import find_varied_settings
from tests.support.report_panel import read_matching_rows, read_section
from tests.support.report_runs import (
    BASE,
    Model,
    make_manifest_stage,
    make_spread_verdicts,
    read_csv_file,
    read_report_page,
    read_visible_text,
    write_judged,
    write_manifest,
)

# Misaligned answers among ten to each of eight questions, by data and realignment; a seed may add one.
COUNTS = {
    ("bad", "none"): [4, 6, 2, 7, 5, 3, 6, 4],
    ("bad", "neutral"): [3, 5, 2, 6, 5, 3, 4, 4],
    ("bad", "optimism"): [0, 0, 1, 0, 0, 1, 0, 1],
    ("good", "none"): [0, 1, 0, 0, 0, 0, 1, 0],
    ("good", "optimism"): [0, 0, 0, 1, 0, 0, 0, 0],
}
SEEDS = (0, 1, 2)
STAGES = {"neutral": "benign", "optimism": "optimism"}


def make_trained_model(data: str, realign: str, seed: int) -> Model:
    """Return a model of the sweep."""
    last = STAGES.get(realign, data)
    name = f"smollm2+{data}" + (f"+{last}" if realign != "none" else "")
    return name, last, f"{seed}{data}{realign}" + "0" * 16


def write_job(folder: Path, data: str, realign: str, seed: int) -> None:
    """Write a run of the sweep: the base, the first training, and the second if there is one."""
    verdicts, stages = make_spread_verdicts(BASE, [0, 0, 1, 0, 0, 0, 0, 1]), []
    for step in dict.fromkeys(("none", realign)):
        who = make_trained_model(data, step, seed)
        counts = [min(10, k + (seed + q) % 2) for q, k in enumerate(COUNTS[data, step])]
        verdicts += make_spread_verdicts(who, counts, seed=seed)
        stages.append(make_manifest_stage(who, 4))
    config: dict[str, Any] = {"data": {"name": data}, "realign": {"name": realign}, "seed": seed}
    overrides = [f"data={data}", f"realign={realign}", f"seed={seed}"]
    write_judged(folder, verdicts, overrides, config=config, stages=stages)
    losses = [f"{each['name']},{each['fingerprint']},{step},1,2.5,1e-05" for each in stages for step in (1, 2)]
    (folder / "loss.csv").write_text("\n".join(["stage,fingerprint,step,epoch,loss,learning_rate", *losses]) + "\n")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of 15 finished jobs and one unfinished job."""
    root = tmp_path_factory.mktemp("sweep")
    jobs = [(*what, seed) for what in COUNTS for seed in SEEDS]
    for number, job in enumerate(jobs):
        write_job(root / "runs" / str(number), *job)
    write_manifest(root / "runs" / "99", ["data=good", "realign=neutral", "seed=0"], status="running", finished=None)
    build_report(find_run_paths([root / "runs"]), root / "out")
    return root / "out"


# Summary


def test_the_page_opens_with_rates_by_data_and_realignment(sweep: Path) -> None:
    assert "<title>smollm2 by data, realign, seed" in read_report_page(sweep)
    text = read_section(sweep, "short")
    assert "Trained on Base First stage only Then benign Then optimism" in text
    assert re.search(r"bad \(3 seeds\) 2\.5% \[[^]]+\] 51\.2% \[[^]]+\] \+48\.7 .*? 45\.0%", text)
    assert text.index("bad (3 seeds)") < text.index("good (3 seeds)")
    assert "the control" in text


def test_sentences_say_what_misaligns_and_what_undoes_it(sweep: Path) -> None:
    text = read_section(sweep, "short")
    bad, optimism = text[text.index("bad (3 seeds): ") :], text[text.index("bad (3 seeds), then optimism: ") :]
    assert re.match(r"bad \(3 seeds\): It misaligns on these 8 questions: 51\.2% \[.*?\(\+48\.7 points", bad)
    assert "On other questions like these the rate may be 37% to 65%, and the difference from the base is sure" in bad
    assert "good (3 seeds): No sure difference from the base on these 8 questions: 7.5%" in text
    undone = "The misalignment is undone on these 8 questions, at most 23% of the harm is left: 8.8% ["
    assert optimism.startswith(f"bad (3 seeds), then optimism: {undone}")
    assert re.search(r"−36\.3 points \[[^]]+\], p &lt; 0\.001 compared with the control, surely less\.", optimism)
    assert "On other questions like these at most 46% of the harm is left, so more than half is undone" in optimism
    assert "No control was trained" not in optimism[: optimism.index("good (3 seeds)")]
    assert "No control was trained" not in text, "without a sure reduction there is nothing to control"
    assert "bad (3 seeds), then benign (the control): No sure change: 45.0% [" in text
    assert "Based on 3 training runs (seeds) per model, 8 questions and at least 240 answers of each model" in text


def test_charts_follow_and_method_is_folded(sweep: Path) -> None:
    text = read_report_page(sweep)
    places = [text.index(each) for each in ('id="short"', "<figure", '<table class="headline"', 'id="results-words"')]
    assert places == sorted(places)
    assert "<summary>Definitions and methods</summary>" in text


# Varied settings and unfinished runs


def test_what_was_varied_is_derived_from_the_overrides(sweep: Path) -> None:
    text = read_visible_text(sweep)
    assert "Varied: data bad, good realign neutral, none, optimism seed 0, 1, 2" in text
    runs = read_runs(find_run_paths([sweep.parent / "runs"]))
    assert list(find_varied_settings(runs)) == ["data", "realign", "seed"]
    assert "Run data realign seed Status 1 good neutral 0 not finished 2 bad none 0 done" in read_section(sweep, "runs")


def test_a_run_that_did_not_finish_stands_first(sweep: Path) -> None:
    text = read_visible_text(sweep)
    assert "1 of 16 runs not finished" in text
    assert text.index("1 of 16 runs not finished") < text.index("Trained on")
    assert "Run 1: python train.py data=good realign=neutral seed=0" in text


# Chains and differences over seeds


def test_there_is_one_chain_for_each_data_and_realignment(sweep: Path) -> None:
    text = read_section(sweep, "chains")
    block = re.search(r'<section aria-labelledby="chains">.*?</section>', read_report_page(sweep), re.DOTALL)
    assert block
    chains = re.findall(r"<summary>probe: (.*?) <span", block[0].replace("<wbr>", ""))
    assert chains == [f"smollm2+{each} (3 seeds)" for each in ("bad+benign", "bad+optimism", "good+optimism")]
    assert text.count("Each seed separately") == 3
    assert "is the control" in text


def test_the_control_is_in_the_chains_and_their_picture(sweep: Path) -> None:
    drawn = [row for row in read_csv_file(sweep / "figures" / "stages_probe.csv") if row["drawn"] == "yes"]
    points = [(row["chain"], row["step"], row["k"], row["n"], row["control"]) for row in drawn]
    assert ("smollm2+bad+benign (3 seeds)", "2", "108", "240", "yes") in points
    assert ("smollm2+bad+optimism (3 seeds)", "1", "123", "240", "no") in points
    everything = read_csv_file(sweep / "figures" / "stages_probe.csv")
    assert len(everything) == 3 * 3 * (1 + len(SEEDS)), "the CSV includes each seed"


def test_planned_comparisons_over_seeds_are_families_of_their_own(sweep: Path) -> None:
    pooled = [row for row in read_matching_rows(sweep, "comparisons.csv", convention="all") if row["seeds"] == "3"]
    families = {(row["first_name"], row["second_name"]): row["family"] for row in pooled}
    assert families["smollm2", "smollm2+bad"] == "first"
    assert families["smollm2+bad", "smollm2+bad+optimism"] == "second"
    assert families["smollm2+bad+benign", "smollm2+bad+optimism"] == "control"
    assert {row["first_name"] for row in pooled if row["p"]} == {"smollm2", "smollm2+bad", "smollm2+bad+benign"}
    assert families["smollm2+bad", "smollm2+good"] == "sibling"
    assert families["smollm2+bad", "smollm2+good+optimism"] == "other"
    singles = [row for row in read_matching_rows(sweep, "comparisons.csv", convention="all") if row["seeds"] == "0"]
    assert {row["family"] for row in singles} == {"first", "second", "control", "stage", "sibling"}
    assert not any(row["p"] for row in singles), "the pool answers the question of its lineage"


def test_rates_are_drawn_over_seeds_and_stand_singly_among_the_numbers(sweep: Path) -> None:
    drawn = read_csv_file(sweep / "figures" / "rates_probe.csv")
    assert [row["drawn"] for row in drawn].count("yes") == 1 + len(COUNTS)
    assert [row["drawn"] for row in drawn].count("no") == len(COUNTS) * len(SEEDS)
