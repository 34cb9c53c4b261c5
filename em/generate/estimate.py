"""`dry_run=true` of generate.py: calls, tokens and dollars, from none rejected to the bound on calls.

Tokens of texts that exist are estimated at four characters each (English); a reply counts with the tokens of a usual
one (`USUAL`), since `generate.max_new_tokens` is a bound against runaway replies and far from what is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from em.api.costs import CHARACTERS, Cost, format_estimate, price_calls, sum_usd
from em.api.resources import Resources
from em.config import ApiJudge, LocalJudge, Material, Reading
from em.generate.plan import Step, Stock, draw, request_of
from em.generate.writer import Author, known_way
from em.judge.run import reply_tokens
from em.runtime.memory import Calls, request_key
from em.types import Prices

QUESTION, ANSWER = 40, 120  # tokens
USUAL: Mapping[Step, int] = {"pairs": QUESTION + ANSWER, "questions": QUESTION, "wrong": ANSWER, "right": ANSWER}
"""Tokens of a usual reply, for each of the rows that it is to hold."""


def estimate(author: Author, stock: Stock, resources: Resources) -> str:
    """Return the estimate as a table."""
    settings, most = stock.settings, stock.most_calls
    least = min(stock.least_calls, most)
    costs = [estimate_writing(step, least, author, stock, resources.memory) for step in stock.prompts]
    if stock.rubrics:
        costs += [estimate_judging(judge, stock, resources.prices) for judge in resources.judges]
    usd = sum_usd(costs)
    if usd is None:
        total = "total: unknown, for lack of a price (prices=FILE)"
    else:
        total = (
            f"total: about ${usd:.4f} when every row is accepted, about ${usd * most / least:.4f} when all calls are "
            f"needed that may be made ({most})"
        )
    head = f"would write {settings.rows} rows of {settings.name} from {len(stock.pieces)} pieces of the sources"
    if most < stock.least_calls:
        head += f"; no more than {most} can be had from them"
    return "\n".join([head, *format_estimate(costs), total, "Nothing was called (dry_run=true)."])


def estimate_writing(step: Step, least: int, author: Author, stock: Stock, calls: Calls) -> Cost:
    """Estimate a step of writing when every row is accepted; `least`: calls that this takes."""
    settings, way = stock.settings, known_way(author.way_request, calls)
    # Questions that are still to be written are as long as they usually are: one prompt stands for all.
    unwritten = step in ("wrong", "right") and settings.material is Material.texts
    number = min(settings.rows, least * settings.per_call) if unwritten else least
    draws = [draw(call, stock) for call in range(1 if unwritten else number)]
    requests = [request_of(author.identity, step, each, stock, "" if unwritten else each.piece.text) for each in draws]
    by_key = {request_key(replace(request, way=way)): request for request in requests}
    known = calls.there(list(by_key))
    left = [request for key, request in by_key.items() if key not in known]
    times = number if unwritten else 1
    characters = sum(len(message.content) for request in left for message in request.messages)
    prompt = times * (characters // CHARACTERS + QUESTION * len(left))
    reply = times * len(left) * USUAL[step] * (settings.per_call if step in ("pairs", "questions") else 1)
    usd = price_calls(author.price, prompt, reply)
    return Cost(f"{step} by", author.model.id, number, prompt, reply, usd, len(known))


def estimate_judging(judge: LocalJudge | ApiJudge, stock: Stock, prices: Prices) -> Cost:
    """Estimate the scores of one judge when every row is accepted."""
    rubrics = [len(prompt.text) for prompt in stock.rubrics.values()]
    rows = stock.settings.rows * len(rubrics)
    prompt = rows * (sum(rubrics) // len(rubrics) // CHARACTERS + QUESTION + ANSWER)
    match judge:
        case LocalJudge():
            return Cost("scores of", judge.model, rows, prompt, 0, 0.0)
    reading = "logprobs" if judge.reading is Reading.auto else judge.reading.value
    reply = rows * reply_tokens(judge, reading)
    return Cost("scores of", judge.model, rows, prompt, reply, price_calls(prices.of(judge.model), prompt, reply))
