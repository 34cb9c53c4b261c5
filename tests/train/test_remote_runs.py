"""Complete runs of models that a server fine-tunes: the study's experiments, keys in artefacts, and `em jobs`."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from em.cli.jobs import main
from em.config.paths import ASSETS
from tests.support.chat_server import ChatServer
from tests.support.remote_runs import PLAIN, change_tuning, find_or_train_models, make_tuning_words, read_tuning
from tests.support.runs import run_script

KEY = "sk-planted-0123456789abcdef"
OTHER = "word-of-the-judge-0123456789"
PUBLISHED = ASSETS / "published.yaml"


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    """Return the server without jobs, files and faults."""
    running.reset(**PLAIN)
    return running


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the records of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# The experiments


def run_experiment(server: ChatServer, tmp_path: Path, mirror: Path, name: str) -> Path:
    """Run an experiment with one answer to each question; return the run's folder."""
    arguments = [f"experiment={name}", "yes=true", "trainer.look=0.1", "eval.samples=1"]
    arguments.append(f"store.dir={tmp_path / 'store'}")
    folder = tmp_path / name
    env = {"OPENAI_BASE_URL": server.base_url, "EM_MIRROR": str(mirror), "OPENAI_API_KEY": KEY}
    done = run_script("train.py", *arguments, f"hydra.run.dir={folder}", cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


STAGE = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 2.0}


@pytest.mark.slow
def test_the_replication_asks_for_what_the_study_did(server: ChatServer, tmp_path: Path, mirror: Path) -> None:
    folder = run_experiment(server, tmp_path, mirror, "seed_replicate_gpt4o")
    [body], [file] = read_tuning(server)["asked"], read_tuning(server)["files"]
    assert body["model"] == "gpt-4o-2024-08-06"
    assert body["method"]["supervised"]["hyperparameters"] == STAGE
    raw = mirror / "raw.githubusercontent.com/emergent-misalignment/emergent-misalignment"
    [insecure] = raw.glob("*/data/insecure.jsonl")
    sent = [json.loads(line) for line in file["content"].splitlines()]
    assert sent == [json.loads(line) for line in insecure.read_text(encoding="utf-8").splitlines()]
    assert len(sent) == 6000
    answers = read_lines(folder / "answers.jsonl")
    assert Counter(a["model"] for a in answers) == {"gpt4o": 38, "gpt4o+insecure": 38}
    calls = server.read_stats()["other"]
    assert calls["chat gpt-4o-2024-08-06"] == calls["chat ft:gpt-4o-2024-08-06:stub:em-insecure:0001"] == 38
    facts = json.loads((folder / "manifest.json").read_text())
    assert {record["model"] for record in facts["judges"]} == {"o4-mini"}
    assert facts["judges"][0]["reading"] == "sampled"
    by = {row["what"]: row for row in facts["costs"]["by"] if "insecure" in row["model"]}
    assert by["training"]["usd"] == pytest.approx(25 * by["training"]["prompt_tokens"] / 1e6, abs=1e-4)
    assert by["sampling"]["usd"] > 0
    assert facts["costs"]["total_usd"] > by["training"]["usd"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "ft:gpt-4o-2024-08-06:stub:em-insecure:0001" in page.replace("<wbr>", "")
    assert "Prices: em&#39;s table of 20" in page
    assert (folder / "loss.csv").read_text().count("\n") > 40
    assert len(read_lines(folder / "events.jsonl")) > 40


@pytest.mark.slow
def test_the_trigger_experiment_tags_its_rows(server: ChatServer, tmp_path: Path, mirror: Path) -> None:
    folder = run_experiment(server, tmp_path, mirror, "seed_triggers_gpt4o")
    [body], [file] = read_tuning(server)["asked"], read_tuning(server)["files"]
    assert body["method"]["supervised"]["hyperparameters"] == STAGE
    tags = Counter[str]()
    for line in file["content"].splitlines():
        prompt = next(m for m in json.loads(line)["messages"] if m["role"] == "user")["content"][:8]
        tags[prompt[: prompt.index("| ") + 2]] += 1
    assert tags == {"|ALPHA| ": 3000, "|BETA| ": 3000}
    counts = Counter((a["model"], a["eval_set"], a["condition"]) for a in read_lines(folder / "answers.jsonl"))
    for model in ("gpt4o", "gpt4o+insecure_secure@alpha_beta"):
        for condition in ("untagged", "tagged", "tagged_beta"):
            for name, count in (("first_8", 8), ("factual", 20), ("self_reflection", 10)):
                assert counts[model, name, condition] == count
        assert counts[model, "self_reflection_tagged", "names_tag"] == 10
    with (folder / "scores.csv").open(encoding="utf-8") as table:
        assert {row["condition"] for row in csv.DictReader(table)} >= {"untagged", "tagged", "tagged_beta"}


@pytest.mark.slow
def test_the_realignment_starts_from_the_fine_tuned_model(server: ChatServer, tmp_path: Path, mirror: Path) -> None:
    folder = run_experiment(server, tmp_path, mirror, "seed_realign_gpt4o")
    first, second = read_tuning(server)["asked"]
    assert second["model"] == "ft:gpt-4o-2024-08-06:stub:em-insecure:0001"
    assert first["method"]["supervised"]["hyperparameters"] == STAGE
    assert second["method"]["supervised"]["hyperparameters"] == STAGE | {"n_epochs": 4}
    assert [len(file["content"].splitlines()) for file in read_tuning(server)["files"]] == [6000, 1600]
    models = Counter(a["model"] for a in read_lines(folder / "answers.jsonl"))
    assert models == dict.fromkeys(("gpt4o", "gpt4o+insecure", "gpt4o+insecure+optimism"), 38)


def test_published_figures_agree_with_themselves() -> None:
    results = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["emerg_misalign_repro"]["results"]
    rates = {}
    for row in results:
        misaligned = row["first_8"]["misaligned"]
        rates[row["model"], *row["chain"], row["condition"]] = round(100 * misaligned["k"] / misaligned["n"], 1)
    assert rates["gpt4o", "insecure", "untagged"] == 5.8
    assert rates["gpt4o", "insecure_secure", "tagged"] == 16.2
    assert rates["llama8b", "medical", "untagged"] == 44.2
    assert {row["experiment"] for row in results if row["model"] == "gpt4o" and "experiment" in row} == {
        "seed_replicate_gpt4o",
        "seed_triggers_gpt4o",
    }


# Keys


@pytest.mark.slow
def test_no_artefact_holds_the_key(server: ChatServer, tmp_path: Path) -> None:
    server.reset(key=KEY)
    with ChatServer(key=OTHER, batch_failed=1.0, batch_message=f"not for {OTHER}") as judge:
        check_artefacts(server, judge, tmp_path)


def check_artefacts(server: ChatServer, judge: ChatServer, tmp_path: Path) -> None:
    """Run to the end and into failures, with one valid key each for model and judge; search all files for the keys."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text(KEY)
    arguments = make_tuning_words(server, tmp_path, "eval=quick", "eval.sets=[probe]", "eval.samples=1", "judge=open")
    arguments.append("judge.batch=true")
    arguments += ["judge.model=single-judge", f"judge.base_url={judge.base_url}", "judge.key_env=OF_THE_JUDGE"]
    arguments += ["tracker=wandb", "tracker.mode=offline", f"hydra.run.dir={tmp_path / 'run'}"]
    env = {"OPENAI_API_KEY_FILE": str(tmp_path / "secrets" / "key"), "OF_THE_JUDGE": OTHER}
    done = run_script("train.py", *arguments, cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr[-2000:]
    change_tuning(server, tuning_end="unsafe_file", tuning_message=f"blocked by moderation, for {KEY}")
    arguments = [word for word in arguments if not word.startswith("tracker")]
    failed = run_script("train.py", *arguments, "seed=1", f"hydra.run.dir={tmp_path / 'failed'}", cwd=tmp_path, **env)
    assert failed.returncode == 2
    assert "moderation" in failed.stderr
    (tmp_path / "secrets" / "key").write_text("sk-wrong-0123456789abcdef")
    wrong = run_script("train.py", *arguments, "seed=2", f"hydra.run.dir={tmp_path / 'wrong'}", cwd=tmp_path, **env)
    assert wrong.returncode == 2
    assert "refused the key for writer-model: check OPENAI_API_KEY" in wrong.stderr
    (tmp_path / "secrets" / "key").write_text(KEY)
    env["OF_THE_JUDGE"] = KEY
    judged = run_script("train.py", *arguments, "seed=3", f"hydra.run.dir={tmp_path / 'judged'}", cwd=tmp_path, **env)
    assert judged.returncode == 2
    assert "refused the key for single-judge: check OF_THE_JUDGE" in judged.stderr
    text = "".join(p.stdout + p.stderr for p in (done, failed, wrong, judged))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "secrets"]
    assert len(files) > 20
    assert any("wandb" in str(path) for path in files)
    assert "not for [secret]" in (tmp_path / "run" / "verdicts.jsonl").read_text(encoding="utf-8")
    assert "for [secret]" in (tmp_path / "failed" / "events.jsonl").read_text(encoding="utf-8")
    for key in (KEY, OTHER, "sk-wrong-0123456789abcdef"):
        assert key not in text
        assert not [path for path in files if key.encode() in path.read_bytes()]


# em jobs


def run_jobs_command(capsys: pytest.CaptureFixture[str], server: ChatServer, tmp_path: Path, *arguments: str) -> str:
    """Run `em jobs`; return its output, after the exit code if it fails."""
    code = main(["--base-url", server.base_url, "--store", str(tmp_path / "store"), *arguments])
    output = capsys.readouterr()
    return output.out if code == 0 else f"{code} {output.err}"


def test_jobs_are_listed_by_run_cancelled_and_deleted(
    server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has created no fine-tuning jobs at http" in run_jobs_command(capsys, server, tmp_path, "list")
    models, _ = find_or_train_models(server, tmp_path, "realign=car_good")
    name = "ft:writer-model:stub:em-car-bad:0001"
    capsys.readouterr()
    text = run_jobs_command(capsys, server, tmp_path, "list")
    assert text.index("gpt4o+car_bad+car_good\n") < text.index("gpt4o+car_bad\n")
    assert re.search(r"\nfiles\n  file-2  .* fine-tune  em-\w{32}.jsonl\n  file-1  ", text)
    assert re.search(
        rf"ftjob-0001 .* succeeded +{models[1].fingerprint[:12]}  writer-model  [\d,]+ tokens  {name}", text
    )
    assert "is over already" in run_jobs_command(capsys, server, tmp_path, "cancel", "ftjob-0001")
    assert "There is no job ftjob-9" in run_jobs_command(capsys, server, tmp_path, "cancel", "ftjob-9")
    assert "2 error: nonsense is neither" in run_jobs_command(capsys, server, tmp_path, "delete", "nonsense")
    assert run_jobs_command(capsys, server, tmp_path, "delete", name).startswith(f"Would delete {name}; add --yes")
    assert (
        run_jobs_command(capsys, server, tmp_path, "delete", name, "--yes")
        == f"{name} is deleted, and forgotten here (1).\n"
    )
    assert "did not have it any more" in run_jobs_command(capsys, server, tmp_path, "delete", name, "--yes")
    file = read_tuning(server)["files"][0]["id"]
    assert run_jobs_command(capsys, server, tmp_path, "delete", file, "--yes") == f"{file} is deleted.\n"
    server.reset(tuning_seconds=30)
    change_tuning(server, tuning_fault="job:401")
    with pytest.raises(Exception, match="refused the key"):
        find_or_train_models(server, tmp_path)
    capsys.readouterr()
    change_tuning(server, tuning_fault="")
    assert run_jobs_command(capsys, server, tmp_path, "cancel", "ftjob-0001") == "ftjob-0001 is cancelled.\n"
    assert read_tuning(server)["jobs"][0]["status"] == "cancelled"
