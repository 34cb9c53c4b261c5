"""End every command with an exit code, and print the errors of em as one sentence."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from em.errors import EmError
from em.runtime.keys import redact_keys

Words = ParamSpec("Words")


def handle_errors(main: Callable[Words, int | None]) -> Callable[Words, int]:
    """Wrap the `main` of a command, so that it returns its exit code and prints errors as one sentence."""

    @functools.wraps(main)
    def call_main(*args: Words.args, **kwargs: Words.kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except EmError as error:
            sentence, code = str(error), error.exit_code
        except KeyboardInterrupt:
            sentence, code = "Interrupted. Nothing that was finished is lost: run the same command again.", 130
        # The sentence may quote a server's message, which may repeat a key.
        print(f"error: {redact_keys(sentence)}", file=sys.stderr, flush=True)
        return code

    return call_main
