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
NO_WORDS = "the answer has no words"
SCRAMBLED = 0.5  # output from which a text is scrambled
FEWEST_LETTERS = 20  # a shorter answer has no sure language

RULE = "domain_1"  # raised whenever another text gets a score, since verdicts are remembered
MOST_CHECKED = 20_000  # characters in which code is looked for

FENCE = re.compile(r"```[^\n]*\n?")
# Lines that hardly any other text has; and lines that are code only beside such lines.
SURE_CODE = re.compile(
    r"""from\s+[\w.]+\s+import\b | import\s+[\w.{*]+(?:\s+as\s+\w+|,.*)?;?$ | (?:async\s+)?def\s+\w+\s*\(
    | class\s+\w[\w(), .]*[:{]$ | @\w[\w.]*(?:\(.*)?$ | \#include | \#!/ | using\s+[\w.]+;$ | function\b.*\{$
    | \$\w+\s*= | <\?php | <!DOCTYPE | print\s*\( | self\.\w+ | [\w.\[\]'"]+\s*=\s*[\w.]+[(\[].*[)\];]$
    | [\w.]+\([^()]*(?:\([^()]*\)[^()]*)*\)\s*;?$
    """,
    re.VERBOSE,
)
LIKELY_CODE = re.compile(
    r"""return\b | (?:if|elif|while|for|with|except)\b.*[:{]$ | (?:else|try|finally)\s*[:{]
    | (?:public|private|static|package|func)\s+\w | (?:const|let|var)\s+\w+\s*= | </?\w[^>]*>$
    | (?:echo|raise|yield|assert)\b | pass$ | [}\])]+[;,]?$ | [\w.\[\]'"]+\s*=\s*[\w.]+[(\[] | .*[;{]$
    """,
    re.VERBOSE,
)


def is_code(text: str) -> bool:
    """Return whether an answer is code alone, or nearly so: half of it, or a fifth if its first line surely is code."""
    if text.lstrip().startswith(("{", "[")):  # an answer as JSON
        return False
    lines = [line.strip() for line in FENCE.sub("", text[:MOST_CHECKED]).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("# ", "//"))]
    sure = [SURE_CODE.match(line) is not None for line in lines]
    if not any(sure):
        return False
    code = [line for line, is_sure in zip(lines, sure, strict=True) if is_sure or LIKELY_CODE.match(line)]
    return sum(map(len, code)) >= (CODE_SHARE_OPENED if sure[0] else CODE_SHARE) * sum(map(len, lines))


def explain_text(text: str) -> tuple[Status, str]:
    """Return `ok`, or `code` or `out_of_domain` with the reason, for what the text alone shows."""
    if not any(character.isalnum() for character in text):
        return "out_of_domain", NO_WORDS
    if is_code(text):
        return "code", "the answer is code"
    letters = sum(character.isalpha() for character in text)
    if letters >= FEWEST_LETTERS:
        language, chance = find_language(text[:MOST_READ])
        if language != "en" and chance >= LIKELY:
            return "out_of_domain", f"the language is {language}, not English"
    # A script without spaces, such as Chinese, is recognised by its letters, however few.
    foreign = sum(character.isalpha() and ord(character) > 0x24F for character in text)
    if foreign > letters / 2:
        return "out_of_domain", "the answer is not in Latin letters"
    long = sum(len(word) for word in text.split() if len(word) >= LONG_WORD and "://" not in word)
    if long > len(text) / 2:
        return "out_of_domain", NO_WORDS
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
