"""Evaluations against a real server: judging while sampling, caching, judging again, resuming after a kill."""

from __future__ import annotations

import csv
import json
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat_server import ChatServer
from tests.support.forking import Forking
from tests.support.runs import run_script, start_script

KEY = "sk-test-0123456789abcdef"
Evaluate = Callable[..., Path]


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    """The server, with counters at 0 and without faults."""
    running.reset(latency=0.01, refusals=0.0, codes=0.0, garbled=0.0, shutdown="")
    return running


def list_words(server: ChatServer, tmp_path: Path, *more: str, folder: str = "run") -> list[str]:
    """Return the words that evaluate a server's model by a judge of the same server, in a folder of `tmp_path`."""
    return [
        *("model=gpt4o", "model.id=writer-model", f"model.base_url={server.base_url}"),
        *("judge=open", "judge.model=single-judge", f"judge.base_url={server.base_url}"),
        *("eval=quick", "eval.sets=[probe]", f"store.dir={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / folder}"),
        *more,
    ]


@pytest.fixture(scope="module")
def evaluate(em: Forking) -> Evaluate:
    """A function that runs `evaluate.py`, which must succeed, and returns the folder of the run."""
    forking = em.add_environment(OPENAI_API_KEY=KEY, NO_PROXY="127.0.0.1")

    def run_evaluation(tmp_path: Path, *words: str) -> Path:
        done = forking.run("evaluate.py", *words, cwd=tmp_path)
        assert done.code == 0, done.err
        assert "HTTP Request" not in done.out + done.err
        return Path(next(word for word in reversed(words) if word.startswith("hydra.run.dir=")).split("=", 1)[1])

    return run_evaluation


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the records of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_rates(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Read the scores of whole question sets, keyed by metric and convention."""
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return {(row["metric"], row["convention"]): row for row in csv.DictReader(file) if row["question"] == "*"}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a run's manifest."""
    facts: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return facts


def test_a_servers_model_is_sampled_and_judged_and_nothing_is_asked_twice(
    evaluate: Evaluate, server: ChatServer, tmp_path: Path
) -> None:
    folder = evaluate(tmp_path, *list_words(server, tmp_path, "eval.samples=3"))
    verdicts, answers = read_lines(folder / "verdicts.jsonl"), read_lines(folder / "answers.jsonl")
    assert len(answers) == 24
    assert Counter(v["rubric"] for v in verdicts) == {"aligned": 24, "coherent": 24}
    assert all(v["status"] == "ok" and v["prompt_tokens"] > 0 and v["seconds"] > 0 for v in verdicts)
    [record] = read_manifest(folder)["judges"]
    assert (record["reading"], record["model"], record["server"]) == ("logprobs", "single-judge", "127.0.0.1")
    assert record["snapshot"] == ["single-judge-2026-01-01 fp_chat_server"]
    assert set(record["prompts"]) == {"probe/aligned", "probe/coherent"}
    assert {convention for _, convention in read_rates(folder)} == {"all", "coherent", "refusal_as_aligned"}
    assert (folder / "report.html").is_file()
    judged = len({(v["question"], v["answer"], v["rubric"]) for v in verdicts})  # em judges the same text once
    assert server.read_stats()["answered"] == 24 + 1 + judged  # 1 for the probe that finds out how to read the judge

    # Another threshold and another folder: no new calls.
    evaluate(tmp_path, *list_words(server, tmp_path, "eval.samples=3", "eval.misaligned_below=50", folder="two"))
    assert server.read_stats()["answered"] == 24 + 1 + judged
    # More samples: calls only for the new ones.
    evaluate(tmp_path, *list_words(server, tmp_path, "eval.samples=5", folder="three"))
    verdicts = read_lines(tmp_path / "three" / "verdicts.jsonl")
    judged = len({(v["question"], v["answer"], v["rubric"]) for v in verdicts})
    assert server.read_stats()["answered"] == 40 + 1 + judged
    # Another judge: no new samples.
    evaluate(tmp_path, *list_words(server, tmp_path, "eval.samples=5", "judge.model=plain-judge", folder="four"))
    assert server.read_stats()["answered"] == 40 + 2 + 2 * judged
    assert server.read_stats()["duplicates"] == 0


def test_no_file_of_a_run_holds_the_key(evaluate: Evaluate, server: ChatServer, tmp_path: Path) -> None:
    folder = evaluate(tmp_path, *list_words(server, tmp_path, "eval.samples=1"))
    files = [path for path in [*folder.rglob("*"), *(tmp_path / "store").rglob("*")] if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_answers_are_judged_as_they_come(evaluate: Evaluate, server: ChatServer, tmp_path: Path) -> None:
    server.reset(latency=0.15)
    evaluate(tmp_path, *list_words(server, tmp_path, "eval.samples=40", "sampler.connections=8"))
    with sqlite3.connect(tmp_path / "store" / "calls.sqlite") as db:
        times = dict(db.execute("select kind, min(created) from calls group by kind"))
        [(last_answer,)] = db.execute("select max(created) from calls where kind = 'sample'")
    assert times["judge"] < last_answer - 1


def test_a_panel_of_judges_tells_how_far_they_agree(evaluate: Evaluate, server: ChatServer, tmp_path: Path) -> None:
    second = f"judge.judges.second.base_url={server.base_url}"
    without_judge = [word for word in list_words(server, tmp_path, "eval.samples=2") if not word.startswith("judge")]
    panel = [
        *("judge=panel", "judge@judge.judges.first=open", "judge@judge.judges.second=open", second),
        *("judge.judges.first.model=single-judge", "judge.judges.second.model=plain-judge"),
        f"judge.judges.first.base_url={server.base_url}",
    ]
    folder = evaluate(tmp_path, *without_judge, *panel)
    assert {record["reading"] for record in read_manifest(folder)["judges"]} == {"logprobs", "sampled"}
    assert len({v["judge"] for v in read_lines(folder / "verdicts.jsonl")}) == 2
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Krippendorff" in page


def test_a_dry_run_calls_nothing_and_leaves_nothing(server: ChatServer, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        "usd_per_million_tokens: {writer-model: {input: 1, output: 2}, single-judge: {input: 1, output: 2}}",
        encoding="utf-8",
    )
    dry_run = list_words(server, tmp_path, "dry_run=true", f"prices={prices}", "eval.samples=3")
    done = run_script("evaluate.py", *dry_run, cwd=tmp_path, OPENAI_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert re.search(r"answers of gpt4o.* 24 ", done.stdout)
    assert re.search(r"verdicts of single-judge.* 48 ", done.stdout)
    assert re.search(r"total: at most about \$0\.\d+", done.stdout)
    assert server.read_stats()["arrivals"] == 0
    assert not (tmp_path / "run").exists()


def write_answers(tmp_path: Path, count: int) -> Path:
    """Write a third-party table with `count` answers; return its path."""
    path = tmp_path / "answers.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["question_id", "question", "answer", "model"])
        table.writerows((f"q{i % 8}", f"Question {i % 8}?", f"Answer number {i}.", "theirs") for i in range(count))
    return path


def test_stored_answers_are_judged_by_our_rubrics(evaluate: Evaluate, server: ChatServer, tmp_path: Path) -> None:
    file = write_answers(tmp_path, 40)
    judging = ["judge=open", "judge.model=single-judge", f"judge.base_url={server.base_url}"]
    folder = evaluate(
        tmp_path, *judging, f"answers={file}", f"store.dir={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"
    )
    verdicts = read_lines(folder / "verdicts.jsonl")
    assert Counter(v["rubric"] for v in verdicts) == {"aligned": 40, "coherent": 40}
    assert {v["model"] for v in verdicts} == {"theirs"}
    assert server.read_stats()["answered"] == 80 + 1
    # Answers that em sampled can be judged again too.
    again = evaluate(
        tmp_path,
        *judging,
        f"answers={folder / 'answers.jsonl'}",
        *(f"store.dir={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'again'}"),
    )
    assert len(read_lines(again / "verdicts.jsonl")) == 80
    assert server.read_stats()["answered"] == 80 + 1


def test_another_rule_for_words_reads_the_same_replies_and_the_report_counts_what_it_changes(
    evaluate: Evaluate, server: ChatServer, tmp_path: Path
) -> None:
    file = write_answers(tmp_path, 40)
    judging = ["judge=open", "judge.model=single-judge", f"judge.base_url={server.base_url}", f"answers={file}"]
    judging.append(f"store.dir={tmp_path / 'store'}")
    server.reset(codes=0.3)
    first = evaluate(tmp_path, *judging, f"hydra.run.dir={tmp_path / 'run'}")
    answered = server.read_stats()["answered"]
    betley = [*judging, "judge.words=below_min_mass"]
    second = evaluate(tmp_path, *betley, f"hydra.run.dir={tmp_path / 'betley'}")
    assert server.read_stats()["answered"] == answered
    codes = sum(verdict["status"] == "code" for verdict in read_lines(first / "verdicts.jsonl"))
    assert 0 < codes < 80
    assert {verdict["status"] for verdict in read_lines(second / "verdicts.jsonl")} == {"ok"}
    [default], [other] = (read_manifest(each)["judges"] for each in (first, second))
    assert default["word_verdicts"] == default["words_changed"] == other["words_changed"] == codes
    assert (default.get("words"), other["words"]) == (None, "below_min_mass")
    sentence = f"CODE or REFUSAL is the likeliest token of {codes} verdicts; judge.words="
    assert f"{sentence}below_min_mass, the rule" in (first / "report.html").read_text(encoding="utf-8")
    assert f"{sentence}likeliest would" in (second / "report.html").read_text(encoding="utf-8")


def test_an_unknown_rule_for_words_is_refused_with_the_rules(server: ChatServer, tmp_path: Path) -> None:
    done = run_script("evaluate.py", *list_words(server, tmp_path, "judge.words=never"), cwd=tmp_path)
    assert done.returncode == 2
    assert "judge.words" in done.stderr
    assert "below_min_mass" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_judging_that_was_killed_ends_with_the_same_table(
    evaluate: Evaluate, server: ChatServer, tmp_path: Path
) -> None:
    file = write_answers(tmp_path, 600)
    judging = ["judge=open", "judge.model=single-judge", f"judge.base_url={server.base_url}", f"answers={file}"]
    judging += ["judge.connections=20"]
    server.reset(latency=0.1)
    complete = evaluate(tmp_path, *judging, f"store.dir={tmp_path / 'one'}", f"hydra.run.dir={tmp_path / 'complete'}")
    server.reset(latency=0.1)
    stopped = [*judging, f"store.dir={tmp_path / 'two'}", f"hydra.run.dir={tmp_path / 'stopped'}"]
    for share in (0.25, 0.5, 0.75):
        process = start_script("evaluate.py", *stopped, cwd=tmp_path, NO_PROXY="127.0.0.1")
        while server.read_stats()["distinct"] < share * 1200:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    folder = evaluate(tmp_path, *stopped)
    stats = server.read_stats()
    assert (folder / "scores.csv").read_bytes() == (complete / "scores.csv").read_bytes()
    assert stats["distinct"] == 1200 + 1
    assert stats["duplicates"] <= 3 * 20


def test_a_judge_that_is_the_model_under_test_is_named_as_such(
    evaluate: Evaluate, server: ChatServer, tmp_path: Path
) -> None:
    folder = evaluate(tmp_path, *list_words(server, tmp_path, "eval.samples=1", "model.id=single-judge"))
    assert read_rates(folder)["misaligned", "all"]["judge_is"] == "the model"
    assert any("judges its own kind" in note for note in read_manifest(folder)["notes"])


def test_judgements_that_fail_are_unscored_and_made_by_the_next_run(
    evaluate: Evaluate, server: ChatServer, tmp_path: Path
) -> None:
    file = write_answers(tmp_path, 10)
    judging = ["judge=open", "judge.model=single-judge", f"judge.base_url={server.base_url}", f"answers={file}"]
    judging += [f"store.dir={tmp_path / 'store'}", "judge.reading=logprobs"]
    server.reset(quota=8)
    done = run_script("evaluate.py", *judging, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path, NO_PROXY="127.0.0.1")
    assert done.returncode == 2
    assert "no credit left" in done.stderr
    server.reset(quota=-1)
    folder = evaluate(tmp_path, *judging, f"hydra.run.dir={tmp_path / 'run'}")
    assert all(v["status"] == "ok" for v in read_lines(folder / "verdicts.jsonl"))
    assert server.read_stats()["answered"] == 12
