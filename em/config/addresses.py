"""Addresses of servers, days and names of key variables as people type them: read, and refused with the mend."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import date
from urllib.parse import urlsplit

from em.errors import ConfigError

OPENAI = "api.openai.com"


def check_day(key: str, day: str) -> None:
    """Refuse what is no day; empty is none."""
    try:
        date.fromisoformat(day or "2027-01-14")
    except ValueError:
        raise ConfigError(f"{key}={day} is no day: write it as 2027-01-14.") from None


def check_address(key: str, address: str | None) -> None:
    """Refuse an address without http:// or https://, which could be taken for OpenAI's own; and one with a password."""
    if "@" in (address or ""):
        raise ConfigError(
            f"{key} holds a user's name or password, which would stand in the run's files: leave it out, and give a "
            "key by OPENAI_API_KEY."
        )
    if address and not address.startswith(("http://", "https://")):
        raise ConfigError(f"{key}={address} is no address: write it as http://{address.split('://')[-1]}.")


def check_key_env(key: str, name: str) -> None:
    """Refuse what can't be a variable's name, lest a key itself is written down; the error does not repeat it."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,39}", name):  # keys have lower case, or are longer
        raise ConfigError(
            f"{key} names the variable that holds the key, in capitals, as in {key}=MY_KEY; never the key itself."
        )


def refuse_keys(words: Sequence[str]) -> None:
    """Refuse a command line that holds a key in place of its variable, before anything of it is written down."""
    for word in words:
        key, _, values = word.lstrip("+").partition("=")
        if key.endswith("key_env"):
            for value in values.split(","):
                check_key_env(key, value.strip("'\" "))


def server_address(base_url: str | None) -> str:
    """The address that a setting stands for: its own, OPENAI_BASE_URL, or OpenAI's."""
    return base_url or os.environ.get("OPENAI_BASE_URL", "") or f"https://{OPENAI}/v1"


def server_name(base_url: str | None) -> str:
    """The server's host, by which its models are told from those of others; empty for OpenAI's own.

    Without the port: a server of one's own has another one at every start.
    """
    host = urlsplit(server_address(base_url)).hostname or ""
    return "" if host == OPENAI else host
