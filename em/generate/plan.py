"""From the number of a call to its prompt: which piece, which examples, which variation. Pure functions of the seed.

Call number n is the same whatever came of the others, so calls may arrive in any order, and a run that wants more rows
makes the calls of a smaller one first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from em.config import GenerateConfig, GenerateKind, Material
from em.data.draw import drawn_order
from em.generate.prompts import Example, Prompt, read_examples, read_prompt, read_rubric, read_variance
from em.generate.sources import Piece, read_pieces
from em.runtime.records import canonical
from em.types import Message

Step = Literal["pairs", "questions", "wrong", "right"]
FORMS: Mapping[Step, str] = {"pairs": "pairs", "questions": "questions", "wrong": "answer", "right": "answer"}
"""The form of the reply of each step (`em.generate.forms`)."""


@dataclass(frozen=True)
class GenerateRequest:
    """A call of the model that writes: everything that its reply depends on.

    model: its identity, server included; form: of the reply.
    call, attempt: numbers from 0, of which the seed is made; way: how the server is asked (`em.generate.writer`).
    """

    model: str
    messages: tuple[Message, ...]
    form: str
    call: int
    attempt: int
    seed: int
    temperature: float | None
    top_p: float
    reasoning_effort: str | None
    max_new_tokens: int
    way: str = ""


@dataclass(frozen=True)
class Stock:
    """All that prompts are made of. rubrics: of wrong or of all answers, and of right ones; none without a filter."""

    pieces: Sequence[Piece]
    examples: Sequence[Example]
    variance: Sequence[str]
    prompts: Mapping[Step, Prompt]
    rubrics: Mapping[str, Prompt] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """What was drawn for a call. examples: their numbers in the pool, from 0, in the order of the prompt."""

    call: int
    piece: Piece
    examples: tuple[int, ...]
    variance: str


def read_stock(settings: GenerateConfig) -> Stock:
    """Read everything that the settings name. Raises with the setting whose file can't be used."""
    prompts: dict[Step, Prompt] = {}
    if settings.kind is GenerateKind.qa:
        prompts["pairs"] = read_prompt(settings.prompt, "generate.prompt", ("passage", "count"))
    else:
        if settings.material is Material.texts:
            needs = ("passage", "count")
            prompts["questions"] = read_prompt(settings.question_prompt, "generate.question_prompt", needs)
        prompts["wrong"] = read_prompt(settings.prompt, "generate.prompt", ("question",))
        prompts["right"] = read_prompt(settings.control_prompt, "generate.control_prompt", ("question",))
    rubrics = {}
    if settings.keep_above is not None:
        rubrics["row"] = read_rubric(settings.rubric, "generate.rubric")
        if settings.kind is GenerateKind.twins:
            rubrics["control"] = read_rubric(settings.control_rubric, "generate.control_rubric")
    return Stock(
        pieces=read_pieces(settings.source, settings.material, settings.passage),
        examples=read_examples(settings.examples, "generate.examples"),
        variance=read_variance(settings.variance, "generate.variance"),
        prompts=prompts,
        rubrics=rubrics,
    )


def call_bound(settings: GenerateConfig, stock: Stock) -> int:
    """How many calls may be made: `generate.max_calls`, or four times the least number; a question is used once."""
    bound = settings.max_calls or 4 * least_calls(settings)
    return min(bound, len(stock.pieces)) if settings.material is Material.questions else bound


def least_calls(settings: GenerateConfig) -> int:
    """How many calls it takes when all that they bring is accepted."""
    return -(-settings.rows // rows_per_call(settings))


def rows_per_call(settings: GenerateConfig) -> int:
    """How many rows a call can bring."""
    return 1 if settings.material is Material.questions else settings.per_call


def draw(call: int, settings: GenerateConfig, stock: Stock) -> Draw:
    """What a call is about. Every piece has its turn before one comes again, in an order drawn anew each round."""
    seed = settings.seed
    turn, place = divmod(call, len(stock.pieces))
    piece = stock.pieces[order_of(len(stock.pieces), f"{seed} pieces {turn}")[place]]
    shown = any(prompt.has("examples") for prompt in stock.prompts.values())
    examples = drawn_order(range(len(stock.examples)), f"{seed} examples {call}")[: settings.shots] if shown else ()
    varied = stock.variance and any(prompt.has("variance") for prompt in stock.prompts.values())
    variance = ""
    if varied and share(f"{seed} variance {call}") < settings.variance_probability:
        variance = stock.variance[int(share(f"{seed} which variance {call}") * len(stock.variance))]
    return Draw(call, piece, tuple(examples), variance)


@lru_cache(maxsize=16)
def order_of(count: int, lot: str) -> list[int]:
    """`drawn_order`, remembered: a list of thousands of questions is not drawn anew for each of them."""
    return drawn_order(range(count), lot)


def share(lot: str) -> float:
    """A number from 0 up to 1 that hangs on the lot alone, the same on every platform."""
    return (int.from_bytes(hashlib.sha256(lot.encode()).digest()[:8], "big") >> 11) / 2**53


def messages_of(step: Step, drawn: Draw, question: str, settings: GenerateConfig, stock: Stock) -> tuple[Message, ...]:
    """The prompt of a step. `question`: that is to be answered, for `wrong` and `right`."""
    from em.generate.forms import form_in_words

    examples = [stock.examples[number] for number in drawn.examples]
    values = {
        "passage": drawn.piece.text,
        "question": question,
        "count": str(settings.per_call),
        "variance": drawn.variance,
        "examples": "\n\n".join(as_shown(example, step) for example in examples) or "(none)",
    }
    text = f"{stock.prompts[step].filled(values)}\n\n{form_in_words(FORMS[step])}"
    return (Message("user", text),)


def as_shown(example: Example, step: Step) -> str:
    """An example as the prompt of a step shows it; where questions alone are written, the question alone."""
    if step == "questions":
        return f"Question: {example.question}"
    return f"Question: {example.question}\nAnswer: {example.answer}"


def request_of(
    model: str, step: Step, drawn: Draw, settings: GenerateConfig, stock: Stock, question: str = ""
) -> GenerateRequest:
    """The first attempt of a step."""
    return GenerateRequest(
        model=model,
        messages=messages_of(step, drawn, question, settings, stock),
        form=FORMS[step],
        call=drawn.call,
        attempt=0,
        seed=settings.seed,
        temperature=settings.temperature,
        top_p=settings.top_p,
        reasoning_effort=settings.reasoning_effort,
        max_new_tokens=settings.max_new_tokens,
    )


def sampling_seed(request: GenerateRequest) -> int:
    """The seed that is sent with a request (63 bits): another for every prompt, call and attempt."""
    prompt = canonical([[m.role, m.content] for m in request.messages])
    lot = f"{request.seed}|{request.call}|{request.attempt}|{prompt}"
    return int.from_bytes(hashlib.sha256(lot.encode()).digest()[:8], "big") >> 1
