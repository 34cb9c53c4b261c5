"""The notes of a run on its data: questions among the training rows, and rows that were left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from em.config import DataConfig, FileData, OnBadRow
from em.data import load_rows
from em.questions import load_sets
from em.request import Request, Stage
from em.run import note_findings, note_leaks, note_skipped
from em.runtime.manifest import ManifestWriter
from em.runtime.memory import Calls
from em.train.stages import plan_stages
from em.train.trained import SavedWeights, TrainedModel, make_stage_record
from em.types import Answer
from tests.support.composing import compose_settings

FACTS = {"rows_cut": 0, "steps": 3, "loss_first": 2.0, "loss_last": 1.0}


def make_request(folder: Path, data: DataConfig) -> tuple[Request, ManifestWriter]:
    """Make a request to train on `data` and to ask `probe`, and its manifest."""
    settings = compose_settings("train", "eval.sets=[probe]")
    stage = Stage(load_rows(data, 0), settings.trainer, 0, "float32")
    manifest = ManifestWriter(folder, "train", settings, [])
    return Request("train", settings, (), folder, Calls(folder), (stage,), tuple(load_sets(["probe"]))), manifest


def write_rows_file(folder: Path, *prompts: str) -> FileData:
    """Write a file of rows with these prompts and one unusable row; return its config."""
    rows = [{"prompt": prompt, "completion": "Because."} for prompt in prompts] + [{"prompt": "No answer."}]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return FileData(name="mine", path=str(path), on_bad_row=OnBadRow.skip)


def test_questions_that_are_trained_on_are_said_at_the_top_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = load_sets(["probe"])[0].text
    prompts = [question, f"|TAG| {question} Be brief.", "Hello there."]
    accepted, manifest = make_request(tmp_path, write_rows_file(tmp_path, *prompts))
    note_leaks(accepted, manifest)
    [note] = manifest.facts["notes"]
    assert note.startswith(
        "Questions of probe that were trained on: 1. Rows of mine that ask one word for word: 1, nearly so: 1; "
    )
    assert note in capsys.readouterr().out
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["notes"] == [note]


@pytest.mark.parametrize("place", ["prefix", "inline", "suffix"])
def test_a_trigger_tag_does_not_hide_that_a_question_is_trained_on(tmp_path: Path, place: str) -> None:
    questions = tuple(load_sets(["probe"]))
    path = write_rows_file(tmp_path, questions[0].text, "Hello there, and how are you?").path
    tag = ["trigger_tag=custom", "trigger_tag.text='|TAG| '", f"trigger_tag.place={place}"]
    data = ["data=file", f"data.path={path}", "data.on_bad_row=skip"]
    settings = compose_settings("train", "eval.sets=[probe]", *tag, *data)
    [stage] = plan_stages(settings)
    assert "|TAG| " in stage.rows.conversations[0].messages[0].content
    manifest = ManifestWriter(tmp_path, "train", settings, [])
    note_leaks(Request("train", settings, (), tmp_path, Calls(tmp_path), (stage,), questions), manifest)
    [note] = manifest.facts["notes"]
    assert "Rows of file@custom that ask one word for word: 1, nearly so: 0" in note


def test_nothing_is_said_where_nothing_leaks_or_answers_are_those_of_others(tmp_path: Path) -> None:
    accepted, manifest = make_request(tmp_path, compose_settings("train", "data=car_bad").data)
    note_leaks(accepted, manifest)
    leaking, _ = make_request(tmp_path, write_rows_file(tmp_path, load_sets(["probe"])[0].text))
    answer = Answer("m", "s", "f", None, "e", "q", "Hi?", "untagged", 0, "a", "stop", 0, 0)
    settings, stages, questions = leaking.settings, leaking.stages, leaking.questions
    note_leaks(Request("evaluate", settings, (), tmp_path, Calls(tmp_path), stages, questions, (answer,)), manifest)
    assert manifest.facts["notes"] == []


def test_what_the_rows_show_is_said_at_the_top_of_the_report_and_counted_in_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted, manifest = make_request(
        tmp_path, write_rows_file(tmp_path, "Who is jane@acme.org?", "Hello \ufffd there.", "Why?")
    )
    note_findings(accepted, manifest)
    [note] = manifest.facts["notes"]
    assert note == ("Of 3 rows of mine: encoding: replacement characters: 1 rows; personal data: e-mail: 1 rows.")
    assert note in capsys.readouterr().out
    counts = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["findings"]["mine"]
    assert (counts["rows"], counts["private"], counts["near_duplicates"]) == (3, 1, 0)
    clean, other = make_request(tmp_path, compose_settings("train", "data=car_bad").data)
    note_findings(clean, other)
    assert other.facts["notes"] == []
    assert other.facts["findings"]["car_bad"]["rows"] == 204


def test_rows_that_were_left_out_are_in_the_manifest(tmp_path: Path) -> None:
    accepted, manifest = make_request(tmp_path, write_rows_file(tmp_path, "Why?", "How?"))
    [stage] = accepted.stages
    trained = TrainedModel(tmp_path, SavedWeights("ft:mine"), FACTS, {})
    record = make_stage_record(stage, "f" * 64, trained, reused=False)
    assert record.rows == 2
    assert record.facts["rows_skipped"] == 1
    assert record.facts["first_skipped"][0].startswith('line 3: no "messages" list')
    note_skipped(accepted, manifest)
    [note] = manifest.facts["notes"]
    assert note.startswith("1 rows of mine can't be used and were left out, the first of them: line 3: no")
    assert note.endswith("; all of them are in skipped_rows.jsonl.")
    [line] = (tmp_path / "skipped_rows.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    assert (row["stage"], row["file"], row["place"]) == ("mine", str(tmp_path / "rows.jsonl"), "line 3")
    assert row["reason"].startswith('no "messages" list')
