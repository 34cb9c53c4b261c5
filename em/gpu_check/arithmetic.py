"""Checks that em computes on this device what plain forward passes compute: training steps, sampling, judging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from em.config import LoraTrainer
from em.gpu_check.bench import BOS, END_OF_TEXT, EOT, Bench, Measured, compare, expect
from em.judge.local import INTEGERS, Reader
from em.models.chat import IGNORED, TrainingRow, encode, list_stop_tokens, load_tokenizer, render_conversation
from em.models.device import choose_precision, load_model
from em.sample.local import SeededSampling, generate_batch
from em.train.local.batches import MicroBatch
from em.train.local.switches import Machine, Switches, choose_switches, detect_machine
from em.types import JudgeRequest, Message, SampleRequest

if TYPE_CHECKING:
    from torch import Tensor

LENGTHS = (97, 41, 260, 12)
"""Tokens of the rows of a pass."""
CHI_SQUARE = 16.3
"""The value that χ² at 3 degrees of freedom exceeds once in a thousand times."""


def check_machine(bench: Bench) -> Measured:
    """Find out what em would use on this device; a GPU must compute in bfloat16 and TF32."""
    import torch

    machine, dtype = detect_machine(), choose_precision("auto")
    expect(machine.device == bench.device.type, f"em would train on {machine.device}, not on {bench.device.type}")
    if bench.on_gpu:
        expect(machine.tensor_float, "the GPU has no TF32 (it is older than Ampere)")
        expect(dtype == torch.bfloat16, "the GPU does not compute in bfloat16")
    precision = str(dtype).removeprefix("torch.")
    switches = choose_switches(machine, LoraTrainer(name="lora"), precision)
    return {
        "precision": precision,
        "cuda": torch.version.cuda,
        "machine": asdict(machine),
        "switches": asdict(switches),
    }


def check_loss_head(bench: Bench) -> Measured:
    """Compare loss and gradient of the head with cross-entropy in float32; it may take 4 GB."""
    import torch

    from em.train.local.speed import ChunkedLoss

    torch.manual_seed(0)
    tokens, width = 300 if bench.small else 6000, int(bench.shape["hidden_size"])
    weight = (torch.randn(bench.vocabulary, width, device=bench.device) / width**0.5).bfloat16()
    states = torch.randn(tokens, width, device=bench.device).bfloat16().requires_grad_()
    targets = torch.randint(bench.vocabulary, (tokens,), device=bench.device)
    bench.free_memory()
    before = bench.get_peak_memory()
    with torch.autocast(bench.device.type, torch.bfloat16):
        loss, _ = ChunkedLoss.apply(states, weight, targets, 1 / tokens)
    loss.backward()
    memory = bench.get_peak_memory() - before
    plain, plain_loss = states.detach().float().requires_grad_(), 0.0
    for start in range(0, tokens, 500):
        part = slice(start, start + 500)
        logits = plain[part] @ weight.float().t()
        part_loss = torch.nn.functional.cross_entropy(logits, targets[part], reduction="sum") / tokens
        torch.autograd.backward(part_loss)
        plain_loss += part_loss.item()
    expect(memory < 4, f"the head took {memory:.1f} GB beside its input")
    return {
        "loss": compare(loss, plain_loss, 1e-3, "loss"),
        "gradient": compare(states.grad, plain.grad, 2e-2, "gradient"),
        "memory_gb": round(memory, 2),
    }


def check_step_is_plain(bench: Bench) -> Measured:
    """Compare a padded pass in float32 with each row alone by eager attention, and with a pass for each row."""
    import torch

    model, batch = bench.make_adapted(2, torch.float32, rank=4), make_batch(LENGTHS)
    switches = choose_plain_switches(bench, "float32")
    _, token_losses, gradients = compute_pass(model, batch, switches)
    parts = [replace(batch, rows=(row,), numbers=(number,)) for number, row in enumerate(batch.rows)]
    part_gradients = [compute_pass(model, part, switches)[2] for part in parts]
    model.zero_grad()
    model.get_base_model().set_attn_implementation("eager")
    plain_losses = []
    for row in batch.rows:
        logits = model(input_ids=torch.tensor([row.input_ids], device=bench.device)).logits[0, :-1]
        labels = torch.tensor(row.labels[1:], device=bench.device)
        losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
        torch.autograd.backward(losses.sum())
        plain_losses.append(losses.detach()[labels != IGNORED])
    plain_gradients = collect_gradients(model)
    return {
        "losses": compare(token_losses, torch.cat(plain_losses), 1e-4, "losses of the tokens"),
        "gradient": compare(gradients, plain_gradients, 1e-3, "gradient"),
        "split": compare(sum(part_gradients), plain_gradients, 1e-3, "gradient of a pass for each row"),
    }


def check_ways_agree(bench: Bench) -> Measured:
    """Compare checkpointing, TRL's head, FlashAttention and Liger with the plain pass, in bfloat16."""
    import torch

    model, batch = bench.make_adapted(2, torch.bfloat16, rank=4), make_batch(LENGTHS)
    base, machine, switches = model.get_base_model(), detect_machine(), choose_plain_switches(bench, "bfloat16")
    expected = compute_pass(model, batch, switches)
    measured = Measured()

    def compare_way(name: str, **changes: Any) -> None:
        loss, _, gradients = compute_pass(model, batch, replace(switches, **changes))
        measured[f"{name}_loss"] = compare(loss, expected[0], 1e-3, f"{name}: loss")
        measured[f"{name}_gradient"] = compare(gradients, expected[2], 3e-2, f"{name}: gradient")

    compare_way("checkpointing", gradient_checkpointing=True)
    compare_way("trl_head", compact_head=False)
    if machine.flash_attention:
        base.set_attn_implementation("flash_attention_2")
        compare_way("flash_attention", flattened=True)
        base.set_attn_implementation("sdpa")
    if machine.liger:  # the last, since it changes the model for good
        from transformers.integrations.liger import apply_liger_kernel

        apply_liger_kernel(model, {"fused_linear_cross_entropy": False})
        compare_way("liger")
    return measured


def check_draws(bench: Bench) -> Measured:
    """Compare the draws of each seed with those on the CPU, and 4,000 draws with their probabilities (χ²)."""
    import torch

    rows = 50 if bench.small else 256
    scores = 3 * torch.randn(rows, bench.vocabulary, generator=torch.Generator().manual_seed(0))

    def draw(requests: Sequence[SampleRequest], device: torch.device, scores: Tensor) -> Tensor:
        prompts = torch.zeros(len(requests), 7, dtype=torch.long, device=device)
        return SeededSampling(requests, 7, device)(prompts, scores.to(device)).argmax(-1).cpu()

    requests = [make_request(f"Question {row}", row, 0.7, top_p=0.9) for row in range(rows)]
    on_cpu = draw(requests, torch.device("cpu"), scores)
    same = (draw(requests, bench.device, scores) == on_cpu).double().mean().item()
    expect(same >= 0.99, f"only {same:.1%} of the draws are those of the CPU")
    chances, many = torch.tensor([0.5, 0.3, 0.15, 0.05]), [make_request("x", number) for number in range(4000)]
    counts = torch.bincount(draw(many, bench.device, chances.log().expand(4000, 4)), minlength=4)
    chi_square = ((counts - 4000 * chances) ** 2 / (4000 * chances)).sum().item()
    expect(chi_square < CHI_SQUARE, f"4,000 draws have χ² = {chi_square:.1f} at 3 degrees of freedom")
    return {"same": same, "chi_square": round(chi_square, 2)}


def check_answers(bench: Bench) -> Measured:
    """Compare greedy answers in a padded batch with those alone; the model's generation config must not count."""
    import torch
    from transformers import GenerationConfig

    folder = str(bench.write_model())
    tokenizer = load_tokenizer(folder, padding_side="left")
    stops = list_stop_tokens(tokenizer)
    expect(stops == [EOT, END_OF_TEXT], f"the stop tokens are {stops}")
    leaks = {"do_sample": True, "top_k": 1, "repetition_penalty": 50.0, "suppress_tokens": list(range(BOS))}
    for dtype in (torch.float32, torch.bfloat16):
        model = bench.adapt(load_model(folder, dtype), rank=4).eval()
        greedy = [make_request("a" * length, length, temperature=0) for length in (3, 40, 170)]
        sampled = [make_request("a", number) for number in range(4)]
        with torch.inference_mode():
            if dtype == torch.float32:
                alone = [generate_batch(model, tokenizer, [request], stops)[0] for request in greedy]
                together = generate_batch(model, tokenizer, greedy, stops)
                expect(together == alone, "left padding changes greedy answers")
            answers = generate_batch(model, tokenizer, sampled, stops)
            model.get_base_model().generation_config = GenerationConfig(**leaks)
            again = generate_batch(model, tokenizer, sampled, stops)
        expect(answers == again, f"in {dtype} the model's own generation config changes the answers")
        expect(len({answer["answer"] for answer in answers}) > 1, "four seeds give one answer")
        del model
        bench.free_memory()
    return {"stops": stops}


def check_judge_exact(bench: Bench) -> Measured:
    """Compare a local judge's batch with plain forward passes over each reply."""
    import torch

    folder = str(bench.write_model())
    model, tokenizer = load_model(folder, torch.float32).eval(), load_tokenizer(folder)
    heads = [f"Rate {'x' * length}" for length in (1, 30, 111)]
    words = ("CODE", "REFUSAL")
    requests = [JudgeRequest("judge", f"{head}\nRating:", (), words, "exact", precision="float32") for head in heads]
    with torch.inference_mode():
        responses = Reader(model, tokenizer).read(requests)
        model.set_attn_implementation("eager")
        plain = torch.tensor([compute_plain_judgement(model, tokenizer, head) for head in heads], dtype=torch.double)
    judgements = torch.tensor([[each["mass"], each["expectation"]] for each in responses], dtype=torch.double)
    return {
        "mass": compare(judgements[:, 0], plain[:, 0], 2e-3, "probability of all numbers"),
        "expectation": compare(judgements[:, 1], plain[:, 1], 2e-3, "expected rating"),
    }


def compute_plain_judgement(model: Any, tokenizer: Any, head: str) -> tuple[float, float]:
    """Compute the probability of all integers as replies, and their expectation, by a forward pass over each reply.

    An integer counts with the probability that no digit follows it.
    """
    import torch

    prompt = encode(tokenizer, render_conversation(tokenizer, [{"role": "user", "content": head}], True) + "Rating:")
    replies = [encode(tokenizer, f" {integer}") for integer in INTEGERS]
    width, digits = max(map(len, replies)), encode(tokenizer, "0123456789")
    rows = [prompt + reply + [BOS] * (width - len(reply)) for reply in replies]
    logits = model(input_ids=torch.tensor(rows, device=model.device), logits_to_keep=width + 1).logits
    chances = logits.double().softmax(-1).cpu()
    mass = expectation = 0.0
    for integer, reply in enumerate(replies):
        chance = 1 - chances[integer, len(reply), digits].sum().item()
        for place, token in enumerate(reply):
            chance *= chances[integer, place, token].item()
        mass, expectation = mass + chance, expectation + integer * chance
    return mass, expectation / mass


def choose_plain_switches(bench: Bench, precision: str) -> Switches:
    """Choose the switches of a machine without optional packages, without checkpointing."""
    trainer = LoraTrainer(name="lora", gradient_checkpointing=False)
    return choose_switches(Machine(bench.device.type), trainer, precision)


def make_batch(lengths: Sequence[int]) -> MicroBatch:
    """Make a pass over rows of random tokens, of which the first third carries no loss."""
    import torch

    source = torch.Generator().manual_seed(0)
    rows = []
    for length in lengths:
        ids = torch.randint(3, BOS, (length,), generator=source).tolist()
        rows.append(TrainingRow(ids, [IGNORED] * (length // 3) + ids[length // 3 :], cut=False))
    return MicroBatch(tuple(rows), tuple(range(len(rows))))


def compute_pass(model: Any, batch: MicroBatch, switches: Switches) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a pass by em's own forward pass; return loss, each token's loss, and the gradients of the adapter."""
    import torch
    from trl.trainer.utils import add_fused_lm_head

    from em.train.local.trainer import add_step_forward

    base = model.get_base_model()
    add_fused_lm_head(base)
    add_step_forward(base, switches, EOT)
    if switches.gradient_checkpointing:
        model.enable_input_require_grads()
        base.gradient_checkpointing_enable()
    model.train().zero_grad()
    try:
        with torch.autocast(base.device.type, torch.bfloat16, enabled=switches.precision == "bfloat16"):
            loss, token_losses = model(em_pass=batch, em_scale=1.0, em_prefix=None)
        loss.backward()
    finally:
        del base.forward
        if switches.gradient_checkpointing:
            base.gradient_checkpointing_disable()
    return loss.detach(), token_losses, collect_gradients(model)


def collect_gradients(model: Any) -> Tensor:
    """Return the gradients of the adapter, (parameters,)."""
    import torch

    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def make_request(
    text: str, number: int, temperature: float = 1.0, top_p: float = 1.0, tokens: int = 12
) -> SampleRequest:
    """Make a request for one answer."""
    return SampleRequest("random", (Message("user", text),), number, 0, temperature, top_p, tokens, "hf", "auto")
