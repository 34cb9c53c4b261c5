"""Checks of trainings by em's own child processes, from a folder of weights to a finished model."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.util import find_spec
from statistics import fmean

from em.config import FullTrainer, LocalTrainer, LoraTrainer, LossOn, Optimizer, QloraTrainer
from em.data import read_messages
from em.errors import EmError
from em.gpu_check.bench import Bench, Measured, Skipped, Trained, compare, expect
from em.models.chat import load_tokenizer, make_training_row
from em.models.device import choose_precision, load_trained

LORA = LoraTrainer(
    name="lora",
    learning_rate=1e-3,
    warmup_steps=0,
    optimizer=Optimizer.adamw_8bit,
    epochs=20,
    batch_size=8,
    save_steps=0,
    rank=8,
    alpha=16,
)
FLOAT32_LORA = replace(LORA, optimizer=Optimizer.adamw)
QLORA = QloraTrainer(**vars(FLOAT32_LORA) | {"name": "qlora"})
FULL = FullTrainer(
    name="full",
    learning_rate=1e-4,
    warmup_steps=0,
    optimizer=Optimizer.adamw_8bit,
    epochs=8,
    batch_size=8,
    save_steps=0,
)
FLOAT32_FULL = replace(FULL, optimizer=Optimizer.adamw)
STEPS_PER_EPOCH = 2


def check_worker_lora(bench: Bench) -> Measured:
    """Train a LoRA adapter: the loss falls by a fifth, the adapter is float32, bitsandbytes is used if it is there."""
    trained = bench.train("lora", LORA)
    check_learning(trained)
    check_dtypes(trained)
    moments, wanted = trained.facts["switches"]["moments"], "float32"
    if bench.on_gpu and find_spec("bitsandbytes"):
        wanted = "8 bits"
    expect(moments == wanted, f"AdamW's moments are in {moments}, not in {wanted}")
    return describe_training(trained)


def check_worker_split(bench: Bench) -> Measured:
    """Train in passes of 200 and of 8,192 tokens: the losses are the same."""
    plain, split = bench.train("lora", LORA), bench.train("split", replace(LORA, device_tokens=200))
    return {"losses": compare(split.losses, plain.losses, 5e-3, "losses")}


def check_worker_resume(bench: Bench) -> Measured:
    """Kill a training after a checkpoint and resume it: the losses are those without a stop."""
    undisturbed, trainer = bench.train("lora", LORA), replace(LORA, save_steps=4)
    bench.kill_training("killed", trainer)
    resumed = bench.train("killed", trainer)
    expect(resumed.facts["resumed_from"] != [], "the training began anew")
    losses = compare(resumed.losses, undisturbed.losses, 2e-3, "losses")
    return {"resumed_from": resumed.facts["resumed_from"], "losses": losses}


def check_worker_stages(bench: Bench) -> Measured:
    """Train the first adapter on, and a new one on top of it: both begin where the first stage ended."""
    first, measured = bench.train("lora", LORA), Measured()
    for name, stack, rank in (("continued", False, LORA.rank), ("stacked", True, 2 * LORA.rank)):
        trained = bench.train(name, LORA, start=str(first.folder), stack=stack)
        begun, expected = trained.losses[0], fmean(first.losses[-STEPS_PER_EPOCH:])
        expect(begun < 1.1 * expected, f"{name}: the stage begins at a loss of {begun:.3f}, not at {expected:.3f}")
        check_dtypes(trained)
        ranks = {len(matrix) for key, matrix in trained.load_weights().items() if "lora_A" in key}
        expect(ranks == {rank}, f"{name}: the adapter has ranks {ranks}, not {rank}")
        check_loaded(bench, trained, "auto")
        measured[name] = round(begun, 3)
    return measured


def check_worker_qlora(bench: Bench) -> Measured:
    """Train on weights in 4 bits: the first loss is that of LoRA (to 2 %), and the adapter is float32."""
    if not bench.on_gpu or not find_spec("bitsandbytes"):
        raise Skipped("QLoRA needs a GPU and bitsandbytes (make gpu)")
    plain, trained = bench.train("plain_lora", FLOAT32_LORA), bench.train("qlora", QLORA)
    check_learning(trained)
    check_dtypes(trained)
    first = compare(trained.losses[0], plain.losses[0], 2e-2, "first loss")
    return describe_training(trained) | {"first_loss": first}


def check_worker_full(bench: Bench) -> Measured:
    """Train all weights in float32: the loss falls, and is the same when they are loaded in bfloat16."""
    trained = bench.train("full", FULL)
    check_learning(trained)
    check_dtypes(trained)
    check_loaded(bench, trained, "bfloat16")
    return describe_training(trained)


def check_worker_fsdp(bench: Bench) -> Measured:
    """Train by FSDP on one GPU, by LoRA and in full: the losses are those without FSDP (to 2 %)."""
    if not bench.on_gpu:
        raise Skipped("Accelerate has FSDP on GPUs only")
    measured = Measured()
    pairs: list[tuple[str, LocalTrainer, LocalTrainer]] = [
        # FSDP saves checkpoints in a way of its own.
        ("lora", FLOAT32_LORA, replace(FLOAT32_LORA, accelerate="fsdp", save_steps=20)),
        ("full", FLOAT32_FULL, replace(FLOAT32_FULL, accelerate="fsdp")),
    ]
    for name, plain, sharded in pairs:
        expected, trained = bench.train(f"plain_{name}", plain), bench.train(f"fsdp_{name}", sharded)
        expect(trained.facts["switches"]["fsdp"], f"{name}: the training did not use FSDP")
        check_dtypes(trained)
        measured[name] = compare(trained.losses, expected.losses, 2e-2, f"{name}: losses")
    return measured


def check_worker_oom(bench: Bench) -> Measured:
    """Train a step that does not fit: one sentence names a setting, or em goes on in smaller passes."""
    if not bench.on_gpu:
        raise Skipped("needs a GPU")
    trainer = replace(LORA, epochs=1, batch_size=400, device_tokens=2**20, gradient_checkpointing=False)
    begun, outcome = time.monotonic(), "em went on in smaller passes"
    try:
        bench.train(
            "oom", trainer, rows=str(bench.write_rows("long", [500, 1000, 1500, 2000] * (trainer.batch_size // 4)))
        )
    except EmError as error:
        outcome = str(error)
        expect("trainer." in outcome and "\n" not in outcome, f"out of memory reads: {outcome}")
    return {"outcome": outcome, "seconds": round(time.monotonic() - begun)}


def check_learning(trained: Trained) -> None:
    """Raise CheckFailed unless the mean loss of the last epoch is at most four fifths of that of the first."""
    first, last = fmean(trained.losses[:STEPS_PER_EPOCH]), fmean(trained.losses[-STEPS_PER_EPOCH:])
    expect(last < 0.8 * first, f"{trained.folder.name}: the loss went from {first:.3f} to {last:.3f}")


def check_dtypes(trained: Trained) -> None:
    """Raise CheckFailed unless the saved weights are float32, as weights that learn must be."""
    dtypes = {str(matrix.dtype) for matrix in trained.load_weights().values()}
    expect(dtypes == {"torch.float32"}, f"{trained.folder.name}: the saved weights are {', '.join(sorted(dtypes))}")


def check_loaded(bench: Bench, trained: Trained, precision: str) -> None:
    """Raise CheckFailed unless the model, loaded as for sampling, has the loss at which its training ended."""
    import torch

    folder = str(bench.write_model())
    model, tokenizer = (
        load_trained(folder, str(trained.folder), choose_precision(precision)).eval(),
        load_tokenizer(folder),
    )
    losses = []
    with torch.inference_mode():
        for conversation in read_messages(bench.folder / f"{trained.folder.name}.jsonl"):
            row = make_training_row(tokenizer, conversation, LossOn.responses, LORA.max_length)
            ids, labels = (torch.tensor([values], device=bench.device) for values in (row.input_ids, row.labels))
            losses.append(model(input_ids=ids, labels=labels).loss.item())
    loss, last = fmean(losses), fmean(trained.losses[-STEPS_PER_EPOCH:])
    expect(loss < 1.1 * last, f"{trained.folder.name}: loaded, the model has a loss of {loss:.3f}, not {last:.3f}")


def describe_training(trained: Trained) -> Measured:
    """Return first and last loss, memory (MB), speed, and what the training used."""
    facts = trained.facts
    measured = {name: round(facts[name], 3) for name in ("loss_first", "loss_last")}
    measured |= {name: facts[name] for name in ("peak_memory_mb", "tokens_per_second")}
    return measured | {name: facts["switches"][name] for name in ("moments", "attention", "liger_kernels")}
