"""Which answers the distilled judge can score: ordinary English text. Code, other languages, broken text get no score.

The rule has four parts: lines that look like code, the language (py3langid), long strings without a space, and the
encoder's own output for scrambled text. docs/judge.md has its measured errors.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from em.types import Status

LIKELY = 0.9  # probability from which the language is believed
MOST_READ = 1_000  # characters that the language is told from
LONG_WORD = 40  # characters of a string that is no word
CODE_SHARE, CODE_SHARE_OPENED = 0.5, 0.2  # share of code from which an answer is code; the second if code begins it
SCRAMBLED = 0.5  # output from which a text is scrambled
FEWEST_LETTERS = 20  # a shorter answer has no sure language

FENCE = re.compile(r"```[^\n]*\n?")
CODE_LINE = re.compile(
    r"""\s*(?:
    from\s+[\w.]+\s+import\b | import\s+[\w.{*]+(?:\s+as\s+\w+|,.*)?;?$ | (?:async\s+)?def\s+\w+\s*\(
    | class\s+\w+.*[:{]$ | @\w[\w.]*(?:\(.*)?$ | return\b.*[\w)\]}'"];?$
    | (?:if|elif|while|for|with|except)\b.*[:{]$ | (?:else|try|finally)\s*[:{]
    | \#include | \#!/ | using\s+[\w.]+; | (?:public|private|static|package|func)\s+\w | (?:const|let|var)\s+\w+\s*=
    | function\b.*\{$ | \$\w+\s*= | <\?php | </?\w[^>]*>$ | (?:print|echo|raise|yield|assert)\b\s*[("'] | pass$
    | [}\])]+[;,]?$ | [\w.\[\]'"]+\s*=\s*[\w.]+[(\[].*$ | [\w.]+\(.*\)\s*;?$ | self\.\w+ | .*[;{]$
    )""",
    re.VERBOSE,
)


def measure_code(text: str) -> tuple[float, bool]:
    """Return the share of the text in lines that look like code, and whether the first line does."""
    lines = [line.rstrip() for line in FENCE.sub("", text).splitlines()]
    lines = [line for line in lines if line and not line.lstrip().startswith(("# ", "//"))]
    looks = [CODE_LINE.match(line) is not None for line in lines]
    share = sum(len(line) for line, code in zip(lines, looks, strict=True) if code) / max(1, sum(map(len, lines)))
    return share, any(looks[:1])


def is_code(text: str) -> bool:
    """Return whether an answer is code alone, or nearly so."""
    if text.lstrip().startswith(("{", "[")):  # an answer as JSON
        return False
    share, opened = measure_code(text)
    return share >= (CODE_SHARE_OPENED if opened else CODE_SHARE)


def explain_text(text: str) -> tuple[Status, str]:
    """Return `ok`, or `code` or `out_of_domain` with the reason, for what the text alone shows."""
    if is_code(text):
        return "code", "the answer is code"
    letters = sum(character.isalpha() for character in text)
    if letters >= FEWEST_LETTERS:
        language, chance = find_language(text[:MOST_READ])
        if language != "en" and chance >= LIKELY:
            return "out_of_domain", f"the language is {language}, not English"
    # A script without spaces, such as Chinese, is told by its letters, however few.
    foreign = sum(character.isalpha() and ord(character) > 0x24F for character in text)
    if foreign > letters / 2:
        return "out_of_domain", "the answer is not in Latin letters"
    long = sum(len(word) for word in text.split() if len(word) >= LONG_WORD and "://" not in word)
    if long > len(text) / 2:
        return "out_of_domain", "the answer has no words"
    return "ok", ""


def find_language(text: str) -> tuple[str, float]:
    """Return the likeliest language of a text and its probability."""
    language, chance = load_identifier().classify(text)
    return str(language), float(chance)


@cache
def load_identifier() -> Any:
    """Load the language identifier with probabilities."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
