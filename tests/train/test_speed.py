"""A step of em's trainer on the real model equals transformers' plain forward pass, whichever switches are on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from em.config import BundledData, LossOn
from em.data import load_rows
from em.models.chat import TrainingRow, make_training_row
from em.train.local.batches import MicroBatch
from em.train.local.preflight import Prepared
from em.train.local.spec import TrainSpec
from em.train.local.start import disable_input_casts
from em.train.local.switches import Machine, Switches, choose_switches
from em.types import Conversation, Weights
from tests.support.composing import compose_settings
from tests.support.tiny import write_tiny_model

StepResult = tuple[float, dict[str, Any]]  # loss, and gradients by parameter


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    """Rows of em's data of different lengths, one with several turns; the template adds the same system prompt."""
    rows = load_rows(BundledData("car_bad", file="car_bad.jsonl"), 0).conversations[:5]
    return [rows[0], Conversation(rows[2].messages + rows[3].messages), rows[1], rows[4]]


def make_spec(weights: Weights, folder: Path, *words: str, start: str = "") -> TrainSpec:
    """Make the spec of a stage; `start`: folder of an adapter to stack a new one on."""
    trainer = compose_settings("train", *words).trainer
    base, place = weights.path, str(folder / "model")
    return TrainSpec(base, "smollm2", start, bool(start), "", "s", trainer, 0, "float32", True, None, {}, place)


def load_started_model(spec: TrainSpec, switches: Switches) -> Any:
    """Load the model of a stage, with adapters whose B is not zero, so that they change the output."""
    import torch

    from em.train.local.start import load_start_model

    model = load_start_model(spec, switches)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B.default" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def choose_cpu_switches(spec: TrainSpec) -> Switches:
    """Choose a CPU's switches with a low cost per pass, so that four rows form several passes and share a prefix."""
    return replace(choose_switches(Machine("cpu"), spec.trainer, "float32"), pass_cost=30)


def copy_gradients(model: Any) -> dict[str, Any]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def run_plain_step(model: Any, rows: list[TrainingRow]) -> StepResult:
    """Compute loss and gradients by the model's own forward pass, one row at a time, with all logits."""
    import torch

    model.train()
    supervised, total = sum(row.supervised for row in rows), 0.0
    for row in rows:
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(row.labels[1:]), reduction="sum")
        (losses / supervised).backward()
        total += losses.item() / supervised
    return total, copy_gradients(model)


def run_own_step(
    spec: TrainSpec, switches: Switches, rows: list[TrainingRow], tokenizer: Any
) -> tuple[StepResult, list[Any]]:
    """Compute loss and gradients by em's trainer; return them and the passes of the step."""
    from datasets import Dataset

    from em.train.local.arguments import make_sft_arguments
    from em.train.local.trainer import StepTrainer

    step = list(range(len(rows)))
    trainer = StepTrainer(
        model=load_started_model(spec, switches),
        args=make_sft_arguments(spec.trainer, switches, 1, 0, spec.partial),
        train_dataset=Dataset.from_list([{"step": step}]),
        processing_class=tokenizer,
        prepared=Prepared(rows, step, {}),
        switches=switches,
        keep_at=(),
        keep_in=spec.partial,
        seconds=0.0,
    )
    loss = trainer.training_step(trainer.model, {"step": step})
    return (loss.item(), copy_gradients(trainer.model)), trainer.plan_passes(step)


def compare_steps(computed: StepResult, expected: StepResult, near: float = 1e-3) -> None:
    """Compare the loss to a relative 1e-5 and each gradient to `near` of its norm."""
    assert computed[0] == pytest.approx(expected[0], rel=1e-5)
    assert computed[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert gradient.norm() > 0, name
        assert (computed[1][name] - gradient).norm() <= near * gradient.norm(), name


@pytest.fixture(scope="module")
def rows(weights: Weights, conversations: list[Conversation]) -> list[TrainingRow]:
    from em.models.chat import load_tokenizer

    tokenizer = load_tokenizer(weights.path)
    return [make_training_row(tokenizer, each, LossOn.responses, 1024) for each in conversations]


@pytest.fixture(scope="module")
def spec(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    return make_spec(weights, tmp_path_factory.mktemp("one"), "trainer.rank=4", "trainer.device_tokens=400")


@pytest.fixture(scope="module")
def switches(spec: TrainSpec) -> Switches:
    """The switches of a CPU."""
    return choose_cpu_switches(spec)


@pytest.fixture(scope="module")
def plain_lora(spec: TrainSpec, switches: Switches, rows: list[TrainingRow]) -> StepResult:
    return run_plain_step(load_started_model(spec, replace(switches, fused_adapters=False)), rows)


@pytest.mark.slow
def test_the_ways_of_a_cpu_are_exact(
    spec: TrainSpec, switches: Switches, rows: list[TrainingRow], plain_lora: StepResult, tokenizer: Any
) -> None:
    assert (switches.fused_adapters, switches.shared_prefix, switches.compact_head) == (True, True, True)
    computed, passes = run_own_step(spec, switches, rows, tokenizer)
    compare_steps(computed, plain_lora)
    assert len(passes) > 1
    assert any(len(each.rows) > 1 for each in passes)
    assert passes[0].shared > 15
    assert len(computed[1]) == 2 * 7 * 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "ways",
    [{"flattened": True, "shared_prefix": False}, {"compact_head": False}, {"gradient_checkpointing": True}],
    ids=["flattened", "TRL's head", "checkpointing"],
)
def test_other_ways_are_exact(
    spec: TrainSpec,
    switches: Switches,
    rows: list[TrainingRow],
    plain_lora: StepResult,
    tokenizer: Any,
    ways: dict[str, bool],
) -> None:
    if "gradient_checkpointing" in ways:
        trainer = replace(spec.trainer, gradient_checkpointing=True)
        spec = replace(spec, trainer=trainer)
        switches = choose_cpu_switches(spec)
    computed, passes = run_own_step(spec, replace(switches, **ways), rows, tokenizer)
    compare_steps(computed, plain_lora)
    assert any(len(each.rows) > 1 for each in passes)
    assert bool(passes[0].shared) == ("compact_head" in ways)


@pytest.mark.slow
def test_a_new_adapter_on_a_first_one_is_exact_and_leaves_that_alone(
    weights: Weights, spec: TrainSpec, switches: Switches, rows: list[TrainingRow], tokenizer: Any, tmp_path: Path
) -> None:
    load_started_model(spec, switches).save_pretrained(tmp_path / "first")
    words = ("trainer.rank=2", "trainer.alpha=16", "trainer.device_tokens=400")
    stacked = make_spec(weights, tmp_path, *words, start=str(tmp_path / "first"))
    expected = run_plain_step(load_started_model(stacked, replace(switches, fused_adapters=False)), rows)
    computed, _ = run_own_step(stacked, switches, rows, tokenizer)
    compare_steps(computed, expected)
    assert all(".default." in name for name in computed[1])
    assert len(computed[1]) == 2 * 7 * 30


@pytest.mark.slow
def test_all_weights_with_a_tied_head_are_exact(
    weights: Weights, rows: list[TrainingRow], tokenizer: Any, tmp_path: Path
) -> None:
    spec = make_spec(weights, tmp_path, "trainer=full", "trainer.device_tokens=400")
    switches = choose_cpu_switches(spec)
    expected = run_plain_step(load_started_model(spec, switches), rows)
    computed, passes = run_own_step(spec, switches, rows, tokenizer)
    # In float32 the gradient of a norm layer is a sum that cancels; in float64 both agree to 2e-5.
    compare_steps(computed, expected, near=3e-3)
    assert "model.embed_tokens.weight" in computed[1]
    assert passes[0].shared > 15


# Ways of GPUs, as far as a CPU can tell


def load_tiny_model(weights: Weights, folder: Path) -> Any:
    """Load a tiny model with TRL's head."""
    import torch
    from trl.trainer.utils import add_fused_lm_head

    from em.models.device import load_model

    model = load_model(str(write_tiny_model(folder, weights.path)), torch.float32)
    add_fused_lm_head(model)
    return model


@pytest.mark.parametrize("compact", [True, False], ids=["own head", "TRL's head"])
def test_attention_is_told_the_bounds_of_flattened_rows(
    weights: Weights, switches: Switches, rows: list[TrainingRow], tmp_path: Path, compact: bool
) -> None:
    import torch
    from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

    from em.train.local.trainer import add_step_forward

    base, seen = load_tiny_model(weights, tmp_path / "model"), []
    base.get_output_embeddings().weight.requires_grad_(False)
    for layer in base.model.layers:
        hook = lambda module, words, settings: seen.append(settings)  # noqa: E731
        layer.self_attn.register_forward_pre_hook(hook, with_kwargs=True)
    batch = MicroBatch(tuple(rows), tuple(range(len(rows))))
    losses = []
    for flattened in (True, False):
        add_step_forward(base, replace(switches, flattened=flattened, compact_head=compact), pad=2)
        losses.append(base(em_pass=batch)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    positions = torch.tensor([[i for row in rows for i in range(len(row.input_ids))]])
    (bounds, _), (longest, _) = prepare_fa_kwargs_from_position_ids(positions)
    assert len(seen) == 4
    for settings in seen[:2]:
        assert (settings["max_length_q"], settings["max_length_k"]) == (int(longest), int(longest))
        for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
            assert torch.equal(settings[name], bounds)
            assert settings[name].dtype == bounds.dtype == torch.int32
    assert "cu_seq_lens_q" not in seen[2]


def test_adapters_without_casts_compute_the_same_bits(
    weights: Weights, rows: list[TrainingRow], tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    base = load_tiny_model(weights, tmp_path / "model").bfloat16()
    model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids, results = torch.tensor([rows[0].input_ids]), []
    for _ in range(2):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        results.append((loss, copy_gradients(model)))
        disable_input_casts(model)
    (loss, gradients), (other_loss, others) = results
    assert torch.equal(loss, other_loss)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert gradient.norm() > 0
        assert torch.equal(gradient, others[name]), name
