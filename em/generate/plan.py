"""From the number of a call to its prompt: the piece, the examples and the variation. Pure functions of the seed.

Call number n does not depend on the replies to other calls. So replies may arrive in any order, and a run with more
rows begins with the calls of a smaller run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from em.config import GenerateConfig, GenerateKind, Material
from em.data.draw import shuffle_rows
from em.generate.prompts import Example, Prompt, read_examples, read_prompt, read_rubric, read_variance
from em.generate.sources import Piece, read_pieces
from em.runtime.records import encode_canonical
from em.types import Message

Step = Literal["pairs", "questions", "wrong", "right"]
FORMS: Mapping[Step, str] = {"pairs": "pairs", "questions": "questions", "wrong": "answer", "right": "answer"}
"""The form of the reply in each step (`em.generate.forms`)."""


@dataclass(frozen=True)
class GenerateRequest:
    """A call of the author model, with everything that the reply depends on.

    model: identity of the author, server included; form: of the reply.
    call, attempt: numbers from 0, from which the seed is derived; way: how to ask the server (`em.generate.writer`).
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
    """The settings of a set, and the ingredients of its prompts.

    prompts: by step, in the order of the steps. rubrics: `row` for wrong answers or pairs, `control` for right answers;
    empty without a filter.
    """

    settings: GenerateConfig
    pieces: Sequence[Piece]
    examples: Sequence[Example]
    variance: Sequence[str]
    prompts: Mapping[Step, Prompt]
    rubrics: Mapping[str, Prompt] = field(default_factory=dict)

    @property
    def rows_per_call(self) -> int:
        """Return the largest number of rows that one call can bring."""
        return 1 if self.settings.material is Material.questions else self.settings.per_call

    @property
    def least_calls(self) -> int:
        """Return the number of calls needed if every row is accepted."""
        return -(-self.settings.rows // self.rows_per_call)

    @property
    def most_calls(self) -> int:
        """Return `generate.max_calls`, or four times the least number of calls; each question is used once."""
        most = self.settings.max_calls or 4 * self.least_calls
        return min(most, len(self.pieces)) if self.settings.material is Material.questions else most


@dataclass(frozen=True)
class Draw:
    """The random choices for a call. examples: numbers in the pool, from 0, in the order of the prompt."""

    call: int
    piece: Piece
    examples: tuple[int, ...]
    variance: str


def read_stock(settings: GenerateConfig) -> Stock:
    """Read all files that the settings name. Raise an error that names the setting of an unusable file."""
    twins, from_text = settings.kind is GenerateKind.twins, ("passage", "count")
    prompts: dict[Step, Prompt] = {}
    if not twins:
        prompts["pairs"] = read_prompt(settings.prompt, "generate.prompt", from_text)
    elif settings.material is Material.texts:
        prompts["questions"] = read_prompt(settings.question_prompt, "generate.question_prompt", from_text)
    if twins:
        prompts["wrong"] = read_prompt(settings.prompt, "generate.prompt", ("question",))
        prompts["right"] = read_prompt(settings.control_prompt, "generate.control_prompt", ("question",))
    rubrics = {}
    if settings.keep_above is not None:
        rubrics["row"] = read_rubric(settings.rubric, "generate.rubric")
        if twins:
            rubrics["control"] = read_rubric(settings.control_rubric, "generate.control_rubric")
    pieces = read_pieces(settings.source, settings.material, settings.passage)
    return Stock(settings, pieces, read_examples(settings.examples), read_variance(settings.variance), prompts, rubrics)


def draw_call(call: int, stock: Stock) -> Draw:
    """Draw the piece, examples and variance of a call. Each round uses every piece once, in a new random order."""
    settings, prompts = stock.settings, stock.prompts.values()
    turn, place = divmod(call, len(stock.pieces))
    piece = stock.pieces[draw_order(len(stock.pieces), f"{settings.seed} pieces {turn}")[place]]
    examples, variance = list[int](), ""
    if any(prompt.has_slot("examples") for prompt in prompts):
        examples = shuffle_rows(range(len(stock.examples)), f"{settings.seed} examples {call}")[: settings.shots]
    varied = stock.variance and any(prompt.has_slot("variance") for prompt in prompts)
    if varied and draw_fraction(f"{settings.seed} variance {call}") < settings.variance_probability:
        variance = stock.variance[int(draw_fraction(f"{settings.seed} which variance {call}") * len(stock.variance))]
    return Draw(call, piece, tuple(examples), variance)


@lru_cache(maxsize=16)
def draw_order(count: int, lot: str) -> list[int]:
    """Cache `shuffle_rows`, so that thousands of questions are not shuffled again for each question."""
    return shuffle_rows(range(count), lot)


def draw_fraction(lot: str) -> float:
    """Draw a number in [0, 1) that depends only on `lot` and is the same on every platform."""
    return (int.from_bytes(hashlib.sha256(lot.encode()).digest()[:8], "big") >> 11) / 2**53


def make_generate_request(model: str, step: Step, drawn: Draw, stock: Stock, question: str = "") -> GenerateRequest:
    """Make the request of the first attempt of a step. `question`: the question to answer in `wrong` and `right`."""
    from em.generate.forms import describe_form

    settings = stock.settings
    form = "Question: {0.question}" if step == "questions" else "Question: {0.question}\nAnswer: {0.answer}"
    examples = [form.format(stock.examples[number]) for number in drawn.examples]
    values = {
        "passage": drawn.piece.text,
        "question": question,
        "count": str(settings.per_call),
        "variance": drawn.variance,
        "examples": "\n\n".join(examples) or "(none)",
    }
    prompt = f"{stock.prompts[step].fill_slots(values)}\n\n{describe_form(FORMS[step])}"
    return GenerateRequest(
        model=model,
        messages=(Message("user", prompt),),
        form=FORMS[step],
        call=drawn.call,
        attempt=0,
        seed=settings.seed,
        temperature=settings.temperature,
        top_p=settings.top_p,
        reasoning_effort=settings.reasoning_effort,
        max_new_tokens=settings.max_new_tokens,
    )


def derive_sampling_seed(request: GenerateRequest) -> int:
    """Derive the seed sent with a request (63 bits), which differs for every prompt, call and attempt."""
    prompt = encode_canonical([[m.role, m.content] for m in request.messages])
    lot = f"{request.seed}|{request.call}|{request.attempt}|{prompt}"
    return int.from_bytes(hashlib.sha256(lot.encode()).digest()[:8], "big") >> 1
