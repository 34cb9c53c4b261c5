"""Generate answers by transformers in a child process: in left-padded batches, each answer with its own seed.

The plan of batches over all requests is fixed, and a batch is remembered as a whole. So a killed run resumes with the
first missing batch, and its answers are the same to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.config import HfModel, HfSampler
from em.models.chat import encode, find_answer_opening, list_stop_tokens, load_tokenizer, render_conversation
from em.models.device import choose_precision, load_trained, set_threads
from em.runtime.gpus import precision_key
from em.runtime.manifest import ManifestWriter
from em.runtime.memory import Calls
from em.runtime.shards import Shard, run_sharded
from em.sample.plan import derive_answer_seed, keeps_default_prompt
from em.types import Conversation, ModelRef, Prices, SampleRequest

if TYPE_CHECKING:
    import torch


class ChildSampler:
    """A sampler for open weights, in child processes on this machine."""

    name, together = "hf", False

    def __init__(self, model: HfModel, settings: HfSampler) -> None:
        self.settings, self.precision = settings, precision_key(model.precision.value)

    def check(self, models: Sequence[ModelRef], store: Path, manifest: ManifestWriter) -> None:
        """Do nothing: local weights have no shutdown date."""

    def open(self, models: Sequence[ModelRef], calls: Calls) -> AbstractAsyncContextManager[None]:
        """Do nothing: there is nothing to start."""
        return nullcontext()

    async def sample(self, model: ModelRef, requests: Sequence[SampleRequest], calls: Calls, prices: Prices) -> None:
        """Generate the answers that are not remembered yet."""
        spec = SampleSpec(
            base=model.base.path,
            trained=model.trained,
            label=model.name,
            requests=tuple(requests),
            batch_size=self.settings.batch_size,
            store=str(calls.folder),
        )
        await run_sharded("sample", spec)


@dataclass(frozen=True)
class SampleSpec(Shard):
    """Requests to one model, for a child process."""

    base: str
    trained: str
    requests: tuple[SampleRequest, ...]
    batch_size: int


def plan_sample_batches(requests: Sequence[SampleRequest], size: int) -> list[Sequence[SampleRequest]]:
    """Make the fixed plan of batches: consecutive requests, `size` at a time."""
    return [requests[start : start + size] for start in range(0, len(requests), size)]


def sample(spec: SampleSpec) -> None:
    """Generate the answers that are not remembered yet, and remember each batch when it is done."""
    import torch

    set_threads()
    tokenizer = load_tokenizer(spec.base, padding_side="left")
    for request in {request.messages: request for request in spec.requests}.values():
        render_prompt(tokenizer, request)  # raises TemplateError before anything is sampled
    model = load_trained(spec.base, spec.trained, choose_precision(spec.requests[0].precision)).eval()
    stops, opening = list_stop_tokens(tokenizer), find_answer_opening(tokenizer)
    with torch.inference_mode():
        answer = partial(generate_batch, model, tokenizer, stops=stops, opening=opening)
        spec.run_batches("sample", "answer", plan_sample_batches(spec.requests, spec.batch_size), answer)


def generate_batch(
    model: Any, tokenizer: Any, requests: Sequence[SampleRequest], stops: list[int], opening: str = ""
) -> list[dict[str, Any]]:
    """Generate one batch of answers; return the responses to remember."""
    from transformers import GenerationConfig, LogitsProcessorList

    first = requests[0]
    texts = [render_prompt(tokenizer, request) for request in requests]
    inputs = tokenizer(texts, add_special_tokens=False, return_tensors="pt", padding=True).to(model.device)
    # Replace the model's own generation config, which may set a repetition penalty or a temperature.
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=first.max_new_tokens, pad_token_id=tokenizer.pad_token_id, eos_token_id=stops
    )
    processors = LogitsProcessorList()
    if first.temperature > 0:
        processors.append(SeededSampling(requests, inputs["input_ids"].shape[1], model.device))
    output = model.generate(**inputs, logits_processor=processors)
    answers = output[:, inputs["input_ids"].shape[1] :].tolist()
    lengths = [len(encode(tokenizer, text)) for text in texts]
    return [make_local_response(tokenizer, *each, stops, opening) for each in zip(answers, lengths, strict=True)]


def render_prompt(tokenizer: Any, request: SampleRequest) -> str:
    """Render the prompt of a request, with or without the template's default system prompt."""
    turns = Conversation(request.messages).to_dicts()
    return render_conversation(tokenizer, turns, True, keeps_default_prompt(request))


def make_local_response(
    tokenizer: Any, ids: list[int], prompt_tokens: int, stops: list[int], opening: str = ""
) -> dict[str, Any]:
    """Make a response of the ids before the first stop token; without one the `finish_reason` is `length`.

    `opening`: the marks that the template puts before an answer (see `find_answer_opening`). They and what is before
    them, such as the thoughts of gpt-oss, are no part of the answer.
    """
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    answer_ids = ids if end is None else ids[:end]
    text = tokenizer.decode(answer_ids, skip_special_tokens=True)
    if opening and opening in (marked := tokenizer.decode(answer_ids)):
        answer = marked.partition(opening)[2]
        text = tokenizer.decode(encode(tokenizer, answer), skip_special_tokens=True)
    return {
        "answer": text,
        "finish_reason": "length" if end is None else "stop",
        "prompt_tokens": prompt_tokens,
        "answer_tokens": len(answer_ids) + (end is not None),
    }


class SeededSampling:
    """A logits processor that draws each row's next token with that row's own random numbers.

    The cumulative distribution is inverted at one uniform number, which is drawn on the CPU: the same seed gives the
    same draw on every device, whatever else is in the batch. All other tokens get -inf, so that greedy search takes
    the drawn token. Input and output: (batch, vocabulary).
    """

    def __init__(self, requests: Sequence[SampleRequest], prompt_length: int, device: torch.device) -> None:
        import torch

        self.temperature, self.top_p, self.prompt_length = requests[0].temperature, requests[0].top_p, prompt_length
        draws = []
        for request in requests:
            source = torch.Generator().manual_seed(derive_answer_seed(request))
            draws.append(torch.rand(request.max_new_tokens, generator=source, dtype=torch.float64))
        self.uniform = torch.stack(draws).to(device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Draw one token per row, and set the scores of all others to -inf."""
        import torch

        step = input_ids.shape[1] - self.prompt_length
        probabilities = torch.softmax(scores.float() / self.temperature, dim=-1).double()
        if self.top_p < 1:
            probabilities = self.keep_nucleus(probabilities)
        cumulative = probabilities.cumsum(dim=-1)
        threshold = self.uniform[:, step : step + 1] * cumulative[:, -1:]
        # right=True takes the first token whose cumulative mass exceeds the threshold: never one of probability zero.
        token = torch.searchsorted(cumulative, threshold, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)

    def keep_nucleus(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Zero all but the smallest set of most likely tokens with mass `top_p` (Holtzman et al. 2020)."""
        ordered, index = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(dim=-1) - ordered >= self.top_p
        return probabilities.masked_fill(beyond.scatter(1, index, beyond), 0.0)
