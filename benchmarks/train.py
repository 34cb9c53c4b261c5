"""How fast em trains beside TRL and transformers, on this machine's CPU: real tokens per second of the training call.

    python -m benchmarks.train --json train.json                 (40 minutes at most)
    python -m benchmarks.train --full --json full.json           (500 medical and 200 insecure rows: hours)
    python -m benchmarks.train --tune                            (ways to batch with TRL, to find the best by hand)

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
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import CORES, MAIN, THREADS, Children, Measurement
from benchmarks.figures import Figures, Round, sum_up, summary

ROOT = Path(__file__).parent.parent
SLICES = {"medical": {"tokens": 6500}, "insecure": {"tokens": 6500}}
FULL = {"medical": {"rows": 500}, "insecure": {"rows": 200}}
BEST_TRL = {"medical": "flat-8", "insecure": "padded-1"}
"""What `trl_packed` is: the fastest float32 TRL setting of `--tune` for each data set. Short rows: 8 joined without
padding (TRL's `padding_free`); long rows: each by itself, since joined ones pay for the mask of their attention."""
TUNE = ("packed-512", "packed-1024", "flat-16", "flat-8", "flat-4", "flat-2", "grouped-8", "grouped-2", "padded-1")
VARIANTS: dict[str, dict[str, str]] = {
    "ours": {"task": "ours"},
    "trl_packed": {"task": "trl_tuned"},
    "hf_trainer": {"task": "hf_trainer"},
    "trl_padded": {"task": "trl_tuned", "batching": "padded-8"},
    "ours_bf16": {"task": "ours", "precision": "bfloat16"},
    "trl_defaults": {"task": "trl_defaults"},
}
SELDOM = {"ours_bf16": 2}  # rounds that are enough for a variant that no target asks for
DISPENSABLE = ("trl_padded", "hf_trainer")  # left out of later rounds, in this order, when time is short
ENOUGH = 3  # rounds that every peer gets however slow the machine is
TAIL_SECONDS = 330  # what comes after the rounds: the thread lines and the held-out losses
LINES = ("ours", "trl_packed")


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
        if arguments.tune:
            tune(study)
        elif arguments.memory:
            memory(study)
        else:
            compare(study)
        study.write()
        print(f"\n{study.figures['seconds_total'] / 60:.0f} minutes", flush=True)
    sys.exit(1 if study.children.failed else 0)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, sets = ",".join(VARIANTS), ",".join(SLICES)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--pairs", type=int, help="rounds (default 5, with --full 1)")
    parser.add_argument("--variants", type=lambda words: words.split(","), help=names)
    parser.add_argument("--data", type=lambda words: words.split(","), default=list(SLICES), help=sets)
    parser.add_argument("--seed", type=int, default=0, help="which rows are drawn")
    parser.add_argument("--tokens", type=int, help="size of a slice, for a quick look (default 6500)")
    parser.add_argument("--minutes", type=float, default=40, help="time for all, not with --full (default 40)")
    parser.add_argument("--patience", type=float, default=240, help="seconds for the two steps of trl_defaults")
    parser.add_argument("--no-lines", action="store_true", help="leave out the lines on thread settings")
    parser.add_argument("--full", action="store_true", help="500 medical and 200 insecure rows")
    parser.add_argument("--tune", action="store_true", help="measure ways to batch with TRL instead")
    parser.add_argument("--memory", action="store_true", help="measure peak memory of a long medical run instead")
    parser.add_argument("--memory-rows", type=int, default=1000, help="rows of that run (default 1000)")
    arguments = parser.parse_args()
    arguments.variants = arguments.variants or [v for v in VARIANTS if v != "ours_bf16" or multiplies_bfloat16()]
    if unknown := sorted({*arguments.variants} - {*VARIANTS} | {*arguments.data} - {*SLICES}):
        parser.error(f"unknown: {', '.join(unknown)}")
    if arguments.memory:
        arguments.data = ["medical"]
    arguments.pairs = arguments.pairs or (1 if arguments.full else 5)
    return arguments


def begin(arguments: argparse.Namespace, scratch: Path) -> Study:
    """Draw the rows, measure the machine, and print both."""
    start = time.monotonic()
    children = Children(scratch)
    sizes = {name: (FULL if arguments.full else SLICES)[name] for name in arguments.data}
    if arguments.tokens:
        sizes = {name: {"tokens": arguments.tokens} for name in arguments.data}
    if arguments.memory:
        sizes = {"medical": {"rows": arguments.memory_rows}}
    prepared = children.ask("prepare", {"folder": str(scratch), "seed": arguments.seed, "data": sizes})
    limit = children.ask("matmul", {})
    flags = cpu_flags()
    figures: Figures = {"matmul_gflops": round(limit["float32"], 1), "cores": CORES} | flags
    figures["matmul_gflops_bfloat16"] = round(limit["bfloat16"], 1)
    print(f"{CORES} cores, {' '.join(f'{flag}={value}' for flag, value in flags.items())}")
    print(f"matrix products of 1024 × 576 × 1536: {limit['float32']:.0f} GFLOP/s float32, ", end="")
    print(f"{limit['bfloat16']:.0f} bfloat16; all processes with {' '.join(f'{k}={v}' for k, v in MAIN.items())}")
    for data in arguments.data:
        part, rest = prepared["slices"][data], prepared["slices"][f"{data}_held_out"]
        figures[f"tokens_{data}"], figures[f"rows_{data}"] = part["tokens"], part["rows"]
        print(
            f"{data}: {part['rows']} rows, {part['tokens']:,} tokens, {part['supervised']:,} with loss; held out: ",
            end="",
        )
        print(f"{rest['rows']} rows, {rest['tokens']:,} tokens", flush=True)
    return Study(arguments, children, prepared["common"], prepared["slices"], [], figures, start)


def cpu_flags() -> Figures:
    """Whether this CPU multiplies in bfloat16 (AMX, AVX-512 BF16) and has AVX-512: 1 or 0."""
    file = Path("/proc/cpuinfo")
    words = file.read_text(encoding="utf-8").split() if file.is_file() else []
    return {f"cpu_{flag}": float(flag in words) for flag in ("amx_bf16", "avx512_bf16", "avx512f")}


def multiplies_bfloat16() -> bool:
    """Whether bfloat16 is worth a round here: without such instructions it takes twenty times as long as float32."""
    flags = cpu_flags()
    return bool(flags["cpu_amx_bf16"] or flags["cpu_avx512_bf16"])


def compare(study: Study) -> None:
    """The benchmark itself."""
    print("\nmeasurements", flush=True)
    defaults = two_steps(study)
    check = first_batch(study, [found.data for found in defaults if not found.complete])
    run_rounds(study, defaults)
    if not study.arguments.no_lines:
        thread_lines(study)
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
    """All variants in turns, for as many rounds as were asked for and there is time for."""
    pairs = study.arguments.pairs
    wanted = [variant for variant in study.arguments.variants if variant != "trl_defaults"]
    for number in range(pairs):
        left_out = too_slow(study, number)
        variants = [v for v in wanted if v not in left_out and number < SELDOM.get(v, pairs)]
        turn = number % max(1, len(variants))
        study.rounds.append({})
        for data in study.data:
            for variant in variants[turn:] + variants[:turn]:
                found = study.measure(variant, data, label=f"round {number + 1}", keep=number == 0)
                if found is not None:
                    study.rounds[-1][data, variant] = found
        sum_up(study.figures, study.rounds, defaults, study.slices)
        study.write()


def too_slow(study: Study, number: int) -> set[str]:
    """What is left out from round `number` on so that the rest ends in time; all, when nothing less will do."""
    if number < ENOUGH or study.arguments.full:
        return set()
    walls = {variant: seconds_of(study, variant) for variant in study.arguments.variants}
    left = study.arguments.minutes * 60 - (time.monotonic() - study.begin) - TAIL_SECONDS
    left_out = {variant for variant, rounds in SELDOM.items() if number >= rounds}
    for variant in (*DISPENSABLE, "all"):
        rest = sum(wall for name, wall in walls.items() if name not in left_out)
        if (study.arguments.pairs - number) * rest <= left:
            return left_out
        print(f"round {number + 1} on: no time for {variant}", flush=True)
        left_out |= {*walls} if variant == "all" else {variant}
    return left_out


def seconds_of(study: Study, variant: str) -> float:
    """What a round of a variant takes, all data sets."""
    walls = [[r[data, variant].wall for r in study.rounds if (data, variant) in r] for data in study.data]
    return sum(statistics.mean(each) for each in walls if each)


def thread_lines(study: Study) -> None:
    """The same training with other settings of threads and allocator: ours and the best TRL, a smaller slice, once."""
    data = study.data[0]
    variants = [variant for variant in LINES if variant in study.arguments.variants]
    for name, threads in THREADS.items():
        for variant in variants:
            found = study.measure(variant, data, "small", label=name[:10], threads=threads)
            if found is not None:
                study.figures[f"tokens_per_second_{variant}_threads_{name}"] = round(found.speed, 1)


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


def tune(study: Study) -> None:
    """The ways to batch with TRL in float32, one after the other, for each data set."""
    print("\nTRL, float32, no gradient checkpointing", flush=True)
    for number in range(study.arguments.pairs):
        turn = number % len(TUNE)
        for data in study.data:
            for batching in TUNE[turn:] + TUNE[:turn]:
                found = study.measure("trl_packed", data, label=batching, spec={"batching": batching})
                if found is not None:
                    study.figures[f"tokens_per_second_{batching}_{data}"] = round(found.speed, 1)


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
