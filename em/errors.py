"""The errors that em raises on purpose.

Each is also a standard-library error, so that a caller can catch it without importing em. Its text is one sentence:
what was given, what was expected, what to type. Commands print only that sentence and exit with `exit_code`. Any other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EmError(Exception):
    """Base class of the errors whose text is a sentence for the user."""

    exit_code = 2


class ConfigError(EmError, ValueError):
    """A setting is unknown, has the wrong type, or contradicts another setting."""


class DataError(EmError, ValueError):
    """The content of a file can't be used; the text names file and line."""


class MissingFile(EmError, FileNotFoundError):
    """A file, folder, model or data set does not exist."""


class FetchError(EmError, OSError):
    """A download failed, or the downloaded file does not match its checksum."""


class OutputError(EmError, OSError):
    """A file or folder can't be written."""


class TemplateError(EmError, ValueError):
    """A chat template can't be used for this training or sampling."""


class ServerError(EmError, ConnectionError):
    """A model server refused a request, or could not be reached."""


class ChildFailed(EmError, RuntimeError):
    """A child process crashed; `details` is its traceback, or the last lines that it wrote."""

    exit_code = 1

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class OutOfMemory(ChildFailed):
    """A training ran out of memory, and may fit if it starts anew: in passes of `device_tokens`, or with recomputation.

    `device_tokens` is 0 if smaller passes are no help.
    """

    def __init__(self, message: str, device_tokens: int = 0) -> None:
        super().__init__(message)
        self.device_tokens = device_tokens


def shorten_value(value: object, most: int = 60) -> str:
    """Write a user's value on one line of at most `most` characters, for use in an error message."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def did_you_mean(word: str, names: Iterable[str], otherwise: str = "", most: int = 2, cutoff: float = 0.6) -> str:
    """Return the question "did you mean …?" with the names most similar to `word`; `otherwise` if none is similar."""
    similar = difflib.get_close_matches(word, list(names), most, cutoff)
    return f"did you mean {' or '.join(similar)}?" if similar else otherwise
