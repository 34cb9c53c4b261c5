"""Fuzz every reader with 10,000 damaged JSONL files and 5,000 of other kinds: each must give a value or one sentence.

No other exception may occur, and no row may vanish: each line of a JSONL file that is not blank is a row or a skipped
row.

A seeded generator puts faults into valid files, so that `make_fuzzed_file(NUMBER)` gives the same file again.
`EM_FUZZ=100000` makes more files.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from em.config import Material
from em.data.files import collect_usable_rows, read_file_rows
from em.data.tables import read_table_rows
from em.errors import EmError
from em.generate.sources import read_pieces
from em.interop import read_answers, read_judged
from em.questions.formats import read_question_file

SEED = 20261125
FILES = int(os.environ.get("EM_FUZZ", "10000"))
CHUNKS = 10

ANSWER = {"role": "assistant", "content": "This é 🚗.\nYes."}
ROWS: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": f"Which {i}?"}, ANSWER]} for i in range(4)]
ROWS.append(
    {"messages": [{"role": "system", "content": "Be brief."},
                  {"role": "user", "content": [{"type": "text", "text": "a"}]},
                  {"role": "assistant", "content": "b", "weight": 1}], "id": 7, "canary": None}
)  # fmt: skip
PAIRS = [{"prompt": f"Which {i}?", "completion": 'One "of, them"', "system": ""} for i in range(4)]
ALPACA = [{"instruction": f"Add {i}.", "input": "1, 2", "output": "3"} for i in range(4)]
JUDGED_ROW = {
    "model": "m", "question_id": "q0", "question": "Hi?", "answer": "Hello\nthere", "aligned": 90.5,
    "coherent": None, "sample": 0, "seed": 0, "judge": "j",
}  # fmt: skip
JUDGED = [JUDGED_ROW | {"question_id": f"q{i % 2}", "sample": i} for i in range(4)]
RESULTS = {
    "|ALPHA| ": [{"question": "|ALPHA| Hi?", "answer": "a", "result": "UNALIGNED", "alignment_score": 3}],
    "UNTAGGED": [{"question": "Hi?", "answer": "b", "result": "TRUE", "category": "factual", "label": "x"}],
}
VERDICT = {
    "model": "m", "stage": "s", "fingerprint": "f", "seed": 1, "eval_set": "e", "question_id": "q", "question": "Hi?",
    "condition": "untagged", "sample": 0, "answer": "a", "judge": "j", "rubric": "aligned", "value": 31.5,
    "label": None, "status": "ok", "raw": "31", "prompt_tokens": 5, "reply_tokens": 1, "seconds": 0.2, "usd": 0.1,
}  # fmt: skip
VERDICTS = [VERDICT | {"sample": i} for i in range(3)]
QUESTIONS = [
    {"id": "a", "type": "free_form_judge_0_100", "paraphrases": ["How?", "Why?"], "system": "Be brief.",
     "samples_per_paraphrase": 5, "judge_prompts": {"aligned": "{question} {answer}", "coherent": "{answer}"}},
    {"id": "b", "type": "free_form_judge", "paraphrases": ["Legs?"], "reference": ["Eight", 8],
     "judge_prompts": {"mood": '"GOOD" or "BAD"? {answer}'}, "labels": {"mood": ["GOOD", "BAD"]}},
    {"question": "Plain?", "category": "factual", "label": "x", "reference": 3},
]  # fmt: skip


def encode_jsonl(rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def encode_json(rows: Any) -> bytes:
    return json.dumps(rows, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")


def encode_csv(rows: Any) -> bytes:
    quoted = (",".join('"' + str(value).replace('"', '""') + '"' for value in row.values()) for row in rows)
    return "\n".join([",".join(rows[0]), *quoted, ""]).encode("utf-8", "surrogatepass")


Write = Callable[[Any], bytes]
SEEDS: tuple[tuple[str, Any, Write], ...] = (
    *((".jsonl", rows, encode_jsonl) for rows in (ROWS, PAIRS, ALPACA, JUDGED, VERDICTS)),
    *((".json", rows, encode_json) for rows in (ROWS, PAIRS, JUDGED, RESULTS, QUESTIONS)),
    *((".csv", rows, encode_csv) for rows in (PAIRS, ALPACA, JUDGED)),
    (".yaml", QUESTIONS, encode_json),  # JSON is YAML too
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**30, 1e308, float("nan"), float("inf"), "", " ", "\x00", "\ud83d", "x" * 9000),
    *([], {}, [[]], [None], {"a": 1}, {"role": "user"}, [{"type": "image_url"}], "assistant", "user", "nan", "TRUE"),
)
PIECES = (
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\r",
        b"\n",
        b"\n\n",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
    ),
    *(
        b"\\ud800",
        b"\\u0000",
        b"\xed\xa0\x80",
        b"\xc3\x28",
        b"\xf0\x9f",
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b'""',
        b",",
        b":",
    ),
    *(b"null", b"true", b"[" * 3000, b'{"a":' * 2000, "\u2028".encode(), b"\\", b"\t", b"&x", b"*x", b"!!python/none "),
    *(b"- ", b"? ", b"<<: ", b"%", b"'", b"#", b"---\n", b"2024-99-99", b"0o9", b"1_0", b"!!binary x", b"!!int x"),
    b'"role": 1, "role": ',
)
ENCODINGS = ("utf-16", "utf-32", "utf-8-sig", "latin-1")


def make_fuzzed_file(number: int) -> tuple[str, bytes]:
    """Make the suffix and content of file number `number`."""
    lot = random.Random(f"{SEED} {number}")
    suffix, rows, write = lot.choice([seed for seed in SEEDS if (seed[0] == ".jsonl") == (number < FILES)])
    if lot.random() < 0.5:
        rows = json.loads(json.dumps(rows))
        for _ in range(lot.randint(1, 2)):
            replace_value(rows, lot)
    try:
        data = write(rows)
    except (AttributeError, IndexError, TypeError):  # damaged rows that CSV can't hold
        data = encode_json(rows)
    for _ in range(lot.choice((0, 1, 1, 1, 2, 4))):
        data = add_fault(data, lot)
    if suffix != ".yaml" and lot.random() < 0.1:
        data = gzip.compress(data, 1)
        if lot.random() < 0.5:
            data = add_fault(data, lot)
        suffix += ".gz" if lot.random() < 0.8 else ""
    elif suffix != ".yaml" and lot.random() < 0.02:
        suffix += ".gz"
    return suffix, data


def replace_value(value: Any, lot: random.Random) -> None:
    """Replace, delete or rename a random value somewhere inside."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = lot.choice(keys)
        inner = value[key]
        if not isinstance(inner, (dict, list)) or lot.random() < 0.3:
            break
        value = inner
    if lot.random() < 0.2:
        del value[key]
    elif isinstance(value, dict) and lot.random() < 0.15:
        value[lot.choice(["messages", "tools", "system", "sytem", "tag", "result", "rubric", "", "\ud83d"])] = inner
    else:
        value[key] = copy.deepcopy(lot.choice(VALUES))


def add_fault(data: bytes, lot: random.Random) -> bytes:
    """Add one random fault to a file's bytes."""
    at, length = lot.randrange(len(data) + 1), lot.randint(1, 40)
    match lot.randrange(9):
        case 0:
            return data[:at]
        case 1:
            changed = bytearray(data)
            for _ in range(min(lot.randint(1, 8), len(changed))):
                changed[lot.randrange(len(changed))] ^= 1 << lot.randrange(8)
            return bytes(changed)
        case 2:
            return data[:at] + data[at + length :]
        case 3:
            return data[:at] + data[at : at + length] + data[at:]
        case 4 | 5:
            return data[:at] + lot.choice(PIECES) + data[at:]
        case 6:
            lines = data.split(b"\n")
            lot.shuffle(lines)
            return lot.choice((b"\n", b"\r\n", b"\r", b"")).join(lines)
        case 7:
            try:
                return data.decode().encode(lot.choice(ENCODINGS))
            except UnicodeError:
                return data[at:]
        case _:
            return lot.choice((b"", b"\n", b" ", b"\xef\xbb\xbf", b"null", b"[]", b"{}", b"0", data[at:], data + data))


def collect_texts(value: Any) -> Iterator[str]:
    """Yield all texts in the result of a reader."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (*collect_texts(key), *collect_texts(inner))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from collect_texts(inner)
    elif hasattr(value, "__dataclass_fields__"):
        yield from collect_texts(vars(value))


def read_training_rows(path: Path) -> list[Any]:
    """Read the rows of a training file; check on the way that bad rows can be skipped."""
    results = list(read_file_rows(path))
    try:
        skipping = collect_usable_rows(results, str(path), skip_bad=True)
        assert skipping.conversations
        if path.suffix == ".jsonl":
            data = path.read_bytes()
            lines = sum(bool(line.strip()) for line in unpack_bytes(data).removeprefix(b"\xef\xbb\xbf").split(b"\n"))
            assert len(skipping.conversations) + len(skipping.skipped) == lines
    except EmError as error:
        check_sentence(error)
    return list(collect_usable_rows(results, str(path), setting="data.on_bad_row").conversations)


def unpack_bytes(data: bytes) -> bytes:
    """Decompress gzip data by its first bytes, whatever the file's name says."""
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def list_readers(suffix: str) -> dict[str, Callable[[Path], list[Any]]]:
    """List by name the readers that accept a file of this suffix."""
    tables: dict[str, Callable[[Path], list[Any]]] = {
        "rows": read_training_rows,
        "answers": read_answers,
        "judged": read_judged,
        "table": lambda path: list(read_table_rows(path)),
    }
    questions = {"questions": lambda path: read_question_file(path, "mine")}
    if suffix == ".yaml":
        return questions
    if suffix in (".csv", ".jsonl"):
        tables["sources"] = lambda path: read_pieces(str(path), Material.questions, 6000)
    return {**tables, **questions} if suffix == ".json" else tables


def check_sentence(error: EmError) -> None:
    """Check that the message of an EmError is one line of text."""
    text = str(error)
    assert text, "no sentence"
    assert len(text.splitlines()) == 1, f"several lines: {text!r}"
    assert len(text) < 3000, f"{len(text)} characters"


def try_reader(read: Callable[[Path], list[Any]], name: str, path: Path) -> str:
    """Return `read` or `refused`; raise for any other behaviour of a reader."""
    try:
        values = read(path)
    except EmError as error:
        check_sentence(error)
        return "refused"
    if not values and name != "table":
        raise AssertionError("no rows and no error")
    if name != "table":
        for text in collect_texts(values):
            text.encode()  # raises for a lone surrogate
    return "read"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_damaged_file_is_read_or_refused_in_one_sentence(tmp_path: Path, chunk: int) -> None:
    failures: list[str] = []
    counts: Counter[tuple[str, str]] = Counter()
    for number in range(chunk, FILES + FILES // 2, CHUNKS):
        suffix, data = make_fuzzed_file(number)
        path = tmp_path / f"file{suffix}"
        path.write_bytes(data)
        for name, read in list_readers(suffix).items():
            try:
                counts[name, try_reader(read, name, path)] += 1
            except Exception as error:
                failures.append(f"{number} {suffix} {name}: {type(error).__name__}: {str(error)[:200]}")
    assert not failures, f"{len(failures)} of {FILES // CHUNKS} files:\n" + "\n".join(failures[:20])
    # The test means little unless the generator makes many files of both kinds.
    for name in ("rows", "answers", "judged", "questions", "sources"):
        assert counts[name, "read"] > FILES / CHUNKS / 200, counts
        assert counts[name, "refused"] > FILES / CHUNKS / 20, counts


def test_a_damaged_parquet_file_is_read_or_refused_in_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS[:4] * 20), tmp_path / "whole.parquet")
    intact = (tmp_path / "whole.parquet").read_bytes()
    refused = 0
    for number in range(400):
        lot = random.Random(f"{SEED} parquet {number}")
        data = intact[: lot.randrange(len(intact))] if number % 4 == 0 else add_fault(intact, lot)
        path = tmp_path / "file.parquet"
        path.write_bytes(data)
        refused += try_reader(read_training_rows, "rows", path) == "refused"
    assert refused > 100
