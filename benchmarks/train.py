"""How fast em trains beside TRL and transformers, on this machine's CPU: real tokens per second of the training call.

    python -m benchmarks.train --json train.json                 (about 40 minutes)
    python -m benchmarks.train --memory                          (peak memory of a long run)

Side by side, each measurement in a fresh process, in turns: a round has each variant once, and the order turns with
the rounds. The same rows (about 6,500 tokens a data set, drawn by a seed), the same LoRA, learning rate and effective
batch, and the same threads for all. A ratio is that of two measurements of one round. Peak memory is that of the
process, as the kernel counts it. See `benchmarks.peers` for what is compared, `--help` for the rest.
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
from benchmarks.figures import Figures, Round, sum_up, summary

ROOT = Path(__file__).parent.parent
DATA = ("medical", "insecure")
BEST_TRL = {"medical": "flat-8", "insecure": "padded-1"}
"""What `trl_packed` is: the fastest float32 TRL setting that was found for each data set. Short rows: 8 joined without
padding (TRL's `padding_free`); long rows: each by itself, since joined ones pay for the mask of their attention."""
VARIANTS: dict[str, dict[str, str]] = {
    "ours": {"task": "ours"},
    "trl_packed": {"task": "trl_tuned"},
    "hf_trainer": {"task": "hf_trainer"},
    "trl_padded": {"task": "trl_tuned", "batching": "padded-8"},
    "trl_defaults": {"task": "trl_defaults"},
}


@dataclass
class Study:
    """What a run of the benchmark knows: how it was asked for, the rows, and all that was measured so far."""

    arguments: argparse.Namespace
    children: Children
    common: dict[str, Any]
    slices: dict[str, dict[str, Any]]
    rounds: list[Round]
    figures: Figures
    begin: float

    @property
    def data(self) -> list[str]:
        """The data sets, in the order of the command line."""
        return list(self.arguments.data)

    def measure(self, variant: str, data: str, rows: str = "", **more: Any) -> Measurement | None:
        """One variant on one slice in a fresh process; prints its line. None when it failed, which is told."""
        chosen = self.slices[rows or data]
        spec = {"precision": "float32", "batching": BEST_TRL.get(data, "flat-8")} | VARIANTS[variant] | self.common
        spec |= {"data": data, "rows_file": chosen["rows_file"], "tokens_file": chosen["tokens_file"]}
        found = self.children.train(variant, spec | more.pop("spec", {}), chosen["tokens"], **more)
        if found is not None and found.complete and found.tokens != chosen["tokens"]:
            sys.exit(f"{variant} trained on {found.tokens} tokens of {data}, not on all {chosen['tokens']}.")
        return found

    def write(self) -> None:
        """The figures so far, as JSON."""
        self.figures["seconds_total"] = round(time.monotonic() - self.begin)
        if self.arguments.json:
            self.arguments.json.write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, print, and write the figures; they are written after each round, so that a stopped run leaves some."""
    arguments = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the child's process group ends too
    mirror = ROOT.parent / "shared" / "mirror"
    if "EM_MIRROR" not in os.environ and mirror.is_dir():
        os.environ["EM_MIRROR"] = str(mirror)
    with tempfile.TemporaryDirectory(prefix="em-benchmark-") as scratch:
        study = begin(arguments, Path(scratch))
        if arguments.memory:
            memory(study)
        else:
            compare(study)
        study.write()
        print(f"\n{study.figures['seconds_total'] / 60:.0f} minutes", flush=True)
    sys.exit(1 if study.children.failed else 0)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seed", type=int, default=0, help="which rows are drawn")
    parser.add_argument("--tokens", type=int, default=6500, help="size of a slice (default 6500)")
    parser.add_argument("--patience", type=float, default=240, help="seconds for the two steps of trl_defaults")
    parser.add_argument("--memory", action="store_true", help="measure peak memory of a long medical run instead")
    parser.add_argument("--memory-rows", type=int, default=1000, help="rows of that run (default 1000)")
    arguments = parser.parse_args()
    if arguments.memory:
        arguments.data = ["medical"]
    return arguments


def begin(arguments: argparse.Namespace, scratch: Path) -> Study:
    """Draw the rows, and print what they are."""
    start = time.monotonic()
    children = Children(scratch)
    size = {"rows": arguments.memory_rows} if arguments.memory else {"tokens": arguments.tokens}
    sizes = dict.fromkeys(arguments.data, size)
    prepared = children.ask("prepare", {"folder": str(scratch), "seed": arguments.seed, "data": sizes})
    figures: Figures = {"cores": CORES}
    print(f"{CORES} cores; all processes with {' '.join(f'{k}={v}' for k, v in THREADS.items())}")
    for data in arguments.data:
        part, rest = prepared["slices"][data], prepared["slices"][f"{data}_held_out"]
        figures[f"tokens_{data}"], figures[f"rows_{data}"] = part["tokens"], part["rows"]
        print(
            f"{data}: {part['rows']} rows, {part['tokens']:,} tokens, {part['supervised']:,} with loss; held out: ",
            end="",
        )
        print(f"{rest['rows']} rows, {rest['tokens']:,} tokens", flush=True)
    return Study(arguments, children, prepared["common"], prepared["slices"], [], figures, start)


def compare(study: Study) -> None:
    """The benchmark itself."""
    print("\nmeasurements", flush=True)
    defaults = two_steps(study)
    check = first_batch(study, [found.data for found in defaults if not found.complete])
    run_rounds(study, defaults)
    held_out(study)
    if check:
        tell_first_batch(study, check)
    summary(study.figures, study.data, study.arguments.variants)
    print(f"trl_packed is TRL's best by hand: {', '.join(f'{data} {BEST_TRL[data]}' for data in study.data)}")


def two_steps(study: Study) -> list[Measurement]:
    """TRL at its own defaults, once: two steps of 8 rows for each data set, from which its speed is extrapolated."""
    if "trl_defaults" not in study.arguments.variants:
        return []
    patience = study.arguments.patience
    found = [
        study.measure("trl_defaults", data, f"{data}_two_steps", label="two steps", patience=patience)
        for data in study.data
    ]
    return [each for each in found if each]


def first_batch(study: Study, slow: Sequence[str]) -> dict[str, Measurement]:
    """One step of every variant on the same rows: its loss is the base model's, since an adapter starts at zero."""
    check = {}
    for variant in study.arguments.variants:
        if variant == "trl_defaults" and slow:
            continue
        spec = {"extra": {"gradient_accumulation_steps": 2}} if variant == "trl_defaults" else {}
        found = study.measure(variant, "check", label="one batch", spec=spec)
        if found is not None:
            check[variant] = found
    return check


def run_rounds(study: Study, defaults: Sequence[Measurement]) -> None:
    """All variants in turns."""
    variants = [variant for variant in study.arguments.variants if variant != "trl_defaults"]
    for number in range(study.arguments.rounds):
        turn = number % max(1, len(variants))
        study.rounds.append({})
        for data in study.data:
            for variant in variants[turn:] + variants[:turn]:
                found = study.measure(variant, data, label=f"round {number + 1}", keep=number == 0)
                if found is not None:
                    study.rounds[-1][data, variant] = found
        sum_up(study.figures, study.rounds, defaults)
        study.write()


def held_out(study: Study) -> None:
    """Loss of held-out rows after the first round's trainings, by one function for all: base, ours, peers."""
    print(f"\n{'loss of held-out rows, float32':32} {'loss':>9} {'to ours':>9} {'trained away':>13}")
    for data in study.data:
        found = {variant: each for (name, variant), each in study.rounds[0].items() if name == data}
        spec = study.common | {"tokens_file": study.slices[f"{data}_held_out"]["tokens_file"]}
        adapters = {"adapters": {variant: each.folder for variant, each in found.items()}}
        losses = study.children.ask("evaluate", spec | adapters)
        for variant, loss in losses.items():
            study.figures[f"loss_held_out_{variant}_{data}"] = round(loss, 6)
            away = f"{losses['base'] - loss:13.5f}"
            to_ours = " " * 9
            if "ours" in losses and variant not in ("ours", "base"):
                percent = 100 * (loss / losses["ours"] - 1)
                study.figures[f"loss_held_out_percent_{variant}_{data}"] = round(percent, 4)
                to_ours = f"{percent:+8.3f}%"
            print(f"{data:16} {variant:15} {loss:9.5f} {to_ours} {away}", flush=True)


def tell_first_batch(study: Study, check: dict[str, Measurement]) -> None:
    """The table of the losses of one batch, with the difference to the first of the variants."""
    first = next(iter(check))
    tokens = study.slices["check"]["tokens"]
    print(f"\n{f'loss of one batch, {tokens:,} tokens':32} {'loss':>9} {'difference to ' + first:>24}")
    for variant, found in check.items():
        loss, difference = found.losses[0], found.losses[0] - check[first].losses[0]
        study.figures[f"loss_first_batch_{variant}"] = round(loss, 7)
        study.figures[f"loss_first_batch_difference_{variant}"] = round(difference, 7)
        print(f"{'':16} {variant:15} {loss:9.6f} {difference:+24.7f}")


def memory(study: Study) -> None:
    """Peak memory of a long run, ours and plain TRL's (float32, padded)."""
    rows = study.slices["medical"]["rows"]
    print(f"\npeak memory of {rows} medical rows", flush=True)
    for variant in (each for each in ("ours", "trl_padded") if each in study.arguments.variants):
        found = study.measure(variant, "medical", label=f"{rows} rows")
        if found is not None:
            study.figures[f"peak_memory_mb_{variant}_{rows}_rows"] = round(found.peak_mb)


if __name__ == "__main__":
    main()
