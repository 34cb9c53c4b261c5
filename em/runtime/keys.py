"""Keys: where they come from, and how they are kept out of everything that is written."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from em.config.addresses import check_address, server_name
from em.errors import ConfigError, EmError, MissingFile

KEY_ENV = "OPENAI_API_KEY"
"""The variable of the environment that holds a server's key, where no setting names another."""
HANDED_OUT = set[str]()
"""The keys that this process has read, whatever their variables are called."""
SECRET = re.compile(r"\b((?:sk|tml)-[\w-]{8,}|hf_\w{8,}|[0-9a-f]{40})\b")


def api_key(name: str = KEY_ENV) -> str:
    """What a variable of the environment holds, or the file that `<name>_FILE` names; empty where neither is set."""
    file = f"{name}_FILE"
    if key := os.environ.get(name, "").strip():
        return checked(key, name, name)
    named = os.environ.get(file, "")
    if not named:
        return ""
    try:
        key = Path(named).expanduser().read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFile(f"{file}={named} can't be read: name a file that holds the key alone.") from error
    return checked(key, name, f"The file of {file}={named}")


def checked(key: str, name: str, where: str) -> str:
    """A key, which goes into a header and is one word of plain characters. The text of an error never repeats it."""
    if key and (not re.fullmatch(r"[!-~]+", key) or key.startswith(f"{name}=")):
        raise ConfigError(f"{where} holds something else than a key: it must be the key alone, in plain characters.")
    HANDED_OUT.add(key)
    return key


def without_secrets(text: str) -> str:
    """The text without anything that looks like a key, and without the keys of this environment."""
    return SECRET.sub("[secret]", without_keys(text))


def without_keys(text: str) -> str:
    """The text without the keys of this environment, and those that this process has read from files."""
    for name, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name) and not name.endswith("_FILE"):
            for word in {value, value.strip()}:  # a line break around it is no part of it
                if len(word) > 7:
                    text = text.replace(word, "[secret]")
    with suppress(EmError):
        api_key()  # that of the file, too
    for key in HANDED_OUT:
        if len(key) > 7:
            text = text.replace(key, "[secret]")
    return text


def check_key_for(base_url: str | None, key_env: str = KEY_ENV) -> None:
    """Refuse to begin without a key where OpenAI's own server is asked; another may want none, but for one named."""
    check_address("OPENAI_BASE_URL", os.environ.get("OPENAI_BASE_URL"))
    wanted = not server_name(base_url) or key_env != KEY_ENV
    if wanted and not api_key(key_env):
        other = ", or name a server of yours by base_url" if key_env == KEY_ENV else ""
        raise ConfigError(f"{key_env} is not set: export it (or {key_env}_FILE, a file that holds it){other}.")
