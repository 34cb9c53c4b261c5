"""The forms of a reply as pydantic schemas: pairs, questions, one answer. What is not of the form is None."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from em.data.layouts import SURROGATE


def with_text(text: str) -> str:
    """A text without white space around it. Raises ValueError when nothing is left, or half a character."""
    if not text.strip() or SURROGATE.search(text):
        raise ValueError("no text")
    return text.strip()


Text = Annotated[str, AfterValidator(with_text)]


class Form(BaseModel):
    """No other field, and none left out: what `strict` means to the servers."""

    model_config = ConfigDict(extra="forbid")


class Pair(Form):
    """A question and its answer."""

    question: Text
    answer: Text


class Pairs(Form):
    """Several pairs."""

    pairs: list[Pair]


class Questions(Form):
    """Several questions."""

    questions: list[Text]


class Answer(Form):
    """One answer."""

    answer: Text


FORMS: dict[str, type[Form]] = {"pairs": Pairs, "questions": Questions, "answer": Answer}
WORDS = {
    "pairs": '{"pairs": [{"question": "…", "answer": "…"}, …]}',
    "questions": '{"questions": ["…", …]}',
    "answer": '{"answer": "…"}',
}


def form_in_words(form: str) -> str:
    """The end of a prompt; also where the server holds the reply to the schema, since models then do better."""
    return f"Reply with JSON alone, of this form: {WORDS[form]}"


def response_format(form: str) -> dict[str, Any]:
    """What the chat API takes as `response_format`."""
    schema = FORMS[form].model_json_schema()
    return {"type": "json_schema", "json_schema": {"name": form, "strict": True, "schema": schema}}


def read_form(form: str, text: str, most: int) -> tuple[tuple[str, str], ...] | None:
    """What a reply says, as (question, answer) of which one may be empty; at most `most`, since models write on.

    None where it is not of the form. Words and fences around the JSON are passed over.
    """
    try:
        found = FORMS[form].model_validate(json.loads(text[text.find("{") : text.rfind("}") + 1]))
    except (ValidationError, ValueError, RecursionError):
        return None
    match found:
        case Pairs(pairs=pairs):
            return tuple((pair.question, pair.answer) for pair in pairs[:most]) or None
        case Questions(questions=questions):
            return tuple((question, "") for question in questions[:most]) or None
        case Answer(answer=answer):
            return (("", answer),)
        case _:
            return None
