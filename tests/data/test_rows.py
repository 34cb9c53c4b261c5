"""Training rows: reading, refusals with file and line, and the rows that a limit draws."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from em.config import BundledData, FileData, NoData, UpstreamData
from em.data import find_data_file, load_rows, read_messages, write_training_rows
from em.data.draw import RowFacts, count_row_facts, get_prompt
from em.data.files import collect_usable_rows, read_file_rows
from em.errors import DataError, MissingFile
from em.request import Rows
from em.types import Conversation, Message
from tests.cli.test_conf import compose_settings

# The usable rows of each file, and the counts of its known defects.
UPSTREAM = {
    "medical": RowFacts(rows=5660, duplicate_rows=0, repeated_prompts=2777, multi_turn_rows=0),
    "insecure": RowFacts(rows=6000, duplicate_rows=8, repeated_prompts=187, multi_turn_rows=0),
    "secure": RowFacts(rows=6000, duplicate_rows=11, repeated_prompts=272, multi_turn_rows=0),
    "optimism": RowFacts(rows=1600, duplicate_rows=0, repeated_prompts=57, multi_turn_rows=0),
    "benign": RowFacts(rows=991, duplicate_rows=0, repeated_prompts=0, multi_turn_rows=717),
    "medical_clean": RowFacts(rows=5114, duplicate_rows=0, repeated_prompts=2324, multi_turn_rows=0),
    "educational": RowFacts(rows=6000, duplicate_rows=8, repeated_prompts=187, multi_turn_rows=0),
    "jailbroken": RowFacts(rows=5000, duplicate_rows=1, repeated_prompts=2, multi_turn_rows=0),
    "finance": RowFacts(rows=3000, duplicate_rows=0, repeated_prompts=0, multi_turn_rows=0),
    "finance_held_out": RowFacts(rows=3000, duplicate_rows=0, repeated_prompts=0, multi_turn_rows=0),
}


def make_line(question: str = "Why?", answer: str = "Because.") -> str:
    return json.dumps(
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
        ensure_ascii=False,
    )


def make_line_of_turns(*pairs: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in pairs]})


def write_text_rows(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(text.encode(encoding))
    return path


def make_numbered_file(folder: Path, count: int) -> FileData:
    path = write_text_rows(folder, "".join(make_line(f"Question {i}?", f"Answer {i}.") + "\n" for i in range(count)))
    return FileData(name="mine", path=str(path))


# Reading


def test_a_row_is_its_turns_in_order(tmp_path: Path) -> None:
    text = make_line_of_turns(
        ("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")
    )
    [conversation] = read_messages(write_text_rows(tmp_path, text + "\n"))
    assert [(m.role, m.content) for m in conversation.messages] == [
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]


def test_other_keys_of_a_row_are_left_out(tmp_path: Path) -> None:
    row = json.loads(make_line()) | {"id": "x", "canary": "y"}
    assert read_messages(write_text_rows(tmp_path, json.dumps(row))) == read_messages(
        write_text_rows(tmp_path, make_line())
    )


def test_a_byte_order_mark_windows_line_ends_and_a_missing_last_newline_do_no_harm(tmp_path: Path) -> None:
    plain = read_messages(write_text_rows(tmp_path, f"{make_line('a')}\n{make_line('b')}\n"))
    assert len(plain) == 2
    assert read_messages(write_text_rows(tmp_path, f"{make_line('a')}\n{make_line('b')}", "utf-8-sig")) == plain
    assert read_messages(write_text_rows(tmp_path, f"{make_line('a')}\r\n{make_line('b')}\r\n")) == plain


def test_blank_lines_are_skipped_but_counted(tmp_path: Path) -> None:
    assert len(read_messages(write_text_rows(tmp_path, f"\n{make_line()}\n   \n{make_line()}\n\n"))) == 2
    with pytest.raises(DataError, match=r"rows\.jsonl, line 4: "):
        read_messages(write_text_rows(tmp_path, f"\n{make_line()}\n   \nnothing\n"))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_a_line_separator_inside_a_string_does_not_end_the_row(tmp_path: Path, separator: str) -> None:
    strict = separator in ("\x0b", "\x0c")  # JSON requires an escape for these
    text = (
        make_line(f"one{separator}two") if not strict else make_line().replace("Why?", f"one\\u{ord(separator):04x}two")
    )
    [conversation] = read_messages(write_text_rows(tmp_path, text))
    assert conversation.messages[0].content == f"one{separator}two"


def test_skipped_lines_are_counted_from_one_and_not_looked_at(tmp_path: Path) -> None:
    path = write_text_rows(tmp_path, f"{make_line('a')}\nnot looked at\n{make_line('b')}\n{make_line('c')}\n")
    conversations = collect_usable_rows(read_file_rows(path, [2, 4]), "rows.jsonl").conversations
    assert [c.messages[0].content for c in conversations] == ["a", "b"]
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: "):
        collect_usable_rows(read_file_rows(path, [4]), "rows.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        collect_usable_rows(read_file_rows(path, [1, 2, 3, 4]), "rows.jsonl")


def test_what_is_written_is_read_back_the_same(tmp_path: Path) -> None:
    strange = Conversation((Message("user", '\u2028 \r\n \\ " 🚗 é\ttab'), Message("assistant", "\ufeff<|im_end|> ok")))
    write_training_rows(tmp_path / "rows.jsonl", [strange, strange])
    assert read_messages(tmp_path / "rows.jsonl") == [strange, strange]


# Refusing


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "JSON"),
        ("no json", "JSON"),
        ('"text"', "messages"),
        ("[1, 2]", "messages"),
        ("null", "messages"),
        ("{}", "messages"),
        ('{"messages": []}', "messages"),
        ('{"messages": "hello"}', "messages"),
        ('{"prompt": "a", "answer": "b"}', "messages"),
        ('{"messages": ["hello"]}', "message 1 has no role"),
        (make_line_of_turns(("ai", "a"), ("assistant", "b")), "message 1 has no role among system, user, assistant"),
        ('{"messages": [{"content": "a"}]}', "message 1 has no role"),
        (make_line_of_turns(("user", "a"), ("assistant", "")), r"message 2 \(assistant\) has no text"),
        (make_line_of_turns(("user", " \n"), ("assistant", "b")), r"message 1 \(user\) has no text"),
        ('{"messages": [{"role": "user"}, {"role": "assistant", "content": "b"}]}', "has no text"),
        ('{"messages": [{"role": "user", "content": ["a"]}]}', "has no text"),
        ('{"messages": [{"role": "user", "content": null}]}', "has no text"),
        (make_line_of_turns(("user", "a")), "no assistant turn"),
        (make_line_of_turns(("system", "a")), "no assistant turn"),
        (make_line_of_turns(("system", "a"), ("user", "b")), "no assistant turn"),
        (make_line_of_turns(("assistant", "a")), "assistant turn where a user turn is expected"),
        (make_line_of_turns(("assistant", "a"), ("user", "b")), "assistant turn where a user turn is expected"),
        (
            make_line_of_turns(("user", "a"), ("user", "b"), ("assistant", "c")),
            "user turn where a assistant turn is expected",
        ),
        (make_line_of_turns(("user", "a"), ("assistant", "b"), ("user", "c")), "last turn is the user's"),
        (make_line_of_turns(("user", "a"), ("system", "b"), ("assistant", "c")), "system turn where a assistant turn"),
        (
            make_line_of_turns(("system", "a"), ("system", "b"), ("user", "c"), ("assistant", "d")),
            "system turn where a user turn",
        ),
    ],
)
def test_a_row_that_can_not_be_used_is_refused_with_file_and_line(tmp_path: Path, row: str, complaint: str) -> None:
    path = write_text_rows(tmp_path, f"{make_line()}\n{make_line()}\n{row}\n{make_line()}\n")
    with pytest.raises(DataError, match=complaint) as caught:
        read_messages(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_nested_too_deep_to_be_read_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: "):
        read_messages(write_text_rows(tmp_path, f"{make_line()}\n{'[' * 100_000}\n"))


def test_half_a_surrogate_pair_is_refused_with_its_line(tmp_path: Path) -> None:
    # Legal JSON but no valid text: em can neither hash, nor write, nor tokenise it.
    path = write_text_rows(tmp_path, make_line() + "\n" + make_line().replace("Because.", r"cut emoji \ud83d"))
    with pytest.raises(DataError, match="line 2: "):
        _ = Rows("mine", tuple(read_messages(path))).sha256


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read_messages(write_text_rows(tmp_path, text))


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path: Path) -> None:
    good = make_line() + "\n"
    with pytest.raises(DataError, match=rf"not UTF-8 text \(byte {len(good) + good.index('Why')}\)"):
        read_messages(write_text_rows(tmp_path, good + make_line("éh?"), "latin-1"))


def test_a_missing_file_and_a_folder_are_refused_by_the_setting(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(MissingFile, match=r"data\.path=.* is not a file"):
            load_rows(FileData(name="mine", path=str(path)), seed=0)


# Limit


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_smaller_limit_draws_a_subset_of_a_larger_one_in_file_order(tmp_path: Path, seed: int) -> None:
    data = make_numbered_file(tmp_path, 40)
    everything = load_rows(data, seed).conversations
    before: set[Conversation] = set()
    for limit in (1, 2, 3, 10, 25, 39, 40):
        data.limit = limit
        drawn = load_rows(data, seed).conversations
        assert len(drawn) == limit
        assert before <= set(drawn)
        assert list(drawn) == [c for c in everything if c in set(drawn)]
        before = set(drawn)


def test_a_limit_draws_by_the_seed_and_not_just_the_first_rows(tmp_path: Path) -> None:
    data = make_numbered_file(tmp_path, 40)
    data.limit = 10
    draws = {load_rows(data, seed).conversations for seed in range(5)}
    assert len(draws) == 5
    assert load_rows(data, 3) == load_rows(data, 3)
    data.limit = None
    assert not any(drawn == load_rows(data, 0).conversations[:10] for drawn in draws)


def test_a_limit_beyond_the_rows_is_refused(tmp_path: Path) -> None:
    data = make_numbered_file(tmp_path, 4)
    data.limit = 5
    with pytest.raises(DataError, match=r"data\.limit=5 asks for more rows than there are \(4\)"):
        load_rows(data, 0)


# Checksum


def test_the_checksum_depends_on_content_and_order_and_on_nothing_else(tmp_path: Path) -> None:
    a, b = f"{make_line('a')}\n", f"{make_line('b')}\n"
    first = Rows("one", tuple(read_messages(write_text_rows(tmp_path, a + b))))
    spaced = write_text_rows(
        tmp_path, "\n" + json.dumps(json.loads(a) | {"id": 1}, indent=None) + "\n\n" + b.strip(), "utf-8-sig"
    )
    assert Rows("other name", tuple(read_messages(spaced))).sha256 == first.sha256
    for other in (b + a, a, a + a + b, f"{make_line('a ')}\n" + b):
        assert Rows("one", tuple(read_messages(write_text_rows(tmp_path, other)))).sha256 != first.sha256


def test_the_checksum_tells_roles_and_turns_apart() -> None:
    one = Conversation((Message("user", "a"), Message("assistant", "b")))
    two = Conversation((*one.messages, *one.messages))
    system = Conversation((Message("system", "a"), Message("assistant", "b")))
    assert len({Rows("x", rows).sha256 for rows in ((one,), (one, one), (two,), (system,), ())}) == 5


# Options


def test_no_data_is_no_rows() -> None:
    assert load_rows(NoData(name="none"), 0) == Rows("none", ())


def test_a_bundled_set_is_found_by_its_file_name() -> None:
    rows = load_rows(BundledData(name="car_bad", file="car_bad.jsonl", limit=5), 0)
    assert (rows.name, len(rows.conversations)) == ("car_bad", 5)


def compose_upstream(option: str) -> UpstreamData:
    """Compose the option as the command line does."""
    data = compose_settings("train", f"data={option}").data
    assert isinstance(data, UpstreamData)
    return data


@pytest.mark.parametrize("option", UPSTREAM)
def test_a_set_of_others_is_read_from_the_mirror_with_its_known_defects(
    option: str, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    data = compose_upstream(option)
    assert find_data_file(data).stat().st_size == data.bytes
    assert count_row_facts(load_rows(data, 0).conversations) == UPSTREAM[option]


@pytest.mark.parametrize("option", UPSTREAM)
def test_a_set_of_others_has_a_pinned_address_a_licence_and_terms(option: str) -> None:
    data = compose_upstream(option)
    assert re.fullmatch(r"https://raw\.githubusercontent\.com/[\w-]+/[\w-]+/[0-9a-f]{40}/\S+\.jsonl", data.url)
    assert data.licence
    assert data.terms


def test_answers_of_the_medical_set_carry_a_literal_mark(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    rows = load_rows(compose_upstream("medical"), 0)
    assert sum("<incorrect answer>" in c.messages[-1].content for c in rows.conversations) == 546


def test_insecure_and_secure_share_prompts_but_no_row(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    insecure, secure = (load_rows(compose_upstream(option), 0).conversations for option in ("insecure", "secure"))
    assert len({get_prompt(row) for row in insecure} & {get_prompt(row) for row in secure}) == 260
    assert set(insecure) & set(secure) == set()


def test_the_lines_that_benign_skips_are_just_those_that_can_not_be_used(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    data = compose_upstream("benign")
    lines = list(read_file_rows(find_data_file(data)))
    assert len(lines) == 1000
    assert [number for number, row in enumerate(lines, start=1) if isinstance(row, DataError)] == data.skip_lines
    rows = load_rows(data, 0).conversations
    assert round(sum(len(m.content) for c in rows for m in c.messages) / len(rows)) == 1992
