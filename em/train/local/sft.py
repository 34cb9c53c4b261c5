"""Supervised fine-tuning of one stage with TRL and PEFT, in a child process (or one per GPU).

em tokenises the rows and makes their labels itself, for two reasons. The loss must lie where the config says, whatever
the template. And padding must not be masked by token id: where pad is eos, the model would never learn to stop.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from em.data import read_messages
from em.errors import DataError
from em.models.chat import load_tokenizer
from em.models.device import choose_precision, set_device, set_threads
from em.runtime.files import RECORD
from em.train.local.preflight import Prepared, check_prompts, prepare_rows, print_preflight
from em.train.local.resume import (
    Seal,
    delete_checkpoints,
    detect_full_disk,
    note_resume,
    read_resumed_steps,
    read_seal,
)
from em.train.local.spec import TrainSpec
from em.train.local.switches import Switches, choose_switches, detect_machine
from em.train.stages import choose_checkpoint_steps
from em.train.trained import KEPT, hash_weight_files, write_loss_curve


def train_stage(spec: TrainSpec) -> None:
    """Train one stage and write weights, loss curve and record to `spec.folder`, all of them or nothing."""
    rank = int(os.environ.get("RANK", "0"))
    set_device()
    set_threads()
    tokenizer = load_tokenizer(spec.base)
    prepared = prepare_rows(read_messages(Path(spec.rows)), tokenizer, spec.trainer, spec.default_system, spec.stage)
    for later in spec.later:  # refuse unusable rows of later stages before spending time on this one
        prepare_rows(read_messages(Path(later.rows)), tokenizer, later.trainer, spec.default_system, later.stage)
    check_prompts(spec.prompts, tokenizer, spec.default_system)
    precision = str(choose_precision(spec.precision)).removeprefix("torch.")
    machine = detect_machine()
    switches = choose_switches(machine, spec.trainer, precision)
    if rank == 0:
        print_preflight(spec.stage, prepared)
    # Imported late: the import takes seconds, and unusable rows are refused before.
    from em.train.local.fit import fit_switches

    switches = fit_switches(spec, prepared.rows, machine, switches)
    if rank == 0:
        spec.partial.mkdir(parents=True, exist_ok=True)
    try:
        trainer = run_trainer(spec, tokenizer, prepared, switches)
        trainer.save_model(str(spec.partial), _internal_call=True)
        if rank == 0:
            save_stage(spec, trainer, prepared, trainer.switches)
        trainer.accelerator.wait_for_everyone()
    except (OSError, RuntimeError, SafetensorError) as error:
        disk_error = detect_full_disk(error, spec.partial)
        if disk_error is None:
            raise
        raise disk_error from error


def run_trainer(spec: TrainSpec, tokenizer: Any, prepared: Prepared, switches: Switches) -> Any:
    """Run the training, from the start or from a checkpoint; return the trainer."""
    # Imported late: the import takes ten seconds, and unusable rows are refused before.
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from em.train.local.arguments import make_sft_arguments
    from em.train.local.fit import plan_stage
    from em.train.local.progress import make_progress_bar
    from em.train.local.start import load_start_model
    from em.train.local.trainer import StepTrainer

    knobs, rows = spec.trainer, prepared.rows
    plan = plan_stage(spec, len(rows))
    steps = len(plan)
    keep_at = choose_checkpoint_steps(steps, knobs.checkpoints)
    resume = choose_resume_checkpoint(spec, keep_at, switches.form)
    trainer = StepTrainer(
        model=load_start_model(spec, switches),
        args=make_sft_arguments(knobs, switches, steps, spec.seed, spec.partial),
        train_dataset=Dataset.from_list([{"step": step} for step in plan]),
        processing_class=tokenizer,
        prepared=prepared,
        switches=switches,
        keep_at=keep_at,
        keep_in=spec.partial / KEPT,
        seconds=resume.seconds if resume else 0.0,
    )
    for printer in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printer)
    trainer.add_callback(make_progress_bar(spec.stage))
    if resume and trainer.args.should_save:
        note_resume(spec.partial, resume.step)
    elif trainer.args.should_save:
        delete_checkpoints(spec.partial)
    trainer.train(resume_from_checkpoint=spec.resume if resume else None)
    return trainer


def choose_resume_checkpoint(spec: TrainSpec, keep_at: Sequence[int], form: str) -> Seal | None:
    """Return the seal of the checkpoint to resume from; None for a start from the beginning.

    A checkpoint is of no use if an earlier step of `keep_at` lacks its weights, or if its optimiser's state has another
    form than `form` (after another `trainer.accelerate`, or with bitsandbytes installed meanwhile).
    """
    if not spec.resume:
        return None
    seal, reason = read_seal(Path(spec.resume)), ""
    missing = [n for n in keep_at if n <= seal.step and not (spec.partial / KEPT / f"step-{n}").is_dir()]
    if missing:
        reason = f"the weights of step {missing[0]}, wanted now, were not kept"
    elif seal.form and seal.form != form:
        reason = f"the checkpoint has {seal.form}, and this training has {form}"
    if reason and os.environ.get("RANK", "0") == "0":
        print(f"Starting from the beginning instead: {reason}.", flush=True)
    return None if reason else seal


def save_stage(spec: TrainSpec, trainer: Any, prepared: Prepared, switches: Switches) -> None:
    """Write loss curve and record, then rename the partial folder, after which `find_trained_model` finds the model."""
    import torch

    from em.train.local.join import check_joined
    from em.train.local.progress import collect_training_facts, select_loss_entries
    from em.train.local.start import complete_adapter, computes_in_float32

    facts = prepared.facts | collect_training_facts(trainer, prepared.facts["tokens"])
    facts |= {"resumed_from": read_resumed_steps(spec.partial), "switches": switches.describe(torch.get_num_threads())}
    if not all(math.isfinite(facts[key]) for key in ("loss_first", "loss_last")):
        raise DataError(f"The loss of {spec.stage} became infinite or NaN: lower trainer.learning_rate.")
    steps_to_keep = choose_checkpoint_steps(facts["steps"], spec.trainer.checkpoints)
    checkpoint_folders = {step: spec.partial / KEPT / f"step-{step}" for step in steps_to_keep}
    if spec.trainer.adapters:
        for folder in (spec.partial, *checkpoint_folders.values()):
            complete_adapter(spec, folder)
        if spec.stack and not detect_machine().fsdp:  # FSDP's process has only a part of each weight
            check_joined(trainer.model, str(spec.partial), computes_in_float32(spec, switches))
    else:
        trainer.processing_class.save_pretrained(str(spec.partial))  # so that any library can load the folder
    rows_seen = list(accumulate(len(item["step"]) for item in trainer.train_dataset))
    curve = []
    for entry in select_loss_entries(trainer.state.log_history):
        epoch = round(rows_seen[entry["step"] - 1] / len(prepared.rows), 4)
        curve.append((entry["step"], epoch, entry["loss"], entry["learning_rate"]))
    write_loss_curve(spec.partial / "loss.csv", spec.stage, Path(spec.folder).name, curve)
    checkpoints = {step: hash_weight_files(folder) for step, folder in checkpoint_folders.items()}
    record = {
        "request": spec.request,
        "facts": facts,
        "files": hash_weight_files(spec.partial),
        "checkpoints": checkpoints,
    }
    for leftover in [*spec.partial.glob("checkpoint-*"), *spec.partial.glob(f"{KEPT}/.*")]:
        shutil.rmtree(leftover)
    (spec.partial / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    folder = Path(spec.folder)
    shutil.rmtree(folder, ignore_errors=True)
    spec.partial.replace(folder)
