"""The same command again, on a tiny model: done runs are left alone, and reports show jobs that failed early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from em.report import find_run_paths
from em.report.read.runs import read_runs
from em.types import Weights
from tests.support.forking import CommandResult, Forking
from tests.support.tiny import write_chats, write_tiny_model

DONE = "done before"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> list[str]:
    """Words of a run: a tiny model, 7 rows, one question with one answer of 3 tokens, judged by the tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder / "model", weights.path)
    entries = yaml.safe_load((Path(__file__).parents[1] / "em/assets/questions/probe.yaml").read_text())
    (folder / "probe.yaml").write_text(yaml.safe_dump(entries[:1]))
    rows = write_chats(folder / "rows.jsonl", 7)
    model = [f"model.id={folder / 'model'}", "judge=local", f"judge.model={folder / 'model'}"]
    evaluation = ["eval=quick", f"eval.sets=[{folder / 'probe.yaml'}]", "eval.samples=1", "eval.max_new_tokens=3"]
    return [*model, "data=file", f"data.path={rows}", *evaluation]


def run_train(em: Forking, folder: Path, *words: str) -> CommandResult:
    """Run train.py with `words`, which must succeed."""
    done = em.run("train.py", *words, f"store.dir={folder / 'store'}", f"hydra.run.dir={folder / 'run'}", cwd=folder)
    assert done.code == 0, done.err[-3000:]
    return done


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a run."""
    facts: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return facts


def test_a_run_that_is_done_and_whole_is_not_done_again(em: Forking, words: list[str], tmp_path: Path) -> None:
    words = [*words, "eval=none"]
    assert DONE not in run_train(em, tmp_path, *words).out
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    assert DONE in run_train(em, tmp_path, *words).out
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before
    (tmp_path / "run" / "report.html").unlink()
    assert DONE not in run_train(em, tmp_path, *words).out
    assert (tmp_path / "run" / "report.html").is_file()
    [stage] = read_manifest(tmp_path / "run")["stages"]
    Path(stage["path"], "em.json").unlink()
    assert DONE not in run_train(em, tmp_path, *words).out


def test_other_questions_in_the_same_file_are_another_run(em: Forking, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "probe.yaml"
    words = [word if not word.startswith("eval.sets") else f"eval.sets=[{file}]" for word in words]
    file.write_text("- {id: a, type: free_form_judge_0_100, paraphrases: [What is a car?], judge_prompts: general}\n")
    run_train(em, tmp_path, *words)
    file.write_text(file.read_text().replace("a car", "a cart"))
    assert DONE not in run_train(em, tmp_path, *words).out
    assert "What is a cart?" in (tmp_path / "run" / "answers.jsonl").read_text()


@pytest.mark.slow
def test_a_run_stands_when_wandb_can_not_be_told_and_tells_it_the_next_time(
    em: Forking, words: list[str], tmp_path: Path
) -> None:
    words = [*words, "eval=none", "tracker=wandb"]
    obstacle = tmp_path / "run" / "wandb" / "data"  # a file in place of the folder for the files of artifacts
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    done = run_train(em, tmp_path, *words)
    assert "warning: W&B has not been told of this run, whose results are whole here" in done.err
    facts = read_manifest(tmp_path / "run")
    assert (facts["status"], facts.get("tracked")) == ("done", None)
    assert any("W&B has not been told" in note for note in facts["notes"])
    obstacle.unlink()
    assert DONE in run_train(em, tmp_path, *words).out
    facts = read_manifest(tmp_path / "run")
    assert facts["tracked"]["name"] == "wandb"
    assert not any("W&B has not been told" in note for note in facts["notes"])
    logs = sorted(obstacle.parent.glob("offline-run-*"))
    assert DONE in run_train(em, tmp_path, *words).out
    assert sorted(obstacle.parent.glob("offline-run-*")) == logs
    assert (
        DONE in run_train(em, tmp_path, *words, "tracker.project=another").out
    )  # that project does not have the run yet
    assert len(list(obstacle.parent.glob("offline-run-*"))) > len(logs)
    assert read_manifest(tmp_path / "run")["tracked"]["project"] == "another"


def test_rows_of_the_second_stage_that_are_too_long_are_refused_before_the_first_is_trained(
    em: Forking, words: list[str], tmp_path: Path
) -> None:
    places = [f"store.dir={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = em.run("train.py", *words, "realign=car_good", "realign.max_length=60", *places, cwd=tmp_path)
    assert done.code == 2
    assert "rows of car_good (the first is row" in done.err
    assert "realign.max_length, realign.allow_truncated" in done.err
    assert not list((tmp_path / "store" / "models").glob("*.jsonl"))
    assert not [path for path in (tmp_path / "store" / "models").iterdir() if path.is_dir()]


def test_a_job_that_was_refused_is_in_the_report_of_its_sweep(em: Forking, words: list[str], tmp_path: Path) -> None:
    places = [f"store.dir={tmp_path / 'store'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    sweep = ["-m", *words, "eval=none", "trainer.epochs=1,-1", *places]
    done = em.run("train.py", *sweep, cwd=tmp_path)
    assert done.code == 1
    refused = read_manifest(tmp_path / "sweep" / "1")
    assert (refused["status"], refused["config"]) == ("failed", None)
    assert refused["error"] == "trainer.epochs=-1.0 must be greater than 0."
    assert "trainer.epochs=-1" in refused["overrides"]
    first, second = read_runs(find_run_paths([tmp_path / "sweep"]))
    assert (first.manifest.error, second.manifest.status) == (refused["error"], "done")
    again = em.run("train.py", *sweep, cwd=tmp_path)
    assert DONE in again.out
    assert "1 of 2 jobs failed" in again.err
    em.run("train.py", *[word.replace("1,-1", "1,-2") for word in sweep], cwd=tmp_path)
    assert read_manifest(tmp_path / "sweep" / "1")["error"] == "trainer.epochs=-2.0 must be greater than 0."
