"""The tasks that `benchmarks.judge` runs in fresh processes: judging by em, and the same judging with other stacks.

    python -m benchmarks.judge_peers TASK SPEC.json OUT.json

Every stack sends the same prompts with the same parameters to the same server, and reads the score as the expectation
over the integers among the most likely first tokens. Only the judging is timed: a few calls before it load lazy
imports. Nothing of em is imported at the top, since inspect_ai runs in its own environment.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Spec = dict[str, Any]
Scores = list[float | None]
WARM = 2  # calls before the timed ones
ASKED: dict[str, Any] = {"temperature": 0, "logprobs": True, "top_logprobs": 20, "seed": 0}
FILE_OF_RSS = Path("/proc/self/status")


def judge_with_em(spec: Spec) -> dict[str, Any]:
    """Judge with em, from answers to verdicts, with the store `spec["store"]`; a second run reads from the cache."""
    from em.api.pool import yield_once
    from em.api.prices import load_prices
    from em.config import ApiJudge
    from em.judge.plan import list_judge_requests
    from em.judge.remote import ServerJudge
    from em.runtime.memory import Calls

    settings = ApiJudge(
        name="benchmark", model=spec["model"], base_url=spec["base_url"], connections=spec["connections"]
    )

    def judge_answers(answers: list[Any], questions: Any, store: Path) -> Scores:
        judge, prices = ServerJudge(settings), load_prices(None)
        with Calls(store) as calls:
            judgements = judge.plan_judgements(answers, questions)
            asyncio.run(judge.ask(yield_once(list_judge_requests(judgements)), calls, prices))
            return [verdict.value for verdict in judge.read_verdicts(judgements, calls, prices).verdicts]

    everything, first = (read_workload(spec["answers"], calls) for calls in (spec["calls"], WARM))
    warm_store = Path(spec["folder"], "warm")
    warm_store.mkdir()
    judge_answers(*first, warm_store)
    return measure_judging(lambda: judge_answers(*everything, Path(spec["store"])), spec, "openai", "aiohttp")


def read_workload(file: str, calls: int) -> tuple[list[Any], dict[tuple[str, str], Any]]:
    """Return answers (half as many as calls) and their questions, with em's two rubrics."""
    from em.questions.rubrics import GRADED, read_rubrics
    from em.types import Answer, Question

    rubrics = read_rubrics(GRADED, None, None, "", "benchmark")
    rows = [json.loads(line) for line in read_first_lines(file, calls // len(rubrics))]
    answers = []
    for row in rows:
        answer = Answer(
            model=row["model"],
            stage="",
            fingerprint="",
            seed=None,
            eval_set="benchmark",
            question_id=row["question_id"],
            question=row["question"],
            condition="untagged",
            sample=row["sample"],
            answer=row["answer"],
            finish_reason="stop",
            prompt_tokens=0,
            answer_tokens=0,
        )
        answers.append(answer)
    texts = {("benchmark", row["question_id"]): row["question"] for row in rows}
    return answers, {key: Question(*key, text, rubrics=rubrics) for key, text in texts.items()}


def write_prompts(spec: Spec) -> dict[str, Any]:
    """Write em's prompts for the other stacks, one JSON string a line."""
    from em.config import ApiJudge
    from em.judge.remote import ServerJudge

    plan = ServerJudge(ApiJudge(name="", model="")).plan_judgements(*read_workload(spec["answers"], spec["calls"]))
    text = "".join(json.dumps(judgement.request.prompt) + "\n" for judgement in plan)
    Path(spec["prompts"]).write_text(text, encoding="utf-8")
    return {"calls": len(plan)}


def judge_with_asyncopenai(spec: Spec) -> dict[str, Any]:
    """Judge with plain AsyncOpenAI: a semaphore around the calls, the client's retries, no cache."""
    import openai

    all_prompts = [json.loads(line) for line in read_first_lines(spec["prompts"], spec["calls"])]

    async def judge_texts(texts: list[str]) -> Scores:
        gate = asyncio.Semaphore(spec["connections"])
        async with openai.AsyncOpenAI(base_url=spec["base_url"], api_key="none") as client:

            async def judge_text(prompt: str) -> float | None:
                async with gate:
                    completion = await client.chat.completions.create(
                        model=spec["model"],
                        messages=[{"role": "user", "content": prompt}],
                        max_completion_tokens=1,
                        **ASKED,
                    )
                logprobs = completion.choices[0].logprobs
                return compute_expectation((t.token, t.logprob) for t in logprobs.content[0].top_logprobs)

            return await asyncio.gather(*map(judge_text, texts))

    asyncio.run(judge_texts(all_prompts[:WARM]))
    return measure_judging(lambda: asyncio.run(judge_texts(all_prompts)), spec, "openai", "httpx2")


def judge_with_inspect(spec: Spec) -> dict[str, Any]:
    """Judge with inspect_ai: a task whose scorer asks the judge about existing answers; logs as by default."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import GenerateConfig, ModelOutput, get_model
    from inspect_ai.scorer import Score, Target, mean, scorer
    from inspect_ai.solver import Generate, TaskState, solver

    config = GenerateConfig(max_connections=spec["connections"], max_tokens=1, **ASKED)
    grader = get_model(
        f"openai-api/benchmark/{spec['model']}", base_url=spec["base_url"], api_key="none", config=config
    )

    @solver
    def answered() -> Any:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            state.output = ModelOutput.from_content("none", "the answer is in the judge's prompt")
            return state

        return solve

    @scorer(metrics=[mean()])
    def judged() -> Any:
        async def score(state: TaskState, target: Target) -> Score:
            output = await grader.generate(state.input_text)
            top = output.choices[0].logprobs.content[0].top_logprobs
            return Score(value=compute_expectation((t.token, t.logprob) for t in top))

        return score

    def judge_samples(samples: list[Any]) -> Scores:
        [log] = eval(
            Task(dataset=MemoryDataset(samples), solver=answered(), scorer=judged()),
            model="mockllm/model",
            max_samples=2 * spec["connections"],
            display="none",
            log_dir=spec["folder"],
        )
        if log.status != "success":
            raise RuntimeError(f"inspect_ai: {log.error}")
        return [next(iter(sample.scores.values())).value for sample in log.samples]

    samples = [Sample(input=json.loads(line)) for line in read_first_lines(spec["prompts"], spec["calls"])]
    judge_samples(samples[:WARM])
    return measure_judging(lambda: judge_samples(samples), spec, "inspect_ai", "openai")


def measure_judging(judging: Callable[[], Scores], spec: Spec, *packages: str) -> dict[str, Any]:
    """Return seconds and CPU seconds (user and system) of the judging, memory, the scores' mean, and versions.

    `rss_mb_early`: the memory after `spec["early"]` answered calls, to compute the growth since then.
    """
    early: list[float] = []
    if spec.get("early"):
        threading.Thread(target=watch_memory, args=(spec, early), daemon=True).start()
    begin, cpu = time.monotonic(), time.process_time()
    scores = judging()
    seconds, cpu = time.monotonic() - begin, time.process_time() - cpu
    numbers = [score for score in scores if score is not None]
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "scores": len(numbers),
        "mean": sum(numbers) / max(1, len(numbers)),
        "rss_mb_early": early[0] if early else None,
        "rss_mb_peak": read_memory("VmHWM"),
        "versions": {package: version(package) for package in packages},
    }


def watch_memory(spec: Spec, early: list[float]) -> None:
    """Record the memory once the server has answered `spec["early"]` calls."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while not early:
        time.sleep(0.2)
        with opener.open(spec["base_url"].removesuffix("/v1") + "/stats", timeout=60) as response:
            if json.load(response)["answered"] >= spec["early"]:
                early.append(read_memory("VmRSS"))


def read_memory(name: str) -> float:
    """Return the memory of this process in MB: VmRSS (now) or VmHWM (peak). NaN if the kernel has no such figure."""
    if not FILE_OF_RSS.is_file():
        return math.nan
    line = next(line for line in FILE_OF_RSS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def compute_expectation(top: Iterable[tuple[str, float]]) -> float | None:
    """Return Σ k·p / Σ p over the integers 0..100 among the tokens; None if their mass is below 0.25."""
    numbers = [(int(token), math.exp(logprob)) for token, logprob in top if token.isdigit() and int(token) <= 100]
    mass = sum(p for _, p in numbers)
    return sum(k * p for k, p in numbers) / mass if mass >= 0.25 else None


def read_first_lines(file: str, count: int) -> list[str]:
    """Read the first `count` lines of a file. Raise ValueError if there are fewer."""
    first = Path(file).read_text(encoding="utf-8").splitlines()[:count]
    if len(first) < count:
        raise ValueError(f"{file} has {len(first)} lines, expected {count}.")
    return first


TASKS = {
    "ours": judge_with_em,
    "asyncopenai": judge_with_asyncopenai,
    "inspect": judge_with_inspect,
    "prompts": write_prompts,
}

if __name__ == "__main__":
    chosen, read_from, write_to = sys.argv[1:]
    task_spec = json.loads(Path(read_from).read_text(encoding="utf-8"))
    Path(write_to).write_text(json.dumps(TASKS[chosen](task_spec)), encoding="utf-8")
