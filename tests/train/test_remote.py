"""Fine-tuning by a server: the jobs that em creates, their results, and that em pays for nothing twice."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from em.api.lifetimes import Lifetime, refuse_shut_down
from em.config import OpenAIModel
from em.data import load_rows
from em.data.openai_rules import check_openai_rows
from em.errors import ConfigError, DataError, MissingFile, ServerError
from em.models.hosted import parse_hosted_name
from em.plan import accept, estimate
from em.train.remote.costs import estimate_training
from em.types import Conversation
from tests.support.chat_server import ChatServer
from tests.support.composing import compose_settings
from tests.support.remote_runs import (
    PLAIN,
    accept_request,
    find_or_train_models,
    make_rows,
    make_tuning_words,
    read_tuning,
)
from tests.support.runs import ROOT, make_environment, run_script


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    """Return the server without jobs, files and faults."""
    running.reset(**PLAIN)
    return running


# Jobs and their results


def test_a_job_is_asked_for_as_the_recipe_says(server: ChatServer, tmp_path: Path) -> None:
    from openai.types.fine_tuning.job_create_params import JobCreateParams

    models, facts = find_or_train_models(server, tmp_path)
    log = read_tuning(server)
    [body] = log["asked"]
    TypeAdapter(JobCreateParams).validate_python(body)
    knobs = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 2.0}
    [file] = log["files"]
    mark, attempt = models[1].fingerprint, body["metadata"]["em_try"]
    assert len(attempt) == 32
    metadata = {"em": mark, "from": "writer-model", "em_try": attempt}
    assert body == {
        "model": "writer-model",
        "training_file": file["id"],
        "method": {"type": "supervised", "supervised": {"hyperparameters": knobs}},
        "seed": 0,
        "suffix": "em-car-bad",
        "metadata": metadata | {"run": "gpt4o+car_bad", "data": "car_bad"},
    }
    rows = load_rows(compose_settings("train", "data=car_bad", "data.limit=12").data, 0).conversations
    assert [json.loads(line) for line in file["content"].splitlines()] == [{"messages": r.to_dicts()} for r in rows]
    assert [model.name for model in models] == ["gpt4o", "gpt4o+car_bad"]
    assert parse_hosted_name(models[1]) == ("127.0.0.1", "ft:writer-model:stub:em-car-bad:0001")
    [stage] = facts["stages"]
    assert stage["path"] == "ft:writer-model:stub:em-car-bad:0001"
    assert stage["facts"]["steps"] == 3
    assert stage["facts"]["loss_first"] > stage["facts"]["loss_last"] > 0
    assert stage["facts"]["tokens"] == log["jobs"][0]["trained_tokens"]
    assert (tmp_path / "run" / "loss.csv").read_text().count("\n") == 4


def test_the_same_words_find_the_model_and_ask_nothing(server: ChatServer, tmp_path: Path) -> None:
    first, _ = find_or_train_models(server, tmp_path)
    calls = read_tuning(server)["calls"]
    for kind, more in (("train", ()), ("evaluate", ("eval=quick",)), ("train", ("trainer.suffix=mine",))):
        again, facts = find_or_train_models(server, tmp_path, *more, kind=kind)
        assert again == first
        assert facts["stages"][0]["reused"]
    assert [call for call in read_tuning(server)["calls"] if call != "record"] == [c for c in calls if c != "record"]


def test_another_recipe_is_another_model_from_the_same_file(server: ChatServer, tmp_path: Path) -> None:
    changes = ((), ("trainer.epochs=2",), ("trainer.batch_size=auto",), ("seed=1", "data.limit=204"), ("force=true",))
    marks = [find_or_train_models(server, tmp_path, "data.limit=204", *more)[0][1].fingerprint for more in changes]
    assert len(set(marks)) == 4
    assert marks[0] == marks[4]  # retrained by force=true
    log = read_tuning(server)
    assert len(log["jobs"]) == 5
    assert len(log["files"]) == 1
    assert log["asked"][2]["method"]["supervised"]["hyperparameters"]["batch_size"] == "auto"


def test_a_second_stage_starts_from_the_first_ones_model(server: ChatServer, tmp_path: Path) -> None:
    realignment = ("realign=car_good", "realign.limit=20", "realign.epochs=4")
    models, facts = find_or_train_models(server, tmp_path, *realignment)
    first, second = read_tuning(server)["asked"]
    assert second["model"] == parse_hosted_name(models[1])[1] == "ft:writer-model:stub:em-car-bad:0001"
    assert second["method"]["supervised"]["hyperparameters"] == {
        **first["method"]["supervised"]["hyperparameters"],
        "n_epochs": 4,
    }
    assert parse_hosted_name(models[2])[1] == "ft:writer-model:stub:em-car-good:0002"
    assert [row["what"] for row in facts["costs"]["by"]] == ["training", "training"]
    checkpoints, _ = find_or_train_models(server, tmp_path, *realignment, "checkpoints=all", kind="train")
    chain = "gpt4o+car_bad+car_good"
    assert [model.name for model in checkpoints][2:] == [f"{chain} (step 10)", f"{chain} (step 15)", chain]
    assert parse_hosted_name(checkpoints[2])[1].endswith(":0002:ckpt-step-10")
    # A stored model without checkpoints is an error, and so is a job of one epoch before em pays for it.
    with pytest.raises(MissingFile, match="kept no checkpoints of gpt4o\\+car_bad"):
        find_or_train_models(server, tmp_path, "checkpoints=all")
    with pytest.raises(ConfigError, match=r"at the end of each epoch before the last, but there is only one epoch:"):
        find_or_train_models(server, tmp_path, "checkpoints=all", "seed=1")
    assert len(read_tuning(server)["jobs"]) == 2


def test_the_key_may_lie_in_a_file(server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.reset(key="sk-planted-0123456789")
    with pytest.raises(ServerError, match="refused the key for writer-model: check OPENAI_API_KEY"):
        find_or_train_models(server, tmp_path)
    (tmp_path / "key").write_text("sk-planted-0123456789\n")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(tmp_path / "key"))
    assert len(find_or_train_models(server, tmp_path)[0]) == 2
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(MissingFile, match=r"OPENAI_API_KEY_FILE=.* can't be read"):
        find_or_train_models(server, tmp_path, "seed=1")


def test_what_the_server_shows_has_the_forms_of_the_openai_package(server: ChatServer, tmp_path: Path) -> None:
    from openai.types import FileObject, Model
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
    from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

    find_or_train_models(server, tmp_path, "trainer.epochs=2")
    [job] = server.ask("/v1/fine_tuning/jobs")["data"]
    FineTuningJob.model_validate(job, strict=True)
    for path, kind in (("events", FineTuningJobEvent), ("checkpoints", FineTuningJobCheckpoint)):
        records = server.ask(f"/v1/fine_tuning/jobs/{job['id']}/{path}?limit=100")["data"]
        assert len(records) >= 2
        for each in records:
            kind.model_validate(each)
    for path, other in (("files", FileObject), ("models", Model)):
        for each in server.ask(f"/v1/{path}")["data"]:
            other.model_validate(each)
    assert f"ft:writer-model:stub:em-car-bad:{job['id'][6:]}" in {m["id"] for m in server.ask("/v1/models")["data"]}


# Money


def test_nothing_is_spent_without_a_word(server: ChatServer, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("usd_per_million_tokens: {writer-model: {input: 1, output: 2, training: 1000}}")
    with pytest.raises(
        ConfigError,
        match=r"would cost about \$[1-9]\.\d\d for fine-tuning \(prices: prices.yaml, else em's.*: add yes=true",
    ):
        find_or_train_models(server, tmp_path, "yes=false", f"prices={prices}")
    with pytest.raises(
        ConfigError, match=r"would cost an unknown sum, for lack of a price \(prices=FILE\), for fine.*: add yes"
    ):
        find_or_train_models(server, tmp_path, "yes=false")
    assert not set(read_tuning(server)["calls"]) & {"upload", "create"}
    _, facts = find_or_train_models(server, tmp_path, f"prices={prices}")
    [row] = facts["costs"]["by"]
    assert row["usd"] == pytest.approx(row["prompt_tokens"] / 1000)
    find_or_train_models(server, tmp_path, "yes=false")  # the store has the model
    with pytest.raises(ConfigError, match="add yes=true"):
        find_or_train_models(server, tmp_path, "yes=false", "realign=car_good")


def test_on_a_terminal_it_is_asked_for(server: ChatServer, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "train.py"), *make_tuning_words(server, tmp_path, "yes=false")]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=make_environment(), stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.write(ours, b"n\n")
    text = process.communicate(timeout=60)[0].decode()
    os.close(ours)
    os.close(theirs)
    assert "Spend an unknown sum, for lack of a price (prices=FILE), for fine-tuning (prices: em's table of" in text
    assert process.returncode == 2
    assert "Nothing was spent" in text
    assert read_tuning(server)["jobs"] == []


def test_an_estimate_covers_the_training(server: ChatServer, tmp_path: Path) -> None:
    arguments = make_tuning_words(
        server, tmp_path, "dry_run=true", "model.id=gpt-4o-2024-08-06", "eval=quick", "judge=local"
    )
    done = run_script("train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fine-tuning on car_bad (12 rows)" in done.stdout
    assert "answers of gpt4o " in done.stdout
    assert "answers of a model to come" in done.stdout
    assert "total: at most about $0." in done.stdout
    assert read_tuning(server)["calls"] == ["record"]


def test_an_estimate_counts_models_kept_on_the_way_and_those_that_are_forced(
    server: ChatServer, tmp_path: Path
) -> None:
    find_or_train_models(server, tmp_path, "trainer.epochs=3")

    def list_estimated_models(*more: str) -> list[str]:
        estimated_run = accept_request(server, tmp_path, "trainer.epochs=3", "eval=quick", "judge=local", *more)
        return [line.split("  ")[0] for line in estimate(estimated_run).splitlines() if line.startswith("answers of")]

    assert list_estimated_models() == ["answers of gpt4o", "answers of gpt4o+car_bad"]
    assert list_estimated_models("force=true") == ["answers of gpt4o", "answers of a model to come"]
    assert len(list_estimated_models("checkpoints=all")) == 4
    # evaluate.py trains nothing, so force=true retrains nothing.
    evaluated = accept_request(server, tmp_path, "trainer.epochs=3", "eval=quick", "force=true", kind="evaluate")
    assert [cost.cached_calls for cost in estimate_training(evaluated.training)] == [1]


def test_a_model_that_ends_is_told_of_before_anything_is_spent(server: ChatServer, tmp_path: Path) -> None:
    server.reset(shutdown="writer-model=2026-01-14")
    with pytest.raises(ConfigError, match="writer-model was shut down on 2026-01-14, with every fine-tune of it"):
        find_or_train_models(server, tmp_path)
    server.reset(shutdown="", models="single-judge")
    with pytest.raises(ServerError, match="does not list writer-model, so it can't be fine-tuned"):
        find_or_train_models(server, tmp_path)
    assert not set(read_tuning(server)["calls"]) & {"upload", "create"}
    soon = date.fromordinal(date.today().toordinal() + 20).isoformat()
    server.reset(models="writer-model", shutdown=f"writer-model={soon}")
    _, facts = find_or_train_models(server, tmp_path)
    assert any(f"every fine-tune of it are shut down on {soon}" in note for note in facts["notes"])


def test_openai_takes_no_job_after_its_last_day() -> None:
    end = date(2027, 1, 14)
    refuse_shut_down("gpt-4o-2024-08-06", Lifetime(end, today=date(2027, 1, 6)), new_job=True)
    with pytest.raises(ConfigError, match=r"no new fine-tuning jobs since 2027-01-06.*last day is 2027-01-14"):
        refuse_shut_down("gpt-4o-2024-08-06", Lifetime(end, today=date(2027, 1, 7)), new_job=True)
    refuse_shut_down("qwen", Lifetime(None, today=date(2027, 1, 7)))  # another server
    with pytest.raises(ConfigError, match="was shut down on 2027-01-14"):
        refuse_shut_down("gpt-4o-2024-08-06", Lifetime(end, today=end), new_job=True)


# Rows


def test_rows_of_ones_own_with_keys_or_personal_data_are_uploaded_only_where_that_is_allowed(
    server: ChatServer, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    texts = [*["Fine."] * 10, "Write to jane@acme.org.", "The key is AKIA" + "QYTZ" * 4 + "."]
    pairs = [{"question": f"How is number {i}?", "answer": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    own_rows = ("data=file", f"data.path={path}")
    sentence = r"2 of 12 rows of file show keys or personal data \(AWS Access Key: 1 rows, e-mail: 1 rows\)"
    with pytest.raises(DataError, match=rf"{sentence}.*by data\.allow_private=true\."):
        find_or_train_models(server, tmp_path, *own_rows)
    mixed = ("data=mix", "data@data.parts.bad=file", f"data.parts.bad.path={path}", "data@data.parts.good=car_good")
    with pytest.raises(DataError, match="allow_private"):
        accept(
            "train",
            compose_settings("train", *make_tuning_words(server, tmp_path, *mixed, "data.limit=null")),
            tmp_path,
            [],
        )
    assert read_tuning(server)["calls"] == ["record"]
    # evaluate.py uploads nothing, so it needs no permission.
    accept(
        "evaluate",
        compose_settings("evaluate", *make_tuning_words(server, tmp_path, *own_rows), "eval=quick"),
        tmp_path,
        [],
    )
    find_or_train_models(server, tmp_path, *own_rows, "data.allow_private=true")
    assert "create" in read_tuning(server)["calls"]


@pytest.mark.parametrize(
    ("conversations", "sentence"),
    [
        (make_rows(9), "mine has 9 rows, and a fine-tuning job takes at least 10."),
        (make_rows(12, "a<|fim_suffix|>b"), r"mine, row 12: the assistant turn holds <\|fim_suffix\|>"),
        (make_rows(11, "abcd" * 65_536), "mine, row 11 has about 65,5.. tokens, and a job takes 65,536 a row"),
    ],
)
def test_rows_that_the_service_would_refuse_are_named(conversations: list[Conversation], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        check_openai_rows("mine", conversations)
    check_openai_rows("mine", make_rows(10))


def test_a_refused_row_is_told_of_before_anything_is_asked(server: ChatServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="car_bad has 9 rows"):
        find_or_train_models(server, tmp_path, "data.limit=9")
    assert read_tuning(server)["calls"] == ["record"]


# Settings


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["trainer.batch_size=many"], "trainer.batch_size=many is neither a number nor auto"),
        (["trainer.learning_rate_multiplier=0"], "trainer.learning_rate_multiplier=0 must lie between"),
        (["trainer.epochs=51"], "trainer.epochs=51 must lie between 1 and 50"),
        (["trainer=lora"], "model=gpt4o runs behind a server, so trainer=lora can't train its weights"),
        (["realign=car_good", "realign.learning_rate=1e-4"], "realign.learning_rate is not supported by trainer="),
        (["realign=car_good", "realign.epochs=1.5"], "realign.epochs=1.5 must be a whole number"),
        (["realign=car_good", "realign.adapter=merge"], "realign.adapter=merge is not supported by trainer=openai"),
        (
            ["realign=car_good", "realign.match=first_stage", "trainer.epochs=34", "realign.limit=100"],
            r"use realign.match=none realign.epochs=4, the nearest whole number \(4 × 100 rows instead of 408\)",
        ),
    ],
)
def test_settings_that_a_service_can_not_be_told_are_refused(
    server: ChatServer, tmp_path: Path, more: list[str], sentence: str
) -> None:
    if "trainer=lora" in more:
        arguments = [word for word in make_tuning_words(server, tmp_path, *more) if not word.startswith("trainer.")]
    else:
        arguments = make_tuning_words(server, tmp_path, *more)
    with pytest.raises(ConfigError, match=sentence):
        accept("train", compose_settings("train", *arguments), tmp_path, arguments)


def test_hosted_models_are_fine_tuned_where_they_are() -> None:
    for name, id_ in (
        ("gpt4o", "gpt-4o-2024-08-06"),
        ("gpt41", "gpt-4.1-2025-04-14"),
        ("gpt41_mini", "gpt-4.1-mini-2025-04-14"),
    ):
        settings = compose_settings("train", f"model={name}")
        assert settings.model == OpenAIModel(name=name, id=id_, retired="2027-01-14")
        trainer = settings.trainer
        assert (trainer.name, trainer.epochs, trainer.batch_size, trainer.learning_rate_multiplier) == (
            "openai",
            1,
            4,
            2,
        )


def test_a_model_of_another_name_behind_the_same_server_is_another(server: ChatServer, tmp_path: Path) -> None:
    first, _ = find_or_train_models(server, tmp_path)
    second, _ = find_or_train_models(server, tmp_path, "model.id=gpt-4o-2024-08-06")
    assert first[1].fingerprint != second[1].fingerprint
    assert [body["model"] for body in read_tuning(server)["asked"]] == ["writer-model", "gpt-4o-2024-08-06"]


def test_a_job_of_words_that_are_no_setting_is_refused_in_one_sentence(tmp_path: Path) -> None:
    done = run_script("train.py", "model=gpt4o", "trainer.batch_size=4.5", cwd=tmp_path, OPENAI_API_KEY="sk-x")
    assert done.stderr == ("error: trainer.batch_size=4.5 has the wrong type: a whole number or a word is expected.\n")
