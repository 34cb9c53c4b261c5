"""`dry_run=true` of generate.py: calls, tokens and dollars, from none rejected to the bound on calls.

Tokens of texts that exist are estimated at four characters each (English); a reply counts with the tokens of a usual
one (`USUAL`), since `generate.max_new_tokens` is a bound against runaway replies and far from what is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from em.api.costs import CHARACTERS, Cost, format_estimate, price_calls, sum_usd
from em.config import ApiJudge, GenerateConfig, GenerateKind, GenerateRun, Material, OpenAIModel
from em.generate.plan import Step, Stock, call_bound, draw, least_calls, request_of
from em.generate.writer import WayRequest, known_way
from em.judge.run import reply_tokens
from em.models.hosted import hosted_model
from em.runtime.memory import Calls, request_key
from em.types import Prices

QUESTION, ANSWER = 40, 120  # tokens
USUAL: Mapping[Step, int] = {"pairs": QUESTION + ANSWER, "questions": QUESTION, "wrong": ANSWER, "right": ANSWER}
"""Tokens of a usual reply, for each of the rows that it is to hold."""


def estimate(settings: GenerateRun, model: OpenAIModel, stock: Stock, calls: Calls, prices: Prices) -> str:
    """The estimate as a table."""
    chosen = settings.generate
    wanted, most = least_calls(chosen), call_bound(chosen, stock)
    least = min(wanted, most)
    lines = writing_lines(chosen, model, stock, calls, prices, least)
    if chosen.keep_above is not None:
        lines += judging_lines(settings, stock, prices)
    total = sum_usd(lines)
    if total is None:
        said = "total: unknown, for lack of a price (prices=FILE)"
    else:
        said = (
            f"total: about ${total:.4f} when every row is accepted, about ${total * most / least:.4f} when "
            f"all calls are needed that may be made ({most})"
        )
    head = f"would write {chosen.rows} rows of {chosen.name} from {len(stock.pieces)} pieces of the sources"
    if most < wanted:
        head += f"; no more than {most} can be had from them"
    return "\n".join([head, *format_estimate(lines), said, "Nothing was called (dry_run=true)."])


def writing_lines(
    chosen: GenerateConfig, model: OpenAIModel, stock: Stock, calls: Calls, prices: Prices, least: int
) -> list[Cost]:
    """What writing takes, by step, when every row is accepted."""
    price = prices.of(model.id)
    identity = hosted_model(model).base.identity
    way = known_way(WayRequest(identity, chosen.temperature, chosen.reasoning_effort), calls)
    lines = []
    for step in stock.prompts:
        # Questions that are still to be written are as long as they usually are.
        from_texts = chosen.material is Material.texts
        written = step in ("wrong", "right") and from_texts
        number = min(chosen.rows, least * chosen.per_call) if written else least
        drawn = [draw(call, chosen, stock) for call in range(1 if written else number)]
        requests = [
            request_of(identity, step, each, chosen, stock, "" if written else each.piece.text) for each in drawn
        ]
        known = calls.there([request_key(replace(each, way=way)) for each in requests]) if not written else set()
        left = [each for each in requests if request_key(replace(each, way=way)) not in known]
        characters = sum(len(m.content) for each in left for m in each.messages)
        prompt = characters // CHARACTERS + QUESTION * len(left)
        each_reply = USUAL[step] * (chosen.per_call if step in ("pairs", "questions") else 1)
        if written:
            prompt, replies = prompt * number, number * each_reply
        else:
            replies = len(left) * each_reply
        usd = price_calls(price, prompt, replies)
        lines.append(Cost(f"{step} by", model.id, number, prompt, replies, usd, len(known)))
    return lines


def judging_lines(settings: GenerateRun, stock: Stock, prices: Prices) -> list[Cost]:
    """What judging takes, by judge, when every row is accepted."""
    chosen = settings.generate
    rows = chosen.rows * (2 if chosen.kind is GenerateKind.twins else 1)
    rubric = sum(len(prompt.text) for prompt in stock.rubrics.values()) // max(1, len(stock.rubrics))
    prompt = rows * (rubric // CHARACTERS + QUESTION + ANSWER)
    lines = []
    for judge in settings.judge.list_members():
        if not isinstance(judge, ApiJudge):
            lines.append(Cost("scores of", judge.model, rows, prompt, 0, 0.0))
            continue
        reading = "logprobs" if judge.reading.value == "auto" else judge.reading.value
        reply = rows * reply_tokens(judge, reading)
        usd = price_calls(prices.of(judge.model), prompt, reply)
        lines.append(Cost("scores of", judge.model, rows, prompt, reply, usd))
    return lines
