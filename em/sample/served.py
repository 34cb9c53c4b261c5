"""Generate answers by vLLM servers that em starts (or a running one), after proving that they serve the right weights.

A base and all its LoRA adapters share one fleet of servers; each full fine-tune gets its own. The chat template is
applied by the server, so the parity gate compares rendered tokens too (`em.models.served.parity`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from em.api.client import Client
from em.api.pool import CallPool, yield_once
from em.config import DefaultPrompt, HfModel, Parity, RunConfig, VllmSampler
from em.errors import ConfigError, ServerError
from em.models.memory import check_fits_gpu
from em.models.scores import ParitySpec, Scored, ScoreRequest
from em.models.served.command import RANKS, ServeSpec, find_length, find_version
from em.models.served.parity import (
    Comparison,
    choose_conversations,
    compare_adapter,
    compare_base,
    score_by_server,
)
from em.models.served.server import KEY_ENV, Fleet, connect, make_client, serve
from em.models.weights import name_date
from em.runtime.gpus import precision_key
from em.runtime.manifest import ManifestWriter
from em.runtime.memory import Calls, request_key
from em.runtime.shards import run_sharded
from em.sample.plan import identify_sampled_model
from em.sample.remote import build_sample_body, make_server_response
from em.types import Conversation, ModelRef, Prices, SampleRequest

CONNECTIONS = 256  # requests at a time
TIMEOUT = 3600.0  # seconds for one answer
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Parameters that a server would else take from the model's own generation config."""
DATE = {"chat_template_kwargs": {"date_string": "26 Jul 2024"}}
"""The date for templates that print one, the same as in `em.models.chat`."""
TOKENS = 4096  # longest prompt that servers are started for


class ServedSampler:
    """A sampler for open weights behind vLLM.

    prompts, rows: what the run asks and trains on, from which the parity gate takes its conversations.
    """

    together = False

    def __init__(
        self, model: HfModel, settings: VllmSampler, prompts: Sequence[Conversation], rows: Sequence[Conversation]
    ) -> None:
        self.settings, self.label = settings, model.id
        self.name, self.precision = f"vllm {find_engine(settings)}", precision_key(model.precision.value)
        self.conversations = choose_conversations(prompts, rows) if settings.parity is Parity.on else []
        self.max_new_tokens = 0
        self.fleet: Fleet | None = None
        self.served = ""  # the folder whose weights the fleet serves
        self.stack = AsyncExitStack()
        self.base_difference = 0.0
        self.manifest: ManifestWriter | None = None
        self.ranks = list[int]()

    def check(self, models: Sequence[ModelRef], store: Path, manifest: ManifestWriter) -> None:
        """Refuse adapters that vLLM can't apply, before anything is sampled; note what readers should know."""
        self.manifest = manifest
        for model in models:
            if reason := find_obstacle(Path(model.base.path), model.trained):
                raise ConfigError(f"vLLM can't serve {model.name}: {reason}. Use sampler=hf.")
        sent = {**NEUTRAL, "seed": "one for each answer, derived from sampler.seed, prompt and number"}
        manifest.write(sampler={**manifest.facts.get("sampler", {}), "engine": self.name, "sent": sent})
        try:
            for model in models:
                check_fits_gpu(model.name, model.base.path, self.precision, "")
        except ConfigError:
            self.conversations = []
            manifest.note(
                "Nothing checked that vLLM serves the right weights, which transformers can't load on one GPU."
            )
        if self.settings.parity is Parity.off:
            manifest.note(
                "Nothing checked that vLLM serves the weights and the template of training (sampler.parity=off)."
            )

    @asynccontextmanager
    async def open(self, models: Sequence[ModelRef], calls: Calls) -> AsyncIterator[None]:
        """Score the conversations by transformers, while the GPUs are free; end the servers at the end."""
        self.ranks = [read_rank(model.trained) for model in models if is_adapter(model.trained)]
        if self.conversations:
            for model in with_bases(models):
                await self.score_here(model, calls)
        async with self.stack:
            yield

    async def sample(self, model: ModelRef, requests: Sequence[SampleRequest], calls: Calls, prices: Prices) -> None:
        """Generate the answers that are not remembered yet.

        Raises:
            ServerError: a server fails, or serves other weights than `model`; received answers are kept.
        """
        fleet = await self.start_fleet(model, requests[0].max_new_tokens, calls)
        name = fleet.name
        if is_adapter(model.trained):
            name = f"{fleet.name}-{model.trained_sha256[:12]}"
            await fleet.load_adapter(name, model.trained)
        if self.conversations:
            await fleet.run(self.check_parity(fleet, name, model, calls))
        client = make_client(fleet, CONNECTIONS, TIMEOUT)
        pool = CallPool(
            "sample", model.name, client, calls, partial(build_served_body, name), make_server_response, None
        )
        missing = pool.list_missing(requests)
        async with pool.open(len(missing), f"answers of {model.name}", "answer"):
            await fleet.run(pool.run(yield_once(missing), pool.ask))
        if name != fleet.name:
            await fleet.unload_adapter(name)

    async def start_fleet(self, model: ModelRef, max_new_tokens: int, calls: Calls) -> Fleet:
        """Return the fleet for a model; start it if another base runs, and check the base itself."""
        adapted = is_adapter(model.trained)
        folder = model.trained if model.trained and not adapted else model.base.path
        if self.fleet and self.served == folder:
            return self.fleet
        await self.stack.aclose()
        spec = ServeSpec(
            base=folder,
            label=self.label,
            precision=self.precision,
            max_rank=max(self.ranks, default=0) if folder == model.base.path else 0,
            max_length=find_length(Path(folder), TOKENS + max_new_tokens),
            command=self.settings.command,
            base_url=self.settings.base_url,
            gpu_memory=self.settings.gpu_memory,
        )
        self.fleet, self.served = await self.stack.enter_async_context(serve(spec)), folder
        if f"vllm {self.fleet.version}" != self.name:
            raise ServerError(f"The server is vLLM {self.fleet.version}, not {self.name}: run the same command again.")
        if self.conversations and adapted:
            base = ModelRef(self.label, "base", "", model.base)
            await self.fleet.run(self.check_parity(self.fleet, self.fleet.name, base, calls))
        return self.fleet

    async def check_parity(self, fleet: Fleet, name: str, model: ModelRef, calls: Calls) -> None:
        """Compare the served model with transformers on every server. Raises ServerError if they differ."""
        precision = "bfloat16" if self.precision in ("bfloat16", "auto:gpu") else "float32"
        reference = self.read_scores(model, calls)
        for url in fleet.urls:
            async with Client(url, CONNECTIONS, TIMEOUT, KEY_ENV) as client:
                served = await score_by_server(client, name, self.conversations)
            if is_adapter(model.trained):
                base = self.read_scores(ModelRef("", "base", "", model.base), calls)
                comparison = compare_adapter((base, reference), served, precision, self.base_difference)
            else:
                comparison = compare_base(reference, served, precision)
                self.base_difference = max(self.base_difference, comparison.difference)
            self.report_parity(model, comparison)

    def report_parity(self, model: ModelRef, comparison: Comparison) -> None:
        """Print what was found, and keep it in the manifest. Raises ServerError if it is a problem."""
        assert self.manifest is not None
        checks = {**self.manifest.facts["sampler"].get("parity", {}), model.name: vars(comparison)}
        self.manifest.write(sampler={**self.manifest.facts["sampler"], "parity": checks})
        if comparison.problem:
            raise ServerError(
                f"vLLM does not serve {model.name} as transformers computes it: {comparison.problem}. "
                "Nothing was sampled from it. Use sampler=hf, or sampler.parity=off if the difference is meant."
            )
        text = f"{model.name} by vLLM agrees with transformers: {comparison.difference:.4f} nats a token apart"
        if is_adapter(model.trained) and comparison.slope is None:
            self.manifest.note(
                f"The adapter of {model.name} changes {len(self.conversations)} conversations of this run by only "
                f"{comparison.effect:.4f} nats a token: whether vLLM applies it can't be told."
            )
        print(f"{text}.", flush=True)

    async def score_here(self, model: ModelRef, calls: Calls) -> None:
        """Score the conversations by transformers, unless that is remembered."""
        requests = self.make_score_requests(model)
        keys = [request_key(each) for each in requests]
        if len(calls.find_stored_keys(keys)) < len(set(keys)):
            spec = ParitySpec(
                label=f"{model.name}, for comparison",
                store=str(calls.folder),
                base=model.base.path,
                trained=model.trained,
                requests=tuple(requests),
            )
            await run_sharded("parity", spec)

    def make_score_requests(self, model: ModelRef) -> list[ScoreRequest]:
        """Make the requests of a model's scores by transformers."""
        identity = identify_sampled_model(model)
        return [ScoreRequest(identity, each.messages, self.precision) for each in self.conversations]

    def read_scores(self, model: ModelRef, calls: Calls) -> list[Scored]:
        """Read the remembered scores of a model by transformers, in the order of the conversations."""
        keys = [request_key(each) for each in self.make_score_requests(model)]
        responses = calls.read_responses(keys)
        return [Scored(tuple(responses[key]["ids"]), tuple(responses[key]["logprobs"])) for key in keys]


def build_served_body(model: str, request: SampleRequest) -> dict[str, Any]:
    """Make the JSON body of a request to a vLLM."""
    return build_sample_body(model, request) | NEUTRAL | DATE


def find_engine(settings: VllmSampler) -> str:
    """Return the version of the vLLM that will answer: the running one's, or the installed one's."""
    if settings.base_url:
        import asyncio

        return asyncio.run(connect(settings.base_url)).version
    return find_version(settings.command)


def is_adapter(folder: str) -> bool:
    """Return whether a folder of trained weights holds an adapter; not so for full weights, or no folder."""
    return bool(folder) and Path(folder, "adapter_config.json").is_file()


def with_bases(models: Iterable[ModelRef]) -> list[ModelRef]:
    """Return the models, and before them the bases of those with adapters."""
    own = {identify_sampled_model(model): model for model in models}
    bases = dict[str, ModelRef]()
    for model in own.values():
        if is_adapter(model.trained) and model.base.identity not in own:
            bases[model.base.identity] = ModelRef(model.name.split("+")[0], "base", "", model.base)
    return [*bases.values(), *own.values()]


def read_rank(folder: str) -> int:
    """Read the rank of an adapter."""
    return int(json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8")).get("r") or 0)


def find_obstacle(base: Path, trained: str) -> str:
    """Return why vLLM can't serve a model as em means it; empty if it can."""
    if name_date(base):
        return "its chat template prints today's date, which can't be fixed for a server"
    if not is_adapter(trained):
        return ""
    config = json.loads(Path(trained, "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        return f"its adapter is no LoRA (peft_type={config.get('peft_type')})"
    kinds = {
        "use_dora": "uses DoRA",
        "modules_to_save": "holds whole layers (modules_to_save)",
        "alpha_pattern": "has several scales (alpha_pattern)",
        "rank_pattern": "has several ranks (rank_pattern)",
        "lora_bias": "has biases (lora_bias)",
        "trainable_token_indices": "trains single tokens (trainable_token_indices)",
    }
    for key, words in kinds.items():
        if config.get(key):
            return f"its adapter {words}, which vLLM does not apply"
    if config.get("bias", "none") != "none":
        return "its adapter trains biases, which vLLM does not apply"
    if read_rank(trained) > max(RANKS):
        return f"its adapter has rank {read_rank(trained)}, and vLLM takes at most {max(RANKS)}"
    return ""


def find_prompt_obstacle(settings: RunConfig) -> str:
    """Return why a run's questions can't be asked through a server; empty if they can."""
    if isinstance(settings.model, HfModel) and not settings.model.default_system:
        return "model.default_system=false"
    if settings.eval.default_prompt is not DefaultPrompt.template:
        return f"eval.default_prompt={settings.eval.default_prompt.value}"
    return ""
