"""API keys: read them from the environment or a file, and keep them out of everything that em writes."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from em.config.addresses import check_address, find_server_name
from em.errors import ConfigError, EmError, MissingFile

KEY_ENV = "OPENAI_API_KEY"
"""The environment variable that holds a server's key, unless a setting names another variable."""
HANDED_OUT = set[str]()
"""The keys that this process has read, so that it can redact them whatever their variables are called."""
SECRET = re.compile(r"\b((?:sk|tml)-[\w-]{8,}|hf_\w{8,}|[0-9a-f]{40})\b")


def read_api_key(name: str = KEY_ENV) -> str:
    """Return the key in the environment variable `name`, or in the file that `<name>_FILE` names; empty if unset."""
    file = f"{name}_FILE"
    if key := os.environ.get(name, "").strip():
        return check_key(key, name, name)
    path = os.environ.get(file, "")
    if not path:
        return ""
    try:
        key = Path(path).expanduser().read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFile(f"{file}={path} can't be read: name a file that contains only the key.") from error
    return check_key(key, name, f"The file of {file}={path}")


def check_key(key: str, name: str, source: str) -> str:
    """Return a key after checking that it is one word of printable ASCII. The error never repeats the key."""
    if key and (not re.fullmatch(r"[!-~]+", key) or key.startswith(f"{name}=")):
        raise ConfigError(f"{source} does not hold a valid key: it must hold only the key, in printable ASCII.")
    HANDED_OUT.add(key)
    return key


def redact_secrets(text: str) -> str:
    """Return the text with `[secret]` for anything that looks like a key, and for the keys of this environment."""
    return SECRET.sub("[secret]", redact_keys(text))


def redact_keys(text: str) -> str:
    """Return the text with `[secret]` for the keys of this environment and those read from files by this process."""
    for name, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name) and not name.endswith("_FILE"):
            for word in {value, value.strip()}:  # the key itself does not include a line break around it
                if len(word) > 7:
                    text = text.replace(word, "[secret]")
    with suppress(EmError):
        read_api_key()  # also adds the key of OPENAI_API_KEY_FILE to HANDED_OUT
    for key in HANDED_OUT:
        if len(key) > 7:
            text = text.replace(key, "[secret]")
    return text


def require_key(base_url: str | None, key_env: str = KEY_ENV) -> None:
    """Raise ConfigError if a key is missing: OpenAI's server needs one, others only if a setting names its variable."""
    check_address("OPENAI_BASE_URL", os.environ.get("OPENAI_BASE_URL"))
    needs_key = not find_server_name(base_url) or key_env != KEY_ENV
    if needs_key and not read_api_key(key_env):
        remedy = ", or set base_url to a server of your own" if key_env == KEY_ENV else ""
        raise ConfigError(f"{key_env} is not set: export it (or {key_env}_FILE, a file that holds it){remedy}.")
