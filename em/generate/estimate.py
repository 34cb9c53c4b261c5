"""`dry_run=true` of generate.py: estimate calls, tokens and dollars, if no row is rejected and if all calls are made.

Existing texts are estimated at four characters a token (English). A reply is estimated at its usual length (`USUAL`),
since `generate.max_new_tokens` only bounds runaway replies and is far above the usual length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from em.api.costs import CHARACTERS, CallCost, compute_call_cost, format_estimate, sum_usd
from em.api.resources import Resources
from em.config import DistilledJudge, LocalJudge, Material, Reading, SingleJudge
from em.generate.plan import Step, Stock, draw_call, make_generate_request
from em.generate.writer import Author, find_cached_way
from em.judge.run import find_reply_limit
from em.runtime.memory import Calls, request_key
from em.types import Prices

QUESTION, ANSWER = 40, 120  # tokens
USUAL: Mapping[Step, int] = {"pairs": QUESTION + ANSWER, "questions": QUESTION, "wrong": ANSWER, "right": ANSWER}
"""Tokens of a usual reply, for each row in the reply."""


def estimate(author: Author, stock: Stock, resources: Resources) -> str:
    """Return the estimate of calls and costs as a table."""
    settings, most = stock.settings, stock.most_calls
    least = min(stock.least_calls, most)
    costs = [estimate_writing(step, least, author, stock, resources.memory) for step in stock.prompts]
    if stock.rubrics:
        costs += [estimate_scoring(judge, stock, resources.prices) for judge in resources.judges]
    usd = sum_usd(costs)
    if usd is None:
        total = "total: unknown, for lack of a price (prices=FILE)"
    else:
        total = (
            f"total: about ${usd:.4f} when every row is accepted, about ${usd * most / least:.4f} when all {most} "
            "allowed calls are needed"
        )
    head = f"would write {settings.rows} rows of {settings.name} from {len(stock.pieces)} pieces of the sources"
    if most < stock.least_calls:
        head += f"; at most {most} calls are allowed"
    return "\n".join([head, *format_estimate(costs), total, "Nothing was called (dry_run=true)."])


def estimate_writing(step: Step, least: int, author: Author, stock: Stock, calls: Calls) -> CallCost:
    """Estimate a step of writing when every row is accepted; `least`: the calls needed in that case."""
    settings, way = stock.settings, find_cached_way(author.way_request, calls)
    # Unwritten questions have the usual length, so one prompt stands for all.
    unwritten = step in ("wrong", "right") and settings.material is Material.texts
    number = min(settings.rows, least * settings.per_call) if unwritten else least
    requests = []
    for call in range(1 if unwritten else number):
        drawn = draw_call(call, stock)
        question = "" if unwritten else drawn.piece.text
        requests.append(make_generate_request(author.identity, step, drawn, stock, question))
    by_key = {request_key(replace(request, way=way)): request for request in requests}
    cached = calls.find_stored_keys(list(by_key))
    missing = [request for key, request in by_key.items() if key not in cached]
    times = number if unwritten else 1
    characters = sum(len(message.content) for request in missing for message in request.messages)
    prompt = times * (characters // CHARACTERS + QUESTION * len(missing))
    reply = times * len(missing) * USUAL[step] * (settings.per_call if step in ("pairs", "questions") else 1)
    usd = compute_call_cost(author.price, prompt, reply)
    return CallCost(f"{step} by", author.model.id, number, prompt, reply, usd, len(cached))


def estimate_scoring(judge: SingleJudge, stock: Stock, prices: Prices) -> CallCost:
    """Estimate the calls of one judge when every row is accepted."""
    rubrics = [len(prompt.text) for prompt in stock.rubrics.values()]
    rows = stock.settings.rows * len(rubrics)
    prompt = rows * (sum(rubrics) // len(rubrics) // CHARACTERS + QUESTION + ANSWER)
    match judge:
        case LocalJudge() | DistilledJudge():
            return CallCost("scores of", judge.model, rows, prompt, 0, 0.0)
    reading = "logprobs" if judge.reading is Reading.auto else judge.reading.value
    reply = rows * find_reply_limit(judge, reading)
    return CallCost(
        "scores of", judge.model, rows, prompt, reply, compute_call_cost(prices.find_price(judge.model), prompt, reply)
    )
