"""Keys as users store them: with a line break, a byte order mark or a shell line; and never in any output."""

from __future__ import annotations

from pathlib import Path

import pytest

from em.config.addresses import check_address, check_key_env, refuse_keys
from em.errors import ConfigError
from em.runtime.keys import read_api_key, redact_secrets, require_key
from tests.support.runs import run_script

KEY = "sk-planted-0123456789abcdef"


def test_a_line_break_or_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\r\n")
    assert read_api_key() == KEY
    assert redact_secrets(f"no {KEY}!") == "no [secret]!"
    monkeypatch.delenv("OPENAI_API_KEY")
    file = tmp_path / "key"
    for content in (f"{KEY}\n", f"\ufeff{KEY}\r\n"):
        file.write_text(content, encoding="utf-8")
        monkeypatch.setenv("OPENAI_API_KEY_FILE", str(file))
        assert read_api_key() == KEY


@pytest.mark.parametrize("text", [f"{KEY}…", f"{KEY}\nx", f"OPENAI_API_KEY={KEY}", f'"{KEY} "'])
def test_what_is_no_key_is_refused_without_repeating_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", text)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY does not hold a valid key") as error:
        read_api_key()
    assert KEY not in str(error.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    (tmp_path / "key").write_text(text, encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(ConfigError, match=r"The file of OPENAI_API_KEY_FILE=.* does not hold a valid key") as error:
        read_api_key()
    assert KEY not in str(error.value)


def test_every_server_has_a_key_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("JUDGE", "word-of-the-judge")
    (tmp_path / "key").write_text("word-of-a-file\n")
    monkeypatch.setenv("OTHER_FILE", str(tmp_path / "key"))
    keys = [read_api_key(name) for name in ("OPENAI_API_KEY", "JUDGE", "OTHER", "NONE")]
    assert keys == [KEY, "word-of-the-judge", "word-of-a-file", ""]
    text = "word-of-the-judge, word-of-a-file"  # keys that em has read are redacted whatever their variables' names
    assert redact_secrets(text) == "[secret], [secret]"
    with pytest.raises(ConfigError, match=r"NONE is not set: export it \(or NONE_FILE, a file that holds it\)"):
        require_key("http://127.0.0.1/v1", "NONE")
    require_key("http://127.0.0.1/v1", "JUDGE")


@pytest.mark.parametrize("name", [KEY, "gsk_abcdefGHIJKL", "r8_abcdefghijkl", "A1" * 32, "a1" * 20, "MY KEY", ""])
def test_a_key_in_place_of_its_variable_is_refused_without_repeating_it(name: str) -> None:
    with pytest.raises(ConfigError, match=r"judge.key_env names the variable that holds the key") as error:
        check_key_env("judge.key_env", name)
    assert not name or name not in str(error.value)
    with pytest.raises(ConfigError, match=r"judge.key_env names the variable that holds the key"):
        refuse_keys(["-m", "seed=0,1", f"+judge.key_env=JUDGE_KEY,'{name}'"])
    refuse_keys(["judge.key_env=JUDGE_KEY,OTHER_2"])


def test_a_sweep_that_is_refused_for_a_key_leaves_nothing(tmp_path: Path) -> None:
    done = run_script("evaluate.py", "-m", "seed=0,1", f"judge.key_env={KEY}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: judge.key_env names the variable that holds the key, in capitals")
    assert KEY not in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_address_with_a_password_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("https://me:word-of-mine@host/v1", "me:word-of-mine@host"):
        with pytest.raises(ConfigError, match=r"model.base_url holds a user's name or password") as error:
            check_address("model.base_url", address)
        assert "word-of-mine" not in str(error.value)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:word-of-mine@host/v1")
    with pytest.raises(ConfigError, match=r"OPENAI_BASE_URL holds a user's name or password"):
        require_key(None)
