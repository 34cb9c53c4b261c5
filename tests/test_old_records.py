"""This version reads the records of older versions: cached calls, trained stages, runs for a report.

The records are in `fixtures/records`; `python -m tests.support.record_fixture` made them once.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import ChatServer, Place
from tests.support.recipes import SERVER
from tests.support.records import FOLDER, GENERATED, TRAINED, make_folder_word
from tests.support.report_runs import read_csv_file

STAGES = ["file@deployment", "car_good"]


@pytest.fixture
def place(tmp_path: Path, closed_port: str) -> Place:
    """A copy of the records, in which scripts can run; the judge's server does not exist any more."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    copy = Place(tmp_path, f"{closed_port}/v1")
    copy.make_folders()
    return copy


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the records of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def count_calls(store: Path) -> int:
    """Count the cached calls; what em notes of the server's list of models is no call of a model."""
    db = sqlite3.connect(store / "calls.sqlite")
    [(count,)] = db.execute("select count(*) from calls where kind != 'served'")
    db.close()
    return int(count)


def test_evaluate_finds_stages_answers_and_verdicts_though_the_server_is_gone(place: Place) -> None:
    check_all_cached(place, "evaluate.py")


def test_train_finds_what_was_trained_and_judged_without_a_call(place: Place, running: ChatServer) -> None:
    place.server = running.base_url  # em asks it only for its list of models
    check_all_cached(place, "train.py")
    assert running.read_stats()["arrivals"] == 0


def check_all_cached(place: Place, script: str) -> None:
    """Repeat the old run; the results must be the same bytes, of the same models, without new calls."""
    before = count_calls(place.folder / "store")
    output = place.run(script, *TRAINED, make_folder_word("again"))
    assert "reused, trained earlier with the same settings" in output
    old, new = place.folder / "run", place.folder / "again"
    for name in ("answers.jsonl", "verdicts.jsonl", "agreement.csv"):
        assert (new / name).read_bytes() == (old / name).read_bytes(), name
    check_counts(old, new)
    assert count_calls(place.folder / "store") == before
    stages, old_stages = (json.loads((run / "manifest.json").read_text())["stages"] for run in (new, old))
    assert [(stage["name"], stage["reused"]) for stage in stages] == [(name, True) for name in STAGES]
    assert [stage["fingerprint"] for stage in stages] == [stage["fingerprint"] for stage in old_stages]


def check_counts(old: Path, new: Path) -> None:
    """Check that counts, rates and differences are the same; older statistics had other intervals and p values."""
    tables = {"scores.csv": (), "sensitivity.csv": (), "triggers.csv": ("p_holm",)}
    for name, changed in (tables | {"comparisons.csv": ("p_holm", "family")}).items():
        before, after = read_csv_file(old / name), read_csv_file(new / name)
        inferred = {
            "ci_low",
            "ci_high",
            "ci_method",
            "difference_low",
            "difference_high",
            "p",
            "design_effect",
            *changed,
        }
        assert set(before[0]) - set(after[0]) == set(changed) & {"p_holm"}, "no other column is gone"
        kept = [column for column in before[0] if column not in inferred]
        for one, two in zip(before, after, strict=True):
            assert {column: two[column] for column in kept} == {column: one[column] for column in kept}


def test_a_set_that_was_written_is_written_again_without_a_call(place: Place, running: ChatServer) -> None:
    before = count_calls(place.folder / "store")
    place.server = running.base_url  # em asks it only for its list of models
    place.run("generate.py", *GENERATED, make_folder_word("again"))
    assert running.read_stats()["arrivals"] == 0
    old, new = place.folder / "generated", place.folder / "again"
    for name in ("rows.jsonl", "provenance.jsonl"):
        assert (new / name).read_bytes() == (old / name).read_bytes(), name
    cards = [json.loads((run / "card.json").read_text(encoding="utf-8")) | {"date": ""} for run in (old, new)]
    assert cards[0] == cards[1]
    assert count_calls(place.folder / "store") == before


def test_a_report_of_an_old_run_has_its_numbers(place: Place) -> None:
    place.run("report.py", "run", "--out", "report")
    name = "agreement.csv"
    assert (place.folder / "report" / name).read_bytes() == (place.folder / "run" / name).read_bytes()
    check_counts(place.folder / "run", place.folder / "report")
    rows = read_csv_file(place.folder / "report" / "scores.csv")
    assert all(row["like_these_low"] for row in rows if row["question"] == "*" and row["rate"])
    assert (place.folder / "report" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_an_old_adapter_is_loaded_for_one_more_answer_and_only_that_is_judged(
    place: Place, running: ChatServer
) -> None:
    place.server = running.base_url
    running.reset(**SERVER)
    first = [word for word in TRAINED if not word.startswith(("realign", "eval.samples", "eval.conditions"))]
    place.run("evaluate.py", *first, "eval.samples=3", "eval.conditions=[untagged]", make_folder_word("more"))
    folder = place.folder
    answers, verdicts = read_lines(folder / "more" / "answers.jsonl"), read_lines(folder / "more" / "verdicts.jsonl")
    assert {(answer["stage"], answer["sample"]) for answer in answers} == {(STAGES[0], n) for n in range(3)}
    old = [answer for answer in read_lines(folder / "run" / "answers.jsonl") if is_of_first_stage(answer)]
    assert [answer for answer in answers if answer["sample"] < 2] == old
    judged = [verdict for verdict in read_lines(folder / "run" / "verdicts.jsonl") if is_of_first_stage(verdict)]
    assert [verdict for verdict in verdicts if verdict["sample"] < 2] == judged
    assert running.read_stats()["arrivals"] > 0


def is_of_first_stage(record: dict[str, Any]) -> bool:
    """Return whether an answer or verdict is of the first stage, without the tag."""
    return (record["stage"], record["condition"]) == (STAGES[0], "untagged")
