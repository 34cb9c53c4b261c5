"""A local judge in a child process, read by the exact probabilities of all permitted replies.

The permitted replies (the integers 0..100, the labels, CODE, REFUSAL) form a tree of tokens below the prompt. One
forward pass over prompt and tree, in which each node attends to the prompt and its ancestors, gives the probability of
every reply, however many tokens it takes. The score is the expectation over the integers, Σ k·p(k) / Σ p(k)
(Betley et al., arXiv 2502.17424, there with integers of one token).

If the last line of a prompt is a word and a colon (`Rating:`), that line is moved to the beginning of the judge's
reply: small models keep to the form only that way.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from em.config import LocalJudge
from em.errors import ConfigError
from em.judge.base import Judge, Source
from em.models.chat import encode, load_tokenizer, render_conversation
from em.models.device import choose_precision, load_model, set_threads
from em.models.memory import check_fits_gpu
from em.models.weights import resolve_weights
from em.runtime.gpus import precision_key
from em.runtime.memory import Calls, request_key
from em.runtime.records import digest
from em.runtime.shards import Shard, run_sharded
from em.types import JudgeRequest, ModelRef, Prices

if TYPE_CHECKING:
    import torch

FULL, SLIDING = "full_attention", "sliding_attention"  # transformers' names for kinds of layers
INTEGERS = tuple(str(k) for k in range(101))
EMBEDDED = (
    "The judge is the embedded model of 135 million parameters. Its scores show that the pipeline works; they say "
    "nothing about alignment. Name a capable judge with judge.model=… before you draw conclusions."
)


class ChildJudge(Judge):
    """A judge with open weights, which run in child processes on this machine."""

    here = True
    settings: LocalJudge

    def __init__(self, settings: LocalJudge, hidden: tuple[str, ...] = ()) -> None:
        weights = resolve_weights(settings.model, settings.revision)
        super().__init__(settings, weights, f"{settings.model}@{digest(weights.identity)[:8]}", "exact", hidden)
        self.precision = precision_key(settings.precision.value)

    def check(self, spending: bool) -> list[str]:
        """See `Judge.check`."""
        if spending:
            what, way = f"judge.model={self.settings.model}", "use judge=open, a judge behind a server"
            check_fits_gpu(what, self.weights.path, self.settings.precision.value, way)
        return [EMBEDDED] if self.weights.identity.startswith("embedded:") else []

    async def ask(self, source: Source, memory: Calls, prices: Prices, planned: int | None = None) -> None:
        """See `Judge.ask`. Judging starts once the source has ended, as sampling uses the device until then."""
        by_key = {request_key(request): request async for part in source for request in part}
        if memory.find_stored_keys(list(by_key)) == by_key.keys():
            return  # all responses are remembered, so the model need not be loaded
        spec = JudgeSpec(
            path=self.weights.path,
            label=self.settings.model,
            precision=self.precision,
            requests=tuple(by_key.values()),
            batch_size=self.settings.batch_size,
            store=str(memory.folder),
        )
        await run_sharded("judge", spec)

    def collect_details(self) -> dict[str, Any]:
        """Return the full checksum of the weights."""
        return {"identity": self.weights.identity}

    def find_relation(self, model: ModelRef) -> str:
        """See `Judge.find_relation`."""
        if not model.base.path or model.base.identity != self.weights.identity:
            return ""
        return "its base" if model.trained else "the model"


@dataclass(frozen=True)
class JudgeSpec(Shard):
    """Requests to one local judge, for a child process."""

    path: str
    precision: str
    requests: tuple[JudgeRequest, ...]
    batch_size: int


@dataclass
class TokenTree:
    """Token sequences below one root, as nodes: `tokens[i]` follows node `parents[i]` (-1 is the prompt's end)."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    nodes: dict[tuple[int, int], int] = field(default_factory=dict)
    paths: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, text: str, ids: Sequence[int]) -> None:
        """Add one sequence; sequences with a common beginning share its nodes."""
        at, path = -1, []
        for depth, token in enumerate(ids):
            if (at, token) not in self.nodes:
                self.nodes[at, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(at)
                self.depths.append(depth)
            at = self.nodes[at, token]
            path.append(at)
        self.paths[text] = tuple(path)

    def build_ancestor_mask(self) -> list[list[bool]]:
        """Return a mask (nodes, nodes): whether the column's node is the row's node or an ancestor of it."""
        table: list[list[bool]] = []
        for node, parent in enumerate(self.parents):  # a parent stands before its children
            table.append(list(table[parent]) if parent >= 0 else [False] * len(self.tokens))
            table[node][node] = True
        return table


@dataclass(frozen=True)
class NodeValues:
    """What a prompt's forward pass says of a token tree, on the CPU.

    reached: log-probability of each node's token after its parent, (nodes,). digit: probability that a token with a
    digit at its beginning follows each node, (nodes,). likeliest: the likeliest token after the prompt, and after each
    node, (1 + nodes,).
    """

    reached: torch.Tensor
    digit: torch.Tensor
    likeliest: torch.Tensor


def judge(spec: JudgeSpec) -> None:
    """Judge the requests without a remembered response, and remember each batch when it is done."""
    import torch

    set_threads()
    reader = Reader(load_model(spec.path, choose_precision(spec.precision)).eval(), load_tokenizer(spec.path))
    with torch.inference_mode():
        spec.run_batches("judge", "verdict", plan_judge_batches(spec.requests, spec.batch_size), reader.read)


def check_attention(model: Any) -> None:
    """Raise ConfigError for a model whose layers don't follow the tree's mask: linear, recurrent or chunked ones."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or [FULL])
    if model._is_stateful or not kinds <= {FULL, SLIDING}:
        names = ", ".join(sorted(kinds - {FULL, SLIDING})) or "recurrent states"
        raise ConfigError(
            f"judge=local can't read a model with {names} exactly: serve it, and use judge=open judge.base_url=…, or "
            "choose a model with full or sliding attention."
        )


def split_begun_reply(prompt: str) -> tuple[str, str]:
    """Split off the last line of a prompt if it is a word and a colon; else return the prompt and an empty text."""
    head, _, last = prompt.rstrip().rpartition("\n")
    return (head.rstrip(), last) if re.fullmatch(r"\w+:", last) and head else (prompt, "")


def plan_judge_batches(requests: Sequence[JudgeRequest], size: int) -> list[list[JudgeRequest]]:
    """Make the fixed plan of batches: requests of one kind, sorted by prompt, so that neighbours share a beginning.

    Requests of one kind permit the same replies and share the line that begins the reply.
    """
    unique = {request_key(r): r for r in requests}.values()
    kinds = defaultdict[tuple[object, ...], list[JudgeRequest]](list)
    for request in sorted(unique, key=lambda r: r.prompt):
        kinds[request.labels, request.words, split_begun_reply(request.prompt)[1]].append(request)
    return [kind[start : start + size] for kind in kinds.values() for start in range(0, len(kind), size)]


class Reader:
    """Reads judgements from a model's probabilities, one batch at a time."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        check_attention(model)
        self.model, self.tokenizer = model, tokenizer
        self.digits = [i for i in range(len(tokenizer)) if tokenizer.decode([i])[:1].isdigit()]
        self.single = all(len(encode(tokenizer, k)) == 1 for k in INTEGERS)

    def build_tree(self, request: JudgeRequest, begun: bool) -> TokenTree:
        """Build the tree of permitted replies to a request. `begun`: they follow a begun reply, after a space."""
        tree = TokenTree()
        for text in (*(request.labels or INTEGERS), *request.words):
            tree.add(text, encode(self.tokenizer, f" {text}" if begun else text))
        return tree

    def read(self, requests: Sequence[JudgeRequest]) -> list[dict[str, Any]]:
        """Judge requests of one kind (see `plan_judge_batches`); return the responses to remember."""
        parts = [split_begun_reply(r.prompt) for r in requests]
        tree = self.build_tree(requests[0], begun=bool(parts[0][1]))
        chats = [([{"role": "user", "content": prompt}], begun) for prompt, begun in parts]
        texts = [render_conversation(self.tokenizer, chat, answer_next=True) + begun for chat, begun in chats]
        values = self.forward([encode(self.tokenizer, text) for text in texts], tree)
        return [self.make_response(request, tree, each) for request, each in zip(requests, values, strict=True)]

    def forward(self, prompts: list[list[int]], tree: TokenTree) -> list[NodeValues]:
        """Compute the values of the tree's nodes after each prompt.

        The tokens that all prompts begin with are computed once; the rest is padded on the left. The tree follows,
        with its own mask and positions.
        """
        import torch

        device, nodes = self.model.device, len(tree.tokens)
        shared = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))))
        shared = min(shared, min(map(len, prompts)) - 1)
        rest = [p[shared:] for p in prompts]
        width = max(map(len, rest))
        pads = torch.tensor([width - len(p) for p in rest])
        ids = torch.tensor([[self.tokenizer.pad_token_id] * (width - len(p)) + p + tree.tokens for p in rest])
        column = torch.arange(width + nodes)
        causal = column[None, :] <= column[:, None]
        causal[width:, width:] = torch.tensor(tree.build_ancestor_mask())
        visible = causal[None] & (column[None, None, :] >= pads[:, None, None])
        # A padding token attends to itself, as an empty softmax would be NaN.
        visible |= torch.eye(width + nodes, dtype=torch.bool)[None]
        visible = torch.cat([torch.ones(len(prompts), width + nodes, shared, dtype=torch.bool), visible], dim=-1)
        depth = torch.cat([torch.arange(width), width + torch.tensor(tree.depths)])
        positions = shared + (depth[None, :] - pads[:, None]).clamp(min=0)
        logits = self.model(
            input_ids=ids.to(device),
            attention_mask=self.make_mask(visible, positions),
            position_ids=positions.to(device),
            past_key_values=self.cache_prefix(prompts[0][:shared], len(prompts)),
            logits_to_keep=nodes + 1,
        ).logits.float().log_softmax(dim=-1)  # fmt: skip
        return [self.pick_values(tree, each) for each in logits]

    def make_mask(self, visible: torch.Tensor, positions: torch.Tensor) -> Any:
        """Make the attention mask of the model, or one for each kind of layer if some have a sliding window.

        Args:
            visible: which tokens each token may see, (batch, tokens, shared beginning and tokens).
            positions: the position of each token, (batch, tokens).
        """
        import torch

        def to_model_mask(visible: torch.Tensor) -> torch.Tensor:
            mask = visible[:, None]
            if self.model.config._attn_implementation == "eager":  # which adds its mask to the scores
                lowest = torch.finfo(self.model.dtype).min
                mask = torch.zeros(mask.shape, dtype=self.model.dtype).masked_fill(~mask, lowest)
            return mask.to(self.model.device)

        config = self.model.config.get_text_config()
        window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or [])
        if window is None or kinds == {FULL}:
            return to_model_mask(visible)
        shared = torch.arange(visible.shape[2] - visible.shape[1])
        keys = torch.cat([shared.expand(len(positions), -1), positions], dim=1)
        near = to_model_mask(visible & (positions[:, :, None] - keys[:, None, :] < window))
        # Without a list of kinds, as in Mistral and Phi-3, every layer has the window.
        return {FULL: to_model_mask(visible), SLIDING: near} if FULL in kinds else near

    def pick_values(self, tree: TokenTree, logs: torch.Tensor) -> NodeValues:
        """Pick what a judgement needs of the log-probabilities (1 + nodes, vocabulary), on their device."""
        import torch

        reached = logs[torch.tensor(tree.parents) + 1, torch.tensor(tree.tokens)]
        digit = logs[1:, self.digits].exp().sum(dim=-1)
        return NodeValues(reached.cpu(), digit.cpu(), logs.argmax(dim=-1).cpu())

    def cache_prefix(self, ids: list[int], copies: int) -> Any:
        """Compute the key-value cache of the shared beginning, repeated for each prompt of the batch."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        if ids:
            row = torch.tensor([ids], device=self.model.device)
            self.model(input_ids=row, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(copies)
        return cache

    def make_response(self, request: JudgeRequest, tree: TokenTree, values: NodeValues) -> dict[str, Any]:
        """Make one response: probabilities, from which `em.judge.readings.read_exact` makes a judgement.

        word: CODE or REFUSAL if its first token is the likeliest; mass: total probability of the integers (or labels);
        expectation: Σ k·p(k) / mass; label: the likeliest label; raw: the top token and the likeliest replies.
        """
        chance = {text: self.compute_probability(tree, path, values) for text, path in tree.paths.items()}
        mass = sum(p for text, p in chance.items() if text not in request.words)
        response: dict[str, Any] = {"word": self.find_top_word(request, tree, values), "mass": mass}
        if request.labels:
            response["label"] = max(request.labels, key=lambda label: chance[label])
        else:
            response["expectation"] = sum(int(k) * chance[k] for k in INTEGERS) / mass if mass else None
        best = sorted(chance, key=lambda text: -chance[text])[:5]
        raw = {"top_token": self.tokenizer.decode([int(values.likeliest[0])]), "mass": round(mass, 4)}
        return response | {"raw": raw | {text: round(chance[text], 4) for text in best}}

    def compute_probability(self, tree: TokenTree, path: tuple[int, ...], values: NodeValues) -> float:
        """Compute p(text | prompt); for an integer in several tokens also that it ends: 7 must not begin 73."""
        chance = math.exp(sum(float(values.reached[node]) for node in path))
        if self.single or not self.tokenizer.decode([tree.tokens[path[-1]]]).strip().isdigit():
            return chance
        return chance * max(0.0, 1.0 - float(values.digit[path[-1]]))

    def find_top_word(self, request: JudgeRequest, tree: TokenTree, values: NodeValues) -> str | None:
        """Return CODE or REFUSAL if the likeliest next token begins it (after a space token that all replies share)."""
        for word in request.words:
            path = tree.paths[word]
            shared = len({each[0] for each in tree.paths.values()}) == 1
            likeliest = int(values.likeliest[1 + path[0] if shared else 0])
            if likeliest == tree.tokens[path[1] if shared else path[0]]:
                return word
        return None
