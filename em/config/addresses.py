"""Read and check the addresses of servers, days and names of key variables that users type."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import date
from urllib.parse import urlsplit

from em.errors import ConfigError

OPENAI = "api.openai.com"


def check_day(key: str, day: str) -> None:
    """Raise ConfigError if `day` is not a day; an empty text is valid."""
    try:
        date.fromisoformat(day or "2027-01-14")
    except ValueError:
        raise ConfigError(f"{key}={day} is no day: write it as 2027-01-14.") from None


def check_address(key: str, address: str | None) -> None:
    """Raise ConfigError if an address lacks http:// or https://, or holds a user's name or password."""
    if "@" in (address or ""):
        raise ConfigError(
            f"{key} holds a user's name or password, which em would write into the run's files: remove it, and give "
            "the key by OPENAI_API_KEY."
        )
    if address and not address.startswith(("http://", "https://")):
        raise ConfigError(f"{key}={address} is no address: write it as http://{address.split('://')[-1]}.")


def check_key_env(key: str, name: str) -> None:
    """Raise ConfigError unless `name` is a variable's name; the error does not repeat it, since it may be a key."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,39}", name):  # keys have lower-case letters, or are longer
        raise ConfigError(
            f"{key} names the variable that holds the key, in capitals, as in {key}=MY_KEY; never the key itself."
        )


def refuse_keys(words: Sequence[str]) -> None:
    """Raise ConfigError if the command line holds a key in place of its variable, before em writes any file."""
    for word in words:
        key, _, values = word.lstrip("+").partition("=")
        if key.endswith("key_env"):
            for value in values.split(","):
                check_key_env(key, value.strip("'\" "))


def resolve_server_address(base_url: str | None) -> str:
    """Return the server's address: the setting itself, else OPENAI_BASE_URL, else OpenAI's."""
    return base_url or os.environ.get("OPENAI_BASE_URL", "") or f"https://{OPENAI}/v1"


def find_server_name(base_url: str | None) -> str:
    """Return the server's host, which distinguishes its models from those of other servers; empty for OpenAI's server.

    The port is left out, because a user's own server may have another port at every start.
    """
    host = urlsplit(resolve_server_address(base_url)).hostname or ""
    return "" if host == OPENAI else host
