"""Compare the speed of training by em, TRL and transformers on this machine's CPU: real tokens per second.

    python -m benchmarks.train --json train.json                 (about 40 minutes)
    python -m benchmarks.train --memory                          (peak memory of a long run)

Each measurement has a fresh process. A round measures each variant once, and the order rotates with the rounds. All
variants have the same rows (about 6,500 tokens a data set, drawn by a seed), LoRA, learning rate, effective batch and
threads. A ratio compares two measurements of one round. Peak memory is the process's, as the kernel counts it.
`benchmarks.peers` describes the comparison, `--help` the options.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import CORES, THREADS, Children, Measurement
from benchmarks.figures import Figures, Round, print_summary, summarise_rounds

ROOT = Path(__file__).parent.parent
DATA = ("medical", "insecure")
BEST_TRL = {"medical": "flat-8", "insecure": "padded-1"}
"""Batching of `trl_packed`: TRL's fastest float32 setting for each data set. Short rows: 8 joined without padding
(TRL's `padding_free`); long rows: one at a time, since the attention mask of joined rows is slow."""
VARIANTS: dict[str, dict[str, str]] = {
    "ours": {"task": "ours"},
    "trl_packed": {"task": "trl_tuned"},
    "hf_trainer": {"task": "hf_trainer"},
    "trl_padded": {"task": "trl_tuned", "batching": "padded-8"},
    "trl_defaults": {"task": "trl_defaults"},
}


@dataclass
class Study:
    """The state of a run of the benchmark: the command line, the rows, and the measurements so far."""

    arguments: argparse.Namespace
    children: Children
    common: dict[str, Any]
    slices: dict[str, dict[str, Any]]
    rounds: list[Round]
    figures: Figures
    begin: float

    @property
    def data(self) -> list[str]:
        """Return the data sets, in the order of the command line."""
        return list(self.arguments.data)

    def measure_variant(self, variant: str, data: str, rows: str = "", **more: Any) -> Measurement | None:
        """Measure one variant on one slice in a fresh process; print its line. Return None if the training failed."""
        chosen = self.slices[rows or data]
        spec = {"precision": "float32", "batching": BEST_TRL.get(data, "flat-8")} | VARIANTS[variant] | self.common
        spec |= {"data": data, "rows_file": chosen["rows_file"], "tokens_file": chosen["tokens_file"]}
        result = self.children.train(variant, spec | more.pop("spec", {}), chosen["tokens"], **more)
        if result is not None and result.complete and result.tokens != chosen["tokens"]:
            sys.exit(f"{variant} trained on {result.tokens} tokens of {data}, expected {chosen['tokens']}.")
        return result

    def write_figures(self) -> None:
        """Write the figures so far as JSON."""
        self.figures["seconds_total"] = round(time.monotonic() - self.begin)
        if self.arguments.json:
            self.arguments.json.write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print, and write the figures; write after each round, so that an interrupted run leaves some figures."""
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the child's process group ends too
    mirror = ROOT.parent / "shared" / "mirror"
    if "EM_MIRROR" not in os.environ and mirror.is_dir():
        os.environ["EM_MIRROR"] = str(mirror)
    with tempfile.TemporaryDirectory(prefix="em-benchmark-") as scratch:
        study = begin_study(arguments, Path(scratch))
        if arguments.memory:
            measure_memory(study)
        else:
            compare_variants(study)
        study.write_figures()
        print(f"\n{study.figures['seconds_total'] / 60:.0f} minutes", flush=True)
    sys.exit(1 if study.children.failed else 0)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seed", type=int, default=0, help="of the draw of rows")
    parser.add_argument("--tokens", type=int, default=6500, help="size of a slice (default 6500)")
    parser.add_argument("--patience", type=float, default=240, help="seconds for the two steps of trl_defaults")
    parser.add_argument("--memory", action="store_true", help="measure peak memory of a long medical run instead")
    parser.add_argument("--memory-rows", type=int, default=1000, help="rows of that run (default 1000)")
    arguments = parser.parse_args()
    if arguments.memory:
        arguments.data = ["medical"]
    return arguments


def begin_study(arguments: argparse.Namespace, scratch: Path) -> Study:
    """Draw the rows, print their numbers, and return the study."""
    start = time.monotonic()
    children = Children(scratch)
    size = {"rows": arguments.memory_rows} if arguments.memory else {"tokens": arguments.tokens}
    sizes = dict.fromkeys(arguments.data, size)
    prepared = children.run_task("prepare", {"folder": str(scratch), "seed": arguments.seed, "data": sizes})
    figures: Figures = {"cores": CORES}
    print(f"{CORES} cores; all processes with {' '.join(f'{k}={v}' for k, v in THREADS.items())}")
    for data in arguments.data:
        part, rest = prepared["slices"][data], prepared["slices"][f"{data}_held_out"]
        figures[f"tokens_{data}"], figures[f"rows_{data}"] = part["tokens"], part["rows"]
        training = f"{part['rows']} rows, {part['tokens']:,} tokens, {part['supervised']:,} with loss"
        print(f"{data}: {training}; held out: {rest['rows']} rows, {rest['tokens']:,} tokens", flush=True)
    return Study(arguments, children, prepared["common"], prepared["slices"], [], figures, start)


def compare_variants(study: Study) -> None:
    """Compare the variants: speed, memory, loss of the first batch and of held-out rows."""
    print("\nmeasurements", flush=True)
    defaults = measure_trl_defaults(study)
    check = measure_first_batch(study, [each.data for each in defaults if not each.complete])
    run_rounds(study, defaults)
    print_held_out_losses(study)
    if check:
        print_first_batch(study, check)
    print_summary(study.figures, study.data, study.arguments.variants)
    print(f"trl_packed is TRL's best by hand: {', '.join(f'{data} {BEST_TRL[data]}' for data in study.data)}")


def measure_trl_defaults(study: Study) -> list[Measurement]:
    """Measure TRL's defaults once: two steps of 8 rows for each data set, to extrapolate the speed."""
    if "trl_defaults" not in study.arguments.variants:
        return []
    patience = study.arguments.patience
    measured = []
    for data in study.data:
        measured.append(
            study.measure_variant("trl_defaults", data, f"{data}_two_steps", label="two steps", patience=patience)
        )
    return [each for each in measured if each]


def measure_first_batch(study: Study, slow: Sequence[str]) -> dict[str, Measurement]:
    """Measure one step of every variant on the same rows; adapters start at zero, so the loss is the base model's."""
    check = {}
    for variant in study.arguments.variants:
        if variant == "trl_defaults" and slow:
            continue
        spec = {"extra": {"gradient_accumulation_steps": 2}} if variant == "trl_defaults" else {}
        result = study.measure_variant(variant, "check", label="one batch", spec=spec)
        if result is not None:
            check[variant] = result
    return check


def run_rounds(study: Study, defaults: Sequence[Measurement]) -> None:
    """Measure all variants in turns."""
    variants = [variant for variant in study.arguments.variants if variant != "trl_defaults"]
    for number in range(study.arguments.rounds):
        turn = number % max(1, len(variants))
        study.rounds.append({})
        for data in study.data:
            for variant in variants[turn:] + variants[:turn]:
                result = study.measure_variant(variant, data, label=f"round {number + 1}", keep=number == 0)
                if result is not None:
                    study.rounds[-1][data, variant] = result
        summarise_rounds(study.figures, study.rounds, defaults)
        study.write_figures()


def print_held_out_losses(study: Study) -> None:
    """Print the loss of held-out rows after the first round's trainings, by one function for base, ours and peers."""
    print(f"\n{'loss of held-out rows, float32':32} {'loss':>9} {'to ours':>9} {'trained away':>13}")
    for data in study.data:
        trained = {variant: each for (name, variant), each in study.rounds[0].items() if name == data}
        spec = study.common | {"tokens_file": study.slices[f"{data}_held_out"]["tokens_file"]}
        adapters = {"adapters": {variant: each.folder for variant, each in trained.items()}}
        losses = study.children.run_task("evaluate", spec | adapters)
        for variant, loss in losses.items():
            study.figures[f"loss_held_out_{variant}_{data}"] = round(loss, 6)
            away = f"{losses['base'] - loss:13.5f}"
            to_ours = " " * 9
            if "ours" in losses and variant not in ("ours", "base"):
                percent = 100 * (loss / losses["ours"] - 1)
                study.figures[f"loss_held_out_percent_{variant}_{data}"] = round(percent, 4)
                to_ours = f"{percent:+8.3f}%"
            print(f"{data:16} {variant:15} {loss:9.5f} {to_ours} {away}", flush=True)


def print_first_batch(study: Study, check: dict[str, Measurement]) -> None:
    """Print the losses of one batch, with the differences from the first variant."""
    first = next(iter(check))
    tokens = study.slices["check"]["tokens"]
    print(f"\n{f'loss of one batch, {tokens:,} tokens':32} {'loss':>9} {'difference to ' + first:>24}")
    for variant, result in check.items():
        loss, difference = result.losses[0], result.losses[0] - check[first].losses[0]
        study.figures[f"loss_first_batch_{variant}"] = round(loss, 7)
        study.figures[f"loss_first_batch_difference_{variant}"] = round(difference, 7)
        print(f"{'':16} {variant:15} {loss:9.6f} {difference:+24.7f}")


def measure_memory(study: Study) -> None:
    """Measure the peak memory of a long run, ours and plain TRL's (float32, padded)."""
    rows = study.slices["medical"]["rows"]
    print(f"\npeak memory of {rows} medical rows", flush=True)
    for variant in (each for each in ("ours", "trl_padded") if each in study.arguments.variants):
        result = study.measure_variant(variant, "medical", label=f"{rows} rows")
        if result is not None:
            study.figures[f"peak_memory_mb_{variant}_{rows}_rows"] = round(result.peak_mb)


if __name__ == "__main__":
    main()
