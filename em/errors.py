"""The errors that em raises on purpose.

Each is also a standard-library error, so that a caller may catch it without importing em. Its text is one
sentence: what was given, what was expected, what to type. Entry points print that sentence alone and leave
with `exit_code`; anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EmError(Exception):
    """Base of all errors with a sentence for the user."""

    exit_code = 2


class ConfigError(EmError, ValueError):
    """A setting that can't be used: unknown, of the wrong type, or at odds with another."""


class DataError(EmError, ValueError):
    """A file whose content can't be used: the text names file and line."""


class MissingFile(EmError, FileNotFoundError):
    """A file, folder, model or data set that isn't there."""


class FetchError(EmError, OSError):
    """Something that could not be downloaded, or that arrived other than its checksum says."""


class OutputError(EmError, OSError):
    """A place that can't be written."""


class TemplateError(EmError, ValueError):
    """A chat template that can't be trained on or sampled from as asked."""


class ServerError(EmError, ConnectionError):
    """A model server that refused, or that could not be reached."""


class ChildFailed(EmError, RuntimeError):
    """A child process that crashed: `details` is its traceback, or the last lines it wrote."""

    exit_code = 1

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def shown(value: object, most: int = 60) -> str:
    """What a user gave, on one line and cut short, as a part of a sentence."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def did_you_mean(word: str, names: Iterable[str], otherwise: str = "", most: int = 2, cutoff: float = 0.6) -> str:
    """Ask whether one of the names nearest to `word` is meant; `otherwise` where none of them is near."""
    near = difflib.get_close_matches(word, list(names), most, cutoff)
    return f"did you mean {' or '.join(near)}?" if near else otherwise
