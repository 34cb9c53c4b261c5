"""A judge behind a server: requests are asked side by side, and each response is remembered before the next is asked.

What a kill loses is what was in flight. A call that failed at every attempt is a verdict with status `error` in this
run, is not remembered, and is made again by the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from em.api.client import Client
from em.api.prices import Budget, load_prices
from em.config import ApiJudge
from em.errors import ConfigError, EmError
from em.judge.learning import known_readings
from em.judge.pool import Desk, Outcome
from em.runtime.memory import Calls, Recorder
from em.types import JudgeRequest, Prices


def judge_all(judge: ApiJudge, requests: Sequence[JudgeRequest], calls: Calls, prices: Prices | None = None) -> Outcome:
    """Judge all requests that are not remembered yet; see `judge_stream`."""

    async def once() -> AsyncIterator[Iterable[JudgeRequest]]:
        yield requests

    return asyncio.run(judge_stream(judge, once(), calls, prices if prices is not None else load_prices(None)))


async def judge_stream(
    judge: ApiJudge,
    source: AsyncIterator[Iterable[JudgeRequest]],
    calls: Calls,
    prices: Prices,
    planned: int | None = None,
    budget: Budget | None = None,
    unavailable: EmError | None = None,
) -> Outcome:
    """Judge requests as they come, those that are not remembered yet.

    Args:
        source: requests (their `reading` and `parameters` are filled in here), in parts as they become known.
        planned: how many there will be, for the progress bar.
        budget: what is left of `judge.max_usd`, where several streams share it.
        unavailable: why the judge can't be asked, which matters only if something is not remembered.

    Raises:
        ServerError: the server refuses for good, or can't be reached.
        ConfigError: `judge.max_usd` would be passed, or nothing is known to count it with.
    """
    from tqdm import tqdm

    price = prices.of(judge.model)
    if judge.max_usd is not None and price is None:
        raise ConfigError(f"judge.max_usd can't be kept: no price of {judge.model} is known; give it by prices=FILE.")
    outcome = Outcome(known_readings(judge, calls), usd=None if price is None else 0.0)
    budget = budget or Budget(judge.max_usd)
    async with Client(judge.base_url, judge.connections, judge.timeout, judge.key_env) as client:
        with tqdm(total=planned or 0, desc=f"verdicts of {judge.model}", unit="verdict") as bar:
            async with Recorder(calls.folder) as recorder:
                grow = planned is None
                desk = Desk(judge, client, calls, recorder, price, outcome, bar, grow, budget, unavailable)
                await (desk.work_by_batch(source) if judge.batch else desk.work(source))
    return outcome
