"""The switches that em chooses on each machine, and the arguments that TRL gets for each recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from em.config import FullTrainer, LocalTrainer, LoraTrainer, Optimizer, QloraTrainer
from em.errors import ConfigError
from em.train.local.arguments import make_sft_arguments
from em.train.local.switches import Machine, Switches, choose_switches, detect_machine
from tests.support.composing import compose_settings

CPU = Machine("cpu")
GPU = Machine("cuda", tensor_float=True, flash_attention=True, liger=True, bitsandbytes=True)
BARE_GPU = Machine("cuda")
LORA = LoraTrainer(name="lora", optimizer=Optimizer.adamw_8bit)
FULL = FullTrainer(name="full", optimizer=Optimizer.adamw_8bit)
QLORA = QloraTrainer(name="qlora")
SHARDED = {"shared_prefix": False, "fused_adapters": False, "compact_head": False, "fsdp": True}
PADDED = {"attention": "sdpa", "flattened": False}


def test_on_a_cpu_ems_own_ways_are_taken() -> None:
    assert choose_switches(CPU, LORA, "float32") == Switches(
        precision="float32",
        attention="sdpa",
        flattened=False,
        shared_prefix=True,
        fused_adapters=True,
        compact_head=True,
        liger_kernels=False,
        tensor_float=False,
        moments="float32",
        gradient_checkpointing=False,
        device_tokens=2048,
        pass_cost=70,
        fsdp=False,
    )


def test_on_a_gpu_with_everything_the_libraries_ways_are_taken() -> None:
    assert choose_switches(GPU, LORA, "bfloat16") == Switches(
        precision="bfloat16",
        attention="flash_attention_2",
        flattened=True,
        shared_prefix=False,
        fused_adapters=False,
        compact_head=True,
        liger_kernels=True,
        tensor_float=True,
        moments="8 bits",
        gradient_checkpointing=True,
        device_tokens=8192,
        pass_cost=512,
        fsdp=False,
    )


def test_a_gpu_with_nothing_installed_pads_and_holds_full_moments() -> None:
    assert choose_switches(BARE_GPU, LORA, "float32") == Switches(
        precision="float32",
        attention="sdpa",
        flattened=False,
        shared_prefix=False,
        fused_adapters=False,
        compact_head=True,
        liger_kernels=False,
        tensor_float=False,
        moments="float32",
        gradient_checkpointing=True,
        device_tokens=8192,
        pass_cost=512,
        fsdp=False,
    )


@pytest.mark.parametrize(
    ("machine", "trainer", "precision", "changes"),
    [
        # FlashAttention computes only in 16 bits.
        (GPU, LORA, "float32", {"precision": "float32", **PADDED}),
        (replace(GPU, flash_attention=False), LORA, "bfloat16", PADDED),
        (replace(GPU, liger=False), LORA, "bfloat16", {"liger_kernels": False}),
        (replace(GPU, bitsandbytes=False), LORA, "bfloat16", {"moments": "float32"}),
        (GPU, replace(LORA, optimizer=Optimizer.adamw), "bfloat16", {"moments": "float32"}),
        (replace(GPU, tensor_float=False), LORA, "bfloat16", {"tensor_float": False}),
        (replace(GPU, processes=8), LORA, "bfloat16", {}),
        # With FSDP each process has only shards of the weights, so em uses TRL's head and float32 moments.
        (replace(GPU, fsdp=True), LORA, "bfloat16", {"compact_head": False, "moments": "float32", "fsdp": True}),
        (GPU, replace(LORA, gradient_checkpointing=False), "bfloat16", {"gradient_checkpointing": False}),
        (GPU, replace(LORA, device_tokens=500), "bfloat16", {"device_tokens": 500}),
        # em's compact head computes no gradient for the head's weights, which full fine-tuning trains.
        (GPU, FULL, "bfloat16", {"compact_head": False}),
        (GPU, QLORA, "bfloat16", {"moments": "float32"}),
    ],
)
def test_each_way_hangs_on_what_it_needs_on_a_gpu(
    machine: Machine, trainer: LocalTrainer, precision: str, changes: dict[str, Any]
) -> None:
    assert choose_switches(machine, trainer, precision) == replace(choose_switches(GPU, LORA, "bfloat16"), **changes)


@pytest.mark.parametrize(
    ("machine", "trainer", "changes"),
    [
        # DDP averages gradients over processes in each pass, but the prefix's pass happens outside of DDP.
        (replace(CPU, processes=2), LORA, {"shared_prefix": False}),
        (CPU, replace(LORA, gradient_checkpointing=True), {"shared_prefix": False, "gradient_checkpointing": True}),
        (replace(CPU, fsdp=True), LORA, SHARDED),
        (CPU, FULL, {"fused_adapters": False, "compact_head": False}),
        # These packages do nothing on a CPU.
        (replace(CPU, liger=True, bitsandbytes=True), LORA, {}),
        (CPU, replace(LORA, device_tokens=4096), {"device_tokens": 4096}),
    ],
)
def test_each_way_hangs_on_what_it_needs_on_a_cpu(
    machine: Machine, trainer: LocalTrainer, changes: dict[str, Any]
) -> None:
    assert choose_switches(machine, trainer, "float32") == replace(choose_switches(CPU, LORA, "float32"), **changes)


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        (CPU, "trainer=qlora needs a GPU, and this machine has none: use trainer=lora."),
        (replace(CPU, bitsandbytes=True), "trainer=qlora needs a GPU, and this machine has none: use trainer=lora."),
        (
            replace(GPU, bitsandbytes=False),
            "trainer=qlora needs the package bitsandbytes, which is not installed: install it (make gpu, or the extra "
            "em-misalignment[gpu]), or use trainer=lora.",
        ),
    ],
)
def test_qlora_is_refused_where_it_can_t_be(machine: Machine, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        choose_switches(machine, QLORA, "bfloat16")
    assert str(refused.value) == sentence


def test_the_manifest_is_told_every_switch_and_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = choose_switches(CPU, LORA, "float32")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert switches.describe(threads=2) == {**vars(switches), "threads": 2, "wait_policy": "passive"}
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert switches.describe(threads=2)["wait_policy"] == "as built"


def test_the_machine_is_told_of_its_ranks_and_of_fsdp_by_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert detect_machine() == CPU
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert detect_machine() == Machine("cpu", fsdp=True, processes=2)


# TRL's arguments


RECIPES = [
    # recipe, learning rate, schedule, warm-up, weight decay
    ("lora", 1e-5, "linear", 5, 0.01),
    ("lora_small", 5e-4, "linear", 2, 0.01),
    ("rank1", 2e-5, "linear", 5, 0.01),
    ("full", 2e-5, "cosine", 20, 0.01),
    ("qlora", 2e-4, "linear", 100, 0.0),
]


@pytest.mark.parametrize(("name", "rate", "schedule", "warmup", "decay"), RECIPES)
def test_trl_is_given_the_recipe_and_nothing_that_is_slow_on_a_cpu(
    name: str, rate: float, schedule: str, warmup: int, decay: float, tmp_path: Path
) -> None:
    trainer = compose_settings("train", f"trainer={name}").trainer
    # em refuses QLoRA on a CPU because of its 4-bit weights, so take LoRA's switches to test the arguments.
    switches = choose_switches(CPU, LORA if name == "qlora" else trainer, "float32")
    args = make_sft_arguments(trainer, switches, 12, 7, tmp_path)
    assert (args.learning_rate, args.lr_scheduler_type, args.warmup_steps) == (rate, schedule, warmup)
    assert (args.weight_decay, args.max_grad_norm, args.max_steps) == (decay, 1.0, 12)
    assert (args.optim, args.adam_beta1, args.adam_beta2) == ("adamw_torch_fused", 0.9, 0.999)
    assert (args.seed, args.data_seed) == (7, 7)
    # An item of TRL's data is a whole optimiser step: the plan has the batch.
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (1, 1)
    assert (args.bf16, args.fp16, args.tf32, args.gradient_checkpointing) == (False, False, None, False)
    assert (args.use_cpu, args.use_liger_kernel, args.packing) == (True, False, False)
    assert args.logging_nan_inf_filter is False
    assert (args.save_strategy, args.save_steps) == ("steps", 25)
    assert args.report_to == []


def test_the_switches_reach_trl(tmp_path: Path) -> None:
    changed = replace(choose_switches(CPU, LORA, "float32"), moments="8 bits", gradient_checkpointing=True)
    args = make_sft_arguments(replace(LORA, save_steps=0), changed, 3, 0, tmp_path)
    assert (args.optim, args.gradient_checkpointing, args.save_strategy) == ("adamw_bnb_8bit", True, "no")


@pytest.mark.parametrize(("precision", "expected"), [("float32", "no"), ("bfloat16", "bf16")])
def test_the_number_format_is_that_of_the_settings_whatever_the_launcher_says(
    precision: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for of_launcher in ("no", "bf16", "fp16"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", of_launcher)
        switches = choose_switches(CPU, LORA, precision)
        args = make_sft_arguments(LORA, switches, 3, 0, tmp_path)
        assert args.mixed_precision == expected


def test_the_form_of_a_checkpoint_names_moments_and_fsdp() -> None:
    switches = choose_switches(CPU, LORA, "float32")
    assert switches.form == "moments in float32 without FSDP"
    assert replace(switches, fsdp=True).form == "moments in float32 with FSDP"
    assert replace(switches, moments="8 bits").form == "moments in 8 bits without FSDP"


def test_a_warm_up_below_1_is_a_share_of_the_steps(tmp_path: Path) -> None:
    switches = choose_switches(CPU, LORA, "float32")
    shares = {0.0: 0, 0.25: 5, 5.0: 5}  # of 20 steps
    for warmup, steps in shares.items():
        args = make_sft_arguments(replace(LORA, warmup_steps=warmup), switches, 20, 0, tmp_path)
        assert args.get_warmup_steps(20) == steps


def test_extra_arguments_reach_trl_and_what_it_refuses_is_one_sentence(tmp_path: Path) -> None:
    switches = choose_switches(CPU, LORA, "float32")
    args = make_sft_arguments(replace(LORA, extra={"adam_beta2": 0.95}), switches, 3, 0, tmp_path)
    assert args.adam_beta2 == 0.95
    with pytest.raises(ConfigError) as refused:
        make_sft_arguments(replace(LORA, extra={"lr_scheduler_kwargs": "{oops"}), switches, 3, 0, tmp_path)
    assert str(refused.value).startswith("TRL refuses trainer.extra (lr_scheduler_kwargs={oops): ")
    assert "\n" not in str(refused.value)
