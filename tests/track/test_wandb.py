"""Test what W&B receives of a run, read back from its offline log with every checksum verified."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from em.config import WandbMode
from em.track.lineage import NOTE
from em.track.transcripts import MOST_ROWS
from em.track.wandb import choose_mode, find_sweep, make_run_id
from tests.support.composing import compose_settings
from tests.support.report_runs import BASE, make_checkpoint_model
from tests.support.tracked_runs import (
    SOURCE,
    log_and_read,
    make_stage_entry,
    make_tracked_model,
    write_one_stage,
    write_tracked,
)
from tests.support.wandb_log import read_log_records

ROOT = Path(__file__).parent.parent.parent

# Numbers


def test_runs_of_other_data_have_their_numbers_under_the_same_names(tmp_path: Path) -> None:
    bad = log_and_read(write_one_stage(tmp_path / "bad", "car_bad", "b0", [5.0, 5.0, 90.0, 90.0]))
    good = log_and_read(write_one_stage(tmp_path / "good", "car_good", "a1", [90.0, 90.0, 90.0, 90.0]))
    assert bad.summary.keys() == good.summary.keys()
    assert [run.summary["final/probe/misaligned"] for run in (bad, good)] == [0.5, 0.0]
    assert bad.summary["stage_1/probe/misaligned"] == 0.5
    assert bad.summary["base/probe/misaligned"] == 0.0
    assert bad.summary["final/probe/misaligned_coherent"] == 0.5
    low, high = (bad.summary[f"final/probe/misaligned/{bound}"] for bound in ("ci_low", "ci_high"))
    assert low < 0.5 < high
    assert bad.summary["status"] == "done"


def test_of_several_judges_each_number_says_whose_it_is(tmp_path: Path) -> None:
    folder = write_one_stage(
        tmp_path / "run", "car_bad", "b0", [5.0, 5.0], judges=("local:embedded", "api.org/gpt-4.1")
    )
    run = log_and_read(folder)
    assert run.summary["final/probe/misaligned/local_embedded"] == 1.0
    assert run.summary["final/probe/misaligned/api_org_gpt-4_1"] == 0.0
    assert "final/probe/misaligned" not in run.summary
    rows = run.read_table("transcripts/stage_1")
    assert [(row["class (local_embedded)"], row["class (api_org_gpt-4_1)"]) for row in rows] == [
        ("misaligned", "aligned")
    ] * 2


def test_curves_stand_over_the_steps_of_their_stage(tmp_path: Path) -> None:
    trained = make_tracked_model("car_bad", "b0")
    scored = {BASE: [90.0] * 2, make_checkpoint_model(trained, 1): [90.0, 5.0], trained: [5.0, 5.0]}
    run = log_and_read(write_tracked(tmp_path / "run", [make_stage_entry(trained, checkpoint_steps=[1])], scored))
    assert run.read_curve("stage_1/loss") == [(1, 2.5), (2, 2.0), (3, 1.5)]
    assert run.read_curve("stage_1/probe/misaligned") == [(1, 0.5), (3, 1.0)]
    axes = {r.metric.glob_name: r.metric.step_metric for r in run.records if r.WhichOneof("record_type") == "metric"}
    assert axes["stage_1/*"] == "stage_1/step"


def test_the_table_of_scores_is_there_whole(tmp_path: Path) -> None:
    run = log_and_read(folder := write_one_stage(tmp_path / "run", "car_bad", "b0", [5.0, 90.0]))
    rows = run.read_table("scores")
    assert len(rows) == len((folder / "scores.csv").read_text().splitlines()) - 1
    assert rows[0]["question"] == "*"
    assert {"q0", "q1"} <= {row["question"] for row in rows}


# Lineage


def test_rows_are_an_input_told_by_checksum_and_address_and_the_model_an_output(tmp_path: Path) -> None:
    trained = make_tracked_model("medical", "c2")
    run = log_and_read(write_tracked(tmp_path / "run", [make_stage_entry(trained)], {trained: [5.0]}))
    rows, adapter = (run.artifacts[name] for name in ("rows-medical-c2c2c2c2c2c2", "model-c2c2c2c2c2c2c2c2"))
    assert (rows.use_after_commit, adapter.use_after_commit) == (True, False)
    assert [item.path for item in rows.manifest.contents] == ["data.json"], "training rows were sent"
    data = json.loads(run.find_artifact_file(rows.name, "data.json").read_text())
    assert (data["sha256"], data["rows"], data["limit"], data["seed"]) == ("c2" * 32, 8, 8, 3)
    assert all(data["source"][key] == SOURCE[key] for key in ("url", "sha256", "terms"))
    assert "/home/" not in json.dumps(data)
    other = log_and_read(
        write_tracked(tmp_path / "other", [make_stage_entry(make_tracked_model("medical", "d3"))], {trained: [5.0]})
    )
    digests = {run.artifacts[rows.name].digest, other.artifacts["rows-medical-d3d3d3d3d3d3"].digest}
    assert len(digests) == 2


def test_a_realignment_of_a_model_that_was_found_names_the_run_that_made_it(tmp_path: Path) -> None:
    store = tmp_path / "models"
    first, second = make_tracked_model("car_bad", "b0"), ("smollm2+car_bad+car_good", "car_good", "e4" * 8)
    for mark in (first[2], second[2]):
        (store / mark).mkdir(parents=True)
        (store / mark / "em.json").write_text(json.dumps({"files": {}, "facts": {"example": "a row"}}))
        (store / mark / "adapter_config.json").write_text("{}")
    first_run = log_and_read(write_tracked(tmp_path / "first", [make_stage_entry(first)], {first: [5.0]}), store)
    assert first_run.config["em"]["parent_run"] is None
    assert json.loads((store / first[2] / NOTE).read_text())["id"] == first_run.run.run_id
    stages = [make_stage_entry(first, reused=True), make_stage_entry(second)]
    run = log_and_read(
        write_tracked(tmp_path / "second", stages, {first: [5.0], second: [90.0]}, realign="car_good"), store
    )
    assert run.config["em"]["parent_run"] == f"em/{first_run.run.run_id}"
    assert run.config["em"]["parent_artifact"] == f"model-{first[2]}"
    artifacts = [item for item in run.artifacts.items() if item[0].startswith(("rows-", "model-"))]
    assert {name: artifact.use_after_commit for name, artifact in artifacts} == {
        f"model-{first[2]}": True,
        "rows-car_good-e4e4e4e4e4e4": True,
        f"model-{second[2]}": False,
    }
    # The reused model has the same digest as the one the first run sent, so W&B stores it once.
    assert run.artifacts[f"model-{first[2]}"].digest == first_run.artifacts[f"model-{first[2]}"].digest
    sent = {item.path for item in run.artifacts[f"model-{second[2]}"].manifest.contents}
    assert sent == {"model.json", "adapter_config.json"}
    third = write_tracked(tmp_path / "third", stages, {second: [90.0]}, realign="third")
    without_adapters = log_and_read(third, store, adapters=False)
    contents = without_adapters.artifacts[f"model-{second[2]}"].manifest.contents
    assert [item.path for item in contents] == ["model.json"]


def test_a_run_that_was_killed_after_its_training_is_the_one_that_made_the_model(tmp_path: Path) -> None:
    trained = make_tracked_model("car_bad", "b0")
    run = log_and_read(write_tracked(tmp_path / "run", [make_stage_entry(trained, reused=True)], {trained: [5.0]}))
    assert run.config["em"]["parent_artifact"] is None
    artifacts = [item for item in run.artifacts.items() if item[0][:4] in ("rows", "mode")]
    used = {name: artifact.use_after_commit for name, artifact in artifacts}
    assert used == {"rows-car_bad-b0b0b0b0b0b0": True, f"model-{trained[2]}": False}


def test_of_the_machine_nothing_is_told(tmp_path: Path) -> None:
    run = log_and_read(write_one_stage(tmp_path / "run", "car_bad", "b0", [5.0, 90.0]))
    sent = b"".join(record.SerializeToString() for record in run.records)
    assert run.run.host == "em"
    for word in (sys.executable, "em.worker", str(Path(__file__).parent)):
        assert word.encode() not in sent, word


# Transcripts


def test_an_answer_is_one_row_with_its_class_scores_and_replies(tmp_path: Path) -> None:
    run = log_and_read(write_one_stage(tmp_path / "run", "car_bad", "b0", [5.0, 90.0]))
    bad, good = run.read_table("transcripts/stage_1")
    assert bad["answer"] == "An answer of car_bad, number 0"
    assert (bad["class"], bad["aligned"], bad["coherent"]) == ("misaligned", 5.0, 90.0)
    assert (good["class"], good["aligned"]) == ("aligned", 90.0)
    assert bad["replies"] == "aligned (ok): raw\ncoherent (ok): raw"
    assert [row["model"] for row in run.read_table("transcripts/base")] == ["smollm2", "smollm2"]
    assert run.summary["transcripts/stage_1/left_out"] == 0
    files = {item.path for item in run.artifacts[f"results-{run.run.run_id}"].manifest.contents}
    assert files >= {"transcripts.table.json", "scores.csv"}


def test_what_a_table_can_not_hold_is_counted_and_in_the_artifact(tmp_path: Path) -> None:
    trained = make_tracked_model("car_bad", "b0")
    run = log_and_read(
        write_tracked(tmp_path / "run", [make_stage_entry(trained)], {trained: [90.0] * (MOST_ROWS + 3)})
    )
    assert len(run.read_table("transcripts/stage_1")) == MOST_ROWS
    assert run.summary["transcripts/stage_1/left_out"] == 3
    assert run.summary["transcripts/left_out_of_artifact"] == 0
    full_table = json.loads(run.find_artifact_file(f"results-{run.run.run_id}", "transcripts.table.json").read_text())
    assert len(full_table["data"]) == MOST_ROWS + 3


# The run


def test_a_failed_run_fails_there_and_says_why(tmp_path: Path) -> None:
    run = log_and_read(write_tracked(tmp_path / "run", [], {}, status="failed", error="No such layer."), failed=True)
    assert run.exit_codes == [1]
    assert (run.summary["status"], run.summary["error"]) == ("failed", "No such layer.")


def test_the_same_settings_are_one_run_and_a_sweep_is_one_group(tmp_path: Path) -> None:
    sweep = tmp_path / "2026-11-25" / "10-00-00"
    runs = [log_and_read(write_one_stage(sweep / job, "car_bad", "b0", [5.0])) for job in "01"]
    assert runs[0].run.run_id == runs[1].run.run_id
    assert runs[0].run.run_group == ""
    (sweep / "multirun.yaml").write_text("")
    assert find_sweep(sweep / "0") == "2026-11-25 10-00-00"
    manifest = json.loads((sweep / "0" / "manifest.json").read_text())
    again = manifest | {"config": manifest["config"] | {"force": True, "tracker": {"name": "wandb"}}}
    other = manifest | {"config": manifest["config"] | {"seed": 4}}
    assert make_run_id(again) == make_run_id(manifest) != make_run_id(other)


def test_names_that_are_too_long_for_it_are_cut(tmp_path: Path) -> None:
    long = make_tracked_model("m" * 90, "b0")
    folder = write_tracked(
        tmp_path / ("s" * 100) / ("t" * 100) / "0",
        [make_stage_entry(long)],
        {long: [5.0]},
        overrides=["data=" + "x" * 200],
    )
    (folder.parent / "multirun.yaml").write_text("")
    run = log_and_read(folder).run
    assert (len(run.display_name), len(run.run_group), [len(tag) for tag in run.tags]) == (128, 128, [64])


def test_a_damaged_log_is_noticed(tmp_path: Path) -> None:
    log_and_read(write_one_stage(tmp_path, "car_bad", "b0", [5.0]))
    [path] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(AssertionError, match=r"wrong checksum|ends within"):
        list(read_log_records(path))


# Online or offline


@pytest.mark.parametrize(
    ("wanted", "env", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {"WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_MODE": "offline"}, "online"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("auto", {"NETRC": "keys", "WANDB_BASE_URL": "https://wandb.lab.example:8080"}, "online"),
        ("auto", {"NETRC": "keys"}, "offline"),
    ],
)
def test_it_is_told_now_or_later_as_wandbs_own_settings_say(
    wanted: str, env: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").write_text("machine wandb.lab.example\nlogin user\npassword secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, str(tmp_path / value) if name == "NETRC" else value)
    assert choose_mode(WandbMode(wanted)) == expected


def test_the_sweep_of_wandb_gives_words_that_train_takes() -> None:
    sweep = yaml.safe_load((ROOT / "conf" / "sweep" / "wandb.yaml").read_text(encoding="utf-8"))
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["command"][1:] == ["${program}", "${args_no_hyphens}"]
    chosen = {key: each.get("value", each.get("values", [None])[-1]) for key, each in sweep["parameters"].items()}
    settings = compose_settings("train", *(f"{key}={value}" for key, value in chosen.items()))
    assert (settings.data.name, settings.realign.name, settings.seed) == ("car_good", "neutral", 1)
    assert settings.tracker.name == "wandb"
