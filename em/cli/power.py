"""Simulate how often the report would find a training that misaligns, and its undoing, in a study of a given size.

em power --rate 0.2
em power --rate 0.2 --base 0.004 --questions 8 --answers 30 --seeds 1 --comparisons 3
em power --rate 0.05 --left 0.1 --scores outputs/2026-11-23/10-00-00/scores.csv

Each simulated study is decided by the rules of the report. em/stats/power.py lists what is assumed of questions and
trainings; docs/statistics.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from em.cli.tool import handle_errors
from em.errors import ConfigError, DataError, MissingFile, did_you_mean
from em.stats.contrasts import ENOUGH_SEEDS, LEVEL, bound_rate, find_quantile
from em.stats.power import (
    SEED_SD,
    Design,
    Effect,
    count_sentences,
    draw_lineages,
    draw_verdicts,
    find_usual_icc,
    make_population,
    make_population_like,
)
from em.stats.rules import HALF_UNDONE, UNDONE, Settings

ENOUGH_POWER = 0.8
"""The usual power of a study (Cohen 1988). Nothing need be added to a design that reaches it."""
RANGES = {"rate": (0, 1), "base": (0, 1), "left": (0, 1), "icc": (0, 0.99), "seed_sd": (0, 10)}
NUMBERS = ("questions", "answers", "seeds", "comparisons", "repeats")
WORDINGS = {
    "misaligns": '"misaligns" of the first training',
    "undone": '"undone" of the second training',
    "more than half undone": '"more than half undone" or "undone"',
}
TRUE_BELOW = {"misaligns": math.inf, "undone": UNDONE, "more than half undone": HALF_UNDONE}
"""A sentence is true if the second training leaves a smaller share of the harm."""
Shares = Mapping[str, float]
"""How often each sentence is said, by sentence."""
Counts = list[tuple[int, int]]
"""Misaligned and all answers, of each question."""
Item = TypeVar("Item")


def read_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        prog="em power", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rate", type=float, required=True, help="misaligned rate of a typical first training, as a fraction")
    add("--base", type=float, default=0.004, help="misaligned rate of the base, as a fraction (default: 0.004)")
    add("--left", type=float, default=0.0, help="share of the harm that the second training leaves (default: 0)")
    add("--questions", type=int, default=8, help="number of questions (default: 8)")
    add("--answers", type=int, default=30, help="answers to each question (default: 30)")
    add("--seeds", type=int, default=1, help="training seeds of each recipe (default: 1)")
    add("--comparisons", type=int, default=1, help="number of lineages that are looked at (default: 1)")
    add(
        "--infer",
        choices=("these", "like_these"),
        default="these",
        help="which inference decides: on these questions, or on questions like these (default: these)",
    )
    variation = parser.add_mutually_exclusive_group()
    variation.add_argument(
        "--icc",
        type=float,
        help="intraclass correlation of answers to one question (default: 0.2 for rates from 5 %% on, 0.04 below)",
    )
    variation.add_argument(
        "--scores", type=Path, help="scores.csv of a run: questions differ as for its model whose rate is nearest"
    )
    add("--model", help="name of a model in --scores, instead of the one whose rate is nearest")
    add("--seed-sd", type=float, default=SEED_SD, help=f"sd of trainings on the logit scale (default: {SEED_SD})")
    add("--repeats", type=int, default=500, help="number of simulated studies (default: 500)")
    arguments = parser.parse_args(words)
    check_arguments(arguments)
    return arguments


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for the first argument out of its range."""
    values = vars(arguments)
    for name, (low, high) in RANGES.items():
        if values[name] is not None and not low <= values[name] <= high:
            word, advice = name.replace("_", "-"), ", so give 0.2 for 20 %" if high == 1 else ""
            raise ConfigError(f"--{word}={values[name]:g} must be from {low} to {high}{advice}.")
    for name in NUMBERS:
        if values[name] < 1:
            raise ConfigError(f"--{name}={values[name]} must be at least 1.")
    if arguments.rate <= arguments.base:
        raise ConfigError(
            f"--rate={arguments.rate:g} must be above --base={arguments.base:g}: "
            "give the smallest rate of a first training that you want to find."
        )
    if arguments.model is not None and arguments.scores is None:
        raise ConfigError(f"--model={arguments.model} needs --scores, the scores.csv that has this model.")


def read_question_counts(path: Path) -> dict[tuple[str, ...], Counts]:
    """Return the misaligned and all answers to each question in a `scores.csv`, by model and how it was asked."""
    counts: dict[tuple[str, ...], dict[str, tuple[int, int]]] = defaultdict(dict)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                k, n = int(row["k"]), int(row["n"])
                if not 0 <= k <= n:
                    raise ValueError(f"k = {k} of n = {n}")
                if (row["metric"], row["convention"]) == ("misaligned", "all") and row["question"] != "*" and n:
                    group = ("model", "condition", "eval_set", "judge", "fingerprint", "threshold")
                    counts[tuple(row[name] for name in group)][row["question"]] = (k, n)
    except OSError as error:
        raise MissingFile(f"--scores={path} can't be read ({error.strerror}): give the scores.csv of a run.") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"--scores={path} isn't the scores.csv of a run ({error}): give one that em wrote.") from error
    if not counts:
        raise DataError(f"--scores={path} has no misaligned rate of a question: give --icc instead.")
    return {group: list(questions.values()) for group, questions in counts.items()}


def find_nearest_model(path: Path, rate: float, model: str | None) -> tuple[str, Counts]:
    """Return the description and the counts of the model whose rate is nearest; only of `model` if it is given."""
    counts = read_question_counts(path)
    if model is not None:
        names = sorted({group[0] for group in counts})
        if model not in names:
            hint = did_you_mean(model, names, f"it has {', '.join(names)}.")
            raise DataError(f"--model={model} isn't in {path}: {hint}")
        counts = {group: pairs for group, pairs in counts.items() if group[0] == model}
    rates = {group: fmean(k / n for k, n in pairs) for group, pairs in counts.items()}
    nearest = min(rates, key=lambda group: abs(rates[group] - rate))
    described = f"{', '.join(nearest[:3])}, {format_rate(rates[nearest])} in {path}"
    return described, counts[nearest]


def make_effect(arguments: argparse.Namespace) -> tuple[Effect, str]:
    """Return what is assumed of the models, and how questions differ in words."""
    icc, base_icc = arguments.icc, arguments.icc
    if icc is None:
        icc, base_icc = find_usual_icc(arguments.rate), find_usual_icc(arguments.base)
    if arguments.scores is None:
        trained = make_population(arguments.rate, icc)
        source = "as in public fine-tunes" if arguments.icc is None else "by --icc"
        variation = f"{source} (intraclass correlation {icc:g})"
    else:
        name, counts = find_nearest_model(arguments.scores, arguments.rate, arguments.model)
        trained, variation = make_population_like(counts, arguments.rate), f"as for {name}"
    return Effect(make_population(arguments.base, base_icc), trained, arguments.left, arguments.seed_sd), variation


def list_additions(design: Design) -> dict[str, Design]:
    """List designs with more answers, questions or seeds, by what is more."""
    seeds = ENOUGH_SEEDS if design.seeds == 1 else design.seeds + 2
    return {
        "twice the answers": replace(design, answers=2 * design.answers),
        "twice the questions": replace(design, questions=2 * design.questions),
        f"{seeds} seeds": replace(design, seeds=seeds),
    }


def advise(designs: Mapping[str, Design], shares: Mapping[str, Shares], left: float, repeats: int) -> str:
    """Say which addition gives the most per answer generated, or that nothing is needed.

    The sentence in question is the first that is true and not said often enough. Additions that the simulation can't
    tell apart are named together.

    Args:
        designs, shares: of the design asked for, which comes first, and of the additions.
        left: share of the harm that the second training leaves.
    """
    now, *additions = designs
    true_sentences = [sentence for sentence, limit in TRUE_BELOW.items() if left < limit]
    lacking = [sentence for sentence in true_sentences if shares[now][sentence] < ENOUGH_POWER]
    if not lacking:
        return f"Nothing is needed: every true sentence is said in at least {100 * ENOUGH_POWER:.0f} % of studies."
    sentence, z = lacking[0], find_quantile(LEVEL)
    start, cost = shares[now][sentence], designs[now].count_answers()
    gains: dict[str, tuple[float, float]] = {}
    for name in additions:
        share, more = shares[name][sentence], designs[name].count_answers() - cost
        variance = share * (1 - share) / repeats
        if share - start > z * math.sqrt(variance + start * (1 - start) / repeats):
            gains[name] = (share - start) / more, variance / more**2
    if not gains:
        return f'None of these additions makes "{sentence}" more likely, beyond the simulation error.'
    most, variance = max(gains.values())
    best = [name for name, (gain, other) in gains.items() if most - gain <= z * math.sqrt(variance + other)]
    alike = " (the simulation can't tell which)" if len(best) > 1 else ""
    return f'Most per answer generated for "{sentence}": {" or ".join(best)}{alike}.'


def show_progress(draws: Iterable[Item], repeats: int, name: str) -> Iterator[Item]:
    """Yield the simulated studies, with a progress bar if they take longer than a few seconds."""
    from tqdm import tqdm

    yield from tqdm(draws, desc=name, total=repeats, unit="study", leave=False, delay=5, disable=None)


def format_rate(rate: float) -> str:
    """Write a rate that is assumed or measured."""
    return f"{100 * rate:.3g} %"


def format_line(words: str, share: float, repeats: int) -> str:
    """Write a simulated probability with its simulation error, an interval of confidence 95 %."""
    low, high = bound_rate(share, repeats, find_quantile(LEVEL))
    return f"  {words:60}{100 * share:6.1f} %  ({100 * low:.1f} to {100 * high:.1f})"


def describe_study(arguments: argparse.Namespace, variation: str) -> list[str]:
    """Return the lines on what is assumed."""
    left = arguments.base + arguments.left * (arguments.rate - arguments.base)
    kind = "these questions" if arguments.infer == "these" else "questions like these"
    return [
        f"{arguments.questions} questions, {arguments.answers} answers to each, "
        f"{arguments.seeds} seed{'s' * (arguments.seeds > 1)}. The sentences speak of {kind}.",
        f"Misaligned: base {format_rate(arguments.base)}, first training {format_rate(arguments.rate)}, "
        f"second training {format_rate(left)} ({format_rate(arguments.left)} of the harm left).",
        f"Questions differ {variation}; trainings of one recipe by {arguments.seed_sd:g} on the logit scale.",
    ]


def describe_lineage(arguments: argparse.Namespace, shares: Shares) -> list[str]:
    """Return the lines on one lineage."""
    lines = []
    for sentence, words in WORDINGS.items():
        remark = "" if arguments.left < TRUE_BELOW[sentence] else " (not true of a typical one)"
        lines.append(format_line(words + remark, shares[sentence], arguments.repeats))
    return lines


def describe_lineages(arguments: argparse.Namespace, effect: Effect, design: Design, settings: Settings) -> list[str]:
    """Simulate several lineages of one base, and return the lines on them."""
    repeats, lineages = arguments.repeats, arguments.comparisons
    draws = draw_lineages(effect, design, settings, repeats, lineages)
    studies = list(show_progress(draws, repeats, "lineages"))
    all_true, any_false = (fmean(column) for column in zip(*studies, strict=True))
    if lineages == 1:
        return [format_line('"misaligns" of a training that changes nothing', any_false, repeats)]
    return [
        format_line(f'"misaligns" of all of {lineages} such trainings', all_true, repeats),
        format_line(f'"misaligns" of any of {lineages} trainings that change nothing', any_false, repeats),
    ]


def format_table(designs: Mapping[str, Design], shares: Mapping[str, Shares]) -> list[str]:
    """Return the lines of the table of designs."""
    headings = "".join(f"  {sentence}" for sentence in WORDINGS)
    lines = [f"{'':20}{'answers':>8}{'trainings':>11}{headings}"]
    for name, design in designs.items():
        powers = "".join(f"{100 * shares[name][sentence]:>{len(sentence)}.0f} %" for sentence in WORDINGS)
        lines.append(f"{name:20}{design.count_answers():>8}{2 * design.seeds:>11}{powers}")
    return lines


@handle_errors
def main(words: Sequence[str] | None = None) -> None:
    """Simulate the design and what could be added, and print how often each sentence is said."""
    arguments = read_arguments(words)
    effect, variation = make_effect(arguments)
    design, settings = Design(arguments.questions, arguments.answers, arguments.seeds), Settings(arguments.infer)
    designs = {"this design": design} | list_additions(design)
    shares = {}
    for name, each in designs.items():
        draws = draw_verdicts(effect, each, settings, arguments.repeats)
        shares[name] = count_sentences(show_progress(draws, arguments.repeats, name))
    lines = [
        *describe_study(arguments, variation),
        "",
        f"How often the report says (in brackets the simulation error; {arguments.repeats} repeats):",
        "",
        *describe_lineage(arguments, shares["this design"]),
        *describe_lineages(arguments, effect, design, settings),
        "",
        "What to add first (answers and trainings are those of one lineage):",
        "",
        *format_table(designs, shares),
        "",
        advise(designs, shares, arguments.left, arguments.repeats),
        f"From {ENOUGH_SEEDS} seeds on, the sentences speak of other trainings too, which is harder to show.",
    ]
    print(*lines, sep="\n")
