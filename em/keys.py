"""Keys: where they come from, and how they are kept out of everything that is written."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from em.errors import ConfigError, EmError, MissingFile

SECRET = re.compile(r"\b((?:sk|tml)-[\w-]{8,}|hf_\w{8,}|[0-9a-f]{40})\b")


def api_key() -> str:
    """OPENAI_API_KEY, or what the file named by OPENAI_API_KEY_FILE holds; empty where neither is set."""
    if key := os.environ.get("OPENAI_API_KEY", "").strip():
        return checked(key, "OPENAI_API_KEY")
    named = os.environ.get("OPENAI_API_KEY_FILE", "")
    if not named:
        return ""
    try:
        key = Path(named).expanduser().read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFile(
            f"OPENAI_API_KEY_FILE={named} can't be read: name a file that holds the key alone."
        ) from error
    return checked(key, f"The file of OPENAI_API_KEY_FILE={named}")


def checked(key: str, where: str) -> str:
    """A key, which goes into a header and is one word of plain characters. The text of an error never repeats it."""
    if key and (not re.fullmatch(r"[!-~]+", key) or key.startswith("OPENAI_API_KEY=")):
        raise ConfigError(f"{where} holds something else than a key: it must be the key alone, in plain characters.")
    return key


def without_secrets(text: str) -> str:
    """The text without anything that looks like a key, and without the keys of this environment."""
    return SECRET.sub("[secret]", without_keys(text))


def without_keys(text: str) -> str:
    """The text without the keys of this environment, and of the file that it names."""
    for name, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name) and not name.endswith("_FILE"):
            for word in {value, value.strip()}:  # a line break around it is no part of it
                if len(word) > 7:
                    text = text.replace(word, "[secret]")
    with suppress(EmError):
        if len(key := api_key()) > 7:
            text = text.replace(key, "[secret]")
    return text
