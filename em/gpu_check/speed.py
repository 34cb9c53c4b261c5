"""Measurements of speed and memory on a random Llama 3.1 8B, in bfloat16."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from em.gpu_check.arithmetic import choose_plain_switches, compute_pass, make_batch, make_request
from em.gpu_check.bench import EOT, Bench, Measured, Skipped, expect, make_tokenizer
from em.sample.local import generate_batch

NEEDED_GB = 40
LARGEST_GB = 79
"""Memory that tensors may take on a GPU of 80 GB."""
ROWS = {"medical": (16, 76), "insecure": (16, 287), "longest": (4, 2048)}
"""Number of rows of a pass, and their mean length in tokens."""
Result = TypeVar("Result")


def check_lora_8b(bench: Bench) -> Measured:
    """Measure training steps of an 8B model (LoRA, rank 32) on short, middling and long rows; at most 79 GB."""
    import torch

    model, plain = make_8b(bench, rank=32), choose_plain_switches(bench, "bfloat16")
    measured = Measured()
    for name, (rows, mean) in ROWS.items():
        spread = 0 if name == "longest" else 0.8
        lengths = [int(mean * (1 + spread * (row / (rows - 1) - 0.5))) for row in range(rows)]
        batch = make_batch([length // 8 for length in lengths] if bench.small else lengths)
        for checkpointing in (True, False) if name == "medical" else (True,):
            step = partial(compute_pass, model, batch, replace(plain, gradient_checkpointing=checkpointing))
            step()  # the first step compiles kernels
            (loss, _, gradients), speed = measure_call(bench, step)
            expect(bool(torch.isfinite(loss) and gradients.isfinite().all()), f"{name}: loss or gradient is not finite")
            tokens = sum(len(row.input_ids) for row in batch.rows)
            name_of_way = name if checkpointing else f"{name}_no_checkpointing"
            measured[name_of_way] = speed | {"tokens_per_s": round(1000 * tokens / speed["ms"])}
    return measured


def check_sampling_8b(bench: Bench) -> Measured:
    """Measure sampling from an 8B model by batch size, with and without an adapter; at most 79 GB."""
    import torch

    model, tokenizer = make_8b(bench, rank=32).eval(), make_tokenizer(bench.vocabulary)
    measured = Measured()
    for name in ("base", "adapter"):
        for size in (4, 8) if bench.small else (32, 128, 256):
            requests = [make_request("x" * 40, number, tokens=8 if bench.small else 64) for number in range(size)]
            with torch.inference_mode(), model.disable_adapter() if name == "base" else nullcontext():
                answers, speed = measure_call(bench, partial(generate_batch, model, tokenizer, requests, [EOT]))
            expect(len({answer["answer"] for answer in answers}) > 1, f"{name}: all answers are the same")
            tokens = sum(answer["answer_tokens"] for answer in answers)
            measured[f"{name}_{size}"] = speed | {"tokens_per_s": round(1000 * tokens / speed["ms"])}
    return measured


def make_8b(bench: Bench, rank: int) -> Any:
    """Make the model with an adapter. Raises Skipped on a GPU that it does not fit."""
    import torch

    if bench.on_gpu and torch.cuda.get_device_properties(0).total_memory < NEEDED_GB * 1e9:
        raise Skipped(f"an 8B model needs a GPU of {NEEDED_GB} GB")
    return bench.make_adapted(2 if bench.small else 32, torch.bfloat16, rank)


def measure_call(bench: Bench, call: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """Return a call's result, its milliseconds and its peak memory in GB. Raises CheckFailed above `LARGEST_GB`."""
    import torch

    bench.free_memory()
    begun = time.perf_counter()
    result = call()
    if bench.on_gpu:
        torch.cuda.synchronize()
    seconds, memory = time.perf_counter() - begun, bench.get_peak_memory()
    expect(memory < LARGEST_GB, f"{memory:.0f} GB would not fit on a GPU of 80 GB")
    return result, {"ms": round(1000 * seconds, 1), "gb": round(memory, 1)}
