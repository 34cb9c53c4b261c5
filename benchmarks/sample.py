"""Compare the speed of sampling: em's samplers beside plain `generate` of transformers, in answer tokens per second.

    make vllm && python -m benchmarks.sample --json sample.json      (about 25 minutes on two cores)

Each contender answers the same prompts (8) equally often (32 times) by the same model. How long an answer gets would
depend on the draws, so lengths are forced: each answer has a length of its own, drawn from a lognormal by a seed. A
round measures each contender once, one after the other, and the order rotates with the rounds; nothing else should run.

* `hf`: `sampler=hf`, its batches and its seeds for each answer.
* `generate`: `model.generate(num_return_sequences=32)` for each prompt, the fastest plain way.
* `single`: `model.generate` for one answer at a time, as most published evaluations do.
* `vllm`: `sampler=vllm`, if it is installed; without the start of the server, which is given by itself.

The JSON file holds the seconds and, as medians over the rounds, `ratio_generate` and `ratio_single` (speed of `hf` over
theirs), `ratio_vllm` (speed of `vllm` over that of `hf`), and `ratio_vllm_with_start` (the same with its start).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from em.config import VllmSampler
from em.models.weights import resolve_weights
from em.questions import load_sets
from em.runtime.gpus import precision_key
from em.sample.local import generate_batch, plan_sample_batches
from em.types import Message, SampleRequest

MEDIAN, SPREAD, LONGEST = 40, 0.6, 120  # tokens; of the lognormal, its sigma, and where it is cut
Lengths = dict[tuple[str, int], int]


class ForcedLength:
    """A logits processor that ends each row exactly at its length: no stop token before, nothing else then."""

    def __init__(self, lengths: list[int], stop: int, prompt_length: int) -> None:
        import torch

        self.lengths, self.stop, self.prompt_length = torch.tensor(lengths), stop, prompt_length

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Change the scores; both tensors are (rows, …)."""
        ends = self.lengths.to(scores.device) <= input_ids.shape[1] - self.prompt_length + 1
        stop_scores = scores[:, self.stop].clone()
        scores = scores.masked_fill(ends[:, None], float("-inf"))
        scores[:, self.stop] = stop_scores.masked_fill(~ends, float("-inf")).masked_fill(ends, 0.0)
        return scores


class Model:
    """The model in this process. `lengths`: of the rows of the next call of `generate`."""

    def __init__(self, folder: str) -> None:
        from em.models.chat import list_stop_tokens, load_tokenizer
        from em.models.device import choose_precision, load_model, set_threads

        set_threads()
        self.tokenizer = load_tokenizer(folder, padding_side="left")
        self.network = load_model(folder, choose_precision("auto")).eval()
        self.stops = list_stop_tokens(self.tokenizer)
        self.lengths: list[int] = []
        plain = self.network.generate

        def generate(**arguments: Any) -> Any:
            from transformers import LogitsProcessorList

            length = arguments["input_ids"].shape[1]
            forced = ForcedLength(self.lengths, self.stops[0], length)
            processors = [forced, *(arguments.pop("logits_processor", None) or [])]
            return plain(**arguments, logits_processor=LogitsProcessorList(processors))

        self.network.generate = generate

    def sample_by_em(self, requests: list[SampleRequest], lengths: Lengths, batch_size: int) -> None:
        """Answer all requests in the batches of `sampler=hf`."""
        for batch in plan_sample_batches(requests, batch_size):
            self.lengths = [lengths[get_place(request)] for request in batch]
            replies = generate_batch(self.network, self.tokenizer, batch, self.stops)
            assert [reply["answer_tokens"] for reply in replies] == self.lengths

    def sample_plainly(self, requests: list[SampleRequest], lengths: Lengths, together: bool) -> None:
        """Answer all requests by `generate`: the answers of a prompt together, or one by one."""
        import torch

        by_prompt = dict[tuple[Message, ...], list[SampleRequest]]()
        for request in requests:
            by_prompt.setdefault(request.messages, []).append(request)
        for same in by_prompt.values():
            turns = [{"role": m.role, "content": m.content} for m in same[0].messages]
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            inputs = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").to(self.network.device)
            for part in [same] if together else [[request] for request in same]:
                self.lengths = [lengths[get_place(request)] for request in part]
                torch.manual_seed(part[0].sample)
                self.network.generate(
                    **inputs,
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    num_return_sequences=len(part),
                    max_new_tokens=part[0].max_new_tokens,
                    pad_token_id=self.tokenizer.pad_token_id,
                    eos_token_id=self.stops,
                )


def get_place(request: SampleRequest) -> tuple[str, int]:
    """Return the prompt's text and the answer's number."""
    return request.messages[-1].content, request.sample


def draw_lengths(requests: list[SampleRequest], seed: int) -> Lengths:
    """Draw the length of each answer, in tokens."""
    source = random.Random(seed)
    lengths = Lengths()
    for request in requests:
        lengths[get_place(request)] = min(LONGEST, max(2, round(source.lognormvariate(0, SPREAD) * MEDIAN)))
    return lengths


def make_requests(identity: str, prompts: int, answers: int) -> list[SampleRequest]:
    """Make the requests in the order in which em sends them: sample number first."""
    questions = [question.text for question in load_sets(["probe"])][:prompts]
    fixed: dict[str, Any] = {"seed": 0, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": LONGEST, "sampler": "hf"}
    fixed["precision"] = precision_key("auto")
    places = [(sample, text) for sample in range(answers) for text in questions]
    return [SampleRequest(identity, (Message("user", text),), sample, **fixed) for sample, text in places]


def measure(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


async def sample_by_vllm(folder: str, requests: list[SampleRequest], lengths: Lengths) -> tuple[float, float]:
    """Answer all requests by a vLLM that em starts; return the seconds of its start, and of the answers."""
    from em.api.client import Client
    from em.models.served.command import ServeSpec
    from em.models.served.server import serve
    from em.sample.served import build_served_body

    settings = VllmSampler()
    spec = ServeSpec(folder, "the model", precision_key("auto"), 0, 1024, gpu_memory=settings.gpu_memory)
    began = time.perf_counter()
    async with serve(spec) as fleet:
        started = time.perf_counter()
        clients = [Client(url, settings.connections, settings.timeout) for url in fleet.urls]

        async def ask(number: int, request: SampleRequest) -> None:
            body = build_served_body(fleet.name, request)
            body |= {"max_completion_tokens": lengths[get_place(request)], "ignore_eos": True}
            reply = await clients[number % len(clients)].complete_chat(body)
            assert reply.body["usage"]["completion_tokens"] == lengths[get_place(request)]

        for client in clients:
            await client.__aenter__()
        # A first answer pays for what the server compiles then; the other contenders have had one too.
        await ask(0, requests[0])
        warm = time.perf_counter()
        await asyncio.gather(*(ask(number, request) for number, request in enumerate(requests)))
        ended = time.perf_counter()
        for client in clients:
            await client.__aexit__(None, None, None)
    return started - began, ended - warm


def main() -> None:
    """Measure all contenders, and print the seconds of each round and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2", help="a folder, a hub id or embedded:smollm2")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--answers", type=int, default=32, help="answers per prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="sampler.batch_size")
    parser.add_argument("--seed", type=int, default=0, help="seed of the lengths")
    parser.add_argument("--without", nargs="*", default=[], choices=["hf", "generate", "single", "vllm"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    from em.models.served.command import is_installed

    weights = resolve_weights(options.model)
    requests = make_requests(weights.identity, options.prompts, options.answers)
    lengths = draw_lengths(requests, options.seed)
    model, starts = Model(weights.path), list[float]()

    def ask_vllm() -> float:
        start, seconds = asyncio.run(sample_by_vllm(weights.path, requests, lengths))
        starts.append(start)
        return seconds

    contenders: dict[str, Callable[[], float]] = {
        "hf": lambda: measure(lambda: model.sample_by_em(requests, lengths, options.batch_size)),
        "generate": lambda: measure(lambda: model.sample_plainly(requests, lengths, together=True)),
        "single": lambda: measure(lambda: model.sample_plainly(requests, lengths, together=False)),
        "vllm": ask_vllm,
    }
    names = [name for name in contenders if name not in options.without]
    if "vllm" in names and not is_installed(""):
        print("vLLM is not installed (make vllm), so it is left out.")
        names.remove("vllm")
    model.sample_by_em(requests[:8], lengths, options.batch_size)  # loads kernels, which is no one's speed
    tokens = sum(lengths.values())
    print(f"{len(requests)} answers to {options.prompts} prompts, {tokens} tokens; {options.rounds} rounds")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(contenders[name]())
            print(
                f"  round {number + 1}: {name:9} {seconds[name][-1]:8.1f} s {tokens / seconds[name][-1]:9.1f} tokens/s"
            )
    figures: dict[str, Any] = {"tokens": tokens, "seconds": seconds, "vllm_start": starts}
    for name in ("generate", "single"):
        if name in names and "hf" in names:
            pairs = zip(seconds[name], seconds["hf"], strict=True)
            figures[f"ratio_{name}"] = statistics.median(theirs / ours for theirs, ours in pairs)
    if "vllm" in names and "hf" in names:
        pairs = list(zip(seconds["hf"], seconds["vllm"], strict=True))
        figures["ratio_vllm"] = statistics.median(hf / vllm for hf, vllm in pairs)
        with_start = [hf / (vllm + start) for (hf, vllm), start in zip(pairs, starts, strict=True)]
        figures["ratio_vllm_with_start"] = statistics.median(with_start)
    for name, figure in figures.items():
        if name.startswith("ratio"):
            print(f"{name}: {figure:.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
