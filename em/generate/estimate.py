"""`dry_run=true` of generate.py: calls, tokens and dollars, from none rejected to the bound on calls.

Tokens of texts that exist are estimated at four characters each (English); a reply counts with the tokens of a usual
one (`USUAL`), since `generate.max_new_tokens` is a bound against runaway replies and far from what is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from em.api.costs import CHARACTERS, Line, table, total_of
from em.api.prices import Price, price_of
from em.config import ApiJudge, JudgeConfig, LocalJudge, Material, Reading
from em.generate.plan import Step, Stock, draw, request_of
from em.generate.writer import Author, known_way
from em.judge.run import judges_of, reply_tokens
from em.runtime.memory import Calls, request_key

QUESTION, ANSWER = 40, 120  # tokens
USUAL: Mapping[Step, int] = {"pairs": QUESTION + ANSWER, "questions": QUESTION, "wrong": ANSWER, "right": ANSWER}
"""Tokens of a usual reply, for each of the rows that it is to hold."""


def estimate(author: Author, stock: Stock, judge: JudgeConfig, prices: Mapping[str, Price]) -> str:
    """Return the estimate as a table."""
    settings, most = stock.settings, stock.most_calls
    least = min(stock.least_calls, most)
    with Calls(author.store) as calls:
        lines = [writing_line(step, least, author, stock, calls) for step in stock.prompts]
    if stock.rubrics:
        lines += [judging_line(each, stock, prices) for each in judges_of(judge)]
    usd = total_of(lines)
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
    return "\n".join([head, *table(lines), total, "Nothing was called (dry_run=true)."])


def writing_line(step: Step, least: int, author: Author, stock: Stock, calls: Calls) -> Line:
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
    usd = author.price.cost(prompt, reply) if author.price else None
    return Line(f"{step} by {author.model.id}", number, len(known), prompt, reply, usd)


def judging_line(judge: LocalJudge | ApiJudge, stock: Stock, prices: Mapping[str, Price]) -> Line:
    """Estimate the scores of one judge when every row is accepted."""
    rubrics = [len(prompt.text) for prompt in stock.rubrics.values()]
    rows = stock.settings.rows * len(rubrics)
    prompt = rows * (sum(rubrics) // len(rubrics) // CHARACTERS + QUESTION + ANSWER)
    if isinstance(judge, LocalJudge):
        return Line(f"scores of {judge.model}", rows, 0, prompt, 0, 0.0)
    reading = "logprobs" if judge.reading is Reading.auto else judge.reading.value
    reply, price = rows * reply_tokens(judge, reading), price_of(judge.model, prices)
    return Line(f"scores of {judge.model}", rows, 0, prompt, reply, price.cost(prompt, reply) if price else None)
