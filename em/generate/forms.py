"""The forms of a reply as pydantic schemas (pairs, questions, one answer), and the parser of replies."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict


def strip_text(text: str) -> str:
    """Strip the white space around a text. Raise ValueError if nothing is left."""
    if not text.strip():
        raise ValueError("no text")
    return text.strip()


Text = Annotated[str, AfterValidator(strip_text)]


class Form(BaseModel):
    """A form without extra or missing fields, as `strict` means to servers."""

    # The titles and docstrings of the subclasses are part of the schema that is sent: keep them.
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


class AnswerForm(Form):
    """One answer."""

    model_config = ConfigDict(title="Answer")

    answer: Text


FORMS: dict[str, type[Form]] = {"pairs": Pairs, "questions": Questions, "answer": AnswerForm}
WORDS = {
    "pairs": '{"pairs": [{"question": "…", "answer": "…"}, …]}',
    "questions": '{"questions": ["…", …]}',
    "answer": '{"answer": "…"}',
}


def describe_form(form: str) -> str:
    """Return the description of a form that ends a prompt; models do better with it even if a schema is enforced."""
    return f"Reply with JSON alone, of this form: {WORDS[form]}"


def make_response_format(form: str) -> dict[str, Any]:
    """Return the `response_format` of the chat API for a form."""
    schema = FORMS[form].model_json_schema()
    return {"type": "json_schema", "json_schema": {"name": form, "strict": True, "schema": schema}}


def parse_reply(form: str, text: str, most: int) -> tuple[tuple[str, str], ...] | None:
    """Parse a reply into at most `most` pairs (question, answer); one of the two texts may be empty.

    Return None for a malformed reply. Words and code fences around the JSON are ignored.
    """
    try:
        reply = FORMS[form].model_validate_json(text[text.find("{") : text.rfind("}") + 1])
    except ValueError:  # pydantic's ValidationError: not JSON, or another form
        return None
    match reply:
        case Pairs(pairs=pairs):
            parts = [(pair.question, pair.answer) for pair in pairs]
        case Questions(questions=questions):
            parts = [(question, "") for question in questions]
        case AnswerForm(answer=answer):
            parts = [("", answer)]
    return tuple(parts[:most]) or None
