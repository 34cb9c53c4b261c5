"""Keys and personal data in texts, found by libraries: detect-secrets, phonenumbers, python-stdnum.

Counted, never printed: what was found is named by its kind alone. Nothing is sent anywhere; the checks by which
detect-secrets asks a service whether a key works are not used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

# Names that are reserved for examples (RFC 2606, RFC 6761) are nobody's.
RESERVED = re.compile(r"(^|\.)(example\.(com|org|net)|example|test|invalid|localhost|local)$", re.IGNORECASE)
EMAIL = re.compile(r"\b[\w.+-]{1,64}@((?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24})\b", re.IGNORECASE)
CARD = re.compile(r"(?<![\w.-])[3-6]\d{3}([ -]?)(?:\d{4}\1\d{4}\1\d{1,7}|\d{6}\1\d{4,5})(?![\w.-])")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
# What may be a telephone number: a cheap look before the exact one.
PHONE = re.compile(r"\+\d[\d ().-]{6,}\d|(?<![\w.])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?![\w.])")
NATIONAL = "US"
"""Where numbers without a country code are taken to be from."""
# Detectors that match far more than keys, in code above all.
TOO_BROAD = ("Public IP (ipv4)",)
# Forms that detect-secrets does not know (yet); those that it knows in part have its name.
FORMS = {
    "Hugging Face Token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "GitHub Token": re.compile(r"\bgithub_pat_[A-Za-z0-9_]{40,}\b"),
    "Anthropic Key": re.compile(r"\bsk-ant-[A-Za-z0-9_-]{24,}"),
    "Google API Key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    "OpenAI Token": re.compile(r"\bsk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{24,}|[A-Za-z0-9]{40,}\b)"),
}
FEWEST_LETTERS = 10
"""Different characters of a key; one of fewer is a place to write one, such as hf_xxxxxxxx."""


def secrets_in(text: str) -> Counter[str]:
    """How many keys and passwords of which kind a text shows, by the patterns of detect-secrets and some of em's."""
    found: dict[str, set[str]] = {}
    for detector in detectors():
        if hits := {hit for hit in detector.analyze_string(text) if hit}:
            found[detector.secret_type] = hits
    for kind, form in FORMS.items():
        # Where both know a key, each may have seen another part of it.
        known = found.get(kind, set())
        hits = {hit for hit in form.findall(text) if len(set(hit)) >= FEWEST_LETTERS}
        if fresh := {hit for hit in hits if not any(hit in other or other in hit for other in known)}:
            found[kind] = known | fresh
    return Counter({kind: len(hits) for kind, hits in found.items()})


@cache
def detectors() -> tuple[Any, ...]:
    """The detectors of detect-secrets that know the form of a key, not those by entropy or by a name nearby."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    classes: dict[str, type[Any]] = get_mapping_from_secret_type_to_class()
    by_form = {name: kind for name, kind in classes.items() if issubclass(kind, RegexBasedDetector)}
    return tuple(by_form[name]() for name in sorted(by_form) if name not in TOO_BROAD)


def personal_in(text: str) -> Counter[str]:
    """How many e-mail addresses, telephone numbers, card numbers and account numbers a text shows."""
    found: Counter[str] = Counter()
    for kind, hits in (("e-mail", emails(text)), ("card", cards(text)), ("IBAN", ibans(text)), ("phone", phones(text))):
        if several := set(hits):
            found[kind] += len(several)
    return found


def emails(text: str) -> Iterator[str]:
    """E-mail addresses, those of reserved names left out."""
    if "@" in text:
        for match in EMAIL.finditer(text):
            if not RESERVED.search(match[1]):
                yield match[0]


def cards(text: str) -> Iterator[str]:
    """Card numbers: 13 to 19 digits of an issuer's range whose check digit is right (Luhn)."""
    for match in CARD.finditer(text):
        from stdnum import luhn

        digits = re.sub(r"\D", "", match[0])
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn.is_valid(digits):
            yield digits


def ibans(text: str) -> Iterator[str]:
    """Account numbers (IBAN) of the right length and check digits."""
    for match in IBAN.finditer(text):
        from stdnum import iban

        if iban.is_valid(match[0]):
            yield iban.compact(match[0])


def phones(text: str) -> Iterator[str]:
    """Telephone numbers that exist by their country's plan, written as one would there."""
    if PHONE.search(text):
        import phonenumbers

        matcher = phonenumbers.PhoneNumberMatcher(text, NATIONAL, phonenumbers.Leniency.STRICT_GROUPING, max_tries=200)
        for match in matcher:
            if PHONE.search(match.raw_string):
                yield match.raw_string
