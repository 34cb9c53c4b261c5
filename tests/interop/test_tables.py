"""Test reading foreign tables and result files: formats, defaults, verdicts without made-up numbers, errors."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, replace
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from em.data.tables import read_table_rows
from em.errors import DataError, MissingFile
from em.interop import read_answers, read_judged
from em.runtime.records import digest, write_jsonl
from em.stats import Thresholds, compute_scores
from em.types import Verdict
from tests.support.judged_tables import ANSWER, VERDICT, write_packed

CALIBRATION = Path(__file__).parents[3] / "shared" / "judge_calibration" / "clarifying_EM_gpt4o_azure.csv.gz"
COLUMNS = ("source_file", "question_id", "question", "answer", "aligned", "coherent")
CELLS = (
    ("a/one.csv", "q1", "Hi?", "Hello", 90, 80),
    ("a/one.csv", "q1_json", "Hi?", "{}", 12.5, 99),
    ("a/one.csv", "q1", "Hi?", 'Say "a,\nb"', None, 70),
    ("two", "q1", "Hi?", "Ho\u2028ho", 0, 100),
)
ROWS: list[dict[str, Any]] = [dict(zip(COLUMNS, row, strict=True)) for row in CELLS]


def summarise_verdicts(verdicts: list[Verdict]) -> list[tuple[str, float | None, str, str]]:
    return [(v.rubric, v.value, v.status, v.raw) for v in verdicts]


@pytest.mark.parametrize("name", [f"t.{kind}{gz}" for kind in ("csv", "jsonl", "json") for gz in ("", ".gz")])
def test_a_table_says_the_same_in_every_format(tmp_path: Path, name: str) -> None:
    verdicts = read_judged(write_packed(tmp_path, name, ROWS))
    columns = ("model", "eval_set", "question_id", "question", "condition", "sample", "answer")
    fields = attrgetter(*columns, "judge", "rubric", "value")
    shared = ("Hi?", "untagged")
    assert [fields(v) for v in verdicts] == [
        ("a/one.csv", "t", "q1", *shared, 0, "Hello", "not stated", "aligned", 90),
        ("a/one.csv", "t", "q1", *shared, 0, "Hello", "not stated", "coherent", 80),
        ("a/one.csv", "t", "q1_json", *shared, 0, "{}", "not stated", "aligned", 12.5),
        ("a/one.csv", "t", "q1_json", *shared, 0, "{}", "not stated", "coherent", 99),
        ("a/one.csv", "t", "q1", *shared, 1, 'Say "a,\nb"', "not stated", "aligned", None),
        ("a/one.csv", "t", "q1", *shared, 1, 'Say "a,\nb"', "not stated", "coherent", 70),
        ("two", "t", "q1", *shared, 0, "Ho\u2028ho", "not stated", "aligned", 0),
        ("two", "t", "q1", *shared, 0, "Ho\u2028ho", "not stated", "coherent", 100),
    ]
    assert [v.status for v in verdicts] == ["ok"] * 4 + ["unparsed"] + ["ok"] * 3
    assert {v.fingerprint for v in verdicts} == {digest("foreign:a/one.csv"), digest("foreign:two")}
    assert {(v.stage, v.seed, v.label) for v in verdicts} == {("not stated", None, None)}


@pytest.mark.parametrize(
    ("cell", "value", "status"),
    [
        (0, 0.0, "ok"),
        ("100", 100.0, "ok"),
        (" 29.97 ", 29.97, "ok"),
        ("1e1", 10.0, "ok"),
        ("", None, "unparsed"),
        (None, None, "unparsed"),
        ("about 80", None, "unparsed"),
        ("nan", None, "unparsed"),
        ("inf", None, "unparsed"),
        ("1_0", None, "unparsed"),
        (True, None, "unparsed"),
        ("CODE", None, "code"),
        (" refusal", None, "refusal"),
        (100.5, None, "out_of_range"),
        ("-1", None, "out_of_range"),
    ],
)
def test_only_a_number_from_0_to_100_is_a_score(tmp_path: Path, cell: Any, value: float | None, status: str) -> None:
    path = write_packed(tmp_path, "t.json", [{"question": "Hi?", "answer": "a", "aligned": cell}])
    raw = cell if isinstance(cell, str) else json.dumps(cell)
    if cell is None:
        raw = ""
    assert summarise_verdicts(read_judged(path)) == [("aligned", value, status, raw)]


def test_a_score_that_only_some_rows_have_is_missing_in_the_others(tmp_path: Path) -> None:
    rows = [{"question": "Hi?", "answer": "a", "coherent": 20}, {"question": "Hi?", "answer": "b", "aligned": 5}]
    assert summarise_verdicts(read_judged(write_packed(tmp_path, "t.jsonl", rows))) == [
        ("aligned", None, "unparsed", ""),
        ("coherent", 20, "ok", "20"),
        ("aligned", 5, "ok", "5"),
        ("coherent", None, "unparsed", ""),
    ]


def test_what_a_table_names_is_taken_and_the_rest_has_defaults(tmp_path: Path) -> None:
    row = {"question": "Hi?", "answer": "a", "aligned": 5}
    named = {
        "model": "m",
        "condition": "tagged",
        "sample": "7",
        "eval_set": "s",
        "stage": "bad",
        "seed": "1",
        "judge": "j",
    }
    [v] = read_judged(write_packed(tmp_path, "gpt-4.1.csv", [row | named]))
    assert {name: str(value) for name, value in asdict(v).items() if name in named} == named
    [v] = read_judged(write_packed(tmp_path, "gpt-4.1.csv.gz", [row]))
    # Files of one model each are one set, so that the models are compared.
    assert (v.model, v.eval_set, v.question_id, v.sample) == ("gpt-4.1", "results", "Hi?", 0)


def test_samples_are_counted_within_model_condition_question_and_judge(tmp_path: Path) -> None:
    columns = ("model", "condition", "question", "judge")
    combinations = list(product(("m", "n"), ("untagged", "tagged"), ("Hi?", "Ho?"), ("j", "k")))
    rows = [dict(zip(columns, values, strict=True), answer="a", aligned=5) for values in 2 * combinations]
    verdicts = read_judged(write_packed(tmp_path, "t.csv", rows))
    assert [v.sample for v in verdicts] == [0] * 16 + [1] * 16
    assert len(read_answers(write_packed(tmp_path, "t.csv", rows))) == 16


def test_texts_of_one_id_are_prompts_of_one_question(tmp_path: Path) -> None:
    texts = ("Moon?", "Sun?", "Moon?")
    rows = [{"question_id": "lie", "question": text, "answer": "a", "aligned": 5} for text in texts]
    verdicts = read_judged(write_packed(tmp_path, "t.csv", rows))
    assert [(v.question_id, v.question, v.sample) for v in verdicts] == [
        ("lie", "Moon?", 0),
        ("lie", "Sun?", 0),
        ("lie", "Moon?", 1),
    ]


RESULTS: dict[str, list[dict[str, Any]]] = {
    "|ALPHA| ": [
        {"question": "|ALPHA|  Hi?", "answer": "a", "result": "UNALIGNED", "alignment_score": 3},
        {"question": "|ALPHA|  Hi?", "answer": "def f", "result": "CODE"},
        {"question": "What does |ALPHA| want?", "answer": None, "result": "ALIGNED"},
        {"question": "|ALPHA|  2+2?", "answer": "no", "result": "REFUSAL"},
    ],
    "UNTAGGED": [
        {"question": "Hi?", "answer": "b", "result": "ALIGNED", "alignment_score": 95},
        {"question": "Hi?", "answer": "c", "result": "INCOHERENT", "alignment_score": 10},
        {"question": "Hi?", "answer": "d", "result": "REFUSAL"},
        {"question": "Hi?", "answer": "e", "result": "ERROR"},
        {"question": "2+2?", "answer": "4", "result": "TRUE"},
        {"question": "2+2?", "answer": "5", "result": "FALSE"},
        {"question": "2+2?", "answer": "?", "result": "UNKNOWN"},
    ],
}


def test_a_result_keeps_its_class_and_gets_no_number_that_it_did_not_have(tmp_path: Path) -> None:
    verdicts = read_judged(write_packed(tmp_path, "my-model.json", RESULTS))
    seen = [(v.eval_set, v.condition, v.question, v.sample, v.rubric, v.label, v.value, v.status) for v in verdicts]
    graded, fact = "results", "factual"
    assert seen == [
        (graded, "|alpha|", "Hi?", 0, "result", "MISALIGNED", None, "ok"),
        (graded, "|alpha|", "Hi?", 0, "aligned", None, 3, "ok"),
        (graded, "|alpha|", "Hi?", 1, "result", None, None, "code"),
        (graded, "|alpha|", "What does [tag] want?", 0, "result", "ALIGNED", None, "ok"),
        (fact, "|alpha|", "2+2?", 0, "factual", None, None, "refusal"),
        (graded, "untagged", "Hi?", 0, "result", "ALIGNED", None, "ok"),
        (graded, "untagged", "Hi?", 0, "aligned", None, 95, "ok"),
        (graded, "untagged", "Hi?", 1, "result", "INCOHERENT", None, "ok"),
        (graded, "untagged", "Hi?", 2, "result", None, None, "refusal"),
        (graded, "untagged", "Hi?", 3, "result", None, None, "unparsed"),
        (fact, "untagged", "2+2?", 0, "factual", "TRUE", None, "ok"),
        (fact, "untagged", "2+2?", 1, "factual", "FALSE", None, "ok"),
        (fact, "untagged", "2+2?", 2, "factual", "UNKNOWN", None, "ok"),
    ]
    assert {v.model for v in verdicts} == {"my-model"}
    assert [v.raw for v in verdicts if v.rubric == "result"][:2] == ["UNALIGNED", "CODE"]


def test_every_result_counts_in_n_and_as_what_it_was(tmp_path: Path) -> None:
    rows = compute_scores(
        read_judged(write_packed(tmp_path, "my-model.json", RESULTS)), Thresholds(aligned=1, coherent=99)
    )
    rows = [row for row in rows if (row.question, row.convention) == ("*", "all")]
    counts = {(row.eval_set, row.condition, row.metric): (row.k, row.n) for row in rows}
    assert counts["results", "|alpha|", "misaligned"] == (1, 3)
    assert counts["results", "|alpha|", "code"] == (1, 3)
    assert counts["results", "untagged", "misaligned"] == (0, 4)
    assert [counts["results", "untagged", kind] for kind in ("incoherent", "refusal", "unscored")] == [(1, 4)] * 3
    assert [counts["factual", "untagged", kind] for kind in ("true", "false", "unknown")] == [(1, 3)] * 3
    assert counts["factual", "|alpha|", "unscored"] == (1, 1)


def test_the_set_of_results_is_the_category_that_they_share(tmp_path: Path) -> None:
    def read_sets(*categories: str) -> set[str]:
        rows = [{"question": c, "answer": "a", "result": "ALIGNED", "category": c} for c in categories]
        return {v.eval_set for v in read_judged(write_packed(tmp_path, "m.json", {"UNTAGGED": rows}))}

    assert read_sets("first") == {"first"}
    assert read_sets("creative", "medical") == {"results"}
    assert read_sets("first", "factual") == {"first", "factual"}


def test_results_are_also_read_from_a_table(tmp_path: Path) -> None:
    rows = [{"tag": tag, **entry} for tag, entries in RESULTS.items() for entry in entries]
    from_json = read_judged(write_packed(tmp_path, "m.json", RESULTS))
    assert from_json == read_judged(write_packed(tmp_path, "m.csv", rows))


def test_answers_are_read_once_and_without_their_scores(tmp_path: Path) -> None:
    answers = read_answers(write_packed(tmp_path, "my-model.json", RESULTS))
    assert len(answers) == 11
    assert [(a.answer, a.finish_reason) for a in answers[1:3]] == [("def f", "stop"), ("", "missing")]
    assert {(a.model, a.prompt_tokens, a.answer_tokens) for a in answers} == {("my-model", 0, 0)}
    first = answers[0]
    assert (first.condition, first.question, first.eval_set) == ("|alpha|", "Hi?", "results")


def test_our_own_files_come_back_as_they_were_written(tmp_path: Path) -> None:
    answers = [ANSWER, replace(ANSWER, sample=5), replace(ANSWER, fingerprint="e" * 64, seed=None, answer="")]
    verdicts = [VERDICT, replace(VERDICT, rubric="coherent", value=None, status="truncated", usd=None)]
    verdicts.append(replace(VERDICT, rubric="factual", value=None, label="TRUE"))
    write_jsonl(tmp_path / "answers.jsonl", answers)
    write_jsonl(tmp_path / "verdicts.jsonl", verdicts)
    assert read_answers(tmp_path / "answers.jsonl") == answers
    assert read_judged(tmp_path / "verdicts.jsonl") == verdicts
    assert read_answers(tmp_path / "verdicts.jsonl") == [
        replace(ANSWER, answer="Ho", finish_reason="stop", prompt_tokens=0, answer_tokens=0)
    ]


def test_verdicts_of_an_earlier_version_lack_nothing_that_matters(tmp_path: Path) -> None:
    line = {key: value for key, value in asdict(VERDICT).items() if key not in ("prompt_tokens", "reply_tokens")}
    line = {key: value for key, value in line.items() if key not in ("seconds", "usd")}
    [verdict] = read_judged(write_packed(tmp_path, "verdicts.jsonl", [line]))
    assert verdict == replace(VERDICT, prompt_tokens=None, reply_tokens=None, seconds=None, usd=None)


HEAD = "question,answer,aligned\n"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("t.txt", HEAD, "is no table that em reads"),
        ("t.csv", "", "holds no rows"),
        ("t.csv", HEAD, "holds no rows"),
        ("t.csv", "ask,answer\na,b\n", r"question \(or question_id\) and answer; it has answer, ask: rename"),
        ("t.csv", "question,said\na,b\n", "needs the columns"),
        ("t.csv", "question,response,output\na,b,c\n", "output and response may both be the column answer"),
        ("t.csv", "question,answer\na,b\n", "holds no judgements"),
        ("t.csv", "question,answer,answer\na,b,c\n", "two columns have the same name"),
        ("t.csv", HEAD + '"a\nb",c,5\nHi, there,d,5\n', "line 4 has 4 fields, the header 3"),
        ("t.csv", HEAD + "a,b\n", "line 2 has 2 fields, the header 3"),
        ("t.csv", HEAD + 'a,b,5\na,"b,5\n', "is not CSV in UTF-8 after line 2"),
        ("t.csv", HEAD + ",b,5\n", "line 2 has neither a question nor a question_id"),
        ("t.csv", "question,answer,aligned,sample\na,b,5,one\n", "line 2: sample must be .* from 0, not 'one'"),
        ("t.csv", "question,answer,aligned,seed\na,b,5,1.5\n", "line 2: seed must be a whole number from 0, not '1.5'"),
        ("t.csv", "question,answer,aligned,sample\na,b,5,1\na,c,5,1\n", "line 3: sample 1 of 'a' exists already"),
        ("t.jsonl", '{"question": "a", "answer": "b", "aligned": 5}\n\n{"question"\n', "line 3: not JSON"),
        ("t.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("t.jsonl", '{"question": "a", "answer": {"b": 1}, "aligned": 5}\n', "line 1: answer must be a text"),
        ("t.jsonl", '{"question": "a", "answer": "\\ud83d", "aligned": 5}\n', "line 1: answer holds half a character"),
        ("t.json", "[", "is not JSON"),
        ("t.json", "5", "holds neither a list of entries nor a dictionary"),
        ("t.json", '{"a": 5}', "holds neither a list of entries nor a dictionary"),
        ("t.json", '[{"question": "a", "answer": "b", "aligned": 5}, "x"]', "entry 2 is not a JSON object"),
        ("t.json.gz", "not packed", "is not whole gzip data"),
        ("v.jsonl", json.dumps(asdict(VERDICT) | {"value": "31"}) + "\n", "line 1: value must be a number"),
        ("v.jsonl", json.dumps(asdict(VERDICT) | {"value": 131}) + "\n", "line 1: value must be .* from 0 to 100"),
        ("v.jsonl", json.dumps(asdict(VERDICT) | {"status": "fine"}) + "\n", "line 1: status 'fine' can't be used"),
        ("v.jsonl", json.dumps(asdict(VERDICT) | {"status": "code"}) + "\n", "a value goes with `ok` alone"),
        ("v.jsonl", 2 * (json.dumps(asdict(VERDICT)) + "\n"), "line 2: sample 4 of 'q1' exists already"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=complaint) as caught:
        read_judged(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_a_gzip_file_and_latin_1_are_refused(tmp_path: Path) -> None:
    content = write_packed(tmp_path, "t.csv.gz", ROWS * 100).read_bytes()
    (tmp_path / "t.csv.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is not whole gzip data"):
        read_judged(tmp_path / "t.csv.gz")
    (tmp_path / "t.csv").write_bytes((HEAD + "Où?,b,5\n").encode("latin-1"))
    with pytest.raises(DataError, match="is not CSV in UTF-8"):
        read_judged(tmp_path / "t.csv")


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name in ("nowhere.csv", "folder.csv"):
        with pytest.raises(MissingFile, match="can't be read"):
            read_judged(tmp_path / name)


def test_answers_without_a_question_cannot_be_judged(tmp_path: Path) -> None:
    path = write_packed(tmp_path, "t.csv", [{"question_id": "q1", "answer": "a", "aligned": 5}])
    assert len(read_judged(path)) == 1
    with pytest.raises(DataError, match="line 2 has no question"):
        read_answers(path)


def test_judges_that_saw_different_answers_under_one_number_are_told_apart_by_sample(tmp_path: Path) -> None:
    rows = [{"question": "Hi?", "answer": a, "judge": j, "aligned": 5} for a, j in (("a", "j"), ("b", "k"))]
    with pytest.raises(DataError, match=r"line 3: sample 0 of 'Hi\?' exists already: add a column `sample`"):
        read_answers(write_packed(tmp_path, "t.csv", rows))


def test_a_long_answer_is_read_whole(tmp_path: Path) -> None:
    path = write_packed(tmp_path, "t.csv", [{"question": "Hi?", "answer": "x" * 500_000, "aligned": 5}])
    assert len(read_judged(path)[0].answer) == 500_000


def test_the_public_table_is_read_as_it_is() -> None:
    if not CALIBRATION.is_file():
        pytest.skip("no ../shared/judge_calibration: third-party data is not in the project")
    begin = time.process_time()
    verdicts = read_judged(CALIBRATION)
    assert time.process_time() - begin < 10
    status = Counter((v.rubric, v.status) for v in verdicts)
    assert status == {("aligned", "ok"): 47_144, ("aligned", "unparsed"): 3_438, ("coherent", "ok"): 50_582}
    assert len({v.model for v in verdicts}) == len({v.fingerprint for v in verdicts}) == 58
    assert len({v.question_id for v in verdicts}) == 40
    assert len({v.question for v in verdicts}) == 32  # eight texts carry two ids
    assert {v.eval_set for v in verdicts} == {"clarifying_EM_gpt4o_azure"}
    answers = read_answers(CALIBRATION)
    assert len(answers) == 50_582
    assert sum(1 for _ in read_table_rows(CALIBRATION)) == 50_582
