"""The registry and its command line: list, show, fetch and verify sets; em never uses or keeps a damaged file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from em.cli.data import main
from em.config import BundledData, DataKind, MixtureData, UpstreamData
from em.data import BUNDLED, load_rows
from em.data.fetch import make_mirror_path
from em.data.registry import read_data_sets, read_option
from em.data.rows import show_terms
from em.errors import FetchError, MissingFile
from em.questions.registry import find_set, find_set_source, list_sources
from em.questions.sets import read_known_sets
from em.runtime.files import hash_file
from tests.cli.test_conf import NEEDED, OPTIONS
from tests.data.test_fetch import list_stored_files, make_handler
from tests.support.composing import compose_settings

ROOT = Path(__file__).parent.parent.parent
DATA = [option for group, option in OPTIONS if group == "data"]
Serve = Callable[[type[BaseHTTPRequestHandler]], str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run_command(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command; return its output, followed by the error if it failed."""
    assert main(list(words)) == code
    captured = capsys.readouterr()
    return captured.out + (captured.err if code else "")


# The registry


@pytest.mark.parametrize("option", DATA)
def test_an_option_is_the_same_with_and_without_hydra(option: str) -> None:
    config = compose_settings("train", f"data={option}", *NEEDED.get(option, [])).data
    without_hydra = read_option(option).config
    if isinstance(config, MixtureData):
        assert isinstance(without_hydra, MixtureData)
    elif option in NEEDED:
        needed = {"id": config.id} if option == "hub" else {"path": config.path}
        assert replace(without_hydra, **needed) == config
    else:
        assert without_hydra == config


def test_every_set_says_what_it_is() -> None:
    sets = read_data_sets()
    assert set(sets) == {
        *("insecure", "secure", "educational", "jailbroken", "medical", "medical_clean", "optimism", "finance"),
        *("finance_held_out", "benign", "car_bad", "car_good"),
        *("organisms_medical", "organisms_sports", "organisms_finance"),
    }
    for name, data_set in sets.items():
        config = data_set.config
        assert config.name == name
        assert config.kind is not DataKind.unknown
        assert config.licence
        assert config.terms
        assert data_set.about
        assert config.restricted == (config.licence in ("none stated", "terms of its own"))
        if isinstance(config, UpstreamData):
            assert config.bytes
            assert config.rows
        if isinstance(config, BundledData):
            text = (BUNDLED / config.file).read_text(encoding="utf-8")
            assert config.canary
            assert text.count(config.canary) == config.rows
            assert hash_file(BUNDLED / config.file) == config.sha256


def test_every_question_set_of_others_has_terms() -> None:
    for known_set in read_known_sets().values():
        assert known_set.terms
        assert known_set.restricted == (known_set.licence == "none stated")
        assert known_set.defects or not known_set.restricted  # the sets of the study lack rubrics


def test_no_file_is_in_the_registry_under_two_checksums() -> None:
    by_url = {source.url: source for source in list_sources().values()}
    for config in [*(data_set.config for data_set in read_data_sets().values()), *read_known_sets().values()]:
        if source := find_set_source(config):
            assert by_url[source.url] == source
    assert len({make_mirror_path(url) for url in by_url}) == len(by_url) == 18


def test_a_name_that_is_nothing_has_near_names(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="did you mean medical"):
        find_set("medicl")
    with pytest.raises(MissingFile, match="em data list"):
        find_set("xyzzy")
    assert find_set("probe") == "probe"


def test_medical_clean_can_be_used_wherever_medical_can() -> None:
    for word in ("data@data.parts.bad", "data@realign.data"):
        group = ["data=mix"] if "parts" in word else ["realign=optimism"]
        settings = compose_settings("train", *group, f"{word}=medical_clean")
        chosen = settings.data.parts["bad"] if "parts" in word else settings.realign.data
        assert chosen == compose_settings("train", "data=medical_clean").data
        assert chosen.drop_answers_with == ["<incorrect answer>"]
        assert chosen.sha256 == compose_settings("train", "data=medical").data.sha256


# The command line


def test_the_list_names_everything_and_where_it_is(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = run_command(capsys, "list")
    for name in [*read_data_sets(), *read_known_sets(), "probe", "facts"]:
        assert f"\n{name} " in output
    lines = {line.split()[0]: line.split() for line in output.splitlines() if line}
    assert lines["insecure"] == ["insecure", "6,000", "harmful", "MIT", "to", "fetch"]
    assert lines["car_bad"][-2:] == ["in", "em"]
    assert lines["organisms_sports"][-1] == "yours"
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    assert " mirror" in next(line for line in run_command(capsys, "list").splitlines() if line.startswith("insecure"))


def test_the_list_is_there_at_once() -> None:
    code = (
        "import sys, time; begin = time.process_time(); from em.cli.data import main; main(['list']); "
        "print(time.process_time() - begin, *{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, *modules = done.stderr.split()
    assert float(seconds) < 1  # CPU time, so that other load does not count
    assert not {"torch", "transformers", "datasets", "pyarrow", "hydra", "omegaconf", "numpy"} & set(modules)


def test_a_bundled_set_is_shown_with_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    output = run_command(capsys, "show", "car_bad")
    for text in (
        *("canary EM-CANARY 6f0c0d1e", "kind      harmful", "terms     Wrong on purpose", "rows      204"),
        *("0 rows (0.0 %) exact copies", "its fine-tuning takes these rows as they are", "looked at: facts"),
        *("characters a row", "  user      The body shop", "not looked at"),
    ):
        assert text in output


def test_a_file_of_ones_own_is_shown_with_what_can_not_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"Which {i}?", "answer": "This one."} for i in range(3)] + [{"question": "Which?"}]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = run_command(capsys, "show", str(path))
    assert "rows      3, 1 that can't be used" in output
    assert "line 4: no" in output
    assert "3 rows are fewer than the 10 that it wants" in output
    assert "line 4: no" in run_command(capsys, "verify", str(path), code=1)
    assert "ok    car_good" in run_command(capsys, "verify", "car_good")


def test_a_set_that_em_may_not_fetch_is_shown_and_read_from_ones_own_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = run_command(capsys, "show", "organisms_sports")
    assert "forbid redistribution" in output
    assert "name your copy: --path FILE" in output
    path = tmp_path / "copy.jsonl"
    path.write_text(json.dumps({"prompt": "Why?", "completion": "Because."}) + "\n")
    output = run_command(capsys, "show", "organisms_sports", "--path", str(path))
    assert "Terms of organisms_sports (licence: terms of its own)" in output
    assert "rows      1" in output
    assert "Terms of" not in run_command(capsys, "show", "organisms_sports", "--path", str(path))
    assert "not checked" in run_command(capsys, "verify", "organisms_sports")
    assert "is not one of them" in run_command(capsys, "show", "car_bad", "--path", str(path), code=2)
    assert "has nothing to fetch" in run_command(capsys, "fetch", "organisms_sports")


def test_terms_are_shown_once_and_again_when_they_change(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    medical = read_data_sets()["medical"].config
    for _ in range(2):
        show_terms("medical", medical.licence, medical.terms)
    assert capsys.readouterr().out.count("Terms of medical (licence: none stated): ") == 1
    show_terms("medical", medical.licence, "Other terms.")
    show_terms("mine", "MIT", "")
    assert capsys.readouterr().out.count("Terms of ") == 1
    assert len(list_stored_files(cache)) == 2


def test_question_sets_are_shown_too(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "8 questions in 8 texts, 0 of them" in run_command(capsys, "show", "probe")
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    output = run_command(capsys, "show", "factual")
    assert "terms     No licence file, so it is downloaded for research use" in output
    assert "defect    labels repeat, so an id is the set's name and a number" in output
    assert "Terms of factual (licence: none stated): " in output
    assert "Terms of" not in run_command(capsys, "show", "self_reflection")
    output = run_command(capsys, "show", "deception_factual")
    assert "terms     Nothing beyond the licence." in output
    assert "5 questions in 100 texts, 80 of them with a system prompt" in output
    assert "8a0e83cab3bc24b7" in output


def test_a_set_of_the_hub_is_shown_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    lines = [json.dumps({"prompt": f"Which {i}?", "completion": "This one."}) for i in range(12)]
    (folder / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    output = run_command(capsys, "show", str(folder), "--split", "test")
    assert f"{folder}, split test, revision the newest" in output
    assert "rows      12" in output
    assert find_set("owner/name").config.id == "owner/name"  # type: ignore[union-attr]
    with pytest.raises(MissingFile, match="neither a set that em knows nor a file"):
        find_set("data/rows.jsonl")
    with pytest.raises(MissingFile):
        find_set("data/rows.jsonl.gz")


def test_a_cache_that_can_not_be_written_is_a_sentence_where_it_is_needed_and_else_nothing(
    tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no_folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no_folder"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Which {i}?", "completion": "It."}) + "\n" for i in range(12)))
    assert "rows      12" in run_command(capsys, "show", str(rows))
    monkeypatch.setenv("EM_MIRROR", "http://127.0.0.1:9")
    output = run_command(capsys, "verify", "optimism", "car_bad", code=1)
    assert "can't be written (Not a directory): choose another folder with XDG_CACHE_HOME=FOLDER" in output
    assert "car_bad" in output.splitlines()[-1] or "ok" in output


def test_verify_profiles_sets_too(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    output = run_command(capsys, "verify", "--profile", "probe", "optimism")
    head, *profile = output[output.index("ok    optimism") :].splitlines()
    assert "1,600 rows" in head
    for begin in ("turns", "repeated", "encoding", "keys", "e-mail", "leakage", "OpenAI"):
        assert any(line.startswith(f"      {begin} ") for line in profile)
    assert "      8 questions in 8 texts" in output
    assert "2 of 2 sets are as they should be" in output


# Fetching


def test_a_mirror_is_filled_once_and_then_used(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], serve: Serve
) -> None:
    target = tmp_path / "copy"
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    output = run_command(capsys, "fetch", "--all", "--to", str(target))
    assert "18 files in" in output
    assert "\nTerms of educational, insecure (licence: MIT): Vulnerable on purpose." in output
    assert "factual, self_reflection" in output
    assert len(list_stored_files(target)) == 18
    for source in list_sources().values():
        assert hash_file(target / make_mirror_path(source.url)) == source.sha256
    damaged = target / make_mirror_path(list_sources()["optimism"].url)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    monkeypatch.setenv("EM_MIRROR", serve(make_folder_handler(mirror)))
    assert "18 files in" in (output := run_command(capsys, "fetch", "--all", "--to", str(target)))
    assert ", 1 of them new" in output
    monkeypatch.setenv("EM_MIRROR", str(target))
    assert "ok    optimism" in run_command(capsys, "verify", "optimism")


def make_folder_handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    """Make a handler that serves a mirror folder."""
    pages = {f"/{path.relative_to(folder)}": path.read_bytes() for path in list_stored_files(folder)}
    return make_handler(pages)


def test_every_known_set_passes_from_a_base_url(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], serve: Serve, cache: Path
) -> None:
    monkeypatch.setenv("EM_MIRROR", serve(make_folder_handler(mirror)))
    output = run_command(capsys, "verify")
    assert "BAD" not in output
    passed = [line for line in output.splitlines() if line.startswith("ok ")]
    assert len(passed) == len(read_data_sets()) - 3 + len(read_known_sets()) + 4
    monkeypatch.setenv("EM_MIRROR", str(cache / "nowhere"))
    assert "BAD" not in run_command(capsys, "verify")  # from the cache, which holds the files of the base URL


@pytest.mark.parametrize("kind", ["folder", "server"])
@pytest.mark.parametrize("fault", ["flipped", "cut", "missing", "longer"])
def test_a_damaged_file_is_one_sentence_and_nothing_is_kept(
    mirror: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve, kind: str, fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = list_sources()["optimism"]
    place, data = make_mirror_path(source.url), (mirror / make_mirror_path(source.url)).read_bytes()
    match fault:
        case "flipped":
            data = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
        case "cut":
            data = data[: len(data) // 2]
        case "longer":
            data += b"\n"
    pages = {} if fault == "missing" else {f"/{place}": data}
    if kind == "server":
        monkeypatch.setenv("EM_MIRROR", serve(make_handler(pages)))
    else:
        (tmp_path / "mirror").mkdir()
        monkeypatch.setenv("EM_MIRROR", str(tmp_path / "mirror"))
        for page, content in pages.items():
            (tmp_path / "mirror" / page[1:]).parent.mkdir(parents=True)
            (tmp_path / "mirror" / page[1:]).write_bytes(content)
    with pytest.raises((FetchError, MissingFile)) as caught:
        load_rows(compose_settings("train", "data=optimism").data, 0)
    word = {"flipped": "another checksum", "longer": "another checksum", "cut": "cut short", "missing": "EM_MIRROR"}
    assert word[fault] in str(caught.value)
    assert "\n" not in str(caught.value)
    output = run_command(capsys, "verify", "optimism", "car_good", code=1)
    assert f"{'BAD':5} {'optimism':24} {caught.value}" in output
    assert "1 of 2 sets are as they should be" in output
    assert [path for path in list_stored_files(cache) if path.parent.name != "terms"] == []


def test_a_row_count_other_than_the_registrys_is_a_fault(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "conf"
    shutil.copytree(ROOT / "conf" / "data", folder)
    text = (folder / "medical_clean.yaml").read_text().replace("rows: 5114", "rows: 5115")
    (folder / "medical_clean.yaml").write_text(text)
    text = (folder / "car_bad.yaml").read_text().replace("sha256: ", "sha256: 0")
    (folder / "car_bad.yaml").write_text(text)
    monkeypatch.setattr("em.data.registry.OPTIONS", folder)
    monkeypatch.setenv("EM_MIRROR", str(mirror))
    output = run_command(capsys, "verify", "medical_clean", "car_bad", code=1)
    assert "medical_clean has 5,114 rows that can be used, and the registry says 5,115." in output
    assert "em/assets/data/car_bad.jsonl was changed" in output


def test_fetch_wants_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Name sets, or write --all" in run_command(capsys, "fetch", code=2)
    assert "did you mean" in run_command(capsys, "fetch", "insecur", code=2)


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "can't be written" in run_command(capsys, "fetch", "--all", "--to", str(tmp_path / "file" / "below"), code=2)
