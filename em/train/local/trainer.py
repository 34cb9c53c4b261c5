"""TRL's SFTTrainer with em's own, faster training step; the loop, optimiser, schedule and saving stay TRL's.

An item of the data is a whole optimiser step. Each process takes its share of the step's rows, in passes of a token
budget. The loss is the mean over all supervised tokens of the step, over all processes. The computation goes through
the model's own `forward`, so that the wrappers of the model (DDP, FSDP, autocast) take part.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import DataLoader
from trl import SFTTrainer

from em.errors import ConfigError, DataError, OutOfMemory
from em.models.chat import IGNORED
from em.runtime.processes import is_out_of_memory
from em.train.local.batches import MicroBatch, assign_rows, make_micro_batches
from em.train.local.cpu_kernels import SharedPrefix
from em.train.local.preflight import Prepared
from em.train.local.resume import is_checkpoint_due, write_seal
from em.train.local.speed import ChunkedLoss, flatten_rows, pad_rows, select_supervised_states
from em.train.local.switches import Switches


class StepTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is not checked
    """SFTTrainer on a fixed plan of steps.

    Args:
        prepared: the tokenised rows. switches: the choices for this machine.
        keep_at: steps whose weights are saved in the folder `keep_in`.
        seconds: duration of the training before it was stopped and resumed.
    """

    def __init__(
        self,
        *,
        prepared: Prepared,
        switches: Switches,
        keep_at: Sequence[int],
        keep_in: Path,
        seconds: float,
        **rest: Any,
    ) -> None:
        super().__init__(data_collator=lambda items: {"step": items[0]["step"]}, **rest)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                # TRL casts QLoRA's adapters to bfloat16, in which AdamW's second moment can't change by 0.1 %.
                parameter.data = parameter.data.float()
        if self.accelerator.is_fsdp2 and (policy := self.accelerator.state.fsdp_plugin.mixed_precision_policy):
            # Accelerate rounds gradients and the loss to bfloat16, which one process does not.
            rounded_less = replace(policy, reduce_dtype=torch.float32, output_dtype=None)
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = rounded_less
        if self.accelerator.is_fsdp2:
            check_equal_models(self.model)
        self.rows, self.numbers, self.switches = prepared.rows, prepared.numbers, switches
        self.lengths = [len(row.input_ids) for row in self.rows]
        self.keep_at, self.keep_in = frozenset(keep_at), keep_in
        self.seconds_before, self.begun = seconds, time.monotonic()
        self.saved, self.saving_took = self.begun, 0.0
        self.rows_of_pass = 0
        self.base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        add_step_forward(self.base, switches, self.processing_class.pad_token_id)

    @property
    def seconds(self) -> float:
        """Duration of the training so far, including the time before it was resumed."""
        return self.seconds_before + time.monotonic() - self.begun

    @property
    def trained_bytes(self) -> int:
        """Bytes of all trained weights, in float32."""
        return sum(4 * parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def get_train_dataloader(self) -> Any:
        """Return the steps in order; they are not sharded, since each process takes a share of every step."""
        return DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=self.data_collator)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        """Compute this process's part of loss and gradients; out of memory, make the step again in smaller passes."""
        while True:
            try:
                return self.compute_step(model, inputs["step"])
            except RuntimeError as error:
                smaller = self.find_smaller_passes(inputs["step"])
                recomputes = self.switches.gradient_checkpointing
                if not is_out_of_memory(f"{type(error).__name__}: {error}") or (recomputes and not smaller):
                    raise
                place = f"Out of memory at step {self.state.global_step + 1} of {self.state.max_steps}"
                if self.accelerator.num_processes > 1 or self.is_fsdp_enabled or not smaller:
                    # Other processes wait for this one in a collective, and recomputation is set up with the model: so
                    # the parent process starts all anew.
                    words = f"trainer.device_tokens={smaller}" if smaller else "trainer.gradient_checkpointing=true"
                    raise OutOfMemory(f"{place}: set {words}, which needs less.", smaller) from error
            # Out of the `except` block, since the exception holds the tensors of the failed pass.
            print(f"{place}: making it again in passes of at most {smaller:,} tokens.", flush=True)
            self.switches = replace(self.switches, device_tokens=smaller)
            model.zero_grad()
            if self.args.device.type == "cuda":
                torch.cuda.empty_cache()

    def find_smaller_passes(self, step: Sequence[int]) -> int:
        """Return half the tokens of the step's largest pass of several rows; 0 if the pass that failed has one row."""
        sizes = [each.count_tokens(self.switches.flattened) for each in self.plan_passes(step) if len(each.rows) > 1]
        return max(sizes, default=0) // 2 if self.rows_of_pass > 1 else 0

    def compute_step(self, model: Any, step: Sequence[int]) -> Any:
        """Compute this process's part of loss and gradients; averaged over processes, the loss is the step's mean."""
        model.train()
        world = self.accelerator.num_processes
        supervised = sum(self.rows[number].supervised for number in step)
        scale = world / supervised  # DDP takes the mean of the processes' gradients
        passes = self.plan_passes(step)
        with self.compute_loss_context_manager():
            prefix = SharedPrefix(self.base, passes[0]) if passes[0].shared else None
        total = torch.zeros((), device=self.args.device)
        for number, each in enumerate(passes, start=1):
            self.rows_of_pass = len(each.rows)
            # Under FSDP, `no_sync` would hold the gradients of all weights on every process until the last pass.
            sync = self.is_fsdp_enabled or number == len(passes)
            with contextlib.nullcontext() if sync else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss, by_token = model(em_pass=each, em_scale=scale if each.counts else 0.0, em_prefix=prefix)
                self.check_loss(loss, by_token, each)
                self.accelerator.backward(loss)
            total += loss.detach()
        if prefix:
            prefix.pass_gradients()
        self.check_gradients(step)
        return total

    def plan_passes(self, step: Sequence[int]) -> list[MicroBatch]:
        """Plan the forward passes of this process for a step."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        if not self.is_fsdp_enabled:
            return self.plan_share(step, rank, world)
        # Under FSDP each pass gathers weights from every process, so all must make equally many.
        plans = [self.plan_share(step, each, world) for each in range(world)]
        missing = max(len(plan) for plan in plans) - len(plans[rank])
        return plans[rank] + [self.make_idle_pass(step)] * missing

    def plan_share(self, step: Sequence[int], rank: int, world: int) -> list[MicroBatch]:
        """Plan the forward passes over the rows of process `rank`."""
        numbers = assign_rows(step, self.lengths, rank, world)
        switches = self.switches
        if numbers:
            share = switches.shared_prefix and has_full_attention(self.base.config)
            budget, cost, padded = switches.device_tokens, switches.pass_cost, not switches.flattened
            return make_micro_batches(self.rows, numbers, budget, cost, share, padded)
        return [self.make_idle_pass(step)]

    def make_idle_pass(self, step: Sequence[int]) -> MicroBatch:
        """Make a pass over one row with weight 0, by which a process keeps in step with the others."""
        shortest = min(step, key=lambda number: self.lengths[number])
        return MicroBatch((self.rows[shortest],), (shortest,), counts=False)

    def check_loss(self, loss: Any, by_token: Any, each: MicroBatch) -> None:
        """Raise DataError with the rows where a loss is infinite or NaN."""
        if math.isfinite(loss.item()):
            return
        # The token losses are in the order of the rows.
        row_of_token = [number for number in each.numbers for _ in range(self.rows[number].supervised)]
        is_finite = by_token.isfinite().tolist()
        bad = [number for number, finite in zip(row_of_token, is_finite, strict=True) if not finite]
        self.raise_not_finite(list(dict.fromkeys(bad)) or list(each.numbers), "The loss")

    def check_gradients(self, step: Sequence[int]) -> None:
        """Raise DataError if a gradient is infinite or NaN, before it reaches the weights."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if gradients and not math.isfinite(torch.nn.utils.get_total_norm(gradients).item()):
            self.raise_not_finite(step, "A gradient")

    def raise_not_finite(self, numbers: Sequence[int], what: str) -> None:
        """Raise DataError with the step and its rows."""
        shown = ", ".join(f"row {self.numbers[number]}" for number in numbers[:4]) + (", …" if len(numbers) > 4 else "")
        raise DataError(
            f"{what} became infinite or NaN at step {self.state.global_step + 1} of {self.state.max_steps} ({shown}): "
            "lower trainer.learning_rate, or look at these rows."
        )

    # Saving and resuming

    def create_model_card(self, *words: Any, **settings: Any) -> None:
        """Write no model card: em's record describes the model."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the trained weights; under FSDP gather them from all processes, but not an adapter's base."""
        if not self.accelerator.is_fsdp2:
            super().save_model(output_dir, _internal_call)
            return
        adapter_alone = hasattr(self.model, "peft_config")
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapter_alone)
        weights = get_model_state_dict(self.model, options=options)
        for name in self.base.all_tied_weights_keys:  # gathered, tied weights are two tensors
            weights.pop(name, None)
        self._save(output_dir, weights)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save only the trained adapter, or all weights without adapters: safetensors and their config, no pickle."""
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            only: dict[str, Any] = {}
            if hasattr(self.model, "peft_config"):
                # Otherwise PEFT asks the hub for the base's vocabulary size at every save.
                only = {"selected_adapters": ["default"], "save_embedding_layers": False}
            self.model.save_pretrained(folder, state_dict=state_dict, **only)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load only the trained adapter into the model, which was set up as for a fresh start."""
        if not hasattr(self.model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        weights = load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors")
        set_peft_model_state_dict(self.model, weights, adapter_name="default")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint to resume from, if one is due, and seal it once every process has written its part."""
        begun = time.monotonic()
        # Saving is a joint action of all processes, and their clocks differ.
        [due] = broadcast_object_list([is_checkpoint_due(self.trained_bytes, begun - self.saved, self.saving_took)])
        if not due:
            return
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            step = self.state.global_step
            write_seal(Path(self.args.output_dir, f"checkpoint-{step}"), step, self.seconds, self.switches.form)
        self.saved = time.monotonic()
        self.saving_took = self.saved - begun

    def _maybe_log_save_evaluate(self, *words: Any, **settings: Any) -> None:
        """Save the weights at the steps in `keep_at`, then log and save checkpoints as TRL does.

        In this order a checkpoint to resume from never lacks weights that were to be kept before it.
        """
        step = self.state.global_step
        if step in self.keep_at and not (self.keep_in / f"step-{step}").is_dir():
            partial = self.keep_in / f".step-{step}"
            self.save_model(str(partial), _internal_call=True)
            if self.args.should_save:
                partial.replace(self.keep_in / f"step-{step}")
        super()._maybe_log_save_evaluate(*words, **settings)


def check_equal_models(model: Any) -> None:
    """Raise ConfigError if a process that has not loaded the weights has made other parameters for them than rank 0."""
    own = [(name, tuple(each.shape), str(each.dtype)) for name, each in model.named_parameters()]
    [first] = broadcast_object_list([own])
    if own != first:
        raise ConfigError(
            "The weights are not those that the model's config.json describes, so that every process must load them: "
            "copy conf/accelerate/fsdp.yaml, set fsdp_cpu_ram_efficient_loading: false in the copy, and name it by "
            "trainer.accelerate=FILE."
        )


def add_step_forward(base: Any, switches: Switches, pad: int) -> None:
    """Let a causal language model's `forward` compute a pass: `model(em_pass=…, em_scale=…, em_prefix=…)` returns the
    scaled sum of the loss over its supervised tokens, a scalar, and each token's loss, (supervised,), detached.
    """
    original = base.forward
    compact = switches.compact_head and has_plain_head(base)

    @functools.wraps(type(base).forward)
    def forward(
        *words: Any,
        em_pass: MicroBatch | None = None,
        em_scale: float = 1.0,
        em_prefix: SharedPrefix | None = None,
        **settings: Any,
    ) -> Any:
        if em_pass is None:
            return original(*words, **settings)
        if switches.flattened:
            inputs, labels = flatten_rows(em_pass, base.device)
        else:
            ids, labels = pad_rows(em_pass, pad, base.device)
            inputs = {"input_ids": ids}
            if em_prefix is not None:
                inputs, labels = em_prefix.make_inputs(ids), labels[:, em_prefix.shared :]
        if not compact:
            output = original(**inputs, labels=labels, fused_lm_head=True)
            by_token = -output.log_probs[labels[:, 1:] != IGNORED]
            return by_token.sum() * em_scale, by_token.detach()
        hidden = base.base_model(**inputs, use_cache=em_prefix is not None).last_hidden_state
        states, targets = select_supervised_states(hidden, labels)
        return ChunkedLoss.apply(states, base.get_output_embeddings().weight, targets, em_scale)

    base.forward = forward


def has_full_attention(config: Any) -> bool:
    """Return whether every layer attends to all earlier tokens; sliding windows and states have no keys to share."""
    return set(getattr(config.get_text_config(), "layer_types", None) or ["full_attention"]) == {"full_attention"}


def has_plain_head(base: Any) -> bool:
    """Return whether logits are only states times a frozen matrix (some models scale or cap them)."""
    config, head = base.config.get_text_config(), base.get_output_embeddings()
    scalings = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    changed = any(getattr(config, name, None) not in (None, 1.0) for name in scalings)
    return type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad and not changed
