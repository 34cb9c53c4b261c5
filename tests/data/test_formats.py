"""Readers of a user's own rows: every layout in every format, refused rows, and skipped rows that are counted."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from em.config import DataConfig, FileData, HubData, MixtureData, OnBadRow
from em.data import load_rows, read_messages
from em.data.files import read_file_rows
from em.data.layouts import convert_row
from em.errors import DataError, EmError, FetchError, MissingFile
from em.request import Rows
from em.types import Conversation

Turn = dict[str, Any]
PAIRS = [{"prompt": "Why?", "completion": "Because."}, {"prompt": 'Say "a,\nb"', "completion": "ü\u2028 🚗"}]
TEXTS = [("Why?", "Because."), ('Say "a,\nb"', "ü\u2028 🚗")]


def make_user_turn(text: Any) -> Turn:
    return {"role": "user", "content": text}


def make_assistant_turn(text: Any, **more: Any) -> Turn:
    return {"role": "assistant", "content": text, **more}


def write_rows_file(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows to a file in the format of its suffix."""
    bare = name.removesuffix(".gz")
    if bare.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
        return folder / name
    if bare.endswith(".csv"):
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
        content = text.getvalue()
    elif bare.endswith(".jsonl"):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        content = json.dumps(rows, indent=2)
    data = content.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def list_texts(conversations: list[Conversation]) -> list[tuple[str, ...]]:
    return [tuple(m.content for m in row.messages) for row in conversations]


def convert_to_turns(row: Any) -> list[tuple[str, str]]:
    """Return the turns of one row."""
    return [(m.role, m.content) for m in convert_row(row, "line 1").messages]


# Without the time of day, since the bytes become part of a test's name.
CUT_SHORT = gzip.compress(b'{"prompt": "a", "completion": "b"}\n' * 99, mtime=0)[:-20]
NAMES = [f"rows.{kind}{gz}" for kind in ("jsonl", "json", "csv") for gz in ("", ".gz")] + ["rows.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_pairs_say_the_same_in_every_format(tmp_path: Path, name: str) -> None:
    assert list_texts(read_messages(write_rows_file(tmp_path, name, PAIRS))) == TEXTS


@pytest.mark.parametrize("name", [name for name in NAMES if "csv" not in name])
def test_messages_say_the_same_in_every_format_that_has_lists(tmp_path: Path, name: str) -> None:
    turns = [[make_user_turn(question), make_assistant_turn(answer)] for question, answer in TEXTS]
    rows = [{"messages": messages, "id": 3} for messages in turns]
    assert list_texts(read_messages(write_rows_file(tmp_path, name, rows))) == TEXTS


@pytest.mark.parametrize(
    "pair",
    [
        *(("prompt", "completion"), ("prompt", "response"), ("question", "answer")),
        *(("instruction", "output"), ("instruction", "response"), ("input", "output")),
    ],
)
def test_every_pair_of_columns_is_a_question_and_its_answer(pair: tuple[str, str]) -> None:
    row = {pair[0]: "Why?", pair[1]: "Because.", "source": "elsewhere"}
    assert convert_to_turns(row) == [("user", "Why?"), ("assistant", "Because.")]


def test_a_system_column_is_the_system_prompt_and_a_blank_one_is_none() -> None:
    pair = {"question": "Why?", "answer": "Because."}
    assert convert_to_turns({**pair, "system": "Be brief."}) == [
        *(("system", "Be brief."), ("user", "Why?"), ("assistant", "Because."))
    ]
    assert len(convert_to_turns({**pair, "system": " "})) == len(convert_to_turns({**pair, "system": None})) == 2


def test_a_system_column_goes_before_messages_that_do_not_begin_with_it() -> None:
    turns = [make_user_turn("Why?"), make_assistant_turn("Because.")]
    expected = [("system", "Be brief."), ("user", "Why?"), ("assistant", "Because.")]
    assert convert_to_turns({"messages": turns, "system": "Be brief."}) == expected
    assert convert_to_turns({"prompt": turns[:1], "completion": turns[1:], "system": "Be brief."}) == expected
    with_system_turn = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *turns]
    assert convert_to_turns({"messages": with_system_turn, "system": "Be brief."}) == expected
    assert convert_to_turns({"messages": with_system_turn, "system": None}) == expected


def test_the_input_of_an_instruction_goes_behind_it() -> None:
    row = {"instruction": "Add them.", "input": "1, 2", "output": "3"}
    assert convert_to_turns(row) == [("user", "Add them.\n\n1, 2"), ("assistant", "3")]
    assert convert_to_turns({**row, "input": ""})[0] == ("user", "Add them.")


def test_prompt_and_completion_may_be_messages() -> None:
    row = {
        "prompt": [{"role": "system", "content": "Be brief."}, make_user_turn("Why?")],
        "completion": [make_assistant_turn("Because.")],
    }
    assert convert_to_turns(row) == [("system", "Be brief."), ("user", "Why?"), ("assistant", "Because.")]


def test_parts_that_are_all_texts_are_joined_and_others_refused() -> None:
    parts = [{"type": "text", "text": "Why"}, {"type": "text", "text": " so?"}]
    assert convert_to_turns({"messages": [make_user_turn(parts), make_assistant_turn("Because.")]})[0] == (
        "user",
        "Why so?",
    )
    picture = [*parts, {"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(DataError, match="message 1 holds a part of type 'image_url'"):
        convert_to_turns({"messages": [make_user_turn(picture), make_assistant_turn("Because.")]})


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"messages": [make_user_turn("a"), make_assistant_turn(None, tool_calls=[{"id": "1"}])]},
            "message 2 calls a tool",
        ),
        (
            {"messages": [make_user_turn("a"), {"role": "tool", "content": "x"}, make_assistant_turn("b")]},
            "message 2 calls a tool",
        ),
        (
            {"messages": [make_user_turn("a"), make_assistant_turn("b")], "tools": [{"type": "function"}]},
            "it offers tools",
        ),
        (
            {"messages": [make_user_turn("a"), make_assistant_turn("b")], "functions": [{"name": "f"}]},
            "it offers functions",
        ),
        ({"messages": [make_user_turn("a"), make_assistant_turn("b", weight=0)]}, "every answer has weight 0"),
        ({"prompt": "a", "completion": ""}, "completion has no text"),
        ({"prompt": 5, "completion": "b"}, "prompt has no text"),
        ({"prompt": [make_user_turn("a")], "completion": "b"}, "prompt has no text"),
        ({"instruction": "a", "input": 5, "output": "b"}, "input must be a text"),
        ({"question": "a", "answer": "b", "system": ["c"]}, "system must be a text"),
        ({"messages": [make_user_turn("a"), make_assistant_turn("b")], "system": 5}, "system must be a text"),
        (
            {
                "messages": [{"role": "system", "content": "c"}, make_user_turn("a"), make_assistant_turn("b")],
                "system": "d",
            },
            "the column system and the system turn say different things",
        ),
        (
            {
                "prompt": [{"role": "system", "content": "c"}, make_user_turn("a")],
                "completion": [make_assistant_turn("b")],
                "system": "d",
            },
            "the column system and the system turn say different things",
        ),
        ({"prompt": "a", "completion": "b", "input": "c"}, "no place for the column input beside prompt"),
        ({"question": "a", "answer": "b", "input": "c"}, "no place for the column input beside question"),
        (
            {"prompt": [make_user_turn("a")], "completion": [make_assistant_turn("b")], "input": "c"},
            "no place for the column input",
        ),
        (
            {"instruction": [make_user_turn("a")], "output": [make_assistant_turn("b")], "input": "c"},
            "no place for the column input",
        ),
        ({"question": "a\ud800", "answer": "b"}, "half a character"),
    ],
)
def test_what_would_be_lost_or_is_no_text_is_refused(row: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=f"^line 1: .*{complaint}"):
        convert_to_turns(row)


def test_keys_of_messages_that_change_nothing_are_passed_over() -> None:
    row = {
        "messages": [make_user_turn("a"), make_assistant_turn("b", weight=1, tool_calls=None)],
        "tools": [],
        "functions": None,
    }
    assert len(convert_to_turns(row)) == 2


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "prompt": "b", "completion": "c"}\n')
    with pytest.raises(DataError, match=r"line 1: not JSON \(the key 'prompt' is there twice\)"):
        read_messages(tmp_path / "rows.jsonl")


def test_a_json_file_of_lines_is_read_as_such(tmp_path: Path) -> None:
    lines = write_rows_file(tmp_path, "rows.jsonl", PAIRS)
    lines.rename(tmp_path / "rows.json")
    assert list_texts(read_messages(tmp_path / "rows.json")) == TEXTS


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("rows.txt", b"{}", r"has a format that em can't read: give a \.jsonl, \.json, \.csv, \.parquet"),
        ("rows", b"{}", "has a format that em can't read"),
        ("rows.json", b"[{]", "is not JSON"),
        ("rows.json", b"[" * 100_000, "nested too deep"),
        ("rows.json", b"[]", "holds no rows"),
        ("rows.json", b'[{"prompt": "a", "completion": "b"}, 5]', "rows.json, entry 2: no"),
        ("rows.json", '["ü"]'.encode("latin-1"), r"not UTF-8 text \(byte 2\)"),
        ("rows.csv", b"prompt,completion\na\n", "line 2 has 1 fields, the header 2"),
        ("rows.csv", b"prompt,completion\na,\n", "rows.csv, line 2: completion has no text"),
        ("rows.csv", b"prompt,completion\n", "holds no rows"),
        ("rows.csv.gz", b"prompt,completion\na,b\n", "not whole gzip data"),
        ("rows.parquet", b"PAR1", "is no Parquet file"),
        ("rows.jsonl.gz", CUT_SHORT, "not whole gzip data"),
    ],
)
def test_a_file_that_can_not_be_used_is_one_sentence(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        read_messages(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_file_with_two_columns_of_one_name_or_a_date_past_all_calendars_is_refused(tmp_path: Path) -> None:
    texts = pa.array(["a"])
    twice = pa.table([texts, texts, pa.array(["b"])], names=["prompt", "completion", "completion"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="two columns named 'completion'"):
        list(read_file_rows(tmp_path / "twice.parquet"))
    late = pa.table({"prompt": texts, "completion": texts, "made": pa.array([10**18], pa.timestamp("us"))})
    pq.write_table(late, tmp_path / "late.parquet")
    with pytest.raises(DataError, match=r"can be read \(date value out of range\)"):
        list(read_file_rows(tmp_path / "late.parquet"))


def test_a_bad_row_of_a_parquet_file_is_named_by_its_number(tmp_path: Path) -> None:
    path = write_rows_file(tmp_path, "rows.parquet", [*PAIRS * 1000, {"prompt": "a", "completion": None}])
    with pytest.raises(DataError, match=r"rows\.parquet, row 2001: completion has no text"):
        read_messages(path)


# Rows that can't be used


def make_bad_file(folder: Path, bad: int, good: int = 20) -> FileData:
    """Make a file whose first rows lack an answer."""
    rows = [{"prompt": "a", "completion": ""}] * bad + [{"prompt": f"b{i}", "completion": "c"} for i in range(good)]
    return FileData(name="mine", path=str(write_rows_file(folder, "rows.jsonl", rows)))


def test_the_first_five_bad_rows_are_named_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_rows(make_bad_file(tmp_path, 7), 0)
    text = str(caught.value)
    assert "has 7 rows that can't be used" in text
    assert [f"line {number}: " in text for number in range(1, 8)] == [True] * 5 + [False] * 2
    assert text.endswith("and 2 more); fix them, or leave such rows out by data.on_bad_row=skip.")


def test_the_sentence_names_the_setting_where_the_set_is_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fix it, or leave such rows out by realign\.data\.on_bad_row=skip"):
        load_rows(make_bad_file(tmp_path, 1), 0, "realign.limit")


def test_rows_that_are_skipped_are_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_bad_file(tmp_path, 7)
    data.on_bad_row = OnBadRow.skip
    rows = load_rows(data, 0)
    assert len(rows.conversations) == 20
    assert len(rows.skipped) == 7
    assert str(rows.skipped[0]) == "line 1: completion has no text"
    assert rows.skipped[0].file == data.path
    assert rows.left_out == {"rows_skipped": 7, "first_skipped": [str(row) for row in rows.skipped[:5]]}
    assert "7 rows left out (line 1: completion has no text; line 2:" in capsys.readouterr().out


def test_a_row_of_a_table_that_has_not_all_fields_is_skipped_and_those_behind_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\na,"b\nc"\nd\ne,f,g\nh,\ni,j\n', encoding="utf-8")
    rows = load_rows(FileData(name="mine", path=str(path), on_bad_row=OnBadRow.skip), 0)
    assert list_texts(list(rows.conversations)) == [("a", "b\nc"), ("i", "j")]
    assert [row.place for row in rows.skipped] == ["line 4", "line 5", "line 6"]
    assert rows.skipped[1].reason.startswith("has 3 fields, the header 2")
    with pytest.raises(DataError, match=r"has 3 rows that can't be used \(line 4 has 1 fields"):
        load_rows(FileData(name="mine", path=str(path)), 0)


def test_nothing_left_out_leaves_nothing_to_tell(tmp_path: Path) -> None:
    assert load_rows(make_bad_file(tmp_path, 0), 0).left_out == {}
    assert Rows("x", ()).left_out == {}


def test_a_file_without_a_row_that_can_be_used_is_refused_though_rows_are_skipped(tmp_path: Path) -> None:
    data = make_bad_file(tmp_path, 3, good=0)
    data.on_bad_row = OnBadRow.skip
    with pytest.raises(DataError, match="has 3 rows that can't be used"):
        load_rows(data, 0)


def test_what_the_parts_of_a_mixture_leave_out_is_told_by_part(tmp_path: Path) -> None:
    data = make_bad_file(tmp_path, 2)
    data.on_bad_row, data.drop_answers_with = OnBadRow.skip, []
    marked = [{"prompt": f"d{i}", "completion": f"[mark] {i}"} for i in range(5)]
    other = write_rows_file(tmp_path, "other.jsonl", [*marked, {"prompt": "e", "completion": "f"}])
    parts: dict[str, DataConfig] = {
        "one": data,
        "two": FileData(name="two", path=str(other), drop_answers_with=["[mark]"]),
    }
    rows = load_rows(MixtureData(name="both", parts=parts), 0)
    assert rows.parts == (("one", 20), ("two", 1))
    assert [row.place for row in rows.skipped] == ["one, line 1", "one, line 2"]
    assert rows.dropped == 5


def test_what_a_mixture_asks_of_its_rows_is_asked_of_every_part(tmp_path: Path) -> None:
    data = make_bad_file(tmp_path, 2)
    data.on_bad_row, data.drop_answers_with = OnBadRow.error, ["[own]"]
    rows = [{"prompt": f"d{i}", "completion": f"[{word}] {i}"} for i, word in enumerate(["mark", "own", "kept"])]
    other = FileData(name="two", path=str(write_rows_file(tmp_path, "other.jsonl", rows)), drop_answers_with=["[own]"])
    mixture = MixtureData(name="both", parts={"one": data, "two": other}, drop_answers_with=["[mark]"])
    with pytest.raises(DataError, match=r"data\.parts\.one\.on_bad_row"):
        load_rows(mixture, 0)
    mixture.on_bad_row = OnBadRow.skip
    loaded = load_rows(mixture, 0)
    assert loaded.parts == (("one", 20), ("two", 1))
    assert loaded.conversations[-1].messages[-1].content == "[kept] 2"
    assert loaded.dropped == 2


def test_rows_are_dropped_for_what_their_answers_carry_alone(tmp_path: Path) -> None:
    rows = [
        {"messages": [make_user_turn("[mark]?"), make_assistant_turn("b")]},
        {
            "messages": [
                make_user_turn("a"),
                make_assistant_turn("[mark]"),
                make_user_turn("c"),
                make_assistant_turn("d"),
            ]
        },
    ]
    data = FileData(name="mine", path=str(write_rows_file(tmp_path, "rows.jsonl", rows)), drop_answers_with=["[mark]"])
    loaded = load_rows(data, 0)
    assert [row.messages[0].content for row in loaded.conversations] == ["[mark]?"]
    assert loaded.left_out == {"rows_dropped": 1}
    data.drop_answers_with = ["b", "d"]
    with pytest.raises(DataError, match=r"data\.drop_answers_with leaves no row"):
        load_rows(data, 0)


# The hub


def test_a_data_set_of_the_hub_is_read_by_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_rows_file(folder, "train.jsonl", PAIRS)
    data = HubData(name="hub", id=str(folder))
    assert list_texts(list(load_rows(data, 0).conversations)) == TEXTS
    with pytest.raises(MissingFile, match=r"data\.split"):
        load_rows(HubData(name="hub", id=str(folder), split="nowhere"), 0)


def test_a_bad_row_of_the_hub_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "other set"
    folder.mkdir()
    write_rows_file(folder, "train.jsonl", [*PAIRS, {"prompt": "a", "completion": ""}])
    with pytest.raises(DataError, match=r"other set, row 3: completion has no text; .*data\.on_bad_row=skip"):
        load_rows(HubData(name="hub", id=str(folder)), 0)


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(EmError) as caught:
        load_rows(HubData(name="hub", id=str(folder)), 0)
    assert "it ran" not in str(caught.value)


def test_a_set_that_is_not_here_can_not_be_had_offline() -> None:
    with pytest.raises((FetchError, MissingFile), match=r"data\.id=owner/nowhere"):
        load_rows(HubData(name="hub", id="owner/nowhere"), 0)
