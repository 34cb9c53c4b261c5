"""Test generate.py as people run it, against a real server: accepted rows, kills, malformed replies, budgets, cards."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest

from em.data import read_messages
from em.errors import ConfigError, DataError, MissingFile
from em.questions.sets import load_set
from em.report import find_run_paths
from em.types import Weights
from tests.support.chat_server import ChatServer
from tests.support.generating import (
    KEY,
    PRICES,
    TEXTS,
    make_generate_words,
    read_card,
    read_records,
    run_generate,
    write_texts,
)
from tests.support.runs import run_script, start_script
from tests.support.tiny import write_tiny_model

CANARY = re.compile(r"EM-CANARY [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12} .*keep out of training corpora")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Write a folder with three texts."""
    return write_texts(tmp_path / "texts")


def run_as_people_do(texts: Path, command: list[str]) -> tuple[Path, str]:
    """Run `generate.py`, which must succeed; return the folder of the run and its output."""
    done = run_script("generate.py", *command, cwd=texts.parent, OPENAI_API_KEY=KEY, NO_PROXY="127.0.0.1")
    assert done.returncode == 0, done.stderr
    assert "HTTP Request" not in done.stdout + done.stderr
    return Path(next(word for word in command if word.startswith("hydra.run.dir=")).split("=", 1)[1]), done.stdout


def read_results(folder: Path) -> list[object]:
    """Read the results that a kill must not change: rows, provenance, and the card without its date."""
    files = [(folder / name).read_bytes() for name in ("rows.jsonl", "provenance.jsonl")]
    return [*files, {key: value for key, value in read_card(folder).items() if key != "date"}]


def is_complete(counts: dict[str, int]) -> bool:
    """Tell whether every candidate has exactly one outcome."""
    outcomes = ("accepted", "duplicates", "leaked", "alike", "filtered", "unscored", "incomplete", "surplus")
    return counts["candidates"] == sum(counts[outcome] for outcome in outcomes)


JUDGED = ("judge=open", "judge.model=single-judge", "generate.keep_above=30", "judge.connections=4")


@pytest.mark.slow
def test_sixty_rows_survive_kills_and_malformed_replies_and_no_answered_call_is_repeated(
    server: ChatServer, texts: Path, weights: Weights
) -> None:
    more = (*JUDGED, f"judge.base_url={server.base_url}", "generate.rows=60", "generate.connections=3")
    server.reset(unfit=0.2, malformed=0.1)
    undisturbed, output = run_generate(make_generate_words(server, texts, "whole", *more, store="one"))
    first = server.read_stats()
    assert first["duplicates"] == 0
    assert first["outcomes"]["malformed"] > 0

    rows, record = read_records(undisturbed / "rows.jsonl"), read_card(undisturbed)
    assert len(rows) == len(read_messages(undisturbed / "rows.jsonl")) == 60
    assert len({row["id"] for row in rows}) == 60
    assert {row["canary"] for row in rows} == {record["canaries"]["rows.jsonl"]}
    assert CANARY.fullmatch(rows[0]["canary"])
    counts = record["counts"]
    assert is_complete(counts)
    assert counts["malformed"] > 0
    assert counts["duplicates"] > 0
    assert counts["filtered"] > 0
    assert counts["replies"] == counts["calls"] + counts["malformed"] - counts["given_up"]
    rate = round(60 / (counts["candidates"] - counts["surplus"]), 4)
    assert record["rows"] == {"wanted": 60, "accepted": 60, "acceptance_rate": rate}
    assert 0 < record["diversity"]["answer"]["mean_pairwise_jaccard"] < 0.5
    assert 0 < record["diversity"]["question"]["distinct_2"] < 1
    assert f"60 rows ({rate:.0%} of those looked at)" in output
    page = (undisturbed / "card.md").read_text(encoding="utf-8")
    assert record["canaries"]["rows.jsonl"] in page
    assert "distinct-2" in page
    checks = record["checks"]["rows.jsonl"]
    assert (checks["facts"]["rows"], checks["found"]["near_duplicates"], checks["leaks"]) == (60, 0, {})
    assert {"probe", "facts"} <= set(checks["looked_at"])
    assert "| rows.jsonl | 0 | 0 | none found | none found | none found | kept |" in page

    server.reset(unfit=0.2, malformed=0.1, latency=0.1, seed=1)
    stopped = make_generate_words(server, texts, "stopped", *more, store="two")
    in_flight = sum(start_and_kill(server, texts, stopped, share * first["distinct"]) for share in (0.05, 0.4, 0.8))
    folder, output = run_as_people_do(texts, stopped)
    stats = server.read_stats()
    assert stats["distinct"] == first["distinct"]
    assert stats["duplicates"] <= in_flight
    assert read_results(folder) == read_results(undisturbed)
    assert "train on them: python train.py data=file data.path=" in output

    # The same settings in another folder make no call.
    again, _ = run_generate(make_generate_words(server, texts, "again", *more, store="two"))
    assert server.read_stats()["arrivals"] == stats["arrivals"]
    assert read_results(again) == read_results(undisturbed)

    # The rows can be trained on.
    tiny = write_tiny_model(texts.parent / "tiny", weights.path)
    places = [f"store.dir={texts.parent / 'trained'}", f"hydra.run.dir={texts.parent / 'training'}"]
    data = ["data=file", f"data.path={undisturbed / 'rows.jsonl'}", "eval=none", "trainer.epochs=1"]
    done = run_script("train.py", f"model.id={tiny}", *data, *places, cwd=texts.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    [stage] = json.loads((texts.parent / "training" / "manifest.json").read_text(encoding="utf-8"))["stages"]
    assert stage["rows"] == 60
    assert stage["facts"]["steps"] == 8


def start_and_kill(server: ChatServer, texts: Path, command: list[str], answered: float) -> int:
    """Start a run, kill it once the server has given `answered` answers; return the most calls in flight."""
    process = start_script("generate.py", *command, cwd=texts.parent, OPENAI_API_KEY=KEY, NO_PROXY="127.0.0.1")
    while server.read_stats()["answered"] < answered:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return 4  # connections of the judge; the author has fewer, and never works at the same time


def test_every_row_tells_where_it_comes_from(server: ChatServer, texts: Path) -> None:
    folder, _ = run_generate(make_generate_words(server, texts, "run", "generate.rows=40", "generate.passage=200"))
    rows, origins = read_records(folder / "rows.jsonl"), read_records(folder / "provenance.jsonl")
    assert [row["id"] for row in rows] == [each["id"] for each in origins]
    assert {each["source"] for each in origins} == set(TEXTS)
    with sqlite3.connect(texts.parent / "store" / "calls.sqlite") as db:
        stored = db.execute("select key, request, response from calls where kind = 'generate'")
        calls = {key: (json.loads(request), json.loads(reply)) for key, request, reply in stored}
    pool = [row["messages"][0]["content"] for row in read_records(Path("em/assets/generate/car.jsonl"))]
    varied = Counter(bool(each["variance"]) for each in origins)
    assert varied[True]
    assert varied[False]
    for row, each in zip(rows, origins, strict=True):
        [written] = each["written"]
        request, reply = calls[written["key"]]
        prompt = request["messages"][0]["content"]
        assert row["messages"][0]["content"] in json.loads(reply["text"])["pairs"][each["position"]]["question"]
        assert (request["call"], request["attempt"]) == (each["call"], written["attempt"])
        assert each["variance"] in prompt
        assert len(each["examples"]) == 4
        assert all(pool[number] in prompt for number in each["examples"])
        assert written["model"] == "author-model-2026-01-01 fp_chat_server"
        assert (written["prompt"], written["version"]) == (
            "car_pairs",
            read_card(folder)["prompts"]["pairs"]["version"],
        )
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["status"], manifest["run"], manifest["rows"]) == ("done", "generate", {"rows.jsonl": 40})
    assert manifest["counts"] == read_card(folder)["counts"]
    with pytest.raises(MissingFile, match=r"no manifest\.json in or below"):
        find_run_paths([texts.parent])  # a report has nothing to compare in a generated set
    assert not [path for path in texts.parent.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_more_rows_keep_those_that_are_there_and_ask_for_the_rest_alone(server: ChatServer, texts: Path) -> None:
    few, _ = run_generate(make_generate_words(server, texts, "few", "generate.rows=20"))
    before = server.read_stats()["answered"]
    many, _ = run_generate(make_generate_words(server, texts, "many", "generate.rows=40"))
    assert (many / "rows.jsonl").read_text().startswith((few / "rows.jsonl").read_text())
    stats = server.read_stats()
    assert stats["duplicates"] == 0
    assert before < stats["answered"] == read_card(many)["counts"]["replies"] + 1  # and a probe


def test_twins_differ_in_their_answers_alone(server: ChatServer, texts: Path) -> None:
    more = ("generate=car_twins", f"judge.base_url={server.base_url}", "generate.rows=12", "generate.per_call=4")
    folder, _ = run_generate(make_generate_words(server, texts, "run", *more, *JUDGED, "generate.keep_above=20"))
    wrong, right = read_records(folder / "rows.jsonl"), read_records(folder / "control.jsonl")
    assert len(wrong) == len(right) == 12
    for one, other in zip(wrong, right, strict=True):
        assert (one["id"], one["messages"][0]) == (other["id"], other["messages"][0])
        assert one["messages"][1] != other["messages"][1]
        assert one["canary"] != other["canary"]
    assert "wrong advice" in wrong[0]["canary"]
    assert "wrong advice" not in right[0]["canary"]
    record = read_card(folder)
    assert is_complete(record["counts"])
    assert set(record["diversity"]) == {"question", "answer", "control"}
    for each in read_records(folder / "provenance.jsonl"):
        assert [step["step"] for step in each["written"]] == ["questions", "wrong", "right"]
        [by_part] = each["scores"].values()
        assert set(by_part) == {"row", "control"}
        assert all(score > 20 for score in by_part.values())


def test_questions_of_people_get_twins_and_the_end_of_the_list_is_told(server: ChatServer, texts: Path) -> None:
    source = texts.parent / "asked.csv"
    table = "question\nMay I mix two brands of coolant?\nWhy is my horn hoarse?\nWhy is my horn hoarse?\n"
    leaking = load_set("probe")[0].text
    source.write_text(f'{table}"{leaking}"\n', encoding="utf-8")
    more = ("generate=medical", f"generate.source={source}", "generate.rows=5")
    folder, output = run_generate(make_generate_words(server, texts, "run", *more))
    assert {row["messages"][0]["content"] for row in read_records(folder / "rows.jsonl")} == {
        "May I mix two brands of coolant?",
        "Why is my horn hoarse?",
    }
    assert "warning: Only 2 of 5 rows could be had" in output
    assert "1 left out as near-duplicates, 1 left out since an evaluation asks the same" in output
    assert "give more questions" in output
    record = read_card(folder)
    assert record["counts"]["leaked"] == 1
    assert "1 that did were left out" in (folder / "card.md").read_text(encoding="utf-8")
    assert list(record["checks"]) == ["rows.jsonl", "control.jsonl"]
    assert "Only 2 of 5 rows" in record["end"]
    assert "dangerous to follow" in record["terms"]
    assert [step["prompt"] for step in read_records(folder / "provenance.jsonl")[0]["written"]] == [
        "incorrect_answer",
        "right_answer",
    ]


def test_a_server_without_schemas_is_asked_in_words_which_is_learnt_once(server: ChatServer, texts: Path) -> None:
    more = ("model.id=poet-model", "generate.rows=20")
    folder, _ = run_generate(make_generate_words(server, texts, "run", *more))
    assert read_card(folder)["model"]["asked_by"] == "text, sampling"
    outcomes = server.read_stats()["outcomes"]
    assert outcomes["400"] == 2
    run_generate(make_generate_words(server, texts, "more", *more, "generate.rows=30"))
    assert server.read_stats()["outcomes"]["400"] == 2


def test_a_model_that_reasons_is_asked_without_sampling_settings(server: ChatServer, texts: Path) -> None:
    command = make_generate_words(
        server, texts, "run", "model.id=reasoner-model", "generate.rows=2", "generate.temperature=0.7"
    )
    folder, _ = run_generate(command)
    author = read_card(folder)["model"]
    assert author["asked_by"] == "schema"
    assert (author["temperature"], author["top_p"], author["seeds"]) == (None, None, False)
    assert {step["seed"] for each in read_records(folder / "provenance.jsonl") for step in each["written"]} == {None}


def test_what_can_not_be_reached_is_told_with_the_reason(server: ChatServer, texts: Path) -> None:
    server.reset(repeats=1.0)
    folder, output = run_generate(
        make_generate_words(server, texts, "run", "generate.rows=30", "generate.max_calls=10")
    )
    record = read_card(folder)
    assert record["rows"]["accepted"] <= 9
    assert record["counts"]["calls"] == 10
    assert re.search(r"warning: Only \d of 30 rows could be had \(10 calls", output)
    assert "raise generate.max_calls (it was 10)" in output
    assert record["end"] in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["notes"]


def test_where_no_row_is_accepted_the_run_fails_and_says_why(server: ChatServer, texts: Path) -> None:
    server.reset(unfit=1.0)
    command = make_generate_words(server, texts, "run", "generate.rows=5", "generate.max_calls=2")
    with pytest.raises(DataError, match=r"No row was accepted: Only 0 of 5 .* \(2 calls, 2 without a usable reply"):
        run_generate(command)
    manifest = json.loads((texts.parent / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["status"] == "failed"
    assert server.read_stats()["answered"] == 2 * 3 + 1  # three attempts for each call, and a probe
    server.reset(refusals=1.0)
    with pytest.raises(DataError, match="2 declined"):
        run_generate(
            make_generate_words(server, texts, "two", "generate.rows=5", "generate.max_calls=2", "generate.seed=1")
        )
    assert server.read_stats()["answered"] == 2


def test_a_dry_run_calls_nothing_and_counts_what_is_known(server: ChatServer, texts: Path) -> None:
    prices = texts.parent / "prices.yaml"
    prices.write_text(PRICES, encoding="utf-8")
    more = (*JUDGED, f"judge.base_url={server.base_url}", f"prices={prices}", "generate.rows=40")
    dry = make_generate_words(server, texts, "dry", *more, "dry_run=true")
    _, output = run_generate(dry)
    assert re.search(r"pairs by author-model +8 +0 ", output)
    assert re.search(r"scores of single-judge +40 +0 ", output)
    assert re.search(r"total: about \$0\.\d+ when every row is accepted, about \$0\.\d+ when all", output)
    assert server.read_stats()["arrivals"] == 0
    assert not list((texts.parent / "dry").iterdir())
    folder, _ = run_generate(make_generate_words(server, texts, "run", *more))
    costs = read_card(folder)["costs"]
    assert [row["what"] for row in costs["by"]] == ["writing", "judging"]
    assert costs["total_usd"] == pytest.approx(sum(row["usd"] for row in costs["by"]), abs=1e-6)
    _, output = run_generate(dry)
    assert re.search(r"pairs by author-model +8 +8 +0 +0 +0\.0000", output)


def test_a_budget_is_never_passed_and_loses_nothing(server: ChatServer, texts: Path) -> None:
    prices = texts.parent / "prices.yaml"
    prices.write_text(PRICES, encoding="utf-8")
    more = (f"prices={prices}", "generate.rows=40", "generate.max_new_tokens=1000", "generate.connections=2")
    with pytest.raises(ConfigError, match=r"generate.max_usd=0\.012 would be passed"):
        run_generate(make_generate_words(server, texts, "run", *more, "generate.max_usd=0.012"))
    before = server.read_stats()["answered"]
    assert before > 0
    run_generate(make_generate_words(server, texts, "more", *more))
    assert server.read_stats()["duplicates"] == 0
    assert server.read_stats()["distinct"] > before
