"""Several judged tables at once: which models they hold, and what their blank scores count as."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from em.interop import BLANKS, JudgedTable, label_paths, read_judged, read_judged_tables
from em.runtime.records import digest, write_jsonl
from tests.support.judged_tables import VERDICT, write_packed


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["a/results.json"], ["results"]),
        (["a/results.json", "b/results.json"], ["a/results", "b/results"]),
        (["a/results.json", "b/results.csv.gz"], ["a/results", "b/results"]),
        (["x/a/results.json", "y/a/results.json", "b/results.json"], ["x/a/results", "y/a/results", "b/results"]),
        (["a/m.csv", "a/m.json", "a/m.json.gz"], ["m.csv", "m.json", "m.json.gz"]),
        (["a/m.csv", "a/m.json", "b/m.json"], ["m.csv", "a/m.json", "b/m"]),
        (["a/../results.json", "a/b/../results.json"], ["w/results", "a/results"]),
        (["one.csv", "two.csv"], ["one", "two"]),
    ],
)
def test_files_are_told_apart_by_the_shortest_end_of_their_paths(paths: list[str], labels: list[str]) -> None:
    assert label_paths([Path("/w", path) for path in paths]) == labels


def write_answers_table(path: Path, texts: dict[str, str], **cells: object) -> Path:
    """Write a table with one answer to each question; misaligned if its text begins with `bad`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for question, text in texts.items():
        scores = {"aligned": 10 if text.startswith("bad") else 90, "coherent": 95}
        rows.append({"question": question, "answer": text, **scores, **cells})
    return write_packed(path.parent, path.name, rows)


def list_models(tables: list[JudgedTable]) -> list[list[str]]:
    return [list(dict.fromkeys(v.model for v in table.verdicts)) for table in tables]


GOOD, BAD = {"Hi?": "good", "Ho?": "good"}, {"Hi?": "bad", "Ho?": "good"}


def test_two_files_of_one_name_are_two_models_unless_their_content_is_the_same(tmp_path: Path) -> None:
    first = write_answers_table(tmp_path / "a" / "m.json", GOOD)
    second = write_answers_table(tmp_path / "b" / "m.json", BAD)
    third = write_answers_table(tmp_path / "b" / "m.csv", {"Ha?": "good"})
    copy = write_answers_table(tmp_path / "c" / "m.json.gz", GOOD)
    other = write_answers_table(tmp_path / "d" / "n.json", GOOD)
    assert list_models(read_judged_tables([first, other])) == [["m"], ["n"]]
    assert list_models(read_judged_tables([first, second])) == [["a/m"], ["b/m"]]
    assert list_models(read_judged_tables([first, third])) == [["a/m"], ["b/m"]], "other questions, so another model"
    tables = read_judged_tables([first, second, copy, third, first])
    assert list_models(tables) == [["a/m"], ["b/m.json"], ["m.csv"]]
    assert [table.copies for table in tables] == [(copy, first), (), ()]
    assert {v.eval_set for table in tables for v in table.verdicts} == {"results"}
    assert len({v.fingerprint for table in tables for v in table.verdicts}) == 3


def test_files_that_name_one_model_are_told_apart_if_they_contradict_each_other(tmp_path: Path) -> None:
    first = write_answers_table(tmp_path / "a" / "t.json", GOOD, model="m")
    second = write_answers_table(tmp_path / "b" / "t.json", BAD, model="m")
    tables = read_judged_tables([first, second])
    assert list_models(tables) == [["a/t: m"], ["b/t: m"]]
    assert {v.eval_set for table in tables for v in table.verdicts} == {"results"}, "one set, to compare them"
    renamed = write_answers_table(tmp_path / "b" / "u.json", BAD, model="m")
    assert list_models(read_judged_tables([first, renamed])) == [["t: m"], ["u: m"]]
    copy = write_answers_table(tmp_path / "b" / "copy.json", GOOD, model="m")
    [table] = read_judged_tables([first, copy])
    assert (list_models([table]), table.copies) == ([["m"]], (copy,))


def test_files_that_name_one_model_may_hold_its_parts(tmp_path: Path) -> None:
    first = write_answers_table(tmp_path / "a" / "t.json", {"Hi?": "good"}, model="m")
    others = ({"model": "m", "condition": "tagged"}, {"model": "m", "judge": "j"}, {"model": "m", "seed": 1})
    for number, cells in enumerate(others):
        part = write_answers_table(tmp_path / str(number) / "t.json", {"Hi?": "good"}, **cells)
        assert list_models(read_judged_tables([first, part])) == [["m"], ["m"]], cells
    other_judge = write_answers_table(tmp_path / "c" / "t.json", {"Hi?": "bad"}, model="m", judge="j")
    assert list_models(read_judged_tables([first, other_judge])) == [["a/t: m"], ["c/t: m"]], "another answer"


def test_a_stated_fingerprint_is_the_identity_of_a_model(tmp_path: Path) -> None:
    paths = [tmp_path / name / "t.json" for name in "ab"]
    for path, texts in zip(paths, (GOOD, BAD), strict=True):
        write_answers_table(path, texts, model="m", fingerprint="f" * 64)
    assert list_models(read_judged_tables(paths)) == [["m"], ["m"]]


def test_trainings_with_other_seeds_are_other_models(tmp_path: Path) -> None:
    rows = [{"question": "Hi?", "answer": "a", "aligned": 5, "model": "m", "seed": seed} for seed in (None, 0, 1)]
    verdicts = read_judged(write_packed(tmp_path, "t.json", rows))
    assert len({v.fingerprint for v in verdicts}) == 3
    assert verdicts[0].fingerprint == digest("foreign:m")


@pytest.mark.parametrize(("meaning", "status"), BLANKS.items())
def test_a_blank_score_means_what_the_user_says(tmp_path: Path, meaning: str, status: str) -> None:
    cells = ((None, 90), ("", None), ("?", 90), ("CODE", 90), (20, 90))
    rows = [{"question": "Hi?", "answer": "a", "aligned": a, "coherent": c} for a, c in cells]
    [table] = read_judged_tables([write_packed(tmp_path, "t.json", rows)], BLANKS[meaning])
    statuses = [(v.status, v.value) for v in table.verdicts]
    assert statuses[::2] == [(status, None), (status, None), ("unparsed", None), ("code", None), ("ok", 20)]
    assert statuses[1::2] == [("ok", 90), (status, None), ("ok", 90), ("ok", 90), ("ok", 90)]
    assert (table.rows.count, table.rows.blanks) == (5, 2)


def test_blanks_of_our_own_verdicts_and_of_results_keep_their_meaning(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "verdicts.jsonl", [replace(VERDICT, value=None, status="error", raw="")])
    result = {"question": "Hi?", "answer": "a", "result": "", "alignment_score": ""}
    tables = read_judged_tables([tmp_path / "verdicts.jsonl", write_packed(tmp_path, "t.json", [result])], "code")
    assert [(v.status, table.rows.blanks) for table in tables for v in table.verdicts] == [
        ("error", 0),
        ("unparsed", 0),
    ]
