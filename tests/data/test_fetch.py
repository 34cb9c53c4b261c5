"""Third-party files: cache, mirror folder, mirror URL, download; em never uses or keeps a wrong file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from em.data.fetch import Source, fetch_file
from em.errors import FetchError, MissingFile

CONTENT = b"one row\n" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PLACE = "data.example.org/owner/name/rows.jsonl"
URL = f"https://{PLACE}"
Serve = Callable[[type[BaseHTTPRequestHandler]], str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def list_stored_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def make_handler(pages: dict[str, bytes], seen: list[str] | None = None, promise: int | None = None) -> type:
    """Make a handler that serves the pages by path, and 404 otherwise; `promise` is a false Content-Length."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if seen is not None:
                seen.append(self.path)
            if self.path not in pages:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(promise or len(pages[self.path])))
            self.end_headers()
            self.wfile.write(pages[self.path])

        def log_message(self, *words: object) -> None:
            """Print nothing on the test's terminal."""

    return Handler


def test_a_file_is_downloaded_once_and_then_found_in_the_cache(serve: Serve, cache: Path) -> None:
    seen: list[str] = []
    url = serve(make_handler({"/a/rows.jsonl": CONTENT}, seen)) + "/a/rows.jsonl"
    first = fetch_file(Source(url, SHA256, len(CONTENT)))
    assert first.read_bytes() == CONTENT
    assert first.is_relative_to(cache)
    assert fetch_file(Source(url, SHA256)) == first
    assert seen == ["/a/rows.jsonl"]
    assert list_stored_files(cache) == [first]


def test_a_damaged_cache_is_fetched_anew(serve: Serve) -> None:
    seen: list[str] = []
    url = serve(make_handler({"/rows.jsonl": CONTENT}, seen)) + "/rows.jsonl"
    fetch_file(Source(url, SHA256)).write_bytes(CONTENT[:-1])
    assert fetch_file(Source(url, SHA256)).read_bytes() == CONTENT
    assert len(seen) == 2


def test_a_mirror_folder_is_read_in_place_and_without_the_network(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mirror" / PLACE
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    monkeypatch.setenv("EM_MIRROR", str(tmp_path / "mirror"))
    assert fetch_file(Source(URL, SHA256, len(CONTENT))) == file
    assert list_stored_files(cache) == []


def test_a_mirror_folder_without_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_MIRROR", str(tmp_path))
    with pytest.raises(MissingFile, match=f"lacks {PLACE}"):
        fetch_file(Source(URL, SHA256))


@pytest.mark.parametrize(("content", "complaint"), [(CONTENT[:-1], "was cut short"), (CONTENT + b"x", "checksum")])
def test_a_wrong_file_in_a_mirror_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, complaint: str
) -> None:
    file = tmp_path / PLACE
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    monkeypatch.setenv("EM_MIRROR", str(tmp_path))
    with pytest.raises(FetchError, match=complaint):
        fetch_file(Source(URL, SHA256, len(CONTENT)))


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_mirror_address_stands_in_for_the_host(serve: Serve, monkeypatch: pytest.MonkeyPatch, slash: str) -> None:
    seen: list[str] = []
    monkeypatch.setenv("EM_MIRROR", serve(make_handler({f"/mirror/{PLACE}": CONTENT}, seen)) + "/mirror" + slash)
    assert fetch_file(Source(URL, SHA256)).read_bytes() == CONTENT
    assert seen == [f"/mirror/{PLACE}"]


def test_a_mirror_address_without_the_file_gives_its_status(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_MIRROR", serve(make_handler({})))
    with pytest.raises(FetchError, match=r"the server answered 404.*EM_MIRROR"):
        fetch_file(Source(URL, SHA256))


def test_a_cached_file_is_taken_before_any_mirror_is_asked(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    url = serve(make_handler({"/rows.jsonl": CONTENT})) + "/rows.jsonl"
    first = fetch_file(Source(url, SHA256))
    monkeypatch.setenv("EM_MIRROR", "/nowhere")
    assert fetch_file(Source(url, SHA256)) == first


def test_offline_says_what_to_do_and_leaves_nothing(closed_port: str, cache: Path) -> None:
    with pytest.raises(FetchError, match=r"can't be reached .*connect once.*EM_MIRROR"):
        fetch_file(Source(f"{closed_port}/rows.jsonl", SHA256))
    assert list_stored_files(cache) == []


def test_an_address_that_is_gone_gives_its_status_and_leaves_nothing(serve: Serve, cache: Path) -> None:
    with pytest.raises(FetchError, match="the server answered 404"):
        fetch_file(Source(serve(make_handler({})) + "/rows.jsonl", SHA256))
    assert list_stored_files(cache) == []


def test_a_file_with_another_checksum_is_not_kept(serve: Serve, cache: Path) -> None:
    url = serve(make_handler({"/rows.jsonl": CONTENT[::-1]})) + "/rows.jsonl"
    with pytest.raises(FetchError, match=f"another checksum than expected .*not {SHA256[:12]}"):
        fetch_file(Source(url, SHA256, len(CONTENT)))
    assert list_stored_files(cache) == []


def test_a_file_cut_short_at_the_server_is_told_from_another_file(serve: Serve, cache: Path) -> None:
    url = serve(make_handler({"/rows.jsonl": CONTENT[:1000]})) + "/rows.jsonl"
    with pytest.raises(FetchError, match=r"was cut short \(1,000 of 40,000 bytes\)"):
        fetch_file(Source(url, SHA256, len(CONTENT)))
    assert list_stored_files(cache) == []


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_connection_that_ends_early_is_no_file(serve: Serve, cache: Path, size: int | None) -> None:
    url = serve(make_handler({"/rows.jsonl": CONTENT[:1000]}, promise=len(CONTENT))) + "/rows.jsonl"
    with pytest.raises(FetchError):
        fetch_file(Source(url, SHA256, size))
    assert list_stored_files(cache) == []


def test_a_failed_download_leaves_a_good_cache_of_other_files_alone(serve: Serve, cache: Path) -> None:
    base = serve(make_handler({"/a.jsonl": CONTENT, "/b.jsonl": b"wrong"}))
    good = fetch_file(Source(f"{base}/a.jsonl", SHA256))
    with pytest.raises(FetchError):
        fetch_file(Source(f"{base}/b.jsonl", SHA256))
    assert list_stored_files(cache) == [good]
