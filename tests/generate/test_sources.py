"""Test sources: users' files are read and cut at paragraphs, or refused in one sentence."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from em.config import Material
from em.errors import ConfigError, DataError, EmError, MissingFile
from em.generate.sources import Piece, cut_passages, read_pieces

PAGE = """<html><head><title>Oil</title></head><body><nav><a href="/">Home</a><a href="/shop">Shop</a></nav>
<article><h1>Looking after the oil</h1>
<p>Oil keeps the moving parts of an engine apart and carries heat away from them. With age it loses that power.</p>
<p>Check the level once a month, on level ground, with the engine cold, and write down what you see each time.</p>
<p>Change it when the handbook says so, or once a year where the car is used for short trips in the main.</p>
</article><footer>Terms of use, imprint, newsletter</footer></body></html>"""


def make_pdf(*lines: str) -> bytes:
    """Make a PDF file with one page that holds these lines."""
    shown = " ".join(f"({line}) Tj 0 -14 Td" for line in lines)
    stream = f"BT /F1 12 Tf 72 700 Td {shown} ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    content, offsets = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, start=1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(content)
    content += b"xref\n0 6\n0000000000 65535 f \n" + table
    return content + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start


def read_passages(folder: Path, size: int = 6000) -> list[Piece]:
    """Read the passages of a folder."""
    return read_pieces(str(folder), Material.texts, size)


def test_texts_pages_and_pdf_files_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("First.\r\n\r\nSecond.", encoding="utf-8-sig", newline="")
    (tmp_path / "b.md").write_text("# Head\n\nText of b.", encoding="utf-8")
    (tmp_path / "c.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "d.pdf").write_bytes(make_pdf("Rubber seals like grease.", "Once a year is enough."))
    (tmp_path / ".hidden.txt").write_text("no", encoding="utf-8")
    (tmp_path / "e.docx").write_text("no", encoding="utf-8")
    pieces = {piece.source: piece for piece in read_passages(tmp_path)}
    assert list(pieces) == ["b.md", "c.html", "d.pdf", "deep/a.txt"]
    assert pieces["deep/a.txt"].text == "First.\n\nSecond."
    assert "Check the level once a month" in pieces["c.html"].text
    assert "newsletter" not in pieces["c.html"].text
    assert "\n\n" in pieces["c.html"].text
    assert "Rubber seals like grease." in pieces["d.pdf"].text
    assert len({piece.sha256 for piece in pieces.values()}) == 4
    both = read_pieces([str(tmp_path / "b.md"), str(tmp_path / "deep")], Material.texts, 6000)
    assert [piece.source for piece in both] == ["b.md", "a.txt"]


def test_a_long_text_is_cut_at_paragraphs_into_parts_of_about_one_length() -> None:
    text = "\n\n".join(f"Paragraph {i}. " + "word " * 60 for i in range(20))
    pieces = cut_passages(text, "t", "0", 2000)
    assert [piece.number for piece in pieces] == list(range(1, len(pieces) + 1))
    assert all(piece.text.startswith("Paragraph") and piece.text.endswith("word") for piece in pieces)
    lengths = [len(piece.text) for piece in pieces]
    assert max(lengths) <= 2000
    assert min(lengths) > max(lengths) / 2
    assert [text[piece.start : piece.end] for piece in pieces] == [piece.text for piece in pieces]


@given(st.text(alphabet="ab .!?\n\t", max_size=400), st.integers(1, 60) | st.just(10**10))
@settings(max_examples=300, deadline=None)
def test_no_letter_is_lost_doubled_or_moved_however_a_text_is_cut(text: str, size: int) -> None:
    pieces = cut_passages(text, "t", "0", size) if text.strip() else []
    assert all(0 < len(piece.text) <= size for piece in pieces)
    assert "".join("".join(piece.text.split()) for piece in pieces) == "".join(text.split())
    assert all(before.end <= after.start for before, after in pairwise(pieces))


def test_questions_of_people_come_from_lines_tables_and_chats(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Why?\n\n How so? \n", encoding="utf-8")
    (tmp_path / "b.csv").write_text('id,question\n1,"What, then?"\n2,\n3,When?\n', encoding="utf-8")
    chat = '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Who?"}]}'
    (tmp_path / "c.jsonl").write_text('{"question": "Where?"}\n' + chat + "\n", encoding="utf-8")
    pieces = read_pieces(str(tmp_path), Material.questions, 6000)
    assert [(piece.source, piece.number, piece.text) for piece in pieces] == [
        ("a.txt", 1, "Why?"),
        ("a.txt", 3, "How so?"),
        ("b.csv", 2, "What, then?"),
        ("b.csv", 4, "When?"),
        ("c.jsonl", 1, "Where?"),
        ("c.jsonl", 2, "Who?"),
    ]


def make_locked_pdf() -> bytes:
    """Make a PDF file that is locked by a password."""
    import io

    import pypdf

    writer = pypdf.PdfWriter(clone_from=io.BytesIO(make_pdf("Secret.")))
    writer.encrypt("word", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


FAULTS = [
    ("a.txt", b" \n\n ", "holds no text"),
    ("a.txt", "Où".encode("latin-1"), "is not UTF-8 text"),
    ("a.html", b"<html><body></body></html>", "No article was found"),
    ("a.pdf", b"%PDF-1.4 broken", "can't be read as PDF"),
    ("a.pdf", make_pdf(), "holds no text (a scan?)"),
    ("a.docx", b"x", "give a file that ends with .txt, .md"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), FAULTS)
def test_a_text_that_can_not_be_used_is_refused_with_what_to_do(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_passages(tmp_path / name)
    assert sentence in str(raised.value)
    assert name in str(raised.value)


def test_a_locked_pdf_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(make_locked_pdf())
    with pytest.raises(DataError, match="locked by a password"):
        read_passages(tmp_path / "a.pdf")


QUESTION_FAULTS = [
    ("a.txt", "\n\n", "holds no questions"),
    ("a.csv", "id,text\n1,x\n", "line 2: neither a question nor messages with a user turn (it has id, text)"),
    ("a.csv", "id,text\n", "holds no questions"),
    ("a.csv", 'question\n"x', "is not CSV in UTF-8"),
    ("a.csv", "question\nWhy, then?\n", "line 2 has 2 fields, the header 1"),
    ("a.csv", "id,question\n1\n", "line 2 has 1 fields, the header 2"),
    ("a.csv", "question,question\nWhy?,How?\n", "two columns have the same name"),
    ("a.jsonl", '{"question": "x"}\n{oops', "line 2: not JSON"),
    ("a.jsonl", '{"question": "x", "n": ' + "9" * 5000 + "}", "line 1: not JSON"),
    ("a.jsonl", '{"question": "a \\ud800 b"}', "line 1: the question holds half a character"),
    ("a.jsonl", '{"messages": [{"role": "user", "content": "a \\ud800 b"}]}', "line 1: the question holds half a"),
    ("a.jsonl", '{"question": "x", "question": "y"}', "the key 'question' is there twice"),
    ("a.jsonl", '{"text": "x"}', "line 1: neither a question nor messages"),
    ("a.jsonl", "5", "line 1 is not a JSON object"),
    ("a.pdf", "x", "give a file that ends with .txt, .csv, .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), QUESTION_FAULTS)
def test_questions_that_can_not_be_used_are_refused_with_their_line(
    name: str, content: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_pieces(str(tmp_path / name), Material.questions, 6000)
    assert sentence in str(raised.value)


def test_files_of_one_name_are_told_apart_and_one_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(f"Text of {folder}.", encoding="utf-8")
    (tmp_path / "b.txt").write_text("Text of b.", encoding="utf-8")
    sources = [str(tmp_path / each) for each in ("one/a.txt", "two", "b.txt", "one", "two/../b.txt")]
    pieces = [(piece.source, piece.text) for piece in read_pieces(sources, Material.texts, 6000)]
    assert pieces == [("one/a.txt", "Text of one."), ("two/a.txt", "Text of two."), ("b.txt", "Text of b.")]


def test_a_source_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    wrong: list[tuple[object, type[EmError], str]] = [
        (str(tmp_path / "none"), MissingFile, "is neither a file nor a folder"),
        (str(tmp_path / "empty"), MissingFile, "holds no file that ends with"),
        (3, ConfigError, "must be a file or folder"),
        ([], ConfigError, "must be a file or folder"),
    ]
    for source, kind, sentence in wrong:
        with pytest.raises(kind, match=sentence):
            read_pieces(source, Material.texts, 6000)
