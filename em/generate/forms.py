"""The forms of a reply as pydantic schemas: pairs, questions, one answer. What is not of the form is None."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict


def strip_text(text: str) -> str:
    """Take away the white space around a text. Raises ValueError when nothing is left."""
    if not text.strip():
        raise ValueError("no text")
    return text.strip()


Text = Annotated[str, AfterValidator(strip_text)]


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
    """Return the end of a prompt; also where the server holds the reply to the schema, since models then do better."""
    return f"Reply with JSON alone, of this form: {WORDS[form]}"


def response_format(form: str) -> dict[str, Any]:
    """Return what the chat API takes as `response_format`."""
    schema = FORMS[form].model_json_schema()
    return {"type": "json_schema", "json_schema": {"name": form, "strict": True, "schema": schema}}


def read_form(form: str, text: str, most: int) -> tuple[tuple[str, str], ...] | None:
    """Read a reply as (question, answer) of which one may be empty; at most `most`, since models write on.

    None where it is not of the form. Words and fences around the JSON are passed over.
    """
    try:
        reply = FORMS[form].model_validate_json(text[text.find("{") : text.rfind("}") + 1])
    except ValueError:  # no JSON, or another form: pydantic's ValidationError
        return None
    match reply:
        case Pairs(pairs=pairs):
            parts = [(pair.question, pair.answer) for pair in pairs]
        case Questions(questions=questions):
            parts = [(question, "") for question in questions]
        case Answer(answer=answer):
            parts = [("", answer)]
    return tuple(parts[:most]) or None
