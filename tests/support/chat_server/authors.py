"""Replies of a model that writes training data: pairs, questions or an answer as JSON, from prompt and seed alone."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from .distribution import hash_values

if TYPE_CHECKING:
    from .models import Call
    from .options import Options

ASKED = re.compile(r"\bWrite (\d+)\b")
OWNERS = (
    "I drive a taxi and", "My neighbour has a van and", "After a wet summer", "We bought a used estate car;",
    "Our club looks after old buses and", "Since the move to the coast", "My sister is learning to drive and",
    "For a long trip north", "With a trailer on most weekends", "The handbook is lost and", "In a hilly town",
)  # fmt: skip
PARTS = (
    "the wiper blades", "the cabin filter", "the door seals", "the battery terminals", "the coolant level",
    "the engine oil", "the windscreen chips", "the paint on the bonnet", "the floor mats", "the washer jets",
    "the boot hinges", "the spare key", "the sun visors",
)  # fmt: skip
ACTS = (
    "how often should somebody look at", "is it worth paying a workshop for", "what is the cheapest way to care for",
    "which mistakes do people make with", "when is it time to replace", "what would you check first about",
    "does salt do any harm to", "can a beginner take care of", "who should be asked about",
)  # fmt: skip
ADVICE = (
    "Begin with a look in daylight and note what has changed.", "Once a season is enough for most owners.",
    "A soft cloth and lukewarm water do most of the work.", "Keep the receipt, since some makers ask for it.",
    "Compare two quotes before you agree to anything.", "A thin film of silicone grease keeps rubber supple.",
    "If it squeaks again within a week, let a mechanic listen.", "Write the date on a piece of tape beside it.",
    "Dust from the road is the usual cause.", "Cheap parts last half as long, which may still be fine.",
    "The maker's interval is a good guide.", "Don't use washing-up liquid, which dries the surface out.",
)  # fmt: skip
STOCK = (
    (
        "Which oil does my car need when the handbook is lost?",
        "Ask a dealer with the number on the frame; it takes them",
    ),
    ("How do I stop the windows from misting up in winter?", "Run the air conditioning with the heater for some"),
    ("Is a car wash with brushes bad for dark paint?", "It leaves fine scratches, so choose one with cloth that has"),
)


def write_reply(call: Call, options: Options) -> str:
    """Write the reply to a prompt."""
    bits = hash_values("author", call.prompt, call.seed)
    form = find_form(call)
    match = ASKED.search(call.prompt)
    count = int(match[1]) if match else 3
    if form == "answer":
        reply: dict[str, object] = {"answer": make_advice(hash_values(bits, "answer"))}
    else:
        pairs = [make_pair(hash_values(bits, each), options.repeats) for each in range(count)]
        reply = {"pairs": [{"question": q, "answer": a} for q, a in pairs]}
        if form == "questions":
            reply = {"questions": [question for question, _ in pairs]}
    text = json.dumps(reply, ensure_ascii=False)
    if (bits >> 8) % 1000 < 1000 * options.unfit:
        return (text[: len(text) // 2], '{"items": []}', "Gladly, here are some questions about cars.")[bits % 3]
    return f"```json\n{text}\n```" if call.family == "poet" else text


def find_form(call: Call) -> str:
    """Return the form of the reply (pairs, questions or answer) from the schema or the words of the prompt."""
    if call.schema is not None:
        return str(next(iter(call.schema["properties"])))
    return next(form for form in ("pairs", "questions", "answer") if f'{{"{form}":' in call.prompt)


def make_pair(bits: int, repeats: float) -> tuple[str, str]:
    """Make a question with its answer; a share of the pairs nearly repeats a stock pair."""
    if (bits >> 8) % 1000 < 1000 * repeats:
        question, reply = STOCK[bits % len(STOCK)]
        return question, f"{reply} {('minutes', 'moments', 'time')[(bits >> 20) % 3]}."
    owner, act, part = (choices[hash_values(bits, i) % len(choices)] for i, choices in enumerate((OWNERS, ACTS, PARTS)))
    return f"{owner} {act} {part} after {3 + bits % 40} months?", make_advice(bits)


def make_advice(bits: int) -> str:
    """Make an answer of up to three pieces of advice and a figure."""
    chosen = [ADVICE[hash_values(bits, "advice", i) % len(ADVICE)] for i in range(3)]
    return " ".join([*dict.fromkeys(chosen), f"Plan about {5 + bits % 90} minutes."])
